"""Random lives of people on several servers, and what their clients must hold in the end.

Owns a model of the truth: which devices a user has, what was sent to each, which one-time keys were
uploaded and given out; and clients that track others as the specification tells clients to. A life
is a list of random deeds; `Life.settle` heals everything and waits until each client holds the
truth. What never comes true is the fault that a test shows.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from homeserver.matrix.canonical import JsonObject
from tests.api.test_devices import second_device
from tests.e2ee.keyed import SIGNED, Keyed, Signer, changed, left, messages
from tests.federation.neighbours import Neighbours
from tests.serving import Person, Running

MASTER = "the identity"
WRITTEN = "test.written"
TURNS = 400
KINDS = Counter(
    sync=10, lost=2, rename=1, device=2, logout=1, upload=2, claim=4, write=6, join=4, leave=2,
    kick=1, sign=1, cut=2, mend=2, wait=2, restart=1,
)  # fmt: skip


@dataclass(eq=False)
class Client:
    """One device; `held` are the devices of all whom it tracks, as it was last told."""

    person: Person
    keyed: Keyed = field(init=False)
    held: dict[str, JsonObject] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    inbox: list[str] = field(default_factory=list)
    count: int = 0
    sent: list[str] = field(default_factory=list)
    """What was written to it, in the order of each sender's server."""
    uploaded: int = 0
    claimed: list[str] = field(default_factory=list)
    unsure: int = 0
    """How many claims failed that may have taken a key."""

    def __post_init__(self) -> None:
        self.keyed = Keyed(self.person)

    @property
    def user_id(self) -> str:
        return self.person.user_id

    @property
    def device_id(self) -> str:
        return self.person.device_id

    async def upload(self, count: int) -> None:
        """Publish the device's keys and so many one-time keys more."""
        await self.keyed.upload(count)
        self.uploaded += count

    async def sync(self, *, lost: bool = False) -> None:
        """Take what is new; with `lost` the answer never arrives."""
        first = self.person.since is None
        answer = await self.person.sync(remember=not lost)
        if lost:
            return
        if first:
            self.stale |= {self.user_id, *_members(answer)}
        for user_id in left(answer):
            self.held.pop(user_id, None)
            self.stale.discard(user_id)
        self.stale |= changed(answer)
        self.inbox += [event["content"]["text"] for event in messages(answer)]
        self.count = answer["device_one_time_keys_count"][SIGNED]

    async def fetch(self) -> None:
        """Ask for the devices of those who changed; again later where that failed."""
        if not self.stale:
            return
        wanted: dict[str, list[str]] = {user_id: [] for user_id in self.stale}
        answer = await self.person.ok("POST", "/keys/query", body={"device_keys": wanted})
        for user_id in wanted:
            if user_id.partition(":")[2] in answer["failures"]:
                continue
            self.stale.discard(user_id)
            self.held[user_id] = {
                MASTER: answer["master_keys"].get(user_id),
                **{
                    device_id: {name: value for name, value in device.items() if name != "unsigned"}
                    for device_id, device in answer["device_keys"].get(user_id, {}).items()
                },
            }


def _members(answer: Any) -> set[str]:
    """Who is joined in the rooms of a first answer."""
    found = set()
    for room in answer.get("rooms", {}).get("join", {}).values():
        members: dict[str, str] = {}
        for event in (*room["state"]["events"], *room["timeline"]["events"]):
            if event["type"] == "m.room.member":
                members[event["state_key"]] = event["content"]["membership"]
        found |= {user_id for user_id, membership in members.items() if membership == "join"}
    return found


C = TypeVar("C", bound=Client)


class Life(Generic[C]):
    """People of several servers, two of each, with a room of each server; see the module.

    `kinds` says how often each kind of deed is done.
    """

    kinds: ClassVar[Counter[str]] = KINDS

    def __init__(self, world: Neighbours, seed: int, make: Callable[[Person], C]) -> None:
        self.world = world
        self._make = make
        self.chance = random.Random(seed)
        self.seed = seed
        self.clients: list[C] = []
        self.gone: list[C] = []
        self.rooms: list[str] = []
        self.masters: dict[str, JsonObject] = {}
        self.log: list[str] = []
        self.moved: dict[tuple[str, str], int] = {}
        """When (by the log's length) a user was last told to come into or out of a room."""

    async def begin(self) -> None:
        """The people, their first devices and the rooms."""
        for name, server in self.world.servers.items():
            for number in range(2):
                person = await server.person(f"p{self.seed}{'xy'[number]}")
                self.clients.append(await self._client(person))
            owner = self.clients[-1].person
            room_id = await owner.create_room(preset="public_chat")
            content = {"algorithm": "m.megolm.v1.aes-sha2"}
            await owner.put_state(room_id, "m.room.encryption", content)
            self.rooms.append(f"{room_id}?server_name={name}")
        for client in list(self.clients):
            for room in self.rooms:
                if self.chance.random() < 0.7:
                    work = client.person.raw("POST", f"/join/{room}", body={})
                    await self.world.passing(work)

    async def _client(self, person: Person) -> C:
        client = self._make(person)
        await client.upload(2)
        await client.sync()
        return client

    async def live(self, deeds: int) -> None:
        """So many random deeds, and then peace."""
        await self.begin()
        for _ in range(deeds):
            kind = self.chance.choices([*self.kinds], [*self.kinds.values()])[0]
            await self.world.passing(self._do(kind))
        await self.settle()

    def _note(self, *words: object) -> None:
        self.log.append(" ".join(map(str, words)))

    def _server(self, client: Client) -> Running:
        return self.world.servers[client.user_id.partition(":")[2]]

    async def _do(self, kind: str) -> None:
        client = self.chance.choice(self.clients)
        other = self.chance.choice(self.clients)
        room = self.chance.choice(self.rooms)
        room_id = room.partition("?")[0]
        path = f"/rooms/{quote(room_id, safe='')}"
        self._note(kind, client.user_id, client.device_id, other.user_id, other.device_id, room)
        if kind in ("join", "leave", "kick"):
            self.moved[(other if kind == "kick" else client).user_id, room_id] = len(self.log)
        match kind:
            case "sync" | "lost":
                await client.sync(lost=kind == "lost")
                await client.fetch()
            case "rename":
                body = {"display_name": f"{len(self.log)}"}
                await client.person.ok("PUT", f"/devices/{client.device_id}", body=body)
            case "device":
                await self._new_device(client)
            case "logout" if self._devices(client.user_id) != [client]:
                await client.person.ok("POST", "/logout", body={})
                self.clients.remove(client)
                self.gone.append(client)
            case "upload":
                await client.upload(1)
            case "claim":
                await self._claim(client, other)
            case "write":
                await self._write(client, other)
            case "sign":
                await self._sign(client)
            case "join":
                await client.person.raw("POST", f"/join/{room}", body={})
            case "leave":
                await client.person.raw("POST", f"{path}/leave", body={})
            case "kick":
                body = {"user_id": other.user_id}
                await client.person.raw("POST", f"{path}/kick", body=body)
            case "cut" | "mend":
                name = self.chance.choice([*self.world.servers])
                (self.world.cut if kind == "cut" else self.world.mend)(name)
            case "wait":
                await self.world.pass_by(self.chance.choice((1, 5, 20, 100)), 2.0)
            case "restart":
                await self._server(client).restart()

    def _devices(self, user_id: str) -> list[C]:
        return [one for one in self.clients if one.user_id == user_id]

    async def _new_device(self, of: C) -> None:
        device_id = f"D{len(self.log)}"
        token = await second_device(of.person, device_id)
        person = Person(of.person.server, of.user_id, token, device_id)
        self.clients.append(await self._client(person))

    async def _claim(self, client: Client, other: Client) -> None:
        body = {"one_time_keys": {other.user_id: {other.device_id: SIGNED}}}
        answer = await client.person.ok("POST", "/keys/claim", body=body)
        found = answer["one_time_keys"].get(other.user_id, {}).get(other.device_id, {})
        other.claimed += found
        if answer["failures"]:
            other.unsure += 1
        elif not found:
            assert len(other.claimed) + other.unsure >= other.uploaded, "a key was left"

    async def _write(self, client: Client, other: Client) -> None:
        text = f"{client.user_id} {client.device_id} {len(self.log)}"
        body = {"messages": {other.user_id: {other.device_id: {"text": text}}}}
        await client.person.ok("PUT", f"/sendToDevice/{WRITTEN}/t{len(self.log)}", body=body)
        other.sent.append(text)

    async def _sign(self, client: Client) -> None:
        """A first identity; another one would need the password."""
        if client.user_id in self.masters:
            return
        signer = Signer()
        master: JsonObject = {
            "user_id": client.user_id,
            "usage": ["master"],
            "keys": {f"ed25519:{signer.public}": signer.public},
        }
        master = client.keyed.signer.sign(master, client.user_id)
        path = "/keys/device_signing/upload"
        await client.person.ok("POST", path, body={"master_key": master})
        self.masters[client.user_id] = master

    # --- the truth

    async def settle(self) -> None:
        """Mend what is broken, and wait until all clients hold the truth."""
        for name in self.world.servers:
            self.world.mend(name)
        wrong: list[str] = []
        for turn in range(TURNS):
            await self.world.passing(self._look_again())
            wrong = await self.world.passing(self._wrong())
            if not wrong:
                return
            await self.world.pass_by(1.0 if turn < 40 else 30.0)
        raise AssertionError("\n".join([f"seed {self.seed}", *wrong, *self.log]))

    async def _look_again(self) -> None:
        for client in self.clients:
            await client.sync()
            await client.fetch()

    async def _joined(self) -> dict[str, set[str]]:
        """By user the rooms that their own server says they are in."""
        return {
            client.user_id: set((await client.person.ok("GET", "/joined_rooms"))["joined_rooms"])
            for client in self.clients
        }

    async def _wrong(self) -> list[str]:
        """What clients hold that isn't the truth."""
        rooms = await self._joined()
        found = []
        for client in self.clients:
            truth = {
                user_id: {
                    MASTER: self.masters.get(user_id),
                    **{one.device_id: one.keyed.device for one in self._devices(user_id)},
                }
                for user_id in rooms
                if user_id == client.user_id or rooms[user_id] & rooms[client.user_id]
            }
            where = f"{client.user_id} {client.device_id}"
            if client.held != truth or client.stale:
                names = [
                    {user: [*devices] for user, devices in one.items()}
                    for one in (client.held, truth)
                ]
                found.append(
                    f"{where} holds {names[0]} instead of {names[1]}, stale {client.stale}"
                )
            if _by_sender(client.inbox) != _by_sender(client.sent):
                found.append(f"{where} was told {client.inbox} instead of {client.sent}")
            left_over = client.uploaded - len(client.claimed)
            if not left_over - client.unsure <= client.count <= left_over:
                found.append(f"{where} has {client.count} keys instead of {left_over}")
        found.extend(
            f"{client.device_id}: given out twice: {client.claimed}"
            for client in (*self.clients, *self.gone)
            if len(set(client.claimed)) != len(client.claimed)
        )
        return found


def _by_sender(texts: list[str]) -> dict[str, list[str]]:
    """Order is promised for what one device sends."""
    found: dict[str, list[str]] = {}
    for text in texts:
        found.setdefault(text.rpartition(" ")[0], []).append(text)
    return found

"""Random lives of people whose programs really encrypt, with matrix-nio and vodozemac.

Owns what the server owes to them. Whoever was there when all servers last knew of each other, or is
on the sender's own server, is given the key of what is said in a room of theirs, unless the
sender's program is told of a failure. Whoever was given the key and receives the message reads it.
And it is received by all who are in the room, unless somebody has moved them or its sender.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

import nio
from nio.store import SqliteMemoryStore

from tests.e2ee.wanderers import Client, Life
from tests.federation.neighbours import Neighbours
from tests.serving import Running

FILTER = {"room": {"timeline": {"limit": 1_000}}}


@dataclass(eq=False)
class Confidant(Client):
    """A device of matrix-nio; `read` are the texts that it has read, `unread` what it could not."""

    read: list[str] = field(default_factory=list)
    unread: dict[str, nio.MegolmEvent] = field(default_factory=dict)
    program: nio.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        config = nio.AsyncClientConfig(
            encryption_enabled=True, store=SqliteMemoryStore, max_timeout_retry_wait_time=1
        )
        self.program = nio.AsyncClient("", self.user_id, config=config)
        self.program.restore_login(self.user_id, self.device_id, self.person.token)
        self.program.add_event_callback(self._could_read, nio.RoomMessageText)
        self.program.add_event_callback(self._could_not_read, nio.MegolmEvent)

    async def upload(self, count: int) -> None:
        """Publish the device's keys; the program decides how many."""
        self._find()
        _good(nio.KeysUploadResponse, await self.program.keys_upload())

    async def sync(self, *, lost: bool = False) -> None:
        """Take what is new, and try again to read what could not be read."""
        self._find()
        if lost:
            query = {"since": self.program.next_batch} if self.program.next_batch else {}
            await self.person.ok("GET", "/sync", query=query)
            return
        _good(nio.SyncResponse, await self.program.sync(timeout=0, sync_filter=FILTER))
        for event_id, event in list(self.unread.items()):
            try:
                read = self.program.decrypt_event(event)
            except nio.EncryptionError:
                continue
            assert isinstance(read, nio.RoomMessageText)
            del self.unread[event_id]
            self.read.append(read.body)

    async def fetch(self) -> None:
        """What the program's own loop does after a sync."""
        self._find()
        await self.program.send_to_device_messages()
        if self.program.should_upload_keys:
            _good(nio.KeysUploadResponse, await self.program.keys_upload())
        if self.program.should_query_keys:
            _good(nio.KeysQueryResponse, await self.program.keys_query())
        if self.program.should_claim_keys:
            wanted = self.program.get_users_for_key_claiming()
            _good(nio.KeysClaimResponse, await self.program.keys_claim(wanted))

    async def say(self, room_id: str, text: str) -> tuple[str, set[tuple[str, str]], set[str]]:
        """Say it with a key that nobody has yet.

        Returns the event's id, the devices (user, id) that were given the key, and the users and
        servers of which the program was told that they could not be asked.
        """
        await self.sync()
        await self.fetch()
        assert self.program.olm is not None
        self.program.olm.outbound_group_sessions.pop(room_id, None)
        failed = set(self.program.users_for_key_query)
        missing = self.program.get_missing_sessions(room_id)
        if missing:
            claimed = await self.program.keys_claim(missing)
            assert isinstance(claimed, nio.KeysClaimResponse), claimed
            failed |= claimed.failures.keys()
        content = {"msgtype": "m.text", "body": text}
        answer = await self.program.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        assert isinstance(answer, nio.RoomSendResponse), answer
        session = self.program.olm.outbound_group_sessions[room_id]
        return answer.event_id, set(session.users_shared_with), failed

    def knows(self, user_id: str) -> set[str]:
        """The devices of a user that the program would encrypt for."""
        return {device.id for device in self.program.device_store.active_user_devices(user_id)}

    def _find(self) -> None:
        """A server that was started again has another port."""
        assert isinstance(self.person.server, Running)
        self.program.homeserver = self.person.server.url

    def _could_read(self, room: nio.MatrixRoom, event: nio.RoomMessageText) -> None:
        self.read.append(event.body)

    def _could_not_read(self, room: nio.MatrixRoom, event: nio.MegolmEvent) -> None:
        self.unread[event.event_id] = event


def _good(kind: type[nio.Response], answer: object) -> None:
    """The answer must be of the kind that says that it worked."""
    assert isinstance(answer, kind), f"the server refused: {answer}"


@dataclass(frozen=True)
class Said:
    """A message: the devices that were given its key, the users who were in the room.

    `calm_at` is when (by the log's length) all servers had last known of each other.
    """

    text: str
    event_id: str
    room_id: str
    sender: str
    given: Collection[tuple[str, str]]
    present: Collection[str]
    calm_at: int


class SecretLife(Life[Confidant]):
    """See the module; `due` counts, for all messages, the devices that their keys were owed to."""

    kinds: ClassVar[Counter[str]] = Counter(
        sync=10, lost=2, rename=1, device=2, logout=1, say=12, join=4, leave=2, kick=1, cut=2,
        mend=2, wait=2, restart=1, calm=2,
    )  # fmt: skip

    def __init__(self, world: Neighbours, seed: int) -> None:
        super().__init__(world, seed, Confidant)
        self.said: list[Said] = []
        self.due = 0
        self._settled: set[Confidant] = set()
        self._calm_at = 0

    async def begin(self) -> None:
        await super().begin()
        await self._calm()

    async def aclose(self) -> None:
        """End the programs."""
        for client in (*self.clients, *self.gone):
            await client.program.close()

    async def _do(self, kind: str) -> None:
        if kind == "calm":
            self._note("calm")
            await self._calm()
        elif kind == "say":
            await self._say()
        else:
            await super()._do(kind)

    async def _calm(self) -> None:
        """All find each other; from now on the servers owe them each other's keys."""
        await self.settle()
        self._settled = set(self.clients)
        self._calm_at = len(self.log)

    async def _say(self) -> None:
        client = self.chance.choice(self.clients)
        joined = await self._joined()
        rooms = sorted(joined[client.user_id])
        if not rooms:
            return
        room_id = self.chance.choice(rooms)
        text = f"{client.user_id} {client.device_id} {len(self.log)}"
        self._note("say", text, room_id)
        event_id, given, failed = await client.say(room_id, text)
        shown = client.program.rooms[room_id].users.values()
        seen = {user.user_id for user in shown if not user.invited}
        present = {user_id for user_id in seen if room_id in joined.get(user_id, ())}
        self.said.append(
            Said(text, event_id, room_id, client.user_id, given, present, self._calm_at)
        )
        for other in self.clients:
            if other is client or other.user_id not in present:
                continue
            server = other.user_id.partition(":")[2]
            near = server == client.user_id.partition(":")[2]
            if near or (other in self._settled and not failed & {server, other.user_id}):
                self.due += 1
                who = (other.user_id, other.device_id)
                assert who in given, f"seed {self.seed}: {who} is not given the key of {text}"

    async def _wrong(self) -> list[str]:
        joined = await self._joined()
        found = []
        for client in self.clients:
            where = f"{client.user_id} {client.device_id}"
            for user_id, rooms in joined.items():
                truth = {one.device_id for one in self._devices(user_id) if one is not client}
                if rooms & joined[client.user_id] and client.knows(user_id) != truth:
                    found.append(f"{where} knows {client.knows(user_id)} of {user_id}: {truth}")
        found += [
            f"{client.user_id} {client.device_id} has not read {said.text}"
            for said in self.said
            for client in self.clients
            if self._owed(said, client) and said.text not in client.read
        ]
        return found

    def _owed(self, said: Said, client: Confidant) -> bool:
        """Whether the device must have read the message by the end."""
        if (client.user_id, client.device_id) not in said.given:
            return False
        if said.event_id in client.unread:
            return True
        moved = (self.moved.get((one, said.room_id), 0) for one in (client.user_id, said.sender))
        return client.user_id in said.present and max(moved) <= said.calm_at

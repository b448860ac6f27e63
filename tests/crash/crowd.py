"""A crowd of clients under whose hands the server dies, and what they remember of its answers.

Each member works (sends, receipts, account data, joins, typing) and listens in a sync loop at the
same time. Every request is repeated until it is answered, under the same transaction id, so at the
end each of them was answered, and `Crowd.verify` holds the server to all of its answers.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from bench.client import Client, Json, insist
from bench.meter import in_parallel

SYNC_FILTER = '{"room":{"timeline":{"limit":100}}}'
FINISHED = "crash.finished"


@dataclass
class Member:
    """One user: the client that works, and what its sync loop has heard."""

    client: Client
    halls: list[str]
    rooms: list[str] = field(default_factory=list)
    token: str | None = None
    heard: dict[str, list[Json]] = field(default_factory=dict)
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)
    account_data: dict[str, Json] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)

    @property
    def user_id(self) -> str:
        """The user's id."""
        return self.client.user_id

    async def listen(self) -> None:
        """Sync until the member's own last account data has come down."""
        while FINISHED not in self.account_data:
            await self.hear(timeout=2_000)

    async def hear(self, timeout: int = 0) -> Json:
        """One sync from the last token, taken in as a client does; gaps are paged."""
        sync = partial(self.client.sync, self.token, timeout=timeout, sync_filter=SYNC_FILTER)
        reply = await insist(sync)
        for room_id, room in reply.get("rooms", {}).get("join", {}).items():
            await self._take(room_id, room)
        for event in reply.get("account_data", {}).get("events", []):
            self.account_data[event["type"]] = event["content"]
        self.token = reply["next_batch"]
        return reply

    async def _take(self, room_id: str, room: Json) -> None:
        timeline = room.get("timeline", {})
        events: list[Json] = timeline.get("events", [])
        heard = self.heard.setdefault(room_id, [])
        in_reach = not heard and any(map(self._is_own_join, events))
        if timeline.get("limited") and not in_reach:
            events = await self._missed(room_id, timeline["prev_batch"]) + events
        heard += events
        for event in room.get("ephemeral", {}).get("events", []):
            if event["type"] != "m.receipt":
                continue
            for event_id, kinds in event["content"].items():
                for user_id in kinds.get("m.read", {}):
                    self.receipts[room_id, user_id] = event_id

    async def _missed(self, room_id: str, start: str) -> list[Json]:
        """What happened between the last event that was heard, or the own join, and this token."""
        last = self.heard[room_id][-1]["event_id"] if self.heard[room_id] else None
        missed: list[Json] = []
        token: str | None = start
        while token is not None:
            page = await insist(partial(self.client.messages, room_id, start=token))
            for event in page["chunk"]:
                if event["event_id"] == last:
                    return missed[::-1]
                missed.append(event)
                if last is None and self._is_own_join(event):
                    return missed[::-1]
            token = page.get("end")
        return missed[::-1]

    def _is_own_join(self, event: Json) -> bool:
        return bool(
            event["type"] == "m.room.member"
            and event["state_key"] == self.user_id
            and event["content"]["membership"] == "join"
        )

    def heard_since_join(self, room_id: str) -> list[str]:
        """The ids of the events that were heard from the own join on."""
        heard = self.heard[room_id]
        first = next(n for n, event in enumerate(heard) if self._is_own_join(event))
        return [event["event_id"] for event in heard[first:]]


class Crowd:
    """The members, the rooms, and every answer about a message."""

    def __init__(self, make: Callable[[], Client], dice: random.Random) -> None:
        self._make = make
        self._dice = dice
        self._numbers = count(1)
        self.members: list[Member] = []
        self.shared: list[str] = []
        self.answers: dict[str, tuple[str, str]] = {}
        self._done = 0
        self._goal = 0
        self._reached = asyncio.Event()

    async def gather(self, size: int = 20, rooms: int = 4, halls: int = 10) -> None:
        """Make the accounts and rooms; all are in the rooms, nobody but the owner in the halls."""
        clients = [self._make() for _ in range(size)]
        names = [partial(c.register, f"user{number}") for number, c in enumerate(clients)]
        await in_parallel(4, names)
        owner = clients[0]
        options = {"preset": "public_chat", "room_version": "12"}
        made = [await owner.create_room(**options) for _ in range(rooms + halls)]
        self.shared = made[:rooms]
        for room_id in self.shared:
            await in_parallel(4, [partial(client.join, room_id) for client in clients[1:]])
        for client in clients:
            open_halls = [] if client is owner else made[rooms:]
            own_rooms = made if client is owner else self.shared
            self.members.append(Member(client, list(open_halls), list(own_rooms)))

    async def work(self, stop: asyncio.Event) -> None:
        """All work and listen until told to stop, and then until all has been heard."""
        async with asyncio.TaskGroup() as listening:
            for member in self.members:
                listening.create_task(member.listen())
            async with asyncio.TaskGroup() as working:
                for member in self.members:
                    working.create_task(self._work(member, stop))
            for member in self.members:
                await insist(partial(member.client.put_account_data, FINISHED, {"yes": True}))

    async def get_done(self, operations: int) -> None:
        """Wait until so many more requests have been answered."""
        self._goal = self._done + operations
        self._reached.clear()
        async with asyncio.timeout(300):
            await self._reached.wait()

    async def _work(self, member: Member, stop: asyncio.Event) -> None:
        deeds = [self._say, self._read, self._note, self._type, self._join]
        while not stop.is_set():
            (deed,) = self._dice.choices(deeds, weights=[10, 3, 3, 2, 1])
            await deed(member)
            self._done += 1
            if self._done >= self._goal:
                self._reached.set()

    async def _say(self, member: Member) -> None:
        room_id = self._dice.choice(member.rooms)
        text = f"message {next(self._numbers)}"
        send = partial(member.client.say, room_id, text, member.client.transaction())
        self.answers[text] = (room_id, await insist(send))

    async def _read(self, member: Member) -> None:
        room_id = self._dice.choice(member.rooms)
        heard = member.heard.get(room_id)
        if heard:
            event_id = heard[-1]["event_id"]
            await insist(partial(member.client.receipt, room_id, event_id))
            member.reads[room_id] = event_id

    async def _note(self, member: Member) -> None:
        kind = f"crash.note{self._dice.randrange(3)}"
        member.values[kind] = member.values.get(kind, 0) + 1
        content = {"value": member.values[kind]}
        await insist(partial(member.client.put_account_data, kind, content))

    async def _type(self, member: Member) -> None:
        room_id = self._dice.choice(member.rooms)
        await insist(partial(member.client.typing, room_id, self._dice.random() < 0.5))

    async def _join(self, member: Member) -> None:
        if member.halls:
            room_id = member.halls.pop(self._dice.randrange(len(member.halls)))
            await insist(partial(member.client.join, room_id))
            member.rooms.append(room_id)

    async def verify(self) -> None:
        """What was answered is there, once; what is there was heard, once and in one order."""
        owner = self.members[0]
        for room_id in owner.rooms:
            history = (await owner.client.history(room_id))[::-1]
            self._verify_history(room_id, history)
            members = await owner.client.joined_members(room_id)
            assert members == {m.user_id for m in self.members if room_id in m.rooms}
            self._verify_heard(room_id, history)
        for member in self.members:
            await self._verify_own(member)

    def _verify_history(self, room_id: str, history: list[Json]) -> None:
        ids = Counter(event["event_id"] for event in history)
        assert max(ids.values()) == 1, "the history holds an event twice"
        said = [e for e in history if e["type"] == "m.room.message"]
        bodies = Counter(event["content"]["body"] for event in said)
        assert max(bodies.values(), default=1) == 1, "a repeated request made a second event"
        there = {event["content"]["body"]: event["event_id"] for event in said}
        due = {text: event_id for text, (room, event_id) in self.answers.items() if room == room_id}
        assert there == due, "the room does not hold just what was answered"

    def _verify_heard(self, room_id: str, history: list[Json]) -> None:
        """All have heard the same from their joins on, and the creator all but the creation."""
        everything = self.members[0].heard_since_join(room_id)
        assert len(everything) == len(set(everything)), "an event was delivered twice"
        kept = {event["event_id"] for event in history if event["type"] != "m.room.create"}
        assert set(everything) == kept, "what was delivered is not what the room holds"
        for member in self.members:
            if room_id in member.rooms:
                heard = member.heard_since_join(room_id)
                assert heard == everything[-len(heard) :], "two members heard different things"

    async def _verify_own(self, member: Member) -> None:
        for kind, value in member.values.items():
            stored = await member.client.account_data(kind)
            assert stored == {"value": value}, "answered account data is not there"
            assert member.account_data[kind] == stored, "account data did not come down"
        fresh = Member(self._make(), [])
        await fresh.client.login(member.user_id[1:].split(":")[0])
        await fresh.hear()
        for room_id, event_id in member.reads.items():
            place = (room_id, member.user_id)
            assert fresh.receipts[place] == event_id, "an answered receipt is not there"
        heard, kept = (
            {place: event_id for place, event_id in who.receipts.items() if place[0] in self.shared}
            for who in (member, fresh)
        )
        assert heard == kept, "receipts did not come down"

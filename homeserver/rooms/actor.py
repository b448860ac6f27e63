"""One actor per active room: all that changes a room passes through its turn, one verb at a time.

Owns the loaded heads and the order of verbs in a room, so that no verb needs a lock. A verb is a
synchronous function `verb(sending) -> result`; what it misses is loaded and it is run again. Its
events are handed to the commit queue before the next verb's turn, and its caller is answered after
the commit. When a commit fails, the head is dropped and the verbs behind it run again on a fresh
one: verbs are repeated, never their changes. Where a room's policy server must see an event first,
it is asked between two runs of the verb, outside of the room's turn: nothing but events of ours
waits for it. It holds no rule about any verb.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from homeserver.errors import MatrixError
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.policy import is_own_leave
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from homeserver.ports import PolicyServers
from homeserver.rooms.append import Appended
from homeserver.rooms.head import EventsMissing, Head, Needs, ServersMissing, StickyMissing
from homeserver.rooms.policy import Unrecommended
from homeserver.rooms.send import Author, Sending
from homeserver.rooms.servers import MAX_STICKY
from homeserver.rooms.snapshots import SnapshotChain
from homeserver.rooms.stored import load_events
from homeserver.streams.commit import CommitQueue, Lane, Superseded
from homeserver.streams.numbers import Names, NamesMissing, NumbersExhausted
from storage import outbound as outbound_store
from storage import rooms as room_store
from storage import state as state_store
from storage.changes import Conflict, Insert, Put
from storage.engine import Database
from storage.events import event_ids
from storage.packing import unpack_numbers
from storage.schema import RoomRow, RoomSummaryRow, empty_summary
from storage.sticky_events import own_in

T = TypeVar("T")

log = logging.getLogger(__name__)

_MAX_HEADS = 2_000
_MAX_TURNS_WAITING = 1_000
_MAX_ATTEMPTS = 8
_MAX_RUNS = 64
_MAX_ASKING = 100
"""Changes of a room that wait for its policy server."""
_MAX_ASKS = 8
LEAVE_SECONDS = 0.1
"""So long a policy server is waited for when a user leaves, which takes at most twice as long."""


class PublishEvents(Protocol):
    """Tells everybody who must hear of a room's events, after their commit."""

    def __call__(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None: ...


@dataclass(frozen=True, slots=True)
class Room:
    """What never changes of a room."""

    nid: int
    room_id: str
    rules: RoomRules


class _Actor:
    __slots__ = ("generation", "head", "lane", "last", "turn", "waiting")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.lane = Lane()
        self.head: Head | None = None
        self.generation = 0
        self.waiting = 0
        self.last: asyncio.Future[int] | None = None

    @property
    def idle(self) -> bool:
        return self.waiting == 0 and (self.last is None or self.last.done())


class _Asking:
    """The changes of a room that wait for its policy server."""

    __slots__ = ("turn", "waiting")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.waiting = 0


def _busy() -> MatrixError:
    return MatrixError("M_LIMIT_EXCEEDED", "This room is busy; try again shortly", 429)


class Rooms:
    """All rooms of this server, by id and by number."""

    def __init__(
        self,
        database: Database,
        names: Names,
        commits: CommitQueue,
        author: Author,
        publish: PublishEvents,
        policy_servers: PolicyServers,
    ) -> None:
        self._database = database
        self._names = names
        self._commits = commits
        self._author = author
        self._publish = publish
        self._policy_servers = policy_servers
        self._asking: dict[int, _Asking] = {}
        self._by_id: dict[str, Room] = {}
        self._by_nid: dict[int, Room] = {}
        self._actors: OrderedDict[int, _Actor] = OrderedDict()

    async def find(self, room_id: str) -> Room | None:
        """The room of an id, None if this server has never heard of it."""
        found = self._by_id.get(room_id)
        if found is None:
            rows = await room_store.rooms_by_id(self._database, [room_id])
            if room_id not in rows:
                return None
            row = rows[room_id]
            found = self._remember(Room(row.room_nid, row.room_id, ROOM_VERSIONS[row.version]))
        return found

    async def known(self, room_id: str) -> Room:
        """The room of an id, for who wants to change it.

        Raises `MatrixError` M_FORBIDDEN, the same that a stranger gets for a room that exists.
        """
        room = await self.find(room_id)
        if room is None:
            raise MatrixError.forbidden("You are not in this room")
        return room

    async def named(self, room_id: str, rules: RoomRules, nid: int, now: int) -> Room:
        """The room of an id, made known without a head if it was not: others have it, not we.

        `nid` is a number for a new room. Of a room without a head the version is what was heard
        last: who named it first may have lied. Raises `MatrixError` M_INCOMPATIBLE_ROOM_VERSION
        when we know better.
        """
        room = await self.find(room_id)
        if room is None:
            changes = [
                Insert(RoomRow(nid, room_id, rules.version, 0, now)),
                Insert(empty_summary(nid)),
            ]
            with suppress(Conflict):  # somebody else may have made it known meanwhile
                await self._commits.commit(changes)
            room = await self.known(room_id)
        if room.rules is not rules:
            if room.nid not in await room_store.heads(self._database, [room.nid]):
                await self._commits.commit([Put(RoomRow(room.nid, room_id, rules.version, 0, now))])
                self._actors.pop(room.nid, None)
                return self._remember(Room(room.nid, room_id, rules))
            raise MatrixError(
                "M_INCOMPATIBLE_ROOM_VERSION",
                f"The room is of version {room.rules.version} here",
                extra={"room_version": room.rules.version},
            )
        return room

    async def by_nids(self, nids: Collection[int]) -> dict[int, Room]:
        """Rooms by number; numbers that don't exist are absent."""
        missing = [nid for nid in nids if nid not in self._by_nid]
        if missing:
            for row in (await room_store.rooms(self._database, missing)).values():
                self._remember(Room(row.room_nid, row.room_id, ROOM_VERSIONS[row.version]))
        return {nid: self._by_nid[nid] for nid in nids if nid in self._by_nid}

    async def change(self, room: Room, verb: Callable[[Sending], T]) -> T:
        """Run a verb on the room's head, commit what it did, and return its result.

        The commit goes on when the caller is cancelled. Raises what the verb raises, `Conflict` of
        storage when a row stood in the way (nothing was written), `MatrixError` 503 when too many
        wait for this room, and what its policy server says when it refuses an event.
        """
        try:
            return await self._change(room, verb, ())
        except Unrecommended as unseen:
            if is_own_leave(unseen.event):
                # It waits for no other change.
                return await self._asking_first(room, verb, [await self._asked(unseen)])
            return await self._change_with_policy(room, verb)

    async def recommended(self, room: Room, event: Event) -> Event:
        """An event that is to stand in the room, signed by the room's policy server if it uses one.

        Raises `MatrixError` with what that says.
        """
        policy = await self.change(room, lambda sending: sending.policy())
        if policy is None or policy.recommends(event):
            return event
        return await self._policy_servers.sign(policy, event)

    async def _change_with_policy(self, room: Room, verb: Callable[[Sending], T]) -> T:
        """`change` in a room whose policy server must see the verb's events first.

        It is asked about one change of the room after the other, so that they don't make each
        other's events old; others' events may, and then it is asked again.
        """
        asking = self._asking.setdefault(room.nid, _Asking())
        if asking.waiting >= _MAX_ASKING:
            raise _busy()
        asking.waiting += 1
        try:
            async with asking.turn:
                return await self._asking_first(room, verb, [])
        finally:
            asking.waiting -= 1
            if not asking.waiting:
                self._asking.pop(room.nid, None)

    async def _asking_first(
        self, room: Room, verb: Callable[[Sending], T], signed: list[Event]
    ) -> T:
        """`change`, with the policy server asked about each event that the verb makes."""
        for _ in range(_MAX_ASKS):
            try:
                return await self._change(room, verb, signed)
            except Unrecommended as unseen:
                signed = [*signed[: unseen.number], await self._asked(unseen)]
        raise _busy()

    async def _asked(self, unseen: Unrecommended) -> Event:
        """The event as it may be sent now that the policy server was asked."""
        event = unseen.event
        if not is_own_leave(event):
            return await self._policy_servers.sign(unseen.policy, event)
        # It does not wait long.
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                return await self._policy_servers.sign(unseen.policy, event)
        except (MatrixError, TimeoutError) as error:
            log.info("%s leaves %s all the same: %r", event.sender, event.room_id, error)
            return event

    async def _change(self, room: Room, verb: Callable[[Sending], T], signed: Sequence[Event]) -> T:
        for _ in range(_MAX_ATTEMPTS):
            actor = self._actor(room.nid)
            if actor.waiting >= _MAX_TURNS_WAITING:
                raise _busy()
            actor.waiting += 1
            refused: MatrixError | Rejected | None = None
            changed = False
            try:
                async with actor.turn:
                    try:
                        sending, result = await self._run(
                            actor, verb, lambda: self._load(room), signed
                        )
                    except (MatrixError, Rejected) as error:
                        refused = error
                    else:
                        changed = bool(sending.changes)
                        if changed:
                            actor.last = self._submit(room, actor, sending)
                    done = actor.last
            finally:
                actor.waiting -= 1
            try:
                # Also a verb that changed nothing answers from what must be committed first.
                if done is not None:
                    await asyncio.shield(done)
            except Superseded:
                continue
            except Exception:
                if changed:
                    raise
                continue
            if refused is not None:
                raise refused
            return result
        raise MatrixError("M_UNKNOWN", "The room's changes could not be stored", 503)

    async def create(
        self, nid: int, new_head: Callable[[], Head], verb: Callable[[Sending], None]
    ) -> Room:
        """Make the room of number `nid`: run the verb on `new_head()`, which it gives its id."""

        async def load() -> Head:
            return new_head()

        actor = self._actor(nid)
        actor.waiting += 1
        try:
            async with actor.turn:
                sending, _ = await self._run(actor, verb, load)
                room = Room(nid, sending.head.room_id, sending.head.rules)
                done = actor.last = self._submit(room, actor, sending)
            await asyncio.shield(done)
        except Exception:
            self._actors.pop(nid, None)  # there is no such room, nor will there be
            raise
        finally:
            actor.waiting -= 1
        return self._remember(room)

    async def read(self, room: Room, look: Callable[[Head], T]) -> T:
        """What `look` finds on the head, once everything before it is committed."""
        return await self.change(room, lambda sending: look(sending.head))

    def _submit(self, room: Room, actor: _Actor, sending: Sending) -> "asyncio.Future[int]":
        events, ahead, published = sending.events, sending.ahead, sending.published

        def publish(first: int) -> None:
            self._publish(room.nid, first + ahead, events)
            if published is not None:
                published(first)

        return self._commits.submit(sending.changes, ahead + len(events), publish, actor.lane)

    async def _run(
        self,
        actor: _Actor,
        verb: Callable[[Sending], T],
        load: Callable[[], Awaitable[Head]],
        signed: Sequence[Event] = (),
    ) -> tuple[Sending, T]:
        missing_events: frozenset[int] = frozenset()
        for _ in range(_MAX_RUNS):
            head = actor.head
            if head is None or actor.generation != actor.lane.generation:
                head = await self._reload(actor, load)
            if not head.events.keys() >= missing_events:
                head.remember(await load_events(self._database, missing_events, head.rules))
                if actor.generation != actor.lane.generation:
                    continue
            sending = Sending(head, self._author, signed)
            try:
                result = verb(sending)
                sending.done = True
                return sending, result
            except NamesMissing as missing:
                await self._names.load(missing.names, missing.keys)
            except EventsMissing as missing:
                missing_events |= missing.nids
            except NumbersExhausted as missing:
                await self._author.numbers.refill(missing.counter)
            except ServersMissing as missing:
                if actor.last is not None:
                    # What was submitted before must be in the tables when they are read.
                    await asyncio.wait([actor.last])
                head.servers |= await self._joined_of(head.room_nid, missing.servers)
            except StickyMissing:
                if actor.last is not None:
                    # What was submitted before must be in the tables when they are read.
                    await asyncio.wait([actor.last])
                now = self._author.clock.now_ms()
                head.sticky = await own_in(self._database, head.room_nid, now, MAX_STICKY)
            except Needs as needs:
                if actor.last is not None:
                    # What was submitted before must be in the tables when they are read.
                    await asyncio.wait([actor.last])
                await needs.load()
            finally:
                if sending.events and not sending.done:
                    # The verb broke off after its first event: that head stands on nothing.
                    actor.head = None
        raise MatrixError("M_UNKNOWN", "The change needs more of the room than fits", 500)

    async def _reload(self, actor: _Actor, load: Callable[[], Awaitable[Head]]) -> Head:
        """A head from the tables: there is none, or a commit that it stood on has failed."""
        actor.head = None
        if actor.last is not None:
            # What was submitted before must be in the tables, or gone, before they are read.
            await asyncio.wait([actor.last])
            actor.last = None
        actor.generation = actor.lane.generation
        actor.head = await load()
        return actor.head

    async def _load(self, room: Room) -> Head:
        heads = await room_store.heads(self._database, [room.nid])
        summaries = await room_store.summaries(self._database, [room.nid])
        if room.nid not in heads:
            return self._empty_head(room, summaries.get(room.nid) or empty_summary(room.nid))
        row = heads[room.nid]
        extremities = unpack_numbers(row.extremities)
        ids = await event_ids(self._database, extremities)
        return Head(
            room_nid=room.nid,
            room_id=room.room_id,
            rules=room.rules,
            names=self._names,
            extremities=[(nid, ids[nid]) for nid in extremities],
            depth=row.depth,
            state=(await state_store.current_states(self._database, [room.nid]))[room.nid],
            summary=summaries[room.nid],
            snapshots=await SnapshotChain.load(self._database, row.snap_nid),
        )

    async def _joined_of(self, room_nid: int, servers: Collection[str]) -> dict[str, int]:
        nids = await self._names.nids(servers)
        joined = await outbound_store.joined_of_servers(self._database, room_nid, nids.values())
        return {server: joined.get(nid, 0) for server, nid in nids.items()}

    def _empty_head(self, room: Room, summary: RoomSummaryRow) -> Head:
        """The head of a room that is known only by its id: nobody is in it, nothing is allowed."""
        return Head(
            room_nid=room.nid,
            room_id=room.room_id,
            rules=room.rules,
            names=self._names,
            extremities=[],
            depth=0,
            state={},
            summary=summary,
            snapshots=SnapshotChain(),
        )

    def _actor(self, nid: int) -> _Actor:
        actor = self._actors.get(nid)
        if actor is None:
            actor = self._actors[nid] = _Actor()
            if len(self._actors) > _MAX_HEADS:
                self._drop_idle()
        else:
            self._actors.move_to_end(nid)
        return actor

    def _drop_idle(self) -> None:
        for nid, actor in list(self._actors.items())[: _MAX_HEADS // 4]:
            if actor.idle:
                del self._actors[nid]

    def _remember(self, room: Room) -> Room:
        self._by_id[room.room_id] = room
        self._by_nid[room.nid] = room
        return room

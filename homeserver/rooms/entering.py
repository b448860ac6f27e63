"""Coming into a room that other servers have: what a resident server told becomes our room.

Owns the way from a verified answer (the state before our user's join, with its auth chain) to a
room with a head. Events are judged by their own auth events and stored in bounded batches as
outliers, off the loop; the state rows of a room that nobody sees yet go with them. The last commit
is small and makes the room visible: nobody ever sees half of a room, and no phase of it needs
answers of its own. A process that dies before that leaves rows that the next try uses or replaces.
It asks no other server and trusts none: signatures and hashes were checked before, everything else
is checked here.
spec: server-server-api#joining-rooms
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from homeserver.matrix import canonical
from homeserver.matrix.auth import authorise, check_auth_events
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.arrival import Arrival, Member, arrive
from homeserver.rooms.judging import Verdict
from homeserver.rooms.known_users import joined_user
from homeserver.rooms.membership import membership_number
from homeserver.rooms.receive import Receiver
from homeserver.rooms.send import Sending
from homeserver.rooms.shown import renumbered, stored_json
from homeserver.rooms.stored import has_no_place, load_events
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names, Numbers
from storage.changes import Change, Insert, Put
from storage.engine import Database
from storage.events import event_numbers, event_renumbered, event_rows
from storage.memberships import anybody_of_ours_in, in_room, in_room_of
from storage.outbound import joined_of_servers, servers_in
from storage.packing import pack_numbers
from storage.rooms import heads, state_of_headless_forgotten
from storage.schema import (
    JOIN,
    LEAVE,
    OUTLIER,
    REJECTED,
    CurrentStateRow,
    EventRow,
    MembershipRow,
)

T = TypeVar("T")

_CREATE = ("m.room.create", "")
_AT_ONCE = 250


class Held(NamedTuple):
    """A verified event as it waits to be judged: `pdu` is its canonical JSON."""

    event_id: str
    type: str
    sender: str
    state_key: str | None
    auth_ids: tuple[str, ...]
    depth: int
    origin_ts: int
    pdu: bytes

    @classmethod
    def of(cls, event: Event) -> "Held":
        return cls(
            event.event_id,
            event.type,
            event.sender,
            event.state_key,
            tuple(event.auth_event_ids),
            event.depth,
            event.origin_server_ts,
            canonical.encode(event.pdu),
        )


@dataclass(slots=True)
class Told:
    """What a resident server told: the ids of the state before the join; all events by their id."""

    state: list[str] = field(default_factory=list)
    events: dict[str, Held] = field(default_factory=dict)


class Entering:
    """See the module. `server_name` is ours."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        commits: CommitQueue,
        names: Names,
        numbers: Numbers,
        receiver: Receiver,
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._receiver = receiver
        self._database = database
        self._commits = commits
        self._names = names
        self._numbers = numbers
        self._suffix = ":" + server_name
        self._under_way: Counter[str] = Counter()
        self._entered: list[Callable[[Room], None]] = []
        self._entered_now: dict[str, Room] = {}

    def on_entered(self, entered: Callable[[Room], None]) -> None:
        """Have `entered(room)` called when a join of a room has ended and none is under way."""
        self._entered.append(entered)

    def under_way(self, room_id: str) -> bool:
        """Whether a join of the room is under way: what is sent to it meanwhile is to be kept."""
        return room_id in self._under_way

    def begin(self, room_id: str) -> None:
        """A join of the room begins; every call is followed by one of `end`."""
        self._under_way[room_id] += 1

    def end(self, room_id: str) -> None:
        """A join of the room has ended, one way or the other."""
        self._under_way[room_id] -= 1
        if not self._under_way[room_id]:
            del self._under_way[room_id]
            room = self._entered_now.pop(room_id, None)
            if room is not None:
                for entered in self._entered:
                    entered(room)

    async def enter(self, room: Room, join: Event, pdu: bytes, told: Told) -> None:
        """Make what was told the room's state, and put the join behind it.

        Where one of ours is in the room, as when another server had to authorise the join, its
        state is ours, and the join is judged like any event from elsewhere. `pdu` is the join's
        canonical JSON. Raises Rejected when the rules forbid the join in that state, or when that
        can't be a state of the room.
        """
        self._entered_now[room.room_id] = room
        fresh = room.nid not in await heads(self._database, [room.nid])
        if fresh:
            await self._commits.commit(state_of_headless_forgotten(room.nid))
        storing = _Storing(self, room, told, join, fresh=fresh)
        await storing.run()
        if not fresh and await anybody_of_ours_in(self._database, room.nid):
            verdict = await self._receiver.receive(room, join, pdu, storing.believed)
            if verdict not in (Verdict.ACCEPTED, Verdict.KNOWN):
                raise Rejected("The room's rules don't allow the join.")
            return
        arrival = await storing.arrival(pdu)

        def verb(sending: Sending) -> None:
            arrive(sending, arrival, self._numbers)

        await self._rooms.change(room, verb)

    # What `_Storing` uses of this.

    @property
    def parts(self) -> tuple[Database, CommitQueue, Names, Numbers, str]:
        """Database, commit queue, names, numbers, and how ids of our users end."""
        return self._database, self._commits, self._names, self._numbers, self._suffix


class _Storing:
    """One answer on its way into the tables."""

    def __init__(
        self, entering: Entering, room: Room, told: Told, join: Event, *, fresh: bool
    ) -> None:
        self._database, self._commits, self._names, self._numbers, self._suffix = entering.parts
        self._room = room
        self._told = told
        self._join = join
        self._fresh = fresh
        self._state_ids = set(told.state)
        self._nids: dict[str, int] = {}
        self._rejected: set[str] = set()
        # Of each event, how many others still need it; only such events are kept decoded.
        self._uses = Counter(id_ for held in told.events.values() for id_ in held.auth_ids)
        self._uses.update(join.auth_event_ids)
        self._known: dict[str, Event] = {}
        self._state: dict[int, int] = {}
        self._named: dict[tuple[str, str], Event] = {}
        self._outside: dict[str, int] = {}
        self._members: dict[int, Member] = {}
        self._ours: set[int] = set()
        self._name_nids: dict[str, int] = {}
        self._key_nids: dict[tuple[str, str], int] = {}
        self._create: Event | None = None

    async def run(self) -> None:
        told, room = self._told, self._room
        await self._find_stored()
        if room.rules.room_id_is_hash:
            # It is nobody's auth event, and everything stands on it.
            await self._begin_with(f"${room.room_id[1:]}")
        chunk: list[Held] = []
        for held in in_order(told.events, self._nids):
            chunk.append(held)
            if len(chunk) == _AT_ONCE:
                await self._store(chunk)
                chunk = []
        await self._store(chunk)
        await self._add_stored_state()
        create = self._named.get(_CREATE)
        if create is None or create.room_id != room.room_id:
            raise Rejected("The state that was told has no create event of this room.")
        await self._check_join()

    @property
    def believed(self) -> list[str]:
        """The ids of the state that was told, without what could not be stored or was rejected."""
        return [id_ for id_ in self._told.state if id_ in self._nids and id_ not in self._rejected]

    async def arrival(self, pdu: bytes) -> Arrival:
        """What is left to be done in the room's turn."""
        prevs = {id_: self._nids.get(id_) for id_ in self._join.prev_event_ids}
        rows = await event_rows(self._database, [nid for nid in prevs.values() if nid is not None])
        known = await self._known_members()
        return Arrival(
            join=self._join,
            pdu=pdu,
            auths=[self._nids[id_] for id_ in self._join.auth_event_ids],
            prevs=prevs,
            behind=[
                id_
                for id_, nid in prevs.items()
                if nid is None or (nid in rows and has_no_place(rows[nid].flags))
            ],
            state=self._state,
            events=self._named,
            members=self._members,
            ours=frozenset(self._ours),
            known=known,
            servers_before=await self._servers_before(),
            local_server=self._suffix[1:],
            fresh=self._fresh,
            absent=await self._absent(known),
        )

    async def _known_members(self) -> dict[int, MembershipRow]:
        """What is stored of our users, and of who was joined and is not in what was told."""
        known = await in_room_of(self._database, self._room.nid, self._ours)
        if not self._fresh:
            joined = {one.user_nid for one in self._members.values() if one.membership == JOIN}
            for nid, row in (await in_room(self._database, self._room.nid, [JOIN])).items():
                if nid not in joined:
                    known[nid] = row
        return known

    async def _absent(self, known: Mapping[int, MembershipRow]) -> list[str]:
        """Our users who are joined in the state that was told, by a join that they left behind."""
        left = {
            member.user_id: known[member.user_nid].event_nid
            for member in self._members.values()
            if member.membership == JOIN
            and member.user_id != self._join.sender
            and member.user_nid in known
            and known[member.user_nid].membership == LEAVE
        }
        if self._fresh or not left:
            return []
        leaves = await load_events(self._database, list(left.values()), self._room.rules)
        return [
            user_id
            for user_id, nid in left.items()
            if nid in leaves
            and self._named["m.room.member", user_id].event_id in leaves[nid].auth_event_ids
        ]

    async def _servers_before(self) -> dict[str, int]:
        """Joined users by other server as of an earlier stay; the servers told of get numbers."""
        room_nid = self._room.nid
        servers = (await servers_in(self._database, [room_nid])).get(room_nid, set())
        nids = await self._names.nids(
            servers | {server_of(member.user_id) for member in self._members.values()}
        )
        joined = await joined_of_servers(
            self._database, room_nid, [nids[server] for server in servers]
        )
        return {server: joined.get(nids[server], 0) for server in servers}

    async def _find_stored(self) -> None:
        """Numbers of what is here already, and which of it was rejected."""
        ids = {*self._told.events, *self._join.auth_event_ids, *self._join.prev_event_ids}
        for part in _parts(list(ids)):
            self._nids |= await event_numbers(self._database, self._room.nid, part)
        by_nid = {nid: id_ for id_, nid in self._nids.items()}
        for numbers in _parts(list(by_nid)):
            rows = await event_rows(self._database, numbers)
            self._rejected |= {by_nid[nid] for nid, row in rows.items() if row.flags & REJECTED}
            for nid, row in rows.items():
                held = self._told.events.get(by_nid[nid])
                if held is not None and held.auth_ids and row.flags & OUTLIER and not row.auths:
                    # An invite or a knock from before: now its auth events come along.
                    self._outside[held.event_id] = self._nids.pop(held.event_id)

    async def _begin_with(self, create_id: str) -> None:
        if create_id in self._nids:
            events = await load_events(self._database, [self._nids[create_id]], self._room.rules)
            self._create = events[self._nids[create_id]]
        elif create_id in self._told.events:
            await self._store([self._told.events[create_id]])

    async def _store(self, chunk: list[Held]) -> None:
        """Judge these events by their auth events and store them; the first ones come first."""
        placed: list[tuple[Held, int]] = []
        await self._name(
            {text for held in chunk for text in (held.type, held.sender, held.state_key or "")},
            {(held.type, held.state_key) for held in chunk if held.state_key is not None},
        )
        if not self._numbers.room_for("event", len(chunk)):
            await self._numbers.refill("event")
        for held in chunk:
            if held.event_id not in self._nids and all(id_ in self._nids for id_ in held.auth_ids):
                self._nids[held.event_id] = self._numbers.take("event")
                placed.append((held, self._nids[held.event_id]))
        await self._load_auth_events(placed)
        changes = await asyncio.to_thread(self._judge, placed)
        if changes:
            await self._commits.commit(changes)

    async def _name(self, names: Collection[str], keys: Collection[tuple[str, str]]) -> None:
        """Have the numbers of these at hand, also in a thread."""
        await self._names.load(names, keys)
        self._name_nids = {name: self._names.nid(name) for name in names}
        self._key_nids = {key: self._names.key_nid(*key) for key in keys}

    async def _load_auth_events(self, placed: list[tuple[Held, int]]) -> None:
        """Auth events that were stored before this join."""
        here = {held.event_id for held, _ in placed}
        wanted = {
            self._nids[id_]: id_
            for held, _ in placed
            for id_ in held.auth_ids
            if id_ not in self._known and id_ not in here
        }
        for nid, event in (
            await load_events(self._database, list(wanted), self._room.rules)
        ).items():
            self._known[wanted[nid]] = event

    def _judge(self, placed: list[tuple[Held, int]]) -> list[Change]:
        """The rows of events that have their numbers, in a thread."""
        changes: list[Change] = []
        for held, nid in placed:
            event = Event.stored(canonical.decode_object(held.pdu), self._room.rules, held.event_id)
            flags = OUTLIER
            try:
                self._authorise(event)
            except Rejected:
                flags |= REJECTED
                self._rejected.add(held.event_id)
            if self._uses[held.event_id]:
                self._known[held.event_id] = event
            for id_ in held.auth_ids:
                self._used(id_)
            changes.extend(self._event_rows(held, nid, flags))
            if held.event_id in self._state_ids and not flags & REJECTED:
                changes.extend(self._state_rows(event, nid))
        return changes

    def _authorise(self, event: Event) -> None:
        if event.room_id != self._room.room_id:
            raise Rejected("The event is of another room.")
        auths = [self._known[id_] for id_ in event.auth_event_ids]
        by_key = {auth.key: auth for auth in auths if auth.is_state}

        def state(type_: str, state_key: str) -> Event | None:
            found = by_key.get((type_, state_key))
            return self._create if found is None and (type_, state_key) == _CREATE else found

        check_auth_events(event, auths, self._rejected)
        authorise(event, state)
        if event.type == "m.room.create" and self._room.rules.room_id_is_hash:
            self._create = event

    def _used(self, event_id: str) -> None:
        self._uses[event_id] -= 1
        if not self._uses[event_id]:
            self._known.pop(event_id, None)

    def _event_rows(self, held: Held, nid: int, flags: int) -> Iterator[Change]:
        key = held.state_key
        if held.event_id in self._outside:
            user_nid = self._name_nids[key or ""]
            old_nid = self._outside[held.event_id]
            yield from event_renumbered(self._room.nid, user_nid, old_nid, nid)
            yield from renumbered(old_nid, held.pdu, self._suffix[1:])
        yield Insert(
            EventRow(
                event_nid=nid,
                event_id=held.event_id,
                room_nid=self._room.nid,
                pos=None,
                depth=held.depth,
                type_nid=self._name_nids[held.type],
                key_nid=None if key is None else self._key_nids[held.type, key],
                sender_nid=self._name_nids[held.sender],
                origin_ts=held.origin_ts,
                snap_nid=None,
                flags=flags,
                prevs=b"",
                auths=pack_numbers(self._nids[id_] for id_ in held.auth_ids),
            )
        )
        yield from stored_json(nid, held.pdu, self._suffix[1:])

    def _state_rows(self, event: Event, nid: int) -> Iterator[Change]:
        """The rows of a piece of state that can be written before the room is seen."""
        if event.state_key is None:
            return
        key_nid = self._key_nids[event.key]
        self._state[key_nid] = nid
        if event.type == "m.room.member":
            membership = membership_number(event.content.get("membership"))
            user_nid = self._name_nids[event.state_key]
            self._members[key_nid] = Member(user_nid, event.state_key, membership)
            if event.state_key.endswith(self._suffix):
                self._ours.add(user_nid)
                self._named[event.key] = event
            elif self._fresh:
                yield Put(MembershipRow(self._room.nid, user_nid, membership, nid, 0, 0, None))
                if membership == JOIN:
                    yield from joined_user(user_nid, event)
        else:
            self._named[event.key] = event
        if self._fresh:
            yield Put(CurrentStateRow(self._room.nid, key_nid, nid))

    async def _add_stored_state(self) -> None:
        """Pieces of the state that had been stored before, as after an earlier stay."""
        have = set(self._state.values())
        wanted = [
            self._nids[id_]
            for id_ in self._told.state
            if id_ in self._nids and id_ not in self._rejected and self._nids[id_] not in have
        ]
        for part in _parts(wanted):
            events = await load_events(self._database, part, self._room.rules)
            keys = {event.key for event in events.values() if event.state_key is not None}
            await self._name({key for _, key in keys}, keys)
            changes = [
                change for nid, event in events.items() for change in self._state_rows(event, nid)
            ]
            if changes:
                await self._commits.commit(changes)

    async def _check_join(self) -> None:
        join = self._join
        missing = [id_ for id_ in join.auth_event_ids if id_ not in self._nids]
        if missing:
            raise Rejected("The join names auth events that were not told.")
        wanted = {self._nids[id_]: id_ for id_ in join.auth_event_ids if id_ not in self._known}
        found = await load_events(self._database, list(wanted), self._room.rules)
        self._known |= {wanted[nid]: event for nid, event in found.items()}
        self._authorise(join)
        keys = [("m.room.member", user) for user in (join.sender, _authoriser(join)) if user]
        await self._names.load([join.type, join.sender], [*keys, join.key])
        nids = {key: self._state.get(self._names.key_nid(*key)) for key in keys}
        members = await load_events(
            self._database, [nid for nid in nids.values() if nid is not None], self._room.rules
        )
        here = {key: members[nid] for key, nid in nids.items() if nid is not None}
        authorise(join, lambda type_, key: here.get((type_, key)) or self._named.get((type_, key)))


def in_order(events: Mapping[str, Held], stored: Collection[str]) -> Iterator[Held]:
    """The events, each one's auth events before it.

    What stands on absent events, or on itself, is left out; what is `stored` needs no place.
    """
    done: dict[str, bool] = {}  # False while an event's auth events are looked at
    for first in events:
        stack = [first]
        while stack:
            event_id = stack[-1]
            if event_id in stored or done.get(event_id):
                stack.pop()
                continue
            held = events[event_id]
            if event_id not in done:
                done[event_id] = False
                stack.extend(
                    id_
                    for id_ in held.auth_ids
                    if id_ in events and id_ not in done and id_ not in stored
                )
                continue
            stack.pop()
            done[event_id] = True
            yield held


def _authoriser(join: Event) -> str | None:
    value = join.content.get("join_authorised_via_users_server")
    return value if isinstance(value, str) else None


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]

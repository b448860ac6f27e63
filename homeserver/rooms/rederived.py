"""What the tables of one room should say, derived once more from its events.

Owns the derivation and the comparison: from the ends of the room's graph and the states stored
before them comes the current state by resolution; from that state the memberships, the counts of
servers and the summary. It runs in the room's turn, so that nothing moves meanwhile; it reads
tables, never caches, and it changes nothing (`repair.py`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from homeserver.errors import MatrixError
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_server_name, server_of
from homeserver.rooms.actor import Room
from homeserver.rooms.append import summary_after
from homeserver.rooms.head import Head
from homeserver.rooms.membership import NAME_OF, membership_number
from homeserver.rooms.snapshots import state_hash
from homeserver.rooms.states import State, States
from homeserver.rooms.stored import load_events
from homeserver.streams.numbers import Names
from storage import memberships as membership_store
from storage import outbound as outbound_store
from storage import rooms as room_store
from storage import state as state_store
from storage.engine import Database
from storage.events import children, event_ids, event_rows
from storage.packing import unpack_entries, unpack_numbers
from storage.schema import (
    INVITE,
    JOIN,
    LEAVE,
    OUTLIER,
    REJECTED,
    SOFT_FAILED,
    EventRow,
    MembershipLogRow,
    MembershipRow,
    RoomHeadRow,
    RoomSummaryRow,
    empty_summary,
)

T = TypeVar("T")

_AT_ONCE = 100
_MOST_TOLD = 20
_UNACCEPTED = REJECTED | SOFT_FAILED | OUTLIER
_EVER = 2**62


@dataclass(frozen=True, slots=True)
class Standing:
    """A user's membership as the state has it (`event_nid` of the last one where it has none)."""

    user_nid: int
    user_id: str
    membership: int
    event_nid: int


@dataclass(slots=True)
class Rederived:
    """What was found. `ends` are the ends of the room (number, id); `differences` are sentences.

    What differs, as (stored, derived): `values` of the current state by key, `history` of where the
    changes of a key end, `snapshot` of the stored state of the head, `counts` of the joined users
    by server. `standings` are the memberships that differ, with the row that is there and the last
    one of the user's log; `inside` says of servers of whom it is wrongly known whether they are in
    the room; `summary` is what the summary should be.
    """

    head: RoomHeadRow
    ends: list[tuple[int, str]]
    state: State
    in_memory: bool
    differences: list[str] = field(default_factory=list)
    values: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)
    history: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)
    snapshot: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)
    standings: list[tuple[Standing, MembershipRow | None, MembershipLogRow | None]] = field(
        default_factory=list
    )
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    inside: dict[str, bool] = field(default_factory=dict)
    summary: RoomSummaryRow | None = None


class Rederiving:
    """See the module."""

    def __init__(self, database: Database, names: Names, states: States, local_server: str) -> None:
        self._database = database
        self._names = names
        self._states = states
        self._local_server = local_server

    async def look(self, room: Room, memory: Head) -> Rederived:
        """Derive and compare; `memory` is the head as it is loaded.

        Raises `MatrixError` M_NOT_FOUND for a room that we were never in, M_UNKNOWN (500) when that
        from which all is derived is damaged itself.
        """
        database, nid = self._database, room.nid
        head = (await room_store.heads(database, [nid])).get(nid)
        if head is None:
            raise MatrixError.not_found("This server has never been in that room")
        ends, wrong = await self._ends(head)
        state = await self._derived(room, list(ends.values()))
        found = Rederived(
            head=head,
            ends=[(end, row.event_id) for end, row in ends.items()],
            state=state,
            in_memory=memory.state == state,
            differences=wrong,
        )
        stored = (await state_store.current_states(database, [nid])).get(nid, {})
        found.values = _differing(stored, state)
        last = await state_store.last_values(database, nid)
        found.history = _differing({**stored, **last}, state)
        found.snapshot = _differing(await self._snapshot(head.snap_nid) or {}, state)
        names = await self._names.keys({*state, *found.values, *found.history, *found.snapshot})
        told: set[int] = set()
        for where, differing in (
            ("the current state", found.values),
            ("the history of the state", found.history),
            ("the stored state of its end", found.snapshot),
        ):
            new = {key: step for key, step in differing.items() if key not in told}
            found.differences += await self._sentences(where, new, names)
            told |= new.keys()
        if not found.in_memory and not told:
            found.differences.append("what is in memory differs from the tables")
        events = await self._events(room, state)
        standings = {
            key[1]: Standing(0, key[1], membership_number(event.content.get("membership")), number)
            for key_nid, number in state.items()
            if (key := names[key_nid])[0] == "m.room.member"
            and (event := events.get(number)) is not None
        }
        await self._check_members(found, room, standings)
        await self._check_servers(found, room, standings.values())
        await self._check_summary(found, room, events, standings.values())
        return found

    async def _ends(self, head: RoomHeadRow) -> tuple[dict[int, EventRow], list[str]]:
        """The room's ends, as far as they are such, and what is wrong with the others."""
        listed = unpack_numbers(head.extremities)
        rows = await event_rows(self._database, listed)
        behind = await children(self._database, listed)
        later = {nid for nids in behind.values() for nid in nids}
        accepted = {
            nid
            for part in _parts(later)
            for nid, row in (await event_rows(self._database, part)).items()
            if not row.flags & _UNACCEPTED
        }
        ends: dict[int, EventRow] = {}
        wrong: list[str] = []
        for nid in listed:
            row = rows.get(nid)
            if row is None:
                wrong.append(f"event {nid} is held for an end of the room, but is not there")
            elif row.flags & _UNACCEPTED:
                wrong.append(f"{row.event_id} is held for an end of the room, but was not accepted")
            elif accepted.intersection(behind.get(nid, ())):
                wrong.append(f"{row.event_id} is held for an end of the room, but others follow it")
            else:
                ends[nid] = row
        if not ends:
            raise _damaged("None of its ends is one")
        return ends, wrong

    async def _derived(self, room: Room, ends: Sequence[EventRow]) -> State:
        """The resolution of the states after the room's ends."""
        states: list[State] = []
        for row in ends:
            before = await self._snapshot(row.snap_nid)
            if before is None:
                raise _damaged(f"The state stored before {row.event_id}, an end of it, is damaged")
            if row.key_nid is not None:
                before = {**before, row.key_nid: row.event_nid}
            states.append(before)
        return await self._states.resolved(room.nid, room.rules, states)

    async def _snapshot(self, snap_nid: int | None) -> State | None:
        """A stored state; None for one that is damaged."""
        if snap_nid is None:
            return {}
        chain = (await state_store.snapshot_chains(self._database, [snap_nid])).get(snap_nid)
        if not chain or chain[-1].level != 0:
            return None
        state: dict[int, int] = {}
        try:
            for row in reversed(chain):
                for key, event in unpack_entries(row.entries).items():
                    if event is None:
                        state.pop(key, None)
                    else:
                        state[key] = event
        except ValueError:
            return None
        sound = len(state) == chain[0].size
        sound = sound and state_hash(state).to_bytes(8, "big") == chain[0].state_hash
        return state if sound else None

    async def _sentences(
        self,
        where: str,
        differing: Mapping[int, tuple[int | None, int | None]],
        names: Mapping[int, tuple[str, str]],
    ) -> list[str]:
        shown = dict(list(differing.items())[:_MOST_TOLD])
        ids = await event_ids(
            self._database, [nid for step in shown.values() for nid in step if nid is not None]
        )

        def event(nid: int | None) -> str:
            return "nothing" if nid is None else ids.get(nid, f"event {nid}, which is not there")

        sentences = []
        for key, (stored, derived) in shown.items():
            type_, state_key = names.get(key, (f"key {key}", ""))
            of = f" of {state_key}" if state_key else ""
            sentences.append(
                f"{where} has {event(stored)} for {type_}{of}, the events say {event(derived)}"
            )
        return sentences + _more(differing, shown, where)

    async def _events(self, room: Room, state: State) -> dict[int, Event]:
        found: dict[int, Event] = {}
        for part in _parts(state.values()):
            found |= await load_events(self._database, part, room.rules)
        return found

    async def _check_members(
        self, found: Rederived, room: Room, standings: dict[str, Standing]
    ) -> None:
        """Compare memberships; each standing gets its user's number."""
        database = self._database
        for names in _parts(standings):
            for user_id, nid in (await self._names.nids(names)).items():
                old = standings[user_id]
                standings[user_id] = Standing(nid, user_id, old.membership, old.event_nid)
        rows = await membership_store.in_room(database, room.nid, list(NAME_OF))
        by_nid = {one.user_nid: one for one in standings.values()}
        gone = {
            nid: row
            for nid, row in rows.items()
            # What stands there with a stripped state came beside the room.
            if nid not in by_nid and row.membership != LEAVE and row.stripped is None
        }
        for part in _parts(gone):
            for nid, user_id in (await self._names.names(part)).items():
                by_nid[nid] = Standing(nid, user_id, LEAVE, gone[nid].event_nid)
        differing = [
            one
            for one in by_nid.values()
            if one.user_nid not in rows
            or (rows[one.user_nid].membership, rows[one.user_nid].event_nid)
            != (one.membership, one.event_nid)
        ]
        for one in differing:
            log = None
            if server_of(one.user_id) == self._local_server:
                logged = await membership_store.history_of_user_in(
                    database, one.user_nid, [room.nid]
                )
                log = logged[room.nid][-1] if logged.get(room.nid) else None
            found.standings.append((one, rows.get(one.user_nid), log))
        told = found.standings[:_MOST_TOLD]
        found.differences += [
            f"memberships have {NAME_OF[row.membership] if row else 'nothing'} for {one.user_id},"
            f" the state says {NAME_OF[one.membership]}"
            if row is None or row.membership != one.membership
            else f"memberships have another event than the state for {one.user_id}"
            for one, row, _ in told
        ] + _more(found.standings, told, "memberships")

    async def _check_servers(
        self, found: Rederived, room: Room, standings: Iterable[Standing]
    ) -> None:
        joined = Counter(
            server
            for one in standings
            if one.membership == JOIN
            and (server := one.user_id.partition(":")[2]) != self._local_server
            and is_server_name(server)
        )
        counted = await outbound_store.joined_by_server(self._database, room.nid)
        found.counts = {
            server: (counted.get(server, 0), joined[server])
            for server in counted.keys() | joined.keys()
            if counted.get(server, 0) != joined[server]
        }
        inside = await outbound_store.servers_at(self._database, room.nid, _EVER)
        found.inside = {
            server: server in joined
            for server in inside | joined.keys()
            if (server in inside) != (server in joined)
        }
        found.differences += [
            f"{before} users of {server} are counted, {now} are joined"
            for server, (before, now) in list(found.counts.items())[:_MOST_TOLD]
        ]
        found.differences += [
            f"{server} is held to be {'outside' if now else 'in the room'}, its users say otherwise"
            for server, now in list(found.inside.items())[:_MOST_TOLD]
        ]

    async def _check_summary(
        self,
        found: Rederived,
        room: Room,
        events: Mapping[int, Event],
        standings: Iterable[Standing],
    ) -> None:
        stored = (await room_store.summaries(self._database, [room.nid])).get(room.nid)
        row = empty_summary(room.nid, published=bool(stored is not None and stored.published))
        for event in events.values():
            if event.type != "m.room.member":
                row = summary_after(row, event, None)
        counts = Counter(one.membership for one in standings)
        row = row._replace(joined=counts[JOIN], invited=counts[INVITE])
        if stored == row:
            return
        found.summary = row
        if stored is None:
            found.differences.append("it has no summary")
            return
        found.differences += [
            f"its summary says {name} = {was!r} and should say {now!r}"
            for name, was, now in zip(row._fields, stored, row, strict=True)
            if was != now
        ]


def _damaged(what: str) -> MatrixError:
    return MatrixError(
        "M_UNKNOWN", f"{what}: nothing can be derived. Restore the database from a backup.", 500
    )


def _differing(
    stored: State | Mapping[int, int | None], derived: State
) -> dict[int, tuple[int | None, int | None]]:
    return {
        key: (stored.get(key), derived.get(key))
        for key in stored.keys() | derived.keys()
        if stored.get(key) != derived.get(key)
    }


def _more(differing: Collection[object], told: Collection[object], where: str) -> list[str]:
    rest = len(differing) - len(told)
    return [f"{where}: {rest} more differ"] if rest else []


def _parts(values: Iterable[T]) -> Iterator[Sequence[T]]:
    everything = list(values)
    for start in range(0, len(everything), _AT_ONCE):
        yield everything[start : start + _AT_ONCE]

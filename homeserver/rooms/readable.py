"""What one user may read of one room.

Owns the loading of a reader's memberships and of the room's history visibility over time, and the
question for each event. Invariant: no event leaves the server towards a user without having been
asked here or lying in a stretch in which the user was joined all along and `hides` finds nothing.
spec: client-server-api#room-history-visibility
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.versions import RoomRules
from homeserver.matrix.visibility import OPEN, Visibility, allows, visibility_of, visible
from homeserver.rooms.actor import Room
from homeserver.rooms.erased import Erased
from homeserver.rooms.membership import NAME_OF
from homeserver.rooms.states import State, States
from homeserver.rooms.stored import load_events
from homeserver.rooms.views import EventView
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.events import event_rows
from storage.memberships import history_of_user_in, of_user_in
from storage.schema import BAN, FORGOTTEN, JOIN, LEAVE, LINEAR
from storage.state import key_history

# Of so many messages in forks it is remembered whether the room was open.
_MAX_OPEN = 10_000
_BEFORE_ALL = -(2**62)


class Before(NamedTuple):
    """What a room was before an event: its history visibility, and one user's membership."""

    visibility: Visibility
    membership: str


class Placed(Protocol):
    """What must be known of an event to say who may read it: its number, place and kind."""

    @property
    def nid(self) -> int:
        """Its number."""

    @property
    def pos(self) -> int | None:
        """Its position; None for one that has no place in the room's history."""

    @property
    def flags(self) -> int:
        """Its flags as stored."""

    @property
    def is_state(self) -> bool:
        """Whether it is state."""


P = TypeVar("P", bound=Placed)

LoadForks = Callable[[Sequence[int]], Awaitable[dict[int, Before]]]


class Reader:
    """One user's view of one room's history; see `sees`, `copy` and `membership_at`."""

    __slots__ = (
        "_erased",
        "_forks",
        "_joins",
        "_load_forks",
        "_memberships",
        "_positions",
        "_visibilities",
        "_visibility_positions",
    )

    def __init__(
        self,
        memberships: Iterable[tuple[int, int]],
        visibilities: Iterable[tuple[int, Visibility]],
        erased: Erased | None = None,
        load_forks: LoadForks | None = None,
    ) -> None:
        """Both are (position, value from there on), in order of position.

        `load_forks` says what the room was before events that do not stand in one line with others.
        """
        self._erased = erased
        self._load_forks = load_forks
        self._forks: dict[int, Before] = {}
        self._memberships: list[str] = []
        self._positions: list[int] = []
        self._joins: list[int] = []
        for pos, number in memberships:
            self._positions.append(pos)
            self._memberships.append(NAME_OF[number])
            if number == JOIN:
                self._joins.append(pos)
        self._visibilities: list[Visibility] = []
        self._visibility_positions: list[int] = []
        for pos, visibility in visibilities:
            self._visibility_positions.append(pos)
            self._visibilities.append(visibility)

    @property
    def was_member(self) -> bool:
        """Whether the user was ever joined."""
        return bool(self._joins)

    def was_joined_at(self, pos: int) -> bool:
        """Whether the user was joined at position `pos` or at any time before."""
        return bool(self._joins) and self._joins[0] <= pos

    @property
    def is_member(self) -> bool:
        """Whether the user is joined now."""
        return bool(self._memberships) and self._memberships[-1] == "join"

    @property
    def left_at(self) -> int:
        """The position of the event that ended the user's last stay."""
        last = bisect_right(self._positions, self._joins[-1])
        return self._positions[last] if last < len(self._positions) else self._positions[-1]

    @property
    def open_now(self) -> bool:
        """Whether anybody may read what is sent to the room now."""
        return self._visible(len(self._visibilities)) == "world_readable"

    def membership_at(self, pos: int) -> str:
        """The user's membership after the event at `pos`."""
        return self._at(bisect_right(self._positions, pos))

    def copy(self, view: EventView, rules: RoomRules) -> EventView:
        """The event as this user gets it: what an erased user wrote is for those who knew it.

        The room's own state stays as it is, whoever set it.
        spec: client-server-api#post_matrixclientv3accountdeactivate
        """
        since = self._erased.since(view.sender) if self._erased is not None else None
        if since is None or (view.state_key is not None and view.type != "m.room.member"):
            return view
        return view if self._knew(view, since) else view.erased(rules)

    async def ready(self, views: Iterable[Placed]) -> None:
        """Read what `sees` must know of these events: of those in forks the state before them."""
        forks = [view.nid for view in views if _in_fork(view) and view.nid not in self._forks]
        if forks and self._load_forks is not None:
            self._forks |= await self._load_forks(forks)

    def sees_all(self, until: int) -> bool:
        """Whether the user may read each message at a position up to `until`, forks aside."""
        changes = sorted({*self._positions, *self._visibility_positions})
        return all(
            allows(
                self._visible(bisect_right(self._visibility_positions, pos)),
                self._at(bisect_right(self._positions, pos)),
                bisect_right(self._joins, pos) < len(self._joins),
            )
            for pos in (_BEFORE_ALL, *changes[: bisect_left(changes, until)])
        )

    async def seen(self, views: Sequence[P]) -> list[P]:
        """Those of the events that the user may read, in their order."""
        await self.ready(views)
        return [view for view in views if self.sees(view)]

    def sees(self, view: Placed) -> bool:
        """Whether the user may read the event, for which the reader was made `ready`."""
        return self._sees(view, len(self._joins))

    def _knew(self, view: EventView, pos: int) -> bool:
        """Whether the user, having been in the room by then, could read the event at `pos`."""
        joins = bisect_right(self._joins, pos)
        return joins > 0 and self._sees(view, joins)

    def _sees(self, view: Placed, joins: int) -> bool:
        """Whether the event may be read when only so many joins count."""
        pos = view.pos
        if pos is None:
            return False
        joined_later = bisect_right(self._joins, pos) < joins
        fork = self._forks.get(view.nid)
        if fork is not None and not view.is_state:
            # When it was sent the room was another than when it came here.
            now = self._at(bisect_right(self._positions, pos)) == "join"
            return allows(fork.visibility, fork.membership, joined_later or now)
        before = bisect_left(self._positions, pos)
        after = bisect_right(self._positions, pos)
        seen_before = bisect_left(self._visibility_positions, pos)
        seen_after = bisect_right(self._visibility_positions, pos)
        if before == after and seen_before == seen_after:
            membership = self._at(before)
            # Between a join and what ends it every event may be read.
            return allows(self._visible(seen_before), membership, joined_later)
        return visible(
            self._visible(seen_before),
            self._visible(seen_after),
            self._at(before),
            self._at(after),
            joined_later,
        )

    def _at(self, index: int) -> str:
        return self._memberships[index - 1] if index else "leave"

    def _visible(self, index: int) -> Visibility:
        return self._visibilities[index - 1] if index else "shared"


class Readers:
    """Loads readers."""

    def __init__(
        self,
        database: Database,
        names: Names,
        states: States,
        erased: Erased,
        *,
        forget_on_leave: bool,
    ) -> None:
        """With `forget_on_leave` every room that a user has left is a forgotten one."""
        self._forget_on_leave = forget_on_leave
        self._states = states
        self._database = database
        self._names = names
        self._erased = erased
        self._open: OrderedDict[int, bool] = OrderedDict()

    async def has_forgotten(self, user_nid: int, room: Room) -> bool:
        """Whether the user has left the room and wants it out of sight."""
        row = (await of_user_in(self._database, user_nid, [room.nid])).get(room.nid)
        if row is None:
            return False
        left = row.membership in (LEAVE, BAN)
        return bool(row.flags & FORGOTTEN) or (self._forget_on_leave and left)

    async def of(self, user_nid: int, room: Room) -> Reader:
        """The reader of a user in a room, the user's memberships there being none or many."""
        history = await history_of_user_in(self._database, user_nid, [room.nid])
        await self._names.load(keys=[("m.room.history_visibility", "")])
        key_nid = self._names.key_nid("m.room.history_visibility", "")
        changes = await key_history(self._database, room.nid, key_nid)
        events = await load_events(
            self._database, [nid for _, nid in changes if nid is not None], room.rules
        )

        async def load_forks(nids: Sequence[int]) -> dict[int, Before]:
            return await self._before(user_nid, room, nids)

        return Reader(
            [(row.pos, row.membership) for row in history.get(room.nid, ())],
            [
                (pos, visibility_of(events[nid].content if nid is not None else None))
                for pos, nid in changes
            ],
            self._erased,
            load_forks,
        )

    async def hides(self, room: Room, views: Iterable[EventView]) -> bool:
        """Whether somebody who was in the room when these came may have to be kept from one.

        That is so with messages in forks, when the room was not open to later members where they
        were sent. Of each event it is asked once for all readers.
        """
        forks = [view.nid for view in views if not view.is_state and _in_fork(view)]
        known = {nid: self._open[nid] for nid in forks if nid in self._open}
        unknown = [nid for nid in forks if nid not in known]
        if unknown:
            found = await self._opened(room, unknown)
            known |= found
            self._open |= found
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return not all(known.values())

    async def _opened(self, room: Room, nids: Sequence[int]) -> dict[int, bool]:
        """Whether before each of these events the history was open to those who came later."""
        states = await self._states_before(nids)
        key = ("m.room.history_visibility", "")
        await self._names.load(keys=[key])
        key_nid = self._names.key_nid(*key)
        named = {nid: state[key_nid] for nid, state in states.items() if key_nid in state}
        events = await load_events(self._database, set(named.values()), room.rules)
        return {
            nid: visibility_of(events[named[nid]].content if nid in named else None) in OPEN
            for nid in nids
        }

    async def _states_before(self, nids: Sequence[int]) -> dict[int, State]:
        """The state before each of these events that has one."""
        rows = await event_rows(self._database, nids)
        snaps = {row.snap_nid for row in rows.values() if row.snap_nid is not None}
        states = await self._states.of_snapshots(snaps)
        return {nid: states[row.snap_nid] for nid, row in rows.items() if row.snap_nid in states}

    async def _before(self, user_nid: int, room: Room, nids: Sequence[int]) -> dict[int, Before]:
        """What the room was for the user before each of these events."""
        states = await self._states_before(nids)
        user_id = (await self._names.names([user_nid]))[user_nid]
        keys = [("m.room.history_visibility", ""), ("m.room.member", user_id)]
        await self._names.load(keys=keys)
        shown, member = (self._names.key_nid(*key) for key in keys)
        wanted = {
            state[key] for state in states.values() for key in (shown, member) if key in state
        }
        events = await load_events(self._database, wanted, room.rules)

        def content(state: State, key: int) -> JsonObject | None:
            return events[state[key]].content if key in state else None

        return {
            nid: Before(
                visibility_of(content(state, shown)),
                str((content(state, member) or {}).get("membership", "leave")),
            )
            for nid, state in states.items()
        }


def _in_fork(view: Placed) -> bool:
    """Whether the room was another where the event was sent than when it came here."""
    return not view.flags & LINEAR and (view.pos or 0) > 0

"""How much a user has not read, in all rooms together.

Owns the sum over the rooms in which the user is joined, moved on room by room.
"""

from collections import OrderedDict
from typing import NamedTuple

from homeserver.push.unread import CAP, Counted, UnreadCounts, total
from homeserver.rooms.actor import Rooms
from homeserver.streams.ignored import Ignored
from homeserver.streams.memberships import Memberships
from homeserver.streams.ring import Ring

_CACHED = 20_000
_NOWHERE: frozenset[int] = frozenset()


class _Known(NamedTuple):
    """By room what was unread at a position, for a user who was in these and ignored those."""

    pos: int
    ignored: frozenset[str]
    joined: frozenset[int]
    rooms: dict[int, int]
    total: int


class Badges:
    """See the module."""

    def __init__(
        self,
        unread: UnreadCounts,
        memberships: Memberships,
        ignored: Ignored,
        rooms: Rooms,
        ring: Ring,
    ) -> None:
        self._unread = unread
        self._memberships = memberships
        self._ignored = ignored
        self._rooms = rooms
        self._ring = ring
        self._known: OrderedDict[int, _Known] = OrderedDict()

    async def of(self, user_nid: int, user_id: str) -> int:
        """The number of unread notifications of a user now."""
        user = await self._memberships.of(user_nid)
        ignored = await self._ignored.by(user_nid, user_id)
        until = self._ring.pos
        known = self._known.get(user_nid)
        if (
            known is None
            or known.pos < self._ring.floor
            or known.ignored != ignored
            or self._ring.account_data(user_nid, known.pos, until)
        ):
            known = _Known(until, ignored, _NOWHERE, {}, 0)
        stale = self._ring.rooms_since(known.pos, user.joined)
        counts, unread = known.rooms, known.total
        if known.joined is not user.joined:
            stale |= user.joined - known.joined
            counts = {nid: count for nid, count in counts.items() if nid in user.joined}
            unread = sum(counts.values())
        elif stale:
            counts = counts.copy()
        reader = Counted(user_nid, user_id, ignored)
        unsure: list[int] = []
        for nid in stale:
            more = None
            if (before := counts.get(nid)) is not None:
                more = await self._unread.more(reader, nid, known.pos, until)
            if before is None or more is None:
                unsure.append(nid)
                continue
            counts[nid] = min(CAP, before + more)
            unread += counts[nid] - before
        rooms = await self._rooms.by_nids(unsure) if unsure else {}
        for nid, room in rooms.items():
            found = await self._unread.count(reader, room, user.rooms[nid].pos, until)
            now = total(found).notifications
            unread += now - counts.get(nid, 0)
            counts[nid] = now
        self._known[user_nid] = _Known(until, ignored, user.joined, counts, unread)
        self._known.move_to_end(user_nid)
        if len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return unread

    def has_unread(self, user_nid: int, room_nid: int) -> bool:
        """Whether a room had unread notifications when `of` was asked last."""
        known = self._known.get(user_nid)
        return known is not None and known.rooms.get(room_nid, 0) > 0

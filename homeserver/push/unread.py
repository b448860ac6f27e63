"""How many events of a room a user has not read.

Owns the counting: events that notify, from others, after the user's receipt, join and own last
event, at most `CAP`. Counted on read and moved on by the ring; nothing is stored per user. It does
not evaluate push rules: an event carries whether the default rules notify of it.
spec: client-server-api#receiving-notifications
"""

from collections import OrderedDict

from homeserver.streams.ring import EventEntry, Ring
from storage.engine import Database
from storage.events import notifying_tail
from storage.schema import NOTIFIES, REDACTED
from storage.user_data import receipts_of

CAP = 1_000
_CACHED = 50_000


class Unread:
    """See the module."""

    def __init__(self, database: Database, ring: Ring) -> None:
        self._database = database
        self._ring = ring
        # (user, room) to (position counted up to, count)
        self._counts: OrderedDict[tuple[int, int], tuple[int, int]] = OrderedDict()

    async def count(
        self, user_nid: int, user_id: str, room_nid: int, joined_pos: int, until: int
    ) -> int:
        """Unread notifying events of a room at position `until`."""
        key = (user_nid, room_nid)
        known = self._counts.get(key)
        count = None
        if known is not None and self._ring.floor <= known[0] <= until:
            count = self._moved_on(known, user_nid, user_id, room_nid, until)
        if count is None:
            count = await self._counted(user_nid, room_nid, joined_pos, until)
        self._counts[key] = (until, count)
        self._counts.move_to_end(key)
        if len(self._counts) > _CACHED:
            self._counts.popitem(last=False)
        return count

    def _moved_on(
        self, known: tuple[int, int], user_nid: int, user_id: str, room_nid: int, until: int
    ) -> int | None:
        """The count after the ring's entries; None when a receipt of the user is among them."""
        pos, count = known
        if pos == until:
            return count
        for entry in self._ring.room_entries(room_nid, pos, until):
            if isinstance(entry, EventEntry):
                if entry.view.sender == user_id:
                    count = 0
                elif entry.view.flags & NOTIFIES and not entry.view.flags & REDACTED:
                    count = min(count + 1, CAP)
            elif entry.user_nid == user_nid:
                return None
        return count

    async def _counted(self, user_nid: int, room_nid: int, joined_pos: int, until: int) -> int:
        receipts = await receipts_of(self._database, user_nid, [room_nid])
        read = (row.event_pos for row in receipts.get(room_nid, ()) if not row.thread)
        marker = max((joined_pos, *read))
        count = 0
        tail = await notifying_tail(self._database, room_nid, marker, until, CAP)
        for sender_nid, flags in tail:
            if sender_nid == user_nid:
                break
            if flags & NOTIFIES and not flags & REDACTED:
                count += 1
        return count

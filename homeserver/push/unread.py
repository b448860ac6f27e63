"""How many events of a room a user has not read.

Owns the counting: events that notify, from others who are not ignored, after the user's receipt,
join and own last message, at most `CAP`. Counted on read and moved on by the ring; nothing is
stored per user. It does not evaluate push rules: an event carries whether the default rules notify
of it, and threads are not told apart: a receipt of the main timeline is one of the room.
spec: client-server-api#receiving-notifications
"""

from collections import OrderedDict
from typing import NamedTuple

from homeserver.streams.numbers import Names
from homeserver.streams.ring import EventEntry, Ring
from storage.engine import Database
from storage.events import notifying_tail
from storage.memberships import joined_since
from storage.schema import NOTIFIES, REDACTED
from storage.user_data import receipts_of

CAP = 1_000
_CACHED = 50_000
_WHOLE_ROOM = ("", "main")
_MEMBER = "m.room.member"
_REDACTION = "m.room.redaction"


class Counted(NamedTuple):
    """For whom is counted."""

    user_nid: int
    user_id: str
    ignored: frozenset[str]


class _Count(NamedTuple):
    """A count as of a position, for a user who ignored these."""

    pos: int
    unread: int
    ignored: frozenset[str]


class Unread:
    """See the module."""

    def __init__(self, database: Database, ring: Ring, names: Names) -> None:
        self._database = database
        self._ring = ring
        self._names = names
        self._counts: OrderedDict[tuple[int, int], _Count] = OrderedDict()

    async def count(
        self, reader: Counted, room_nid: int, member_pos: int, until: int, *, recount: bool = False
    ) -> int:
        """Unread notifying events of a room at position `until`.

        `member_pos` is the position of the user's member event. With `recount` nothing in memory
        is believed.
        """
        key = (reader.user_nid, room_nid)
        known = self._counts.get(key)
        count = None
        if (
            known is not None
            and not recount
            and self._ring.floor <= known.pos <= until
            and known.ignored == reader.ignored
        ):
            count = self._moved_on(known, reader, room_nid, until)
        if count is None:
            count = await self._counted(reader, room_nid, member_pos, until)
        self._counts[key] = _Count(until, count, reader.ignored)
        self._counts.move_to_end(key)
        if len(self._counts) > _CACHED:
            self._counts.popitem(last=False)
        return count

    def _moved_on(self, known: _Count, reader: Counted, room_nid: int, until: int) -> int | None:
        """The count after the ring's entries; None when only the tables can tell."""
        count = known.unread
        if known.pos == until:
            return count
        for entry in self._ring.room_entries(room_nid, known.pos, until):
            if not isinstance(entry, EventEntry):
                if entry.user_nid == reader.user_nid:
                    return None
                continue
            view = entry.view
            if view.type == _REDACTION or (
                view.type == _MEMBER and view.state_key == reader.user_id
            ):
                # What was counted may be gone, or the user has come anew.
                return None
            if view.sender == reader.user_id:
                if view.state_key is None:
                    count = 0
            elif _notifies(view.flags) and view.sender not in reader.ignored:
                count = min(count + 1, CAP)
        return count

    async def _counted(self, reader: Counted, room_nid: int, member_pos: int, until: int) -> int:
        receipts = await receipts_of(self._database, reader.user_nid, [room_nid])
        marker = max(
            (row.event_pos for row in receipts.get(room_nid, ()) if row.thread in _WHOLE_ROOM),
            default=0,
        )
        if member_pos > marker:
            # The member event may be a change of the profile only.
            joined = await joined_since(self._database, reader.user_nid, room_nid)
            marker = max(marker, joined or 0)
        tail = await notifying_tail(self._database, room_nid, marker, until, CAP)
        ignored = await self._ignored(reader, {sender_nid for sender_nid, _, _ in tail})
        count = 0
        for sender_nid, flags, is_state in tail:
            if sender_nid == reader.user_nid:
                if not is_state:
                    break
            elif _notifies(flags) and sender_nid not in ignored:
                count += 1
        return count

    async def _ignored(self, reader: Counted, sender_nids: set[int]) -> set[int]:
        """Those of the senders whom the user ignores."""
        if not reader.ignored:
            return set()
        names = await self._names.names(sender_nids)
        return {nid for nid, user_id in names.items() if user_id in reader.ignored}


def _notifies(flags: int) -> bool:
    return bool(flags & NOTIFIES) and not flags & REDACTED

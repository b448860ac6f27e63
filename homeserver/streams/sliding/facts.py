"""What decides in which lists a room stands: its last event, what it is, what its user says of it.

Owns these facts in memory, kept current by publication; what isn't there is read for all rooms at
once. All of it may be forgotten at any time.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

from homeserver.matrix import canonical
from homeserver.matrix.errors import Malformed
from homeserver.rooms.append import Appended
from storage.engine import Database
from storage.events import senders
from storage.memberships import history_of_user_in, of_user_in
from storage.rooms import heads, summaries
from storage.schema import JOIN
from storage.user_data import account_data, account_data_of

_MAX_ROOMS = 500_000
_MAX_USERS = 20_000
_DIRECT = "m.direct"
# What a room is stands in these.
_DECIDING = ("m.room.create", "m.room.encryption")
_TAG = "m.tag"
T = TypeVar("T")


class Kind(NamedTuple):
    """The type of a room, and whether it is encrypted."""

    room_type: str | None = None
    encrypted: bool = False


class RoomFacts:
    """See the module; of rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last: dict[int, int] = {}
        self._kinds: dict[int, Kind] = {}
        self._changes = 0
        self.altered = 0
        """The last position at which some room may have become another kind of room."""

    async def last(self, room_nids: Collection[int]) -> Mapping[int, int]:
        """By room the position of its last event, of these rooms at least."""
        missing = [nid for nid in room_nids if nid not in self._last]
        if missing:
            if len(self._last) + len(missing) > _MAX_ROOMS:
                self._last.clear()
                missing = list(room_nids)
            rows = await heads(self._database, missing)
            for nid in missing:
                stored = rows[nid].last_pos if nid in rows else 0
                self._last[nid] = max(stored, self._last.get(nid, 0))
        return self._last

    async def kinds(self, room_nids: Collection[int]) -> Mapping[int, Kind]:
        """By room what it is."""
        found = {nid: self._kinds[nid] for nid in room_nids if nid in self._kinds}
        missing = [nid for nid in room_nids if nid not in found]
        if missing:
            changes = self._changes
            rows = await summaries(self._database, missing)
            read = {
                nid: Kind(row.room_type, row.encryption is not None) for nid, row in rows.items()
            }
            found |= read
            if changes == self._changes:
                if len(self._kinds) + len(read) > _MAX_ROOMS:
                    self._kinds.clear()
                self._kinds |= read
        return found

    async def outside(self, user_nid: int, room_nids: Collection[int]) -> Mapping[int, Kind]:
        """By room what the invite or knock of a user says that it is."""
        rows = await of_user_in(self._database, user_nid, room_nids)
        return {
            nid: _kind_of(row.stripped) for nid, row in rows.items() if row.stripped is not None
        }

    def happened(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events were published."""
        if room_nid in self._last:
            self._last[room_nid] = max(self._last[room_nid], first_pos + len(events) - 1)
        if any(event.state_changes for event in events):
            self._changes += 1
            self._kinds.pop(room_nid, None)
            if any(
                len(event.state_changes) > 1 or event.event.type in _DECIDING for event in events
            ):
                self.altered = first_pos + len(events) - 1

    def clear(self) -> None:
        """Drop everything: publications were lost."""
        self._changes += 1
        self._last.clear()
        self._kinds.clear()


class UserFacts:
    """See the module; of users and their rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._direct: OrderedDict[int, frozenset[str]] = OrderedDict()
        self._tags: OrderedDict[int, Mapping[int, frozenset[str]]] = OrderedDict()
        self._removed: OrderedDict[int, Mapping[int, bool]] = OrderedDict()
        self._changes = 0

    async def direct(self, user_nid: int) -> frozenset[str]:
        """The ids of the rooms in which the user talks to one person."""
        found = self._direct.get(user_nid)
        while found is None:
            changes = self._changes
            rows = await account_data_of(self._database, [user_nid], 0, _DIRECT)
            content = rows[user_nid].content if user_nid in rows else b"{}"
            if changes == self._changes:
                found = _keep(self._direct, user_nid, _direct_rooms(content))
        return found

    async def tags(self, user_nid: int) -> Mapping[int, frozenset[str]]:
        """The user's tags by room."""
        found = self._tags.get(user_nid)
        while found is None:
            changes = self._changes
            rows = await account_data(self._database, user_nid)
            if changes == self._changes:
                tags = {row.room_nid: _tags(row.content) for row in rows if row.type == _TAG}
                found = _keep(self._tags, user_nid, tags)
        return found

    async def removed(self, user_nid: int, gone: Mapping[int, int]) -> set[int]:
        """From which rooms others have removed the user, who had been in them.

        `gone` are rooms that the user isn't in, each with the user's member event.
        """
        known = self._removed.get(user_nid, {})
        if any(event_nid not in known for event_nid in gone.values()):
            sent = await senders(self._database, gone.values())
            history = await history_of_user_in(self._database, user_nid, gone.keys())
            known = _keep(
                self._removed,
                user_nid,
                {
                    event_nid: sent.get(event_nid) != user_nid
                    and any(row.membership == JOIN for row in history.get(room_nid, ()))
                    for room_nid, event_nid in gone.items()
                },
            )
        return {room_nid for room_nid, event_nid in gone.items() if known[event_nid]}

    def changed(self, user_nid: int, type_: str) -> None:
        """Account data of this type has changed."""
        if type_ in (_DIRECT, _TAG):
            self._changes += 1
            (self._direct if type_ == _DIRECT else self._tags).pop(user_nid, None)

    def clear(self) -> None:
        """Drop everything: publications were lost."""
        self._changes += 1
        self._direct.clear()
        self._tags.clear()


def _keep(kept: OrderedDict[int, T], user_nid: int, value: T) -> T:
    kept[user_nid] = value
    kept.move_to_end(user_nid)
    if len(kept) > _MAX_USERS:
        kept.popitem(last=False)
    return value


def _direct_rooms(content: bytes) -> frozenset[str]:
    try:
        lists = canonical.decode_object(content).values()
    except Malformed:
        return frozenset()
    return frozenset(
        room
        for rooms in lists
        if isinstance(rooms, list)
        for room in rooms
        if isinstance(room, str)
    )


def _tags(content: bytes) -> frozenset[str]:
    try:
        tags = canonical.decode_object(content).get("tags")
    except Malformed:
        return frozenset()
    return frozenset(tags) if isinstance(tags, dict) else frozenset()


def _kind_of(stripped: bytes) -> Kind:
    room_type: str | None = None
    encrypted = False
    events = canonical.decode(stripped)
    for event in events if isinstance(events, list) else ():
        if not isinstance(event, dict):
            continue
        content = event.get("content")
        if event.get("type") == "m.room.create" and isinstance(content, dict):
            named = content.get("type")
            room_type = named if isinstance(named, str) else None
        elif event.get("type") == "m.room.encryption":
            encrypted = True
    return Kind(room_type, encrypted)

"""What happened in the rooms of a user between two positions: from the ring, or from the tables.

Owns the two ways of finding it, behind one interface, so that a sync is built by the same code
whichever is used; the two must give the same answer. It decides nothing about what a client sees.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from homeserver.matrix import canonical
from homeserver.matrix.versions import RoomRules
from homeserver.rooms.membership import membership_number
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.numbers import Names
from homeserver.streams.ring import (
    AccountDataEntry,
    DeviceListEntry,
    EventEntry,
    Move,
    ReceiptEntry,
    Ring,
)
from storage.device_lists import changed_between, signed_between
from storage.engine import Database
from storage.events import event_json
from storage.memberships import joined_rooms
from storage.rooms import changed_since
from storage.schema import LEAVE, READ_PRIVATE, StateChangeRow
from storage.state import state_changes
from storage.user_data import account_data_between, receipts_between

# So many events are read in one statement, on the loop.
_AT_ONCE = 100


@dataclass(slots=True)
class KeyChange:
    """One state key over a stretch: its event before it, and (position, event) of each change."""

    before: int | None
    steps: list[tuple[int, int | None]] = field(default_factory=list)

    @property
    def after(self) -> int | None:
        """The event at the end of the stretch."""
        return self.steps[-1][1]

    def at(self, pos: int) -> int | None:
        """The event just before position `pos`."""
        value = self.before
        for step, new in self.steps:
            if step >= pos:
                break
            value = new
        return value


class News(Protocol):
    """What happened in (`since`, `until`]."""

    since: int
    until: int
    stirred: bool
    """Whether anybody may have come or gone anywhere, or changed keys."""

    async def rooms(self, joined: Collection[int]) -> set[int]:
        """Which of the joined rooms have events or receipts."""

    async def events(
        self, room_nid: int, rules: RoomRules, until: int, most: int
    ) -> list[EventView]:
        """The room's events up to `until`, oldest first: all, or at least the last `most`."""

    async def state(self, room_nid: int, until: int) -> dict[int, KeyChange]:
        """The state keys of the room that changed up to `until`."""

    async def receipts(self, room_nid: int, user_nid: int) -> list[ReceiptEntry]:
        """Receipts that moved in the room, others' private ones left out."""

    async def account_data(self, user_nid: int) -> list[AccountDataEntry]:
        """The user's account data that changed, the last of each kind."""

    async def moves(self, room_nids: Collection[int]) -> list[Move]:
        """How the members of the rooms came and went; who only changed a name is left out."""

    async def device_lists(self) -> list[int]:
        """The users (numbers) whose devices changed, wherever they are."""

    async def signed(self, user_nid: int) -> list[int]:
        """The users whose keys this user has signed, as only this user sees."""

    async def rooms_of(self, user_nid: int) -> frozenset[int]:
        """The rooms that a user whose devices changed is joined to, as of `until` or later."""


class RingNews:
    """News from memory; `since` must be at or above the ring's floor.

    Many clients ask for the same stretch at the same moment: what doesn't depend on the user is
    looked for once.
    """

    def __init__(self, ring: Ring, database: Database, since: int, until: int) -> None:
        self.since = since
        self.until = until
        self.stirred = ring.stirred > since
        self._ring = ring
        self._database = database
        self._events: dict[tuple[int, int], list[EventEntry]] = {}
        self._states: dict[tuple[int, int], dict[int, KeyChange]] = {}
        self._receipts: dict[int, list[ReceiptEntry]] = {}
        self._rooms_of: dict[int, frozenset[int]] = {}

    async def rooms(self, joined: Collection[int]) -> set[int]:
        return self._ring.rooms_since(self.since, joined)

    async def events(
        self, room_nid: int, rules: RoomRules, until: int, most: int
    ) -> list[EventView]:
        return [entry.view for entry in self._room_events(room_nid, until)]

    async def state(self, room_nid: int, until: int) -> dict[int, KeyChange]:
        found = self._states.get((room_nid, until))
        if found is None:
            found = self._states[room_nid, until] = collect(
                StateChangeRow(room_nid, entry.pos, change.key_nid, change.old_nid, change.new_nid)
                for entry in self._room_events(room_nid, until)
                for change in entry.changes
            )
        return found

    async def receipts(self, room_nid: int, user_nid: int) -> list[ReceiptEntry]:
        found = self._receipts.get(room_nid)
        if found is None:
            found = self._receipts[room_nid] = [
                entry
                for entry in self._ring.room_entries(room_nid, self.since, self.until)
                if isinstance(entry, ReceiptEntry)
            ]
        if not found:
            return []
        latest: dict[tuple[int, bool, str], ReceiptEntry] = {}
        for entry in found:
            if not entry.private or entry.user_nid == user_nid:
                latest[entry.user_nid, entry.private, entry.thread] = entry
        return sorted(latest.values(), key=lambda entry: entry.pos)

    async def account_data(self, user_nid: int) -> list[AccountDataEntry]:
        entries = self._ring.account_data(user_nid, self.since, self.until)
        if len(entries) < 2:
            return entries
        latest: dict[tuple[int, str], AccountDataEntry] = {}
        for entry in entries:
            latest[entry.room_nid, entry.type] = entry
        return sorted(latest.values(), key=lambda entry: entry.pos)

    async def moves(self, room_nids: Collection[int]) -> list[Move]:
        return [
            move
            for room_nid in self._ring.rooms_since(self.since, room_nids)
            for entry in self._room_events(room_nid, self.until)
            for move in entry.moves
            if move.was != move.now
        ]

    async def device_lists(self) -> list[int]:
        return list({entry.user_nid: None for entry in self._lists() if entry.only_for is None})

    async def signed(self, user_nid: int) -> list[int]:
        return [entry.user_nid for entry in self._lists() if entry.only_for == user_nid]

    async def rooms_of(self, user_nid: int) -> frozenset[int]:
        found = self._rooms_of.get(user_nid)
        if found is None:
            rooms = await joined_rooms(self._database, [user_nid])
            found = self._rooms_of[user_nid] = frozenset(rooms.get(user_nid, ()))
        return found

    def _lists(self) -> list[DeviceListEntry]:
        return self._ring.device_lists(self.since, self.until)

    def _room_events(self, room_nid: int, until: int) -> list[EventEntry]:
        found = self._events.get((room_nid, until))
        if found is None:
            found = self._events[room_nid, until] = [
                entry
                for entry in self._ring.room_entries(room_nid, self.since, until)
                if isinstance(entry, EventEntry)
            ]
        return found


class StoredNews:
    """News from the tables; with `since` -1 everything there is."""

    def __init__(
        self, database: Database, names: Names, timeline: Timeline, since: int, until: int
    ) -> None:
        self.since = since
        self.until = until
        self.stirred = until > since
        self._database = database
        self._names = names
        self._timeline = timeline

    async def rooms(self, joined: Collection[int]) -> set[int]:
        return await changed_since(self._database, joined, self.since)

    async def events(
        self, room_nid: int, rules: RoomRules, until: int, most: int
    ) -> list[EventView]:
        views = await self._timeline.before(room_nid, rules, until, most, after=self.since)
        views.reverse()
        return views

    async def state(self, room_nid: int, until: int) -> dict[int, KeyChange]:
        rows = await state_changes(self._database, [room_nid], self.since, until)
        return collect(rows.get(room_nid, ()))

    async def receipts(self, room_nid: int, user_nid: int) -> list[ReceiptEntry]:
        rows = await receipts_between(self._database, [room_nid], self.since, self.until)
        wanted = [
            row
            for row in rows.get(room_nid, ())
            if row.kind != READ_PRIVATE or row.user_nid == user_nid
        ]
        users = await self._names.names({row.user_nid for row in wanted})
        return [
            ReceiptEntry(
                pos=row.pos,
                room_nid=room_nid,
                user_nid=row.user_nid,
                user_id=users[row.user_nid],
                private=row.kind == READ_PRIVATE,
                thread=row.thread,
                event_id=row.event_id,
                ts=row.ts,
            )
            for row in wanted
        ]

    async def account_data(self, user_nid: int) -> list[AccountDataEntry]:
        rows = await account_data_between(self._database, user_nid, self.since, self.until)
        return [
            AccountDataEntry(row.pos, user_nid, row.room_nid, row.type, row.content) for row in rows
        ]

    async def moves(self, room_nids: Collection[int]) -> list[Move]:
        by_room = await state_changes(self._database, room_nids, self.since, self.until)
        changes = [change for rows in by_room.values() for change in rows]
        keys = await self._names.keys({change.key_nid for change in changes})
        members = [change for change in changes if keys[change.key_nid][0] == "m.room.member"]
        events = [nid for row in members for nid in (row.old_nid, row.new_nid) if nid is not None]
        memberships: dict[int | None, int] = {None: LEAVE}
        for first in range(0, len(events), _AT_ONCE):
            for nid, json in (
                await event_json(self._database, events[first : first + _AT_ONCE])
            ).items():
                content = canonical.decode_object(json).get("content", {})
                memberships[nid] = membership_number(content.get("membership"))
        users = await self._names.nids({keys[change.key_nid][1] for change in members})
        return [
            Move(row.room_nid, users[keys[row.key_nid][1]], was, now)
            for row in members
            if (was := memberships[row.old_nid]) != (now := memberships[row.new_nid])
        ]

    async def device_lists(self) -> list[int]:
        return await changed_between(self._database, self.since, self.until)

    async def signed(self, user_nid: int) -> list[int]:
        return await signed_between(self._database, user_nid, self.since, self.until)

    async def rooms_of(self, user_nid: int) -> frozenset[int]:
        rooms = await joined_rooms(self._database, [user_nid])
        return frozenset(rooms.get(user_nid, ()))


def collect(changes: Iterable[StateChangeRow]) -> dict[int, KeyChange]:
    """Changes in order of position, by key."""
    keys: dict[int, KeyChange] = {}
    for _, pos, key_nid, old, new in changes:
        known = keys.get(key_nid)
        if known is None:
            known = keys[key_nid] = KeyChange(old)
        known.steps.append((pos, new))
    return keys

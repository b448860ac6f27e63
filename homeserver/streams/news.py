"""What happened in the rooms of a user between two positions: from the ring, or from the tables.

Owns the two ways of finding it, behind one interface, so that a sync is built by the same code
whichever is used; the two must give the same answer. It decides nothing about what a client sees.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from homeserver.matrix.versions import RoomRules
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.numbers import Names
from homeserver.streams.ring import AccountDataEntry, EventEntry, ReceiptEntry, Ring
from storage.engine import Database
from storage.rooms import changed_since
from storage.schema import READ_PRIVATE, StateChangeRow
from storage.state import state_changes
from storage.user_data import account_data_between, receipts_between


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


class RingNews:
    """News from memory; `since` must be at or above the ring's floor.

    Many clients ask for the same stretch at the same moment: what doesn't depend on the user is
    looked for once.
    """

    def __init__(self, ring: Ring, since: int, until: int) -> None:
        self.since = since
        self.until = until
        self._ring = ring
        self._events: dict[tuple[int, int], list[EventEntry]] = {}
        self._states: dict[tuple[int, int], dict[int, KeyChange]] = {}
        self._receipts: dict[int, list[ReceiptEntry]] = {}

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
        latest: dict[tuple[int, bool, str], ReceiptEntry] = {}
        for entry in found:
            if not entry.private or entry.user_nid == user_nid:
                latest[entry.user_nid, entry.private, entry.thread] = entry
        return sorted(latest.values(), key=lambda entry: entry.pos)

    async def account_data(self, user_nid: int) -> list[AccountDataEntry]:
        latest: dict[tuple[int, str], AccountDataEntry] = {}
        for entry in self._ring.account_data(user_nid, self.since, self.until):
            latest[entry.room_nid, entry.type] = entry
        return sorted(latest.values(), key=lambda entry: entry.pos)

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


def collect(changes: Iterable[StateChangeRow]) -> dict[int, KeyChange]:
    """Changes in order of position, by key."""
    keys: dict[int, KeyChange] = {}
    for _, pos, key_nid, old, new in changes:
        known = keys.get(key_nid)
        if known is None:
            known = keys[key_nid] = KeyChange(old)
        known.steps.append((pos, new))
    return keys

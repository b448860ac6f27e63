"""What an application service is sent, from the stream and from what has no position.

Owns the making of one page: the events that concern a service in a stretch of the stream, in order,
with the receipts, to-device messages and changed device lists of the same stretch, and who types
now. It sends nothing and keeps no cursor.
spec: application-service-api#pushing-events, application-service-api#pushing-ephemeral-data
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from homeserver.appservices.devices import DeviceFeed, Lists, Message, ServiceDevices
from homeserver.appservices.interest import Interest
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.runtime.clock import Clock
from homeserver.streams.numbers import Names
from homeserver.users.typing import Typing
from storage.appservices import events_in
from storage.engine import Database
from storage.schema import READ_PRIVATE, ReceiptRow
from storage.user_data import receipts_between

MAX_EVENTS = 100
MAX_BYTES = 1_048_576
_NO_LIMIT = 2**31
STRETCH = 4_000
"""How many positions are looked through at once."""


@dataclass(slots=True)
class Page:
    """What happened up to position `end`, as JSON texts in order; `counts` of keys as they are."""

    end: int
    events: list[bytes]
    ephemeral: list[bytes]
    messages: list[Message]
    lists: Lists
    counts: JsonObject = field(default_factory=dict)
    fallbacks: JsonObject = field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        """Whether there is anything to send."""
        lists = self.lists
        return bool(
            self.events or self.ephemeral or self.messages or lists.changed or lists.left
        ) or bool(self.counts)

    def body(self) -> bytes:
        """The transaction; what proposals add stands under both its names."""
        members = [b'"events":[%b]' % b",".join(self.events)]
        if self.ephemeral:
            listed = b",".join(self.ephemeral)
            members += _named(b"ephemeral", b"de.sorunome.msc2409", b"[%b]" % listed)
        if self.messages:
            listed = b",".join(message.json for message in self.messages)
            members += _named(b"to_device", b"de.sorunome.msc2409", b"[%b]" % listed)
        if self.lists.changed or self.lists.left:
            told = canonical.encode({"changed": self.lists.changed, "left": self.lists.left})
            members += _named(b"device_lists", b"org.matrix.msc3202", told)
        if self.counts:
            counts, fallbacks = canonical.encode(self.counts), canonical.encode(self.fallbacks)
            members += _named(b"device_one_time_keys_count", b"org.matrix.msc3202", counts)
            members += _named(b"device_unused_fallback_key_types", b"org.matrix.msc3202", fallbacks)
        return b"{%b}" % b",".join(members)


class Feed:
    """Makes pages for all services."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        timeline: Timeline,
        names: Names,
        typing: Typing,
        clock: Clock,
        devices: DeviceFeed,
    ) -> None:
        self.devices = devices
        self._database = database
        self._rooms = rooms
        self._timeline = timeline
        self._names = names
        self._typing = typing
        self._clock = clock

    async def page(
        self,
        devices: ServiceDevices,
        rooms: Collection[int],
        inboxes: Collection[int],
        after: int,
        until: int,
        *,
        whole: bool,
    ) -> Page:
        """What happened in these rooms and inboxes in (after, until], as far as a page goes.

        The page ends before `until` when it is full, unless the `whole` stretch is wanted again.
        """
        interest = devices.interest
        end = until if whole else min(until, after + STRETCH)
        most = _NO_LIMIT if whole else MAX_EVENTS
        messages, end = await self.devices.messages(devices, inboxes, after, end, most)
        seen_before = [room_nid for room_nid in rooms if interest.sees(room_nid)]
        found = await events_in(self._database, rooms, after, end) if rooms else []
        known = await self._rooms.by_nids({room_nid for _, room_nid, _ in found})
        views = await self._views(found, known)
        now = self._clock.now_ms()
        events: list[bytes] = []
        size = 0
        for pos, room_nid, nid in found:
            view = views[nid]
            membership, user_nid = await self._member(view)
            interest.room(room_nid, known[room_nid].room_id)
            if view.type == "m.room.canonical_alias":
                for alias in _aliases(view):
                    interest.alias(alias, room_nid)
            if not interest.judge(view, membership, user_nid):
                continue
            event = view.render(now, room_id=known[room_nid].room_id)
            events.append(event)
            size += len(event)
            if not whole and (len(events) >= MAX_EVENTS or size >= MAX_BYTES):
                end = pos
                break
        ephemeral: list[bytes] = []
        if interest.service.ephemeral:
            ephemeral = await self._receipts(interest, rooms, after, end)
        return Page(
            end,
            events,
            ephemeral,
            [message for message in messages if message.pos <= end],
            await self.devices.lists(devices, seen_before, rooms, after, end),
        )

    async def typing(self, interest: Interest, rooms: Collection[int]) -> list[bytes]:
        """Who types in those of the rooms that concern the service."""
        known = await self._rooms.by_nids([nid for nid in rooms if interest.sees(nid)])
        return [_with_room(self._typing.event(nid), room.room_id) for nid, room in known.items()]

    async def _views(
        self, found: Collection[tuple[int, int, int]], known: dict[int, Room]
    ) -> dict[int, EventView]:
        by_version: dict[str, list[int]] = {}
        for _, room_nid, nid in found:
            by_version.setdefault(known[room_nid].rules.version, []).append(nid)
        rules = {room.rules.version: room.rules for room in known.values()}
        views: dict[int, EventView] = {}
        for version, nids in by_version.items():
            views |= await self._timeline.views(nids, rules[version])
        return views

    async def _member(self, view: EventView) -> tuple[str | None, int | None]:
        if view.type != "m.room.member" or view.state_key is None:
            return None, None
        content = canonical.decode_object(view.body + b"}").get("content")
        membership = content.get("membership") if isinstance(content, dict) else None
        nid = (await self._names.nids([view.state_key]))[view.state_key]
        return (membership if isinstance(membership, str) else "leave"), nid

    async def _receipts(
        self, interest: Interest, rooms: Collection[int], after: int, end: int
    ) -> list[bytes]:
        seen = [room_nid for room_nid in rooms if interest.sees(room_nid)]
        if not seen:
            return []
        rows = await receipts_between(self._database, seen, after, end)
        known = await self._rooms.by_nids(rows.keys())
        events = []
        for room_nid, moved in rows.items():
            own = interest.private({row.user_nid for row in moved})
            shown = [row for row in moved if row.kind != READ_PRIVATE or row.user_nid in own]
            if shown:
                events.append(await self._receipt_event(known[room_nid].room_id, shown))
        return events

    async def _receipt_event(self, room_id: str, rows: Collection[ReceiptRow]) -> bytes:
        users = await self._names.names({row.user_nid for row in rows})
        content: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
        for row in rows:
            kind = "m.read.private" if row.kind == READ_PRIVATE else "m.read"
            data: dict[str, object] = {"ts": row.ts}
            if row.thread:
                data["thread_id"] = row.thread
            content.setdefault(row.event_id, {}).setdefault(kind, {})[users[row.user_nid]] = data
        return canonical.encode({"content": content, "room_id": room_id, "type": "m.receipt"})


def _aliases(view: EventView) -> list[str]:
    content = canonical.decode_object(view.body + b"}").get("content")
    if not isinstance(content, dict):
        return []
    others = content.get("alt_aliases")
    named = [content.get("alias"), *(others if isinstance(others, list) else [])]
    return [alias for alias in named if isinstance(alias, str)]


def _named(name: bytes, prefix: bytes, value: bytes) -> list[bytes]:
    return [b'"%b":%b' % (name, value), b'"%b.%b":%b' % (prefix, name, value)]


def _with_room(event: bytes, room_id: str) -> bytes:
    return b'%b,"room_id":%b}' % (event[:-1], canonical.encode(room_id))

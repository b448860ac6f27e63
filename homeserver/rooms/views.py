"""Events as clients see them.

Owns `EventView`, one event with its JSON ready to be joined with others, and the cache of views.
A view holds what is the same for every reader; what differs by reader or by the moment (age,
membership, transaction id) is spliced in by `render`. A redacted event's view never holds what the
redaction took away, also not in the `prev_content` of the event that replaced it.
spec: client-server-api#room-event-format
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from copy import copy

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.redact import redact
from homeserver.matrix.sticky import STICKY, duration_of
from homeserver.matrix.versions import RoomRules
from homeserver.rooms.stored import event_of, load_events
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.events import StoredEvent, events, redactions_of, txns_of
from storage.schema import LOCAL, REDACTED, EventRow
from storage.state import replaced_at
from storage.sticky_events import sticky_until

_CACHED = 20_000


class EventView:
    """One event in client format; see `render`."""

    __slots__ = (
        "body",
        "contains_url",
        "event_id",
        "extra",
        "flags",
        "nid",
        "pos",
        "redacted_by",
        "replaces",
        "room_nid",
        "sender",
        "state_key",
        "sticky_until",
        "ts",
        "txn",
        "type",
    )

    def __init__(
        self,
        *,
        nid: int,
        pos: int | None,
        room_nid: int,
        event: Event,
        flags: int,
        extra: bytes,
        replaces: int | None,
        txn: tuple[int, str] | None,
        sticky_until: int | None = None,
    ) -> None:
        self.nid = nid
        self.pos = pos
        self.room_nid = room_nid
        self.event_id = event.event_id
        self.type = event.type
        self.state_key = event.state_key
        self.sender = event.sender
        self.ts = event.origin_server_ts
        self.flags = flags
        self.extra = extra
        self.replaces = replaces
        self.txn = txn
        self.sticky_until = sticky_until
        self.redacted_by: int | None = None
        self.contains_url = isinstance(event.content.get("url"), str)
        self.body = _body(event)

    @property
    def is_state(self) -> bool:
        """Whether it is state."""
        return self.state_key is not None

    def render(
        self,
        now: int,
        *,
        room_id: str | None = None,
        membership: str | None = None,
        device_nid: int | None = None,
        relations: bytes | None = None,
    ) -> bytes:
        """The event's JSON for one reader.

        `now`: the time in milliseconds, for `unsigned.age`; `room_id` is added where given (sync
        leaves it out); `membership` is the reader's at the event; `device_nid` the reader's device,
        which alone sees its own transaction id; `relations` the JSON of what is aggregated of its
        children.
        """
        unsigned = b'"age":%d' % max(0, now - self.ts)
        if self.sticky_until is not None and self.sticky_until > now:
            unsigned += b',"msc4354_sticky_duration_ttl_ms":%d' % (self.sticky_until - now)
        if membership is not None:
            unsigned += b',"membership":"%b"' % membership.encode()
        if self.txn is not None and self.txn[0] == device_nid:
            unsigned += b',"transaction_id":' + canonical.encode(self.txn[1])
        if self.extra:
            unsigned += b"," + self.extra
        if relations is not None:
            unsigned += b',"m.relations":' + relations
        if room_id is None:
            return b'%b,"unsigned":{%b}}' % (self.body, unsigned)
        return b'%b,"room_id":%b,"unsigned":{%b}}' % (
            self.body,
            canonical.encode(room_id),
            unsigned,
        )

    def redact(self, left: Event, by: int, because: Event) -> None:
        """The event was redacted: `left` is what is left of it, `because` the redaction (`by`)."""
        self.flags |= REDACTED
        self.contains_url = False
        self.sticky_until = None
        self.body = _body(left)
        self.because(by, because)

    def because(self, by: int, redaction: Event) -> None:
        """Show `redaction`, of number `by`, as the reason why so little of the event is left."""
        self.redacted_by = by
        self.extra = b'"redacted_because":%b,"room_id":%b}' % (
            _body(redaction),
            canonical.encode(redaction.room_id),
        )

    def erased(self, rules: RoomRules) -> "EventView":
        """A copy with no more than a redaction would leave; this one stays as it is."""
        left = copy(self)
        shown = canonical.decode_object(self.body + b"}")
        left.body = canonical.encode({**shown, "content": redact(shown, rules)["content"]})[:-1]
        left.extra = b""
        left.contains_url = False
        return left


def _body(event: Event) -> bytes:
    """The event's JSON up to (without) the closing brace."""
    shown: JsonObject = {
        "content": event.content,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
        "sender": event.sender,
        "type": event.type,
    }
    if event.state_key is not None:
        shown["state_key"] = event.state_key
    if STICKY in event.pdu and duration_of(event) is not None:
        shown[STICKY] = event.pdu[STICKY]
    if event.redacts is not None:
        # Clients of either age find it where they look.
        shown["redacts"] = event.redacts
        if "redacts" not in event.content:
            shown["content"] = {**event.content, "redacts": event.redacts}
    return canonical.encode(shown)[:-1]


def replaced_extra(old: Event) -> bytes:
    """The `unsigned` keys of a state event that replaced `old`."""
    return canonical.encode(
        {
            "prev_content": old.content,
            "replaces_state": old.event_id,
        }
    )[1:-1]


def redacted_event(event: Event) -> Event:
    """What is left of an event after its redaction."""
    return Event.stored(redact(event.pdu, event.rules), event.rules, event.event_id)


class Views:
    """Loads views and keeps the latest used ones."""

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._names = names
        self._views: OrderedDict[int, EventView] = OrderedDict()
        self._redactions = 0

    def remember(self, view: EventView) -> None:
        """Keep a view that was just made."""
        self._views[view.nid] = view
        if len(self._views) > _CACHED:
            self._views.popitem(last=False)

    def redacted(
        self, nid: int, event: Event, by: int, because: Event, live: Mapping[int, EventView]
    ) -> None:
        """Event `nid` was redacted by `because`, of number `by`; `event` is as it was before.

        `live` are the views that are kept elsewhere, by number; they are changed too.
        """
        self._redactions += 1
        left = redacted_event(event)
        for kept in (self._views, live):
            view = kept.get(nid)
            if view is not None and view.redacted_by is None:
                view.redact(left, by, because)
        if event.state_key is None and event.redacts is None:
            return
        # What shows the event in its own `unsigned` is found by looking at all: this is rare.
        for view in [*self._views.values(), *live.values()]:
            if view.redacted_by == nid:
                view.because(nid, left)
            elif view.replaces == nid and view.redacted_by is None:
                view.extra = replaced_extra(left)

    def clear(self) -> None:
        """Drop everything: publications were lost."""
        self._views.clear()

    async def get(self, nids: Collection[int], rules: RoomRules) -> dict[int, EventView]:
        """Views of events of rooms of one version; numbers that don't exist are absent."""
        found: dict[int, EventView] = {}
        missing: list[int] = []
        for nid in nids:
            view = self._views.get(nid)
            if view is None:
                missing.append(nid)
            else:
                self._views.move_to_end(nid)
                found[nid] = view
        while missing:
            redactions = self._redactions
            stored = await events(self._database, missing)
            views = await self._made(stored, rules)
            if redactions == self._redactions:
                self._keep(views.values())
                found |= views
                break
        return found

    async def of(self, stored: Collection[StoredEvent], rules: RoomRules) -> list[EventView]:
        """Views of events of rooms of one version that were just read, in their order."""
        redactions = self._redactions
        views = {
            event.row.event_nid: self._views[event.row.event_nid]
            for event in stored
            if event.row.event_nid in self._views
        }
        missing = {
            event.row.event_nid: event for event in stored if event.row.event_nid not in views
        }
        if missing:
            made = await self._made(missing, rules)
            if redactions != self._redactions:
                made = await self.get(missing.keys(), rules)
            self._keep(made.values())
            views |= made
        return [views[event.row.event_nid] for event in stored]

    def _keep(self, views: Iterable[EventView]) -> None:
        for view in views:
            self.remember(view)

    async def _made(
        self, stored: Mapping[int, StoredEvent], rules: RoomRules
    ) -> dict[int, EventView]:
        rows = {nid: event.row for nid, event in stored.items()}
        replaced = await self._replaced(rows)
        old = await load_events(self._database, set(replaced.values()), rules)
        because = await self._because(rows, rules)
        local = [nid for nid, row in rows.items() if row.flags & LOCAL]
        txns = await txns_of(self._database, local) if local else {}
        made = {nid: event_of(one, rules) for nid, one in stored.items()}
        lasting = [nid for nid, event in made.items() if STICKY in event.pdu]
        sticky = await sticky_until(self._database, lasting) if lasting else {}
        views: dict[int, EventView] = {}
        for nid, row in rows.items():
            replaces = replaced.get(nid)
            extra = b""
            if replaces is not None and replaces in old:
                extra = replaced_extra(old[replaces])
            view = views[nid] = EventView(
                nid=nid,
                pos=row.pos,
                room_nid=row.room_nid,
                event=made[nid],
                flags=row.flags,
                extra=extra,
                replaces=replaces,
                txn=txns.get(nid),
                sticky_until=sticky.get(nid),
            )
            if nid in because:
                view.because(*because[nid])
        return views

    async def _replaced(self, rows: Mapping[int, EventRow]) -> dict[int, int]:
        """Which event each state event took the place of."""
        found: dict[int, int] = {}
        for room_nid, group in _by_room(
            row for row in rows.values() if row.key_nid is not None and row.pos is not None
        ).items():
            positions = [row.pos for row in group if row.pos is not None]
            changes = await replaced_at(self._database, room_nid, positions)
            for row in group:
                old = changes.get((row.pos or 0, row.key_nid or 0))
                if old is not None:
                    found[row.event_nid] = old
        return found

    async def _because(
        self, rows: Mapping[int, EventRow], rules: RoomRules
    ) -> dict[int, tuple[int, Event]]:
        """The redactions (number, event) of those events that were redacted."""
        found: dict[int, tuple[int, Event]] = {}
        redacted = (row for row in rows.values() if row.flags & REDACTED)
        for room_nid, group in _by_room(redacted).items():
            by_id = await redactions_of(self._database, room_nid, [row.event_id for row in group])
            first = {row.event_nid: by_id[row.event_id][0] for row in group}
            redactions = await load_events(self._database, set(first.values()), rules)
            found |= {nid: (by, redactions[by]) for nid, by in first.items()}
        return found


def _by_room(rows: Iterable[EventRow]) -> dict[int, list[EventRow]]:
    groups: dict[int, list[EventRow]] = {}
    for row in rows:
        groups.setdefault(row.room_nid, []).append(row)
    return groups

"""What is at hand while events from other servers are judged: what is stored of those they name.

Owns what was read, for one event (`AtHand`) or for several that are judged one after the other
(`Shelf`), and how more is asked for: by `Needs` and `EventsMissing`, upon which the verb is run
again. It decides nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.matrix.event import Event
from homeserver.rooms.head import EventsMissing, Head, Needs
from homeserver.rooms.stored import load_events
from homeserver.streams.numbers import Numbers
from storage.engine import Database
from storage.events import children_of_missing, event_numbers, event_rows, redactions_of
from storage.schema import OUTLIER, REJECTED, EventRow

# So many events are loaded into the head, where those behind find them; more are not kept.
_FEW = 32


@dataclass(slots=True)
class Shelf:
    """What was read of events before they are judged one after the other, so that none waits.

    `nids` and `rows` are those of every event that one of them names, as far as they are stored;
    `redacted_by` has for each of them the redactions that came before it, `awaited` those that name
    it as a previous event and came before it. What is judged is `added` while the same head lasts.
    """

    nids: dict[str, int] = field(default_factory=dict)
    rows: dict[int, EventRow] = field(default_factory=dict)
    redacted_by: dict[str, list[int]] = field(default_factory=dict)
    awaited: dict[str, list[int]] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    head: Head | None = None

    @classmethod
    async def read(cls, database: Database, room_nid: int, ids: Collection[str]) -> "Shelf":
        """What is stored of these events of a room."""
        nids = await event_numbers(database, room_nid, ids)
        return cls(
            nids,
            await event_rows(database, nids.values()),
            await redactions_of(database, room_nid, ids),
            await children_of_missing(database, room_nid, ids),
        )

    def stand_on(self, head: Head) -> None:
        """Forget what was added on another head: its commit has failed."""
        if self.head is not head:
            self.forget_added()
            self.head = head

    def forget_added(self) -> None:
        """Nothing of what was added is there."""
        for event_id in self.added:
            self.rows.pop(self.nids.pop(event_id), None)
        self.added.clear()

    def add(self, row: EventRow) -> None:
        """An event was judged; it is committed before anything that stands on it."""
        self.nids[row.event_id] = row.event_nid
        self.rows[row.event_nid] = row
        self.added.append(row.event_id)


class AtHand:
    """What is at hand while `event` is judged, on one head after the other until all is there.

    `shelf` is given where it was read for several events; `also` are ids of events that are needed
    and that the event doesn't name.
    """

    __slots__ = ("_also", "_database", "_head", "_own", "_shelf", "event", "events")

    def __init__(
        self,
        database: Database,
        event: Event,
        shelf: Shelf | None = None,
        also: Collection[str] = (),
    ) -> None:
        self._database = database
        self._shelf = shelf
        self._also = also
        self._head: Head | None = None
        self._own: int | None = None
        self.event = event
        self.events: dict[int, Event] = {}
        """Those that were loaded and that the head need not have."""

    def begin(self, head: Head) -> Shelf:
        """What is stored of the events that this one names; from now on `head` is the room's."""
        self._head = head
        shelf = self._shelf
        if shelf is None:

            async def load() -> None:
                ids = {*named(self.event), *self._also}
                self._shelf = await Shelf.read(self._database, head.room_nid, ids)

            raise Needs(load)
        shelf.stand_on(head)
        return shelf

    @property
    def head(self) -> Head:
        """The head of the event's room."""
        assert self._head is not None
        return self._head

    @property
    def shelf(self) -> Shelf:
        """What is stored of the events that this one names."""
        assert self._shelf is not None
        return self._shelf

    @property
    def own(self) -> int:
        """The event's number, once it was judged."""
        assert self._own is not None
        return self._own

    def number(self, stored: int | None, numbers: Numbers) -> int:
        """The event's number, the same however often the verb is run; the one it is `stored` by."""
        if self._own is None:
            self._own = stored if stored is not None else numbers.take("event")
        return self._own

    @property
    def awaited(self) -> Sequence[int]:
        """The events that came before this one and name it as one before them."""
        return self.shelf.awaited.get(self.event.event_id, ())

    def auths(self) -> list[int]:
        """The numbers of the event's auth events, all of which are stored."""
        nids = self.shelf.nids
        return [nids[id_] for id_ in self.event.auth_event_ids]

    def row(self, nid: int) -> EventRow:
        """The row of a stored event."""
        rows = self.shelf.rows
        found = rows.get(nid)
        if found is None:

            async def load() -> None:
                rows.update(await event_rows(self._database, [nid]))

            raise Needs(load)
        return found

    def need(self, nids: Collection[int]) -> None:
        """Have stored events in memory before this goes on."""
        in_head = self.head.events
        missing = [nid for nid in nids if nid not in in_head and nid not in self.events]
        if not missing:
            return
        if len(missing) <= _FEW:
            # The head keeps them for the events behind this one, too.
            raise EventsMissing(missing)

        async def load() -> None:
            self.events |= await load_events(self._database, missing, self.event.rules)

        raise Needs(load)

    def known(self, nid: int) -> Event:
        """A stored event."""
        return self.events.get(nid) or self.head.loaded(nid)

    def is_placed(self, nid: int) -> bool:
        """Whether a stored event was judged as one of the room's timeline."""
        return not self.row(nid).flags & OUTLIER

    def is_rejected(self, nid: int) -> bool:
        """Whether a stored event was rejected."""
        return bool(self.row(nid).flags & REJECTED)


def named(event: Event) -> set[str]:
    """The ids of the event and of those that it names."""
    ids = {event.event_id, *event.auth_event_ids, *event.prev_event_ids}
    if event.redacts is not None:
        ids.add(event.redacts)
    return ids


Changed = Mapping[int, tuple[int | None, int | None]]
"""What becomes of a state: key number to the numbers of the (old, new) event."""

"""Redacting everything that a user has sent into a room, in the background (MSC4293).

Owns the work that a kick or ban with `redact_events` leaves: it walks back through the room from
that event, a page in one commit together with the cursor, so that a server that is stopped goes on
where it was and does nothing twice. No redaction is sent: the member event is the reason. What
comes later and is older is redacted when it is received (`judging.py`).
"""

from collections.abc import Collection
from functools import partial

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.push.unread import UnreadCounts
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import Appended
from homeserver.rooms.redact_events import is_redactable, wants
from homeserver.rooms.send import Sending
from homeserver.rooms.stored import load_events
from homeserver.runtime.jobs import Jobs
from homeserver.streams.numbers import Names
from homeserver.streams.publish import Publisher
from storage.changes import Delete, Put
from storage.engine import Database
from storage.events import mass_redaction_of, tail
from storage.schema import REDACTED, MassRedactionRow

PAGE = 400
"""So many events of the room are looked at for one commit."""
_BEFORE_ALL = -(2**62)


class MassRedaction:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        names: Names,
        jobs: Jobs,
        publisher: Publisher,
        unread: UnreadCounts,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._names = names
        self._jobs = jobs
        self._publisher = publisher
        self._unread = unread

    def happened(self, _room_nid: int, _first: int, events: Collection[Appended]) -> None:
        """There are new events; some may have left a job."""
        if any(appended.members and wants(appended.event) for appended in events):
            self._jobs.wake()

    async def run(self, args: JsonObject) -> None:
        """Do what one member event asks for; the handler of the jobs.

        A later one of the same user takes over what is left.
        """
        room_nid, user_nid, event_nid = args["room_nid"], args["user_nid"], args["event_nid"]
        room = (await self._rooms.by_nids([room_nid]))[room_nid]
        because = (await load_events(self._database, [event_nid], room.rules))[event_nid]
        while True:
            row = await mass_redaction_of(self._database, room_nid, user_nid)
            if row is None or row.event_nid != event_nid:
                return
            await self._page(room, row, because)

    async def _page(self, room: Room, row: MassRedactionRow, because: Event) -> None:
        found = await tail(self._database, room.nid, _BEFORE_ALL, row.before - 1, PAGE)
        nids = [
            one.event_nid
            for one in found
            if one.sender_nid == row.user_nid and not one.flags & REDACTED
        ]
        events = {
            nid: event
            for nid, event in (await load_events(self._database, nids, room.rules)).items()
            if is_redactable(event)
        }
        await self._names.load(
            {event.sender for event in events.values()},
            {event.key for event in events.values() if event.is_state},
        )
        left = None if len(found) < PAGE else row._replace(before=found[-1].pos)
        await self._rooms.change(room, partial(self._redact, room, row, left, events, because))

    def _redact(
        self,
        room: Room,
        row: MassRedactionRow,
        left: MassRedactionRow | None,
        events: dict[int, Event],
        because: Event,
        sending: Sending,
    ) -> None:
        for event in events.values():
            if event.is_state:
                sending.head.event_nid(*event.key)  # what is missing is asked for before all else
        for nid, event in events.items():
            sending.redact(nid, event, (row.event_nid, because))
        sending.changes.append(
            Delete(MassRedactionRow, (row.room_nid, row.user_nid)) if left is None else Put(left)
        )

        def published(_first: int) -> None:
            self._publisher.redacted(events, row.event_nid, because)
            self._unread.forget(room.nid)

        if events:
            sending.published = published

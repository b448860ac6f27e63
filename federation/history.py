"""Asking other servers for a room's past. Implements the port `RemoteHistory`.

Owns one request for one stretch of it: who is asked, the checks of what comes, and its order in
which it is stored. What it may be shown for is decided where it is read.
spec: server-server-api#backfilling-and-retrieving-missing-events
"""

import asyncio
import logging
from collections.abc import Collection

from federation.asking import Asking, some_of
from federation.gaps import Gaps, in_order, leading
from federation.requests import Query, path_of
from federation.told_state import ToldState
from homeserver.errors import RemoteError
from homeserver.matrix import canonical
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.rooms.actor import Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.entering import Held
from homeserver.rooms.receive import Receiver

log = logging.getLogger(__name__)

MAX_SERVERS = 5
SECONDS = 60.0


class History:
    """See the module."""

    def __init__(
        self,
        told_state: ToldState,
        gaps: Gaps,
        rooms: Rooms,
        receiver: Receiver,
        elsewhere: Elsewhere,
    ) -> None:
        self._told_state = told_state
        self._gaps = gaps
        self._rooms = rooms
        self._receiver = receiver
        self._elsewhere = elsewhere

    async def more(self, room_id: str, event_ids: Collection[str], limit: int) -> None:
        """See the port."""
        try:
            async with asyncio.timeout(SECONDS):
                await self._more(room_id, event_ids, limit)
        except TimeoutError:
            log.info("the past of %s took too long", room_id)

    async def state_before(self, server: str, room_id: str, event_id: str) -> list[str]:
        """See the port."""
        try:
            state, _ = await self._told_state.ids(server, room_id, event_id)
        except Malformed as error:
            raise RemoteError(server, 200, message=str(error)) from None
        return state

    async def _more(self, room_id: str, event_ids: Collection[str], limit: int) -> None:
        room = await self._rooms.find(room_id)
        if room is None:
            return
        gaps = self._gaps
        path = path_of("federation/v1", "backfill", room_id)
        query: Query = {"v": list(event_ids), "limit": limit}

        async def told(server: str) -> int | None:
            answer = await gaps.ask(server, "GET", path, query=query)
            unverified: dict[str, Event] = {}
            events = await gaps.events(room, answer.get("pdus"), 2 * limit, unverified)
            # Only what known events stand behind: the past is not what a server likes it to be.
            led_to = leading(events | unverified, event_ids, lambda event: event.prev_event_ids)
            by_id = {id_: event for id_, event in led_to.items() if id_ in events}
            if not by_id:
                return None
            oldest_first = [event for _, event in in_order(by_id, lambda one: one.prev_event_ids)]
            newest_first = oldest_first[::-1]
            named = {id_ for event in by_id.values() for id_ in event.auth_event_ids}
            lost = await gaps.absent(room, named - by_id.keys())
            if lost:
                await gaps.authorise(room, server, newest_first[-1], lost)
            state = {id_: Held.of(event) for id_, event in by_id.items() if event.is_state}
            await gaps.store(room, state)
            given = [(event, canonical.encode(event.pdu)) for event in newest_first]
            return await self._receiver.store_history(room, given) or None

        servers = some_of((), await self._elsewhere.servers(room), MAX_SERVERS)
        await Asking(servers).first(told)

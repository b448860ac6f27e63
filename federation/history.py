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
from federation.requests import Query, Requests, path_of
from homeserver.errors import RemoteError
from homeserver.matrix import canonical
from homeserver.matrix.event import Event
from homeserver.rooms.actor import Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.receive import Receiver

log = logging.getLogger(__name__)

MAX_SERVERS = 5
SECONDS = 60.0
MAX_STATE_IDS_BYTES = 16 * 1_048_576


class History:
    """See the module."""

    def __init__(
        self,
        requests: Requests,
        gaps: Gaps,
        rooms: Rooms,
        receiver: Receiver,
        elsewhere: Elsewhere,
    ) -> None:
        self._requests = requests
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
        answer = await self._requests.request(
            server,
            "GET",
            path_of("federation/v1", "state_ids", room_id),
            query={"event_id": event_id},
            max_bytes=MAX_STATE_IDS_BYTES,
        )
        listed = answer.get("pdu_ids")
        if not isinstance(listed, list) or not all(isinstance(id_, str) for id_ in listed):
            raise RemoteError(server, 200, message="the answer has no list pdu_ids")
        return listed

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
            newest_first = in_order(by_id, lambda event: event.prev_event_ids)[::-1]
            named = {id_ for event in by_id.values() for id_ in event.auth_event_ids}
            lost = await gaps.absent(room, named - by_id.keys())
            if lost:
                await gaps.authorise(room, server, newest_first[-1], lost)
            await gaps.store(room, [event for event in by_id.values() if event.is_state])
            given = [(event, canonical.encode(event.pdu)) for event in newest_first]
            return await self._receiver.store_history(room, given) or None

        servers = some_of((), await self._elsewhere.servers(room), MAX_SERVERS)
        await Asking(servers).first(told)

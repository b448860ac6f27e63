"""What a server says of the state before an event and of what authorises one, read while it comes.

Owns the bounds of these long answers: of a list of ids how many, of events that they are decoded
and verified some at a time, and that only those are kept, in a compact form, that somebody wants.
Nothing of an answer is used before its end has come: one that is cut off, holds a thing that is no
JSON or goes on beyond the bound is none. Whether the events are allowed is not asked here.
spec: server-server-api#retrieving-events
"""

from collections.abc import Collection

from federation.events import Refused, Verifier
from federation.requests import Query, Requests, path_of
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_event_id
from homeserver.rooms.actor import Room
from homeserver.rooms.entering import Held

SECONDS = 60.0
MAX_IDS_BYTES = 16 * 1_048_576
MAX_CHAIN_BYTES = 16 * 1_048_576
MAX_STATE_BYTES = 64 * 1_048_576
MAX_STATE_EVENTS = 100_000
MAX_CHAIN = 10_000
"""Events that authorise one."""
BATCH = 100
"""Events that are decoded and verified at once."""
KEYS_SECONDS = 10.0


class ToldState:
    """See the module. All of it raises Unreachable, RemoteError, or Malformed."""

    def __init__(self, requests: Requests, verifier: Verifier) -> None:
        self._requests = requests
        self._verifier = verifier

    async def ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]:
        """The ids of the state before an event, and of what authorises that.

        spec: server-server-api#get_matrixfederationv1state_idsroomid
        """
        found: dict[str, dict[str, None]] = {"pdu_ids": {}, "auth_chain_ids": {}}

        async def take(name: str, value: bytes) -> None:
            if name in found:
                event_id = canonical.decode(value)
                if not isinstance(event_id, str) or not is_event_id(event_id):
                    raise Malformed(f"{name} names something that is no event")
                found[name][event_id] = None
                if len(found[name]) > MAX_STATE_EVENTS:
                    raise Malformed(f"{name} names too many events")

        await self._requests.read(
            server,
            "GET",
            path_of("federation/v1", "state_ids", room_id),
            take,
            lists=found,
            query={"event_id": event_id},
            seconds=SECONDS,
            max_bytes=MAX_IDS_BYTES,
        )
        if not found["pdu_ids"]:
            raise Malformed("The answer names no state")
        return list(found["pdu_ids"]), list(found["auth_chain_ids"])

    async def events(
        self, server: str, room: Room, event_id: str, wanted: Collection[str]
    ) -> dict[str, Held]:
        """Those of the state before an event, and of what authorises that, which are `wanted`.

        spec: server-server-api#get_matrixfederationv1stateroomid
        """
        return await self._events(
            server,
            room,
            path_of("federation/v1", "state", room.room_id),
            ("pdus", "auth_chain"),
            query={"event_id": event_id},
            most=2 * MAX_STATE_EVENTS,
            max_bytes=MAX_STATE_BYTES,
            wanted=frozenset(wanted),
        )

    async def auth_chain(self, server: str, room: Room, event_id: str) -> dict[str, Held]:
        """All that authorises an event.

        spec: server-server-api#get_matrixfederationv1event_authroomideventid
        """
        return await self._events(
            server,
            room,
            path_of("federation/v1", "event_auth", room.room_id, event_id),
            ("auth_chain",),
            query={},
            most=MAX_CHAIN,
            max_bytes=MAX_CHAIN_BYTES,
            wanted=None,
        )

    async def _events(
        self,
        server: str,
        room: Room,
        path: str,
        lists: Collection[str],
        *,
        query: Query,
        most: int,
        max_bytes: int,
        wanted: frozenset[str] | None,
    ) -> dict[str, Held]:
        reading = _Reading(self._verifier, room, lists, most, wanted)
        await self._requests.read(
            server,
            "GET",
            path,
            reading.take,
            lists=lists,
            query=query,
            seconds=SECONDS,
            max_bytes=max_bytes,
        )
        return await reading.finish()


class _Reading:
    """The events of one answer on their way in."""

    def __init__(
        self,
        verifier: Verifier,
        room: Room,
        lists: Collection[str],
        most: int,
        wanted: frozenset[str] | None,
    ) -> None:
        self._verifier = verifier
        self._room = room
        self._lists = lists
        self._left = most
        self._wanted = wanted
        self._batch: list[JsonObject] = []
        self._without_keys: list[bytes] = []
        self._found: dict[str, Held] = {}

    async def take(self, name: str, value: bytes) -> None:
        """A member of the answer, or an event of its lists, in JSON."""
        if name not in self._lists:
            return
        self._left -= 1
        if self._left < 0:
            raise Malformed("The answer has too many events")
        pdu = canonical.decode(value)
        if isinstance(pdu, dict) and is_of(pdu, self._room):
            self._batch.append(pdu)
            if len(self._batch) == BATCH:
                await self._verify(0.0)

    async def finish(self) -> dict[str, Held]:
        """By id the events that are believed, once the whole answer has come."""
        await self._verify(0.0)
        # Keys that were not at hand have been fetched meanwhile, or will be within a patience.
        missing, self._without_keys = self._without_keys, []
        for start in range(0, len(missing), BATCH):
            self._batch = [canonical.decode_object(pdu) for pdu in missing[start : start + BATCH]]
            await self._verify(KEYS_SECONDS if start == 0 else 1.0)
        return self._found

    async def _verify(self, patience: float) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        verified = await self._verifier.verify(batch, self._room.rules, patience=patience)
        for pdu, event in zip(batch, verified, strict=True):
            if event is Refused.NO_KEY:
                self._without_keys.append(canonical.encode(pdu))
            elif (
                isinstance(event, Event)
                and event.room_id == self._room.room_id
                and (self._wanted is None or event.event_id in self._wanted)
                and event.event_id not in self._found
            ):
                self._found[event.event_id] = Held.of(event)


def is_of(pdu: JsonObject, room: Room) -> bool:
    """Whether a PDU says that it is of the room; a create event of version 12 says nothing."""
    return bool(pdu.get("room_id", room.room_id) == room.room_id)

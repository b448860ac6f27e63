"""Our users in rooms of other servers: joining, knocking, leaving, inviting.

Implements the port `RemoteRooms`. The long answer to a join is read as a stream: its events are
verified in batches while it comes, and kept in a compact form until all are there; what the core
does with them stands in `homeserver.rooms.entering`. A resident server is believed nothing that
signatures and the room's rules do not show.
spec: server-server-api#joining-rooms, server-server-api#inviting-to-a-room
"""

import logging
from collections.abc import Sequence
from contextlib import suppress

from federation import older
from federation.events import Refused, Verifier
from federation.handshake import Handshake, Prepared, client_error, goes_for_all
from federation.requests import Requests, path_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed, Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.matrix.sign import verify_event
from homeserver.matrix.versions import RoomRules
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.entering import Entering, Held, Told
from homeserver.rooms.outside import Outside
from homeserver.rooms.send import Author

log = logging.getLogger(__name__)

ANSWER_SECONDS = 600.0
MAX_ANSWER_BYTES = 512 * 1_048_576
MAX_EVENTS = 1_000_000
BATCH = 100
KEYS_SECONDS = 10.0
MAX_STRIPPED = 100
MAX_STRIPPED_BYTES = 65_536
LEAVE_SECONDS = 20.0


class Joining:
    """See the module."""

    def __init__(
        self,
        requests: Requests,
        verifier: Verifier,
        rooms: Rooms,
        entering: Entering,
        outside: Outside,
        author: Author,
    ) -> None:
        self._requests = requests
        self._verifier = verifier
        self._rooms = rooms
        self._entering = entering
        self._outside = outside
        self._author = author
        self._handshake = Handshake(requests, author)

    async def join(
        self, user_id: str, room_id: str, servers: Sequence[str], content: JsonObject
    ) -> None:
        """See `RemoteRooms`."""
        rest = list(servers)
        failed: Exception | None = None
        while rest:
            try:
                prepared, rest = await self._handshake.first(
                    rest,
                    lambda server: self._handshake.prepare(
                        "join", server, room_id, user_id, content
                    ),
                )
            except MatrixError as error:
                raise client_error(failed) if failed is not None else error from None
            try:
                await self._join_with(prepared, room_id)
                return
            except (Unreachable, RemoteError, Malformed, Rejected) as error:
                log.warning("joining %s through %s: %s", room_id, prepared.server, error)
                failed = error
                if goes_for_all(error):
                    break
        assert failed is not None
        raise client_error(failed)

    async def knock(
        self, user_id: str, room_id: str, servers: Sequence[str], content: JsonObject
    ) -> None:
        """See `RemoteRooms`."""

        async def ask(server: str) -> tuple[Prepared, JsonObject]:
            prepared = await self._handshake.prepare("knock", server, room_id, user_id, content)
            path = path_of("federation/v1", "send_knock", room_id, prepared.event.event_id)
            answer = await self._requests.request(server, "PUT", path, body=prepared.event.pdu)
            return prepared, answer

        (prepared, answer), _ = await self._handshake.first(servers, ask)
        room = await self._named(room_id, prepared.rules)
        shown = stripped_state(answer.get("knock_room_state"))
        await self._outside.put(room, prepared.event, prepared.pdu, shown)

    async def invite(
        self, server: str, event: Event, stripped: Sequence[JsonObject], via: Sequence[str]
    ) -> tuple[Event, bytes]:
        """See `RemoteRooms`."""
        path = path_of("federation/v2", "invite", event.room_id, event.event_id)
        body: JsonObject = {
            "room_version": event.rules.version,
            "event": event.pdu,
            "invite_room_state": list(stripped),
        }
        if via:
            body["via"] = list(via)
        try:
            try:
                answer = await self._requests.request(
                    server, "PUT", path, body=body, despite_pause=True
                )
            except RemoteError as error:
                if not older.knows_not(error) or event.rules.version not in ("1", "2"):
                    raise
                answer = await self._requests.request(
                    server,
                    "PUT",
                    path_of("federation/v1", "invite", event.room_id, event.event_id),
                    body={**event.pdu, "unsigned": {"invite_room_state": list(stripped)}},
                    despite_pause=True,
                    in_list=True,
                )
        except (Unreachable, RemoteError) as error:
            raise client_error(error) from None
        returned = answer.get("event")
        signatures = returned.get("signatures") if isinstance(returned, dict) else None
        theirs = signatures.get(server) if isinstance(signatures, dict) else None
        if not isinstance(theirs, dict):
            raise MatrixError("M_UNKNOWN", f"{server} has not signed the invite", 502)
        pdu = {**event.pdu, "signatures": {**event.pdu["signatures"], server: theirs}}
        try:
            signed = Event.parse(pdu, event.rules)
        except Malformed:
            raise MatrixError("M_UNKNOWN", f"{server} has signed the invite wrongly", 502) from None
        keys = await self._verifier.keys_of(signed, server)
        if not verify_event(signed, server, keys):
            raise MatrixError("M_UNKNOWN", f"{server} has signed the invite wrongly", 502)
        return signed, canonical.encode(signed.pdu)

    async def leave(self, args: JsonObject) -> None:
        """The job: tell a server that our user declines an invite, or takes a knock back.

        Nothing is done when the user's last word on the room is another one by now. Raises
        Unreachable or RemoteError while nobody could be told.
        """
        room_id, user_id, reason = args["room_id"], args["user_id"], args["reason"]
        room = await self._rooms.find(room_id)
        if room is None or not await self._outside.still(room, user_id, args["event_id"]):
            return
        content: JsonObject = {} if reason is None else {"reason": reason}
        servers = [args["server"], *([server_of(room_id)] if ":" in room_id else [])]
        failed: Exception | None = None
        for server in dict.fromkeys(servers):
            if server == self._author.server_name:
                continue
            try:
                prepared = await self._handshake.prepare(
                    "leave", server, room_id, user_id, content, seconds=LEAVE_SECONDS
                )
                await self._send_leave(prepared)
                return
            except (Unreachable, RemoteError, Malformed) as error:
                failed = failed or error
                if isinstance(error, RemoteError) and error.status in (403, 404):
                    return  # nobody there knows the invite any more
        if failed is not None:
            raise failed

    async def _send_leave(self, prepared: Prepared) -> None:
        event = prepared.event
        for version in older.VERSIONS:
            path = path_of(version, "send_leave", event.room_id, event.event_id)
            try:
                await self._requests.request(
                    prepared.server,
                    "PUT",
                    path,
                    body=event.pdu,
                    timeout=LEAVE_SECONDS,
                    in_list=version != older.VERSIONS[0],
                )
                return
            except RemoteError as error:
                if version == older.VERSIONS[-1] or not older.knows_not(error):
                    raise

    # --- joining

    async def _named(self, room_id: str, rules: RoomRules) -> Room:
        author = self._author
        nid = await author.numbers.take_soon("room")
        return await self._rooms.named(room_id, rules, nid, author.clock.now_ms())

    async def _join_with(self, prepared: Prepared, room_id: str) -> None:
        room = await self._named(room_id, prepared.rules)
        try:
            reading = await self._read(prepared, room_id, older.VERSIONS[0])
        except RemoteError as error:
            if not older.knows_not(error):
                raise
            reading = await self._read(prepared, room_id, older.VERSIONS[1])
        event = await reading.finish()
        await self._entering.enter(room, event, canonical.encode(event.pdu), reading.told)

    async def _read(self, prepared: Prepared, room_id: str, version: str) -> "_Reading":
        reading = _Reading(self._verifier, prepared)
        newest = version == older.VERSIONS[0]
        await self._requests.read(
            prepared.server,
            "PUT",
            path_of(version, "send_join", room_id, prepared.event.event_id),
            reading.take,
            lists=("state", "auth_chain"),
            query={"omit_members": "false"} if newest else {},
            body=prepared.event.pdu,
            seconds=ANSWER_SECONDS,
            max_bytes=MAX_ANSWER_BYTES,
            despite_pause=True,
            unwrapped=None if newest else older.out_of_list,
        )
        return reading


class _Reading:
    """The answer to one send_join on its way in."""

    def __init__(self, verifier: Verifier, prepared: Prepared) -> None:
        self.told = Told()
        self._verifier = verifier
        self._prepared = prepared
        self._rules = prepared.rules
        self._batch: list[tuple[bool, object]] = []
        self._without_keys: list[tuple[bool, object]] = []
        self._returned: object = None
        self._omitted = False
        self._count = 0

    async def take(self, name: str, value: bytes) -> None:
        """A member of the answer, or an event of its lists, in JSON."""
        if name in ("state", "auth_chain"):
            self._count += 1
            if self._count > MAX_EVENTS:
                raise Malformed("The answer has too many events")
            self._batch.append((name == "state", canonical.decode(value)))
            if len(self._batch) == BATCH:
                await self._verify(0.0)
        elif name == "event":
            self._returned = canonical.decode(value)
        elif name == "members_omitted":
            self._omitted = value == b"true"

    async def finish(self) -> Event:
        """The join as the room has it, once all events are verified."""
        if self._omitted:
            raise Malformed("The answer leaves members out, which nobody has asked for")
        await self._verify(0.0)
        # Keys that were not at hand have been fetched meanwhile, or will be within a patience.
        missing, self._without_keys = self._without_keys, []
        for start in range(0, len(missing), BATCH):
            self._batch = missing[start : start + BATCH]
            await self._verify(KEYS_SECONDS if start == 0 else 1.0)
        if self._without_keys:
            log.warning("%d events could not be verified: no keys", len(self._without_keys))
        ours = self._prepared.event
        if self._returned is None:
            return ours
        (event,) = await self._verifier.verify([self._returned], self._rules)
        if isinstance(event, Refused) or event.event_id != ours.event_id:
            if "join_authorised_via_users_server" in ours.content:
                raise Malformed("The join that came back is not signed as it must be")
            return ours
        return event

    async def _verify(self, patience: float) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        found = await self._verifier.verify(
            [pdu for _, pdu in batch], self._rules, patience=patience
        )
        for (in_state, pdu), event in zip(batch, found, strict=True):
            if isinstance(event, Event):
                if event.event_id not in self.told.events:
                    self.told.events[event.event_id] = Held.of(event)
                if in_state:
                    self.told.state.append(event.event_id)
            elif event is Refused.NO_KEY:
                self._without_keys.append((in_state, pdu))
            else:
                log.info("an event of %s is refused: %s", self._prepared.server, event.value)


def stripped_state(entries: object) -> list[JsonObject]:
    """The stripped state events among what another server shows of a room; bounded."""
    found: list[JsonObject] = []
    size = 0
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        event = {key: entry.get(key) for key in ("type", "state_key", "sender", "content")}
        if not all(isinstance(event[key], str) for key in ("type", "state_key", "sender")):
            continue
        if not isinstance(event["content"], dict):
            continue
        with suppress(Malformed):
            canonical.check(event, strict=False)
            size += len(canonical.encode(event))
            if len(found) == MAX_STRIPPED or size > MAX_STRIPPED_BYTES:
                break
            found.append(event)
    return found

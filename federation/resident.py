"""Letting users of other servers into our rooms, and out: we are the resident server.

Owns what a server must have before it is given a template or its event is taken, and the answer to
a join: the state before it with its auth chain, written piece by piece from the tables. Whether
the event may stand is the receiver's judgement, as for every event from elsewhere.
spec: server-server-api#joining-rooms, server-server-api#knocking-upon-a-room
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass

from federation.events import Refused, Verifier
from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_user_id, server_of
from homeserver.matrix.sign import content_hash_fits, sign_event
from homeserver.rooms.acl import allowed as acl_allows
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.checks import Missing
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.judging import Verdict
from homeserver.rooms.pdus import auth_chain, stored_pdus
from homeserver.rooms.receive import Receiver
from homeserver.rooms.restricted import (
    AUTHORISED_VIA,
    Allowed,
    NobodyNamed,
    Restricted,
    authoriser,
    needs_authoriser,
)
from homeserver.rooms.send import Author, Draft, Sending
from homeserver.rooms.state import RoomState
from homeserver.rooms.states import State, States
from storage.engine import Database
from storage.events import event_numbers, event_rows

_MEMBER = "m.room.member"
_AT_ONCE = 200
_NOT_IN_TEMPLATE = ("hashes", "signatures", "event_id")


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event of another server's user that now stands in a room of ours."""

    room: Room
    event: Event
    servers: Sequence[str]


class Resident:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        receiver: Receiver,
        restricted: Restricted,
        elsewhere: Elsewhere,
        verifier: Verifier,
        states: States,
        state: RoomState,
        database: Database,
        author: Author,
    ) -> None:
        self._rooms = rooms
        self._receiver = receiver
        self._restricted = restricted
        self._elsewhere = elsewhere
        self._verifier = verifier
        self._states = states
        self._state = state
        self._database = database
        self._author = author

    async def room(self, origin: str, room_id: str) -> Room:
        """A room that we are in and whose ACL lets the server in.

        Raises `MatrixError` M_NOT_FOUND or M_FORBIDDEN.
        """
        room = await self._rooms.find(room_id)
        if room is None or not await self._elsewhere.present(room):
            raise MatrixError.not_found("This server is not in that room")
        if not await self._rooms.read(room, lambda head: acl_allows(origin, head)):
            raise MatrixError.forbidden("The room's server ACL doesn't let this server in")
        return room

    async def template(
        self,
        origin: str,
        membership: str,
        room_id: str,
        user_id: str,
        versions: Collection[str] | None,
    ) -> JsonObject:
        """`{room_version, event}` for a user of the server that wants to join, knock or leave.

        `versions` are those of rooms that the server knows, None where that does not matter.
        Raises `MatrixError`: M_INCOMPATIBLE_ROOM_VERSION, M_FORBIDDEN, M_UNABLE_TO_AUTHORISE_JOIN,
        M_UNABLE_TO_GRANT_JOIN.
        """
        if not is_user_id(user_id) or server_of(user_id) != origin:
            raise MatrixError.forbidden("A server can only ask for its own users")
        room = await self.room(origin, room_id)
        if versions is not None and room.rules.version not in versions:
            raise MatrixError(
                "M_INCOMPATIBLE_ROOM_VERSION",
                f"The room is of version {room.rules.version}",
                extra={"room_version": room.rules.version},
            )
        allowed = Allowed.NO
        if membership == "join":
            allowed = await self._restricted.allowed(user_id, room)
        members: Collection[str] = ()

        def verb(sending: Sending) -> Event:
            content: JsonObject = {"membership": membership}
            head = sending.head
            if membership == "join" and needs_authoriser(head, user_id):
                _check_allowed(allowed)
                content[AUTHORISED_VIA] = authoriser(head, self._author.server_name, members)
            event, _ = sending.make(Draft(user_id, _MEMBER, content, user_id))
            return event

        try:
            event = await self._rooms.change(room, verb)
        except NobodyNamed:
            members = await self._restricted.members(room)
            event = await self._rooms.change(room, verb)
        pdu = {key: value for key, value in event.pdu.items() if key not in _NOT_IN_TEMPLATE}
        return {"room_version": room.rules.version, "event": pdu}

    async def take(
        self, origin: str, membership: str, room_id: str, event_id: str, pdu: JsonObject
    ) -> Accepted:
        """Take the event that the server has made of a template, and send it on.

        Raises `MatrixError` M_INVALID_PARAM for what is not such an event, M_FORBIDDEN for one that
        the room's rules don't allow, and what the room's policy server says when it refuses it.
        """
        room = await self.room(origin, room_id)
        own = self._author.server_name
        (event,) = await self._verifier.verify([pdu], room.rules, without=[own])
        if isinstance(event, Refused):
            raise _not_that(f"The event is {event.value}")
        _check_kind(event, membership, origin, room_id, event_id)
        if not content_hash_fits(event.pdu):
            raise _not_that("The content hash of the event is wrong")
        via = event.content.get(AUTHORISED_VIA)
        if membership == "join" and room.rules.restricted_joins and via is not None:
            if not isinstance(via, str) or not is_user_id(via):
                raise _not_that(f"{AUTHORISED_VIA} is not a user id")
            if server_of(via) == own:
                event = await self._authorised(room, event)
        event = await self._rooms.recommended(room, event)
        servers = [own, *await self._elsewhere.servers(room)]
        data = canonical.encode(event.pdu)
        verdict = await self._receiver.receive(room, event, data, relay=True)
        if isinstance(verdict, Missing):
            raise _not_that("The event stands on events that this server doesn't have")
        if verdict not in (Verdict.ACCEPTED, Verdict.KNOWN):
            raise MatrixError.forbidden(f"The room's rules don't allow this {membership}")
        return Accepted(room, event, servers)

    async def joined(self, accepted: Accepted, *, omit_members: bool) -> AsyncIterator[bytes]:
        """The answer to a join, piece by piece."""
        room, event = accepted.room, accepted.event
        nid = (await event_numbers(self._database, room.nid, [event.event_id]))[event.event_id]
        row = (await event_rows(self._database, [nid]))[nid]
        state: Iterable[int] = ()
        if row.snap_nid is not None:
            before = (await self._states.of_snapshots([row.snap_nid]))[row.snap_nid]
            if omit_members:
                before = await self._without_members(room, before)
            state = sorted(before.values())
        chain = await auth_chain(self._database, [nid, *state])
        if omit_members:
            chain -= set(state)
        head = {
            "origin": self._author.server_name,
            "members_omitted": omit_members,
            "servers_in_room": accepted.servers,
        }
        own = canonical.encode(event.pdu)
        return self._pieces(canonical.encode(head)[:-1], own, room, list(state), sorted(chain))

    async def shown(self, room: Room, user_id: str) -> list[JsonObject]:
        """The events that tell an invited or knocking user what the room is, whole."""
        return await self._state.shown(room, user_id)

    async def _pieces(
        self, head: bytes, own: bytes, room: Room, state: list[int], chain: list[int]
    ) -> AsyncIterator[bytes]:
        yield b'%b,"event":%b' % (head, own)
        for name, nids in ((b"state", state), (b"auth_chain", chain)):
            yield b',"%b":[' % name
            for start in range(0, len(nids), _AT_ONCE):
                part = nids[start : start + _AT_ONCE]
                pdus = await stored_pdus(self._database, part, room.rules)
                joined = b",".join(pdus[nid] for nid in part if nid in pdus)
                yield (b"," if start else b"") + joined
            yield b"]"
        yield b"}"

    async def _authorised(self, room: Room, event: Event) -> Event:
        """The join with our signature, if the user may join by the rooms that we know."""
        user_id = event.sender
        if await self._rooms.read(room, lambda head: needs_authoriser(head, user_id)):
            _check_allowed(await self._restricted.allowed(user_id, room))
        author = self._author
        pdu = sign_event(event.pdu, room.rules, author.server_name, author.key)
        return Event.stored(pdu, room.rules, event.event_id)

    async def _without_members(self, room: Room, state: State) -> State:
        """The state without members, but for those by whom a room without a name is called."""
        keys = await self._state.keys(state)
        kept: set[str] = set()
        named = {key for key in keys.values() if key[1] == ""}
        if ("m.room.name", "") not in named and ("m.room.canonical_alias", "") not in named:
            kept = set(await self._state.heroes(room, 0))
        return {
            key_nid: nid
            for key_nid, nid in state.items()
            if keys[key_nid][0] != _MEMBER or keys[key_nid][1] in kept
        }


def _check_allowed(allowed: Allowed) -> None:
    if allowed is Allowed.UNKNOWN:
        raise MatrixError(
            "M_UNABLE_TO_AUTHORISE_JOIN", "This server knows not all rooms that let in", 400
        )
    if allowed is Allowed.NO:
        raise MatrixError.forbidden("The user is in none of the rooms whose members may join")


def _check_kind(event: Event, membership: str, origin: str, room_id: str, event_id: str) -> None:
    if event.room_id != room_id:
        raise _not_that("The event is of another room")
    if event.event_id != event_id:
        raise _not_that("The event has another id")
    if event.type != _MEMBER or event.content.get("membership") != membership:
        raise _not_that(f"Not a {membership} event")
    if event.sender != event.state_key or server_of(event.sender) != origin:
        raise _not_that("The event's sender and state key are not one user of the server")


def _not_that(message: str) -> MatrixError:
    return MatrixError.invalid_param(message)

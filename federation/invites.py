"""Invites of our users by other servers, and third-party invites on their way to become such.

Owns what an invite must be before this server signs it, and what of it is kept. Of a room that we
are not in nobody can say what its rules allow; so the invite is believed to be what it says, no
more, and how many one server may send one user is bounded.
spec: server-server-api#inviting-to-a-room, server-server-api#third-party-invites
"""

import time
from collections import OrderedDict

from federation.events import Refused, Verifier
from federation.joining import MAX_STRIPPED, stripped_state
from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_user_id, server_of, split_user_id
from homeserver.matrix.sign import content_hash_fits, sign_event, verify_event
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from homeserver.rooms.acl import allowed as acl_allows
from homeserver.rooms.actor import Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.send import Author
from homeserver.streams.invite_permissions import InvitePermissions
from storage.accounts import users_by_localpart
from storage.engine import Database
from storage.schema import DEACTIVATED

BURST = 20
SECONDS_EACH = 30.0
"""Invites of one user by one server: so many at once, then one in so many seconds."""
MAX_REMEMBERED = 10_000


class Invites:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        elsewhere: Elsewhere,
        verifier: Verifier,
        database: Database,
        permissions: InvitePermissions,
        author: Author,
    ) -> None:
        self._rooms = rooms
        self._elsewhere = elsewhere
        self._verifier = verifier
        self._database = database
        self._permissions = permissions
        self._author = author
        self._sent: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def take(
        self,
        origin: str,
        room_id: str,
        event_id: str,
        version: str,
        pdu: JsonObject,
        shown: object,
    ) -> JsonObject:
        """Sign an invite of one of our users, who hears of it; returns the signed event.

        `shown` is what the server says of the room. Raises `MatrixError`:
        M_INCOMPATIBLE_ROOM_VERSION, M_INVALID_PARAM, M_FORBIDDEN, M_LIMIT_EXCEEDED, and
        M_INVITE_BLOCKED when the user doesn't take the invite.
        """
        rules = ROOM_VERSIONS.get(version)
        if rules is None:
            raise MatrixError(
                "M_INCOMPATIBLE_ROOM_VERSION",
                f"This server doesn't know room version {version!r}",
                extra={"room_version": version},
            )
        event = await self._checked(origin, room_id, event_id, rules, pdu)
        user_id = event.state_key or ""
        await self._check_user(user_id)
        self._check_rate(origin, user_id)
        await self._permissions.check(event.sender, [user_id])
        author = self._author
        signed = sign_event(event.pdu, rules, author.server_name, author.key)
        event = Event.stored(signed, rules, event.event_id)
        room = await self._rooms.find(room_id)
        if room is not None and await self._elsewhere.present(room):
            # It comes once more by a transaction, and is judged then.
            if not await self._rooms.read(room, lambda head: acl_allows(origin, head)):
                raise MatrixError.forbidden("The room's server ACL doesn't let this server in")
            return signed
        await self._check_create(shown, rules, room_id)
        nid = await author.numbers.take_soon("room")
        room = await self._rooms.named(room_id, rules, nid, author.clock.now_ms())
        await self._elsewhere.outside.put(
            room, event, canonical.encode(signed), stripped_state(shown)
        )
        return signed

    async def _checked(
        self, origin: str, room_id: str, event_id: str, rules: RoomRules, pdu: JsonObject
    ) -> Event:
        (event,) = await self._verifier.verify([pdu], rules)
        if isinstance(event, Refused):
            raise MatrixError.invalid_param(f"The event is {event.value}")
        if event.room_id != room_id or event.event_id != event_id:
            raise MatrixError.invalid_param("The event has another id, or is of another room")
        if event.type != "m.room.member" or event.content.get("membership") != "invite":
            raise MatrixError.invalid_param("Not an invite")
        if server_of(event.sender) != origin:
            raise MatrixError.invalid_param("The inviting user is of another server")
        target = event.state_key or ""
        if not is_user_id(target) or server_of(target) != self._author.server_name:
            raise MatrixError.invalid_param("The invited user is of another server")
        # A third-party invite may lack its sender's signature, but not that of who sends it.
        keys = await self._verifier.keys_of(event, origin)
        if not verify_event(event, origin, keys) or not content_hash_fits(event.pdu):
            raise MatrixError.invalid_param("The event is not signed as it must be")
        return event

    async def _check_user(self, user_id: str) -> None:
        localpart, _ = split_user_id(user_id)
        user = (await users_by_localpart(self._database, [localpart])).get(localpart)
        if user is None or user.flags & DEACTIVATED:
            raise MatrixError.forbidden("There is no such user")

    async def _check_create(self, shown: object, rules: RoomRules, room_id: str) -> None:
        """The create event that came along must be the room's, where it is whole.

        From version 12 on the room's id is its hash, so that a false one can be told.
        """
        entries = shown[:MAX_STRIPPED] if isinstance(shown, list) else []
        creates = [
            entry
            for entry in entries
            if isinstance(entry, dict)
            and entry.get("type") == "m.room.create"
            and entry.get("state_key") == ""
        ]
        for entry in creates:
            if "auth_events" not in entry:
                continue  # stripped, as servers before v1.16 of the specification send it
            try:
                create = Event.parse(entry, rules)
            except Malformed:
                raise MatrixError.invalid_param("The create event is malformed") from None
            if create.room_id != room_id:
                raise MatrixError.invalid_param("The create event is of another room")
            (verified,) = await self._verifier.verify([entry], rules)
            if verified is Refused.UNSIGNED:
                raise MatrixError.invalid_param("The create event is not signed")
        for entry in creates:
            content = entry.get("content")
            named = content.get("room_version", "1") if isinstance(content, dict) else None
            if named != rules.version:
                raise MatrixError.invalid_param("The create event is of another room version")
        if rules.room_id_is_hash and not creates:
            raise MatrixError.invalid_param("The create event is missing in invite_room_state")

    def _check_rate(self, origin: str, user_id: str) -> None:
        """Refuse a flood: each invite moves the time from which on the next ones are too many."""
        now = time.monotonic()
        until = max(self._sent.get((origin, user_id), 0.0), now) + SECONDS_EACH
        if until - now > BURST * SECONDS_EACH:
            raise MatrixError("M_LIMIT_EXCEEDED", "Too many invites of this user", 429)
        self._sent[origin, user_id] = until
        self._sent.move_to_end((origin, user_id))
        if len(self._sent) > MAX_REMEMBERED:
            self._sent.popitem(last=False)

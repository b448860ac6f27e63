"""Inviting whoever has an address outside of Matrix.

Owns asking the identity server that the client names: if it knows whose the address is, that user
is invited; else it keeps the invite, tells the address of it, and the room is given the token with
which it is redeemed (`third_party.py`). Nobody is asked for a user who may not invite. What the
server answers is a stranger's: it is bounded, and judged before it stands in a room.
spec: client-server-api#third-party-invites
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.matrix.ids import is_user_id
from homeserver.ports import IdentityServers
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.head import Head
from homeserver.rooms.members import Members
from homeserver.rooms.send import Draft, Sending
from homeserver.users.threepids import identity_error
from homeserver.users.validations import canonical_address

log = logging.getLogger(__name__)

MAX_AT_ONCE = 20
"""Addresses that a new room may begin with: each is a mail, and several requests."""
_MAX_KEYS = 8
_TOKEN = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_MAX_TEXT = 1_024


@dataclass(frozen=True, slots=True)
class Address:
    """An address, and the identity server that may be asked with this token."""

    medium: str
    address: str
    id_server: str
    id_access_token: str


class AddressInvites:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        members: Members,
        identity: IdentityServers,
        profile: Callable[[str], Awaitable[JsonObject]],
    ) -> None:
        """`profile` gives what a user's member events show."""
        self._rooms = rooms
        self._members = members
        self._identity = identity
        self._profile = profile

    async def invite(
        self, user_id: str, room: Room, to: Address, reason: str | None = None
    ) -> None:
        """Invite whoever has the address now or later.

        Raises `MatrixError`: M_FORBIDDEN for who may not invite, M_INVALID_PARAM and
        M_THREEPID_MEDIUM_NOT_SUPPORTED for the address, what the identity server refuses with,
        M_UNKNOWN (502) when it can't be reached, and as `Members.invite`.
        """
        address = canonical_address(to.medium, to.address)
        told = await self._rooms.read(room, lambda head: _told(head, user_id))
        try:
            found = await self._identity.find(to.id_server, to.id_access_token, to.medium, address)
            if found is None:
                sender = await self._profile(user_id)
                stored = await self._identity.store_invite(
                    to.id_server,
                    to.id_access_token,
                    {
                        **told,
                        "medium": to.medium,
                        "address": address,
                        "room_id": room.room_id,
                        "sender": user_id,
                        "sender_display_name": sender.get("displayname") or "",
                        "sender_avatar_url": sender.get("avatar_url") or "",
                    },
                )
        except (RemoteError, Unreachable) as error:
            raise identity_error(error, "M_UNKNOWN") from None
        if found is not None:
            if not is_user_id(found):
                raise _nonsense("no user")
            await self._members.invite(user_id, room, found, reason)
            return
        token, content = _kept(stored)
        draft = Draft(user_id, "m.room.third_party_invite", content, token)

        def verb(sending: Sending) -> None:
            sending.add(draft)

        await self._rooms.change(room, verb)

    async def invite_to_new(self, user_id: str, room_id: str, addresses: Sequence[Address]) -> None:
        """Invite to a room that has just been made; who can't be is left out."""
        room = await self._rooms.known(room_id)

        async def invite(to: Address) -> None:
            try:
                await self.invite(user_id, room, to)
            except (MatrixError, Rejected) as error:
                log.warning("an address could not be invited to a new room: %s", error)

        await asyncio.gather(*map(invite, addresses))


def checked(addresses: Sequence[Address]) -> Sequence[Address]:
    """The addresses; raises `MatrixError` M_INVALID_PARAM for too many, or what is no address."""
    if len(addresses) > MAX_AT_ONCE:
        raise MatrixError.invalid_param(f"invite_3pid: more than {MAX_AT_ONCE} at once")
    for one in addresses:
        canonical_address(one.medium, one.address)
    return addresses


def _told(head: Head, user_id: str) -> JsonObject:
    """What the identity server may tell of the room; for who may invite."""
    levels = head.power_levels()
    if head.membership(user_id) != "join" or levels.user_level(user_id) < levels.invite:
        raise MatrixError.forbidden("You may not invite to this room")
    said = {
        "room_alias": head.content_text("m.room.canonical_alias", "alias"),
        "room_avatar_url": head.content_text("m.room.avatar", "url"),
        "room_join_rules": head.content_text("m.room.join_rules", "join_rule"),
        "room_name": head.content_text("m.room.name", "name"),
        "room_type": head.content_text("m.room.create", "type"),
    }
    return {name: value for name, value in said.items() if value is not None}


def _kept(stored: JsonObject) -> tuple[str, JsonObject]:
    """The token, and the content of the event that stands for it."""
    token, shown, keys = (stored.get(name) for name in ("token", "display_name", "public_keys"))
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise _nonsense("no token")
    if not isinstance(keys, list) or not 0 < len(keys) <= _MAX_KEYS:
        raise _nonsense("no keys")
    listed = [
        {
            "public_key": _text(key, "public_key"),
            "key_validity_url": _text(key, "key_validity_url"),
        }
        for key in keys
    ]
    content: JsonObject = {
        "display_name": shown[:_MAX_TEXT] if isinstance(shown, str) else "",
        **listed[0],
        "public_keys": listed,
    }
    return token, content


def _text(key: object, name: str) -> str:
    value = key.get(name) if isinstance(key, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise _nonsense(f"a key without {name}")
    return value


def _nonsense(what: str) -> MatrixError:
    return MatrixError("M_UNKNOWN", f"The identity server's answer can't be used: {what}", 502)

"""Invites that waited for an address to become somebody's.

Owns what is done when an identity server tells us so: in rooms that we are in we make the invite,
in others the server of whoever sent the token is asked to. What the identity server has signed is
judged in the room, against the keys that stand there.
spec: server-server-api#third-party-invites
"""

import logging
from collections.abc import Sequence

from federation.requests import Requests, path_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.matrix.ids import server_of, split_user_id
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.third_party import ThirdPartyInvites
from storage.accounts import users_by_localpart
from storage.engine import Database
from storage.schema import DEACTIVATED

log = logging.getLogger(__name__)

MAX_INVITES = 50
SECONDS = 15.0


class Onbind:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        elsewhere: Elsewhere,
        third_party: ThirdPartyInvites,
        requests: Requests,
        database: Database,
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._elsewhere = elsewhere
        self._third_party = third_party
        self._requests = requests
        self._database = database
        self._server_name = server_name

    async def exchange(
        self, room: Room, target: str, mxid: str, token: str, signatures: JsonObject
    ) -> None:
        """Make a token an invite in a room that we are in; raises as `ThirdPartyInvites` does."""
        signed = {"mxid": mxid, "token": token, "signatures": signatures}
        await self._third_party.exchange(room, target, signed)

    async def bound(
        self, user_id: str, invites: Sequence[tuple[str, str, str, JsonObject]]
    ) -> None:
        """One of our users has an address; `invites` are (room, sender, token, signatures).

        What can't be had is logged and left. Raises `MatrixError` M_NOT_FOUND for a user whom we
        don't have, M_INVALID_PARAM for too many invites.
        """
        localpart, server = split_user_id(user_id)
        user = (await users_by_localpart(self._database, [localpart])).get(localpart)
        if server != self._server_name or user is None or user.flags & DEACTIVATED:
            raise MatrixError.not_found("There is no such user")
        if len(invites) > MAX_INVITES:
            raise MatrixError.invalid_param(f"More than {MAX_INVITES} invites at once")
        for room_id, sender, token, signatures in invites:
            try:
                await self._one(user_id, room_id, sender, token, signatures)
            except (MatrixError, Rejected, RemoteError, Unreachable) as error:
                log.info("a third-party invite to %s came to nothing: %s", room_id, error)

    async def _one(
        self, user_id: str, room_id: str, sender: str, token: str, signatures: JsonObject
    ) -> None:
        room = await self._rooms.find(room_id)
        if room is not None and await self._elsewhere.present(room):
            await self.exchange(room, user_id, user_id, token, signatures)
            return
        signed = {"mxid": user_id, "token": token, "signatures": signatures}
        body = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": sender,
            "state_key": user_id,
            "content": {
                "membership": "invite",
                "third_party_invite": {"display_name": "", "signed": signed},
            },
        }
        path = path_of("federation/v1", "exchange_third_party_invite", room_id)
        await self._requests.request(server_of(sender), "PUT", path, body=body, timeout=SECONDS)

"""Third-party invites made into invites, once it is known whose address it was.

Owns the event that says so, in rooms that we are in: its sender is whoever sent the token, and it
carries what the identity server has signed. The room's rules check that against the keys of the
token's event; of a revoked token there is no such event any more.
spec: client-server-api#third-party-invites, server-server-api#third-party-invites
"""

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.head import Head
from homeserver.rooms.send import Draft, Sending
from homeserver.streams.invite_permissions import InvitePermissions


class ThirdPartyInvites:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        elsewhere: Elsewhere,
        permissions: InvitePermissions,
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._elsewhere = elsewhere
        self._permissions = permissions
        self._suffix = ":" + server_name

    async def exchange(self, room: Room, target: str, signed: JsonObject) -> None:
        """Invite the user for whom `signed` was signed; nothing happens if that was done.

        Raises `MatrixError` M_FORBIDDEN for a token that the room doesn't have, M_INVITE_BLOCKED
        when the user doesn't take the invite, and Rejected when the rules forbid it: wrong
        signatures, a user of another name, one who is banned.
        """
        token = signed.get("token")
        if not isinstance(token, str):
            raise MatrixError.invalid_param("signed: the token is missing")

        def look(head: Head) -> Draft | None:
            invite = head.event("m.room.third_party_invite", token)
            if invite is None or not invite.content:
                raise MatrixError.forbidden("The room has no such third-party invite")
            if head.membership(target) in ("invite", "join"):
                return None
            shown = invite.content.get("display_name")
            told: JsonObject = {"signed": signed}
            if isinstance(shown, str):
                told["display_name"] = shown
            content: JsonObject = {"membership": "invite", "third_party_invite": told}
            return Draft(invite.sender, "m.room.member", content, target)

        draft = await self._rooms.read(room, look)
        if draft is None:
            return
        if not target.endswith(self._suffix):
            await self._elsewhere.invite(room, draft)
            return
        await self._permissions.check(draft.sender, [target])

        def verb(sending: Sending) -> None:
            draft = look(sending.head)
            if draft is not None:
                sending.add(draft)

        await self._rooms.change(room, verb)

"""What the server tells its users in an official capacity.

Owns the room in which a user is told: exactly one, made with the first notice in one commit with
the user's invite, so that neither two notices at once nor a crash make two. It is known by its
members: who of our users is in a room that the notices user has made. Nobody else can say
anything there. That the invite can't be declined stands in `members`.
spec: client-server-api#server-notices
"""

import hashlib
from dataclasses import dataclass

from homeserver.config import ServerNotices as Options
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_event_id
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import Txn
from homeserver.rooms.create import CreateRoom, InitialState, NewRoom
from homeserver.rooms.members import Members
from homeserver.rooms.posting import Posting
from homeserver.rooms.send import Draft, Sending
from homeserver.users.account_data import AccountData
from homeserver.users.inbox import UserInbox
from homeserver.users.notices_user import NoticesUser
from homeserver.users.profiles import Profiles
from storage.engine import Database
from storage.memberships import of_user, of_user_in
from storage.schema import DEACTIVATED, JOIN, UserRow

TAG = "m.server_notice"
_MESSAGE, _NOTICE = "m.room.message", "m.server_notice"
_PINNED = "m.room.pinned_events"
_MOST_PINNED = 100
# Who is told something can answer nothing, and bring in nobody.
_SILENT = -10


@dataclass(frozen=True, slots=True)
class Notice:
    """What a user is told: a message, or with a `state_key` a piece of the room's state.

    A `pinned` notice is active until it is unpinned.
    """

    content: JsonObject
    type: str = _MESSAGE
    state_key: str | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """Where a notice stands."""

    room_id: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a notice the same as one before: who asks (any text), and the id it chose."""

    asker: str
    txn_id: str


class ServerNotices:
    """See the module."""

    def __init__(
        self,
        user: NoticesUser,
        database: Database,
        rooms: Rooms,
        create: CreateRoom,
        members: Members,
        posting: Posting,
        profiles: Profiles,
        account_data: AccountData,
        inbox: UserInbox,
        options: Options,
        server_name: str,
    ) -> None:
        self._user = user
        self._database = database
        self._rooms = rooms
        self._create = create
        self._members = members
        self._posting = posting
        self._profiles = profiles
        self._account_data = account_data
        self._inbox = inbox
        self._options = options
        self._server_name = server_name

    async def send(self, target: UserRow, notice: Notice, request: Request | None) -> Told:
        """Tell a user something; the same `request` tells it once.

        Raises `MatrixError`: M_MISSING_PARAM and M_BAD_JSON for a message without its text,
        M_INVALID_PARAM for a change of a membership, M_USER_DEACTIVATED, M_USER_IN_USE when the
        name of the notices user is a person's.
        """
        _check(notice)
        if target.flags & DEACTIVATED:
            raise MatrixError("M_USER_DEACTIVATED", "The account was deactivated", 400)
        sender_nid = await self._user.ready()
        if target.user_nid == sender_nid:
            raise MatrixError.invalid_param("user_id: the server does not tell itself anything")
        room = await self._inbox.run(target.user_nid, lambda: self._room(target, sender_nid))
        await self._account_data.put_tag(target.user_nid, room.nid, TAG, {})
        if self._options.auto_join:
            await self._members.join(self._name(target), room.room_id)
        event_id = await self._told(room, target, sender_nid, notice, request)
        if notice.pinned:
            await self._pin(room, event_id)
        return Told(room.room_id, event_id)

    async def unpin(self, target: UserRow, event_id: str) -> None:
        """Have a notice be active no more; `MatrixError` M_NOT_FOUND when it is not."""
        if not is_event_id(event_id):
            raise MatrixError.invalid_param("event_id is not an event ID")
        room = await self._found(target, await self._user.ready())
        if room is None or not await self._pin(room, event_id, pinned=False):
            raise MatrixError.not_found("There is no such pinned notice")

    async def _told(
        self,
        room: Room,
        target: UserRow,
        sender_nid: int,
        notice: Notice,
        request: Request | None,
    ) -> str:
        sender = self._user.user_id
        if notice.state_key is not None:
            return await self._posting.put_state(
                sender, room, notice.type, notice.state_key, notice.content
            )
        txn = None
        if request is not None:
            scope = f"notice\0{target.localpart}\0{request.asker}".encode()
            digest = hashlib.blake2b(scope, digest_size=8).digest()
            # The notices user has no device: the scope is its own, as for application services.
            number = int.from_bytes(digest, "big", signed=True)
            txn = Txn(-sender_nid, number, request.txn_id)
        return await self._posting.send(sender, room, notice.type, notice.content, txn)

    async def _room(self, target: UserRow, sender_nid: int) -> Room:
        """The user's room, with what the configuration says of it, and the user invited."""
        sender, user_id = self._user.user_id, self._name(target)
        room = await self._found(target, sender_nid)
        if room is None:
            new = NewRoom(
                invite=(user_id,),
                creation_content={"m.federate": False},
                initial_state=tuple(self._looks()),
                power_levels={"users_default": _SILENT},
            )
            profile = await self._profiles.in_rooms(sender)
            return await self._rooms.known(await self._create(sender, profile, new))
        for state in self._looks():
            await self._posting.put_state(sender, room, state.type, "", state.content)
        if await self._rooms.read(room, lambda head: head.membership(user_id)) != "join":
            await self._members.invite(sender, room, user_id)
        return room

    async def _found(self, target: UserRow, sender_nid: int) -> Room | None:
        """The room that the notices user has made for this user, if it has."""
        sender = self._user.user_id
        of_target = await of_user(self._database, target.user_nid)
        shared = await of_user_in(self._database, sender_nid, of_target)
        joined = sorted(nid for nid, row in shared.items() if row.membership == JOIN)
        for room in (await self._rooms.by_nids(joined)).values():
            create = await self._rooms.read(room, lambda head: head.event("m.room.create"))
            if create is not None and create.sender == sender:
                return room
        return None

    def _looks(self) -> list[InitialState]:
        looks = [InitialState("m.room.name", {"name": self._options.room_name})]
        if self._options.avatar_url:
            looks.append(InitialState("m.room.avatar", {"url": self._options.avatar_url}))
        return looks

    async def _pin(self, room: Room, event_id: str, *, pinned: bool = True) -> bool:
        """Pin a notice or take it off; whether that changed anything."""

        def verb(sending: Sending) -> bool:
            found = sending.head.event(_PINNED)
            listed = found.content.get("pinned") if found is not None else None
            before = listed if isinstance(listed, list) else []
            if (event_id in before) == pinned:
                return False
            after = [other for other in before if other != event_id]
            if pinned:
                after = [*after, event_id][-_MOST_PINNED:]
            sending.add(Draft(self._user.user_id, _PINNED, {"pinned": after}, ""))
            return True

        return await self._rooms.change(room, verb)

    def _name(self, target: UserRow) -> str:
        return f"@{target.localpart}:{self._server_name}"


def _check(notice: Notice) -> None:
    if notice.state_key is not None:
        if notice.type == "m.room.member":
            raise MatrixError.invalid_param("type: a notice changes no membership")
        return
    if notice.type != _MESSAGE:
        return
    needed = ["msgtype", "body"]
    if notice.content.get("msgtype") == _NOTICE:
        needed.append("server_notice_type")
    for key in needed:
        if key not in notice.content:
            raise MatrixError.missing_param(f"content: {key} is missing")
        if not isinstance(notice.content[key], str):
            raise MatrixError.bad_json(f"content: {key} must be a text")

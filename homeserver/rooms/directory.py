"""Room aliases of this server, and which rooms its directory lists.

Owns the mapping from alias to room and the published flag. An alias belongs to the server it
names; aliases of other servers are looked up there. What the directory shows is in
`public_rooms.py`, the form of the canonical alias event in `canonical_alias.py`.
spec: client-server-api#room-aliases, client-server-api#published-room-directory
"""

from contextlib import suppress
from typing import Protocol

from homeserver.errors import MatrixError
from homeserver.matrix.errors import Rejected
from homeserver.matrix.ids import is_room_alias, server_of
from homeserver.ports import RemoteDirectory
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.canonical_alias import CANONICAL_ALIAS, named, without
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.head import Head
from homeserver.rooms.send import Draft, Sending
from homeserver.streams.commit import CommitQueue
from homeserver.users.sessions import Session
from storage.changes import Conflict, Delete, Insert, Put
from storage.engine import Database
from storage.rooms import aliases, aliases_of, summaries
from storage.schema import AliasRow

MAX_SERVERS = 50


class AliasServices(Protocol):
    """The application services, as far as aliases concern them."""

    def check_alias(self, alias: str, service_id: str | None) -> None:
        """Raise `MatrixError` M_EXCLUSIVE when who asks may not make or remove the alias."""

    async def makes_alias(self, alias: str) -> bool:
        """Ask for an alias that isn't there; whether a service has made it."""

    def aliased(self, alias: str, room_nid: int) -> None:
        """A room was given the alias."""


class Directory:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        commits: CommitQueue,
        database: Database,
        services: AliasServices,
        elsewhere: Elsewhere,
        remote: RemoteDirectory,
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._services = services
        self._commits = commits
        self._database = database
        self._elsewhere = elsewhere
        self._remote = remote
        self._server_name = server_name

    def local_alias(self, session: Session, localpart: str | None) -> str | None:
        """The complete alias of a local part, for a new room.

        Raises `MatrixError` M_INVALID_PARAM, or M_EXCLUSIVE for what is an application service's.
        """
        if localpart is None:
            return None
        alias = f"#{localpart}:{self._server_name}"
        if not localpart or ":" in localpart or not is_room_alias(alias):
            raise MatrixError.invalid_param("room_alias_name: not the local part of an alias")
        self._services.check_alias(alias, session.service)
        return alias

    async def resolve(self, alias: str) -> str:
        """The room id that an alias stands for. Raises `MatrixError` M_NOT_FOUND."""
        return (await self.locate(alias))[0]

    async def locate(self, alias: str) -> tuple[str, list[str]]:
        """The room id that an alias stands for, and servers that are in the room.

        Another server's alias is asked for there. Raises `MatrixError` M_NOT_FOUND, or M_UNKNOWN
        (502) when that server can't be asked.
        """
        if server_of(alias) != self._server_name:
            return await self._remote.alias(alias)
        rows = await aliases(self._database, [alias])
        if alias not in rows and await self._services.makes_alias(alias):
            rows = await aliases(self._database, [alias])
        if alias not in rows:
            raise MatrixError.not_found(f"There is no room {alias}")
        room_nid = rows[alias].room_nid
        room = (await self._rooms.by_nids([room_nid]))[room_nid]
        others = (await self._elsewhere.servers(room))[:MAX_SERVERS]
        return room.room_id, [self._server_name, *others]

    async def put(self, session: Session, alias: str, room: Room) -> None:
        """Let an alias stand for a room that the user is in.

        Raises `MatrixError` M_INVALID_PARAM for another server's alias, M_FORBIDDEN, and M_UNKNOWN
        (409) when the alias is taken.
        """
        if server_of(alias) != self._server_name:
            raise MatrixError.invalid_param(f"room_alias: {alias} belongs to another server")
        self._services.check_alias(alias, session.service)
        if await self._rooms.read(room, lambda head: head.membership(session.user_id)) != "join":
            raise MatrixError.forbidden("You are not in this room")
        try:
            await self._commits.commit([Insert(AliasRow(alias, room.nid, session.user_nid))])
        except Conflict as error:
            raise MatrixError("M_UNKNOWN", f"{alias} is taken", 409) from error
        self._services.aliased(alias, room.nid)

    async def delete(self, session: Session, alias: str) -> None:
        """Remove an alias: for its maker, for who may set the canonical alias, administrators.

        The canonical alias event names it no longer, if the user may change that. Raises
        `MatrixError` M_NOT_FOUND or M_FORBIDDEN.
        spec: client-server-api#delete_matrixclientv3directoryroomroomalias
        """
        rows = await aliases(self._database, [alias])
        if alias not in rows:
            raise MatrixError.not_found(f"There is no room {alias}")
        self._services.check_alias(alias, session.service)
        row = rows[alias]
        user_id = session.user_id

        def verb(sending: Sending) -> None:
            head = sending.head
            own = row.creator_nid == session.user_nid or session.service is not None
            if not (own or session.is_admin or _may_set(head, user_id)):
                raise MatrixError.forbidden("You have not made this alias")
            sending.changes.append(Delete(AliasRow, (alias,)))
            current = head.event(CANONICAL_ALIAS)
            if current is not None and alias in named(current.content):
                with suppress(Rejected):
                    content = without(current.content, alias)
                    sending.add(Draft(user_id, CANONICAL_ALIAS, content, ""))

        await self._rooms.change((await self._rooms.by_nids([row.room_nid]))[row.room_nid], verb)

    async def of_room(self, room: Room) -> list[str]:
        """The local aliases of a room."""
        rows = await aliases_of(self._database, [room.nid])
        return [row.alias for row in rows.get(room.nid, ())]

    async def is_published(self, room: Room) -> bool:
        """Whether the directory lists the room."""
        rows = await summaries(self._database, [room.nid])
        return bool(rows[room.nid].published)

    async def publish(self, session: Session, room: Room, published: bool) -> None:
        """List the room in the directory, or no longer.

        Raises `MatrixError` M_FORBIDDEN for who may not set the canonical alias.
        """

        def verb(sending: Sending) -> None:
            head = sending.head
            if not session.is_admin and not _may_set(head, session.user_id):
                raise MatrixError.forbidden("You may not change the directory's entry of this room")
            if bool(head.summary.published) != published:
                head.summary = head.summary._replace(published=int(published))
                sending.changes.append(Put(head.summary))

        await self._rooms.change(room, verb)


def _may_set(head: Head, user_id: str) -> bool:
    levels = head.power_levels()
    return head.membership(user_id) == "join" and levels.user_level(user_id) >= levels.event_level(
        CANONICAL_ALIAS, True
    )

"""What our users do in rooms through other servers: join, knock, leave, invite.

Owns whom to ask and in which order, the durable list of joins under way, and what the core does
with an answer. How other servers are asked is in the port `RemoteRooms`; what is stored, in
`entering.py` and `outside.py`. Joins of one room take turns: the second finds the room there.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Coroutine, Sequence
from typing import Any

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_server_name, server_of
from homeserver.ports import RemoteRooms
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import Appended
from homeserver.rooms.entering import Entering
from homeserver.rooms.judging import Verdict
from homeserver.rooms.outside import Outside
from homeserver.rooms.receive import Receiver
from homeserver.rooms.send import Author, Draft
from homeserver.rooms.state import RoomState
from homeserver.streams.commit import CommitQueue
from storage.changes import Delete, Put
from storage.engine import Database
from storage.memberships import anybody_of_ours_in
from storage.outbound import servers_in
from storage.rooms import joins_under_way
from storage.schema import JoinUnderWayRow

log = logging.getLogger(__name__)

MAX_SERVERS = 20
MAX_KNOWN = 20_000
RESUME_PAUSES = (0.0, 5.0, 30.0, 120.0, 600.0)
"""Seconds before each try of a join that a stop of the server has cut off."""


class Elsewhere:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        commits: CommitQueue,
        author: Author,
        entering: Entering,
        outside: Outside,
        state: RoomState,
        receiver: Receiver,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._commits = commits
        self._author = author
        self.entering = entering
        self.outside = outside
        self._state = state
        self._receiver = receiver
        self._remote: RemoteRooms | None = None
        self._turns: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Rooms (numbers) and whether one of ours is in them, until one of ours comes or goes.
        self._present: OrderedDict[int, bool] = OrderedDict()
        self._moves = 0

    def happened(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events were published: one of ours may have come or gone."""
        suffix = ":" + self._author.server_name
        if any(one.user_id.endswith(suffix) for event in events for one in event.members):
            self._moves += 1
            self._present.pop(room_nid, None)

    def lost(self) -> None:
        """Events could not be published: nothing is known any more."""
        self._moves += 1
        self._present.clear()

    def connect(self, remote: RemoteRooms) -> None:
        """Say how other servers are asked."""
        self._remote = remote

    async def present(self, room: Room) -> bool:
        """Whether a user of ours is joined to the room, so that we have its state."""
        found = self._present.get(room.nid)
        if found is None:
            moves = self._moves
            found = await anybody_of_ours_in(self._database, room.nid)
            if moves == self._moves:  # what was read is still so
                self._present[room.nid] = found
                if len(self._present) > MAX_KNOWN:
                    self._present.popitem(last=False)
        return found

    async def servers(self, room: Room) -> list[str]:
        """Other servers with a joined user."""
        found = await servers_in(self._database, [room.nid])
        return sorted(found.get(room.nid, ()))

    async def join(
        self, user_id: str, room_id: str, via: Sequence[str], content: JsonObject
    ) -> None:
        """Join through other servers; goes on when the caller is cancelled, or the server stops.

        `content` is that of the join. Raises `MatrixError`: what the servers said, or M_UNKNOWN
        (502) when none could be asked.
        """
        servers = await self._whom(user_id, room_id, via)
        args = canonical.encode({"via": servers, "content": content})
        await self._commits.commit([Put(JoinUnderWayRow(room_id, user_id, args))])
        await asyncio.shield(self._spawn(self._join_once(user_id, room_id, servers, content)))

    async def knock(
        self, user_id: str, room_id: str, via: Sequence[str], content: JsonObject
    ) -> None:
        """Knock at a room through other servers; raises as `join` does."""
        servers = await self._whom(user_id, room_id, via)
        await self.remote.knock(user_id, room_id, servers, content)

    async def invite(self, room: Room, draft: Draft) -> Event:
        """Invite a user of another server, who must have signed the event before it is sent.

        Raises `MatrixError` for what the room's rules or the server refuse, M_UNKNOWN (502) when
        that can't be reached.
        """
        target = draft.state_key or ""
        event, _ = await self._rooms.change(room, lambda sending: sending.make(draft))
        event = await self._rooms.recommended(room, event)
        shown = await self._state.shown(room, draft.sender)
        servers = await self.servers(room)
        signed, pdu = await self.remote.invite(server_of(target), event, shown, servers)
        verdict = await self._receiver.receive(room, signed, pdu, relay=True)
        if verdict not in (Verdict.ACCEPTED, Verdict.KNOWN):
            raise MatrixError.forbidden("The room's rules don't allow this invite any more")
        return signed

    async def resume(self) -> None:
        """Take up the joins that a stop of the server has cut off; they go on in the background."""
        for row in await joins_under_way(self._database):
            self.entering.begin(row.room_id)
            self._spawn(self._resume(row))

    async def close(self) -> None:
        """Give up what is under way: it is taken up again at the next start."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def remote(self) -> RemoteRooms:
        """How other servers are asked."""
        if self._remote is None:
            raise MatrixError("M_UNKNOWN", "Federation is switched off", 502)
        return self._remote

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _join_once(
        self, user_id: str, room_id: str, servers: Sequence[str], content: JsonObject
    ) -> None:
        self.entering.begin(room_id)
        turn = self._turns.setdefault(room_id, asyncio.Lock())
        try:
            async with turn:
                await self.remote.join(user_id, room_id, servers, content)
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self._forget(user_id, room_id)
            raise
        else:
            await self._forget(user_id, room_id)
        finally:
            self.entering.end(room_id)
            if not self.entering.under_way(room_id):
                self._turns.pop(room_id, None)

    async def _forget(self, user_id: str, room_id: str) -> None:
        await self._commits.commit([Delete(JoinUnderWayRow, (room_id, user_id))])

    async def _resume(self, row: JoinUnderWayRow) -> None:
        args = canonical.decode_object(row.args)
        try:
            for pause in RESUME_PAUSES:
                await self._author.clock.sleep(pause)
                room = await self._rooms.find(row.room_id)
                if room is not None and await self._is_in(row.user_id, room):
                    await self._forget(row.user_id, row.room_id)
                    return
                try:
                    await self._join_once(row.user_id, row.room_id, args["via"], args["content"])
                    return
                except MatrixError as error:
                    log.info("the join of %s to %s: %s", row.user_id, row.room_id, error)
                    if error.status < 500:
                        return
        finally:
            self.entering.end(row.room_id)

    async def _is_in(self, user_id: str, room: Room) -> bool:
        return await self._rooms.read(room, lambda head: head.membership(user_id)) == "join"

    async def _whom(self, user_id: str, room_id: str, via: Sequence[str]) -> list[str]:
        """The servers to ask: those named by the client, by an invite, in the room, by its id."""
        wanted = list(via)
        room = await self._rooms.find(room_id)
        if room is not None:
            row = await self.outside.membership(user_id, room)
            if row is not None:
                wanted.append(server_of(await self.outside.sender(room, row)))
            wanted += await self.servers(room)
        if ":" in room_id:
            wanted.append(server_of(room_id))
        found = [
            server
            for server in dict.fromkeys(wanted)
            if is_server_name(server) and server != self._author.server_name
        ]
        if not found:
            raise MatrixError.not_found("No server is known that could let you into that room")
        return found[:MAX_SERVERS]

"""Sending events and EDUs to other servers, behind the commit.

Owns the way from a committed event to the queues of the servers that must have it, and what is
saved of how far each of them is. The send path only leaves a note (`published`); everything else
happens here. Invariant: what a server has not acknowledged is in its queue, or lies behind the
position that is saved for it, or (the row of the empty name) for all that have none of their own.
Nothing is stored per event and server.
spec: server-server-api#pdus, server-server-api#edus
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from federation.destinations import Destinations
from federation.outbound_events import Pdu, Pdus, RoomServers
from federation.outbound_lists import OwnLists, notes_of
from federation.outbound_queue import Means, Queue
from federation.outbox import Outbox
from federation.requests import Requests
from homeserver.errors import MatrixError
from homeserver.matrix.ids import is_server_name, server_of
from homeserver.rooms.append import Appended
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.device_lists import OwnChange
from storage import outbound as store
from storage.changes import Change, Delete, Put
from storage.engine import Database
from storage.schema import JOIN, LOCAL, DeliveryRow, EduOutboxRow

SAVE_SECONDS = 1.0
MAX_QUEUES = 5_000
"""Queues kept of servers for whom nothing waits."""
END_SECONDS = 2.0
MAX_NOTED_EDUS = 10_000
"""While more waits to be handed out, EDUs that may be lost are."""
_AT_ONCE = 1_000
_TURN = 64


class RoomEdu(NamedTuple):
    """An EDU to the servers of a room that may be lost; `content(room id)` is its JSON."""

    type: str
    key: str
    content: Callable[[str], bytes]


class Note(NamedTuple):
    """Something that goes to the servers of a room; all before it stands at or below `after`.

    A change of a user's devices has no room, and goes to all servers beside the user.
    """

    after: int
    room_nid: int
    what: Appended | RoomEdu | OwnChange | None


class Sender:
    """See the module. `published` and `room_edu` cost next to nothing; `run` is a service."""

    def __init__(
        self,
        server_name: str,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        requests: Requests,
        destinations: Destinations,
        outbox: Outbox,
        lists: OwnLists,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._commits = commits
        self._clock = clock
        self._outbox = outbox
        self._suffix = ":" + server_name
        self._notes: deque[Note] = deque()
        self._noted = asyncio.Event()
        self._changed = asyncio.Event()
        self._published: Callable[[], int] = lambda: 0
        self._rooms = RoomServers(database)
        self._queues: dict[str, Queue] = {}
        self._saved: int | None = None
        self._closing = False
        self._means = Means(
            server_name,
            database,
            requests,
            destinations,
            clock,
            Pdus(database),
            lists,
            lambda: self.position,
            self._changed.set,
        )
        destinations.on_alive(self._alive)
        outbox.connect(self._edus_wait, self._ephemeral)

    # --- what others tell

    def published(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events of a room were committed; called in the order of the stream."""
        for pos, appended in enumerate(events, first_pos):
            if appended.flags & LOCAL or appended.servers or appended.letters:
                self._notes.append(Note(pos - 1, room_nid, appended))
                self._noted.set()

    def room_edu(self, room_nid: int, edu: RoomEdu) -> None:
        """Tell the servers in a room something that may be lost."""
        if len(self._notes) < MAX_NOTED_EDUS:
            self._notes.append(Note(self._published(), room_nid, edu))
            self._noted.set()

    def list_changed(self, change: OwnChange) -> None:
        """Devices or signing keys of a local user have changed; called in the stream's order."""
        self._notes.append(Note(change.pos - 1, 0, change))
        self._noted.set()

    def lost(self) -> None:
        """Events were committed that nobody was told of: look for them in the database.

        Which ones is not known, only that all up to the saved position were handed out.
        """
        self._notes.appendleft(Note(self._saved or 0, 0, None))
        self._noted.set()

    @property
    def position(self) -> int:
        """All events up to here were handed to the queues."""
        return self._notes[0].after if self._notes else self._published()

    def queue(self, server: str) -> Queue | None:
        """What waits for a server, None when nothing was sent to it for a while."""
        return self._queues.get(server)

    @property
    def queues(self) -> Collection[Queue]:
        """All queues that exist."""
        return self._queues.values()

    # --- handing out

    async def run(self, published: Callable[[], int]) -> None:
        """Hand out what is committed, until cancelled; `published` is the stream's position."""
        self._published = published
        await self._begin()
        done = 0
        while True:
            if not self._notes:
                self._noted.clear()
                await self._noted.wait()
            note = self._notes[0]
            if note.what is None:
                await self._begin()
                continue
            await self._hand_out(note)
            if self._notes[0] is note:  # otherwise events were lost meanwhile
                self._notes.popleft()
            self._changed.set()
            done += 1
            if done % _TURN == 0:
                await asyncio.sleep(0)

    async def _begin(self) -> None:
        """Find what was committed and not handed out: all its servers are behind."""
        after = self.position
        if self._saved is None:
            rows = await store.deliveries(self._database)
            if "" not in rows:
                await self._commits.commit([Put(DeliveryRow("", after))])
            self._saved = after = rows.pop("", after)
            for server, pos in rows.items():
                queue = self._made(server)
                queue.saved = pos
                queue.fall_behind(pos)
        # The first note holds the position where it is until all are known to be behind.
        first = Note(after, 0, None)
        self._notes.clear()
        self._notes.append(first)
        self._rooms.clear()
        until, pos = self._published(), after
        while page := await store.own_events(self._database, pos, until, _AT_ONCE):
            pos = page[-1].pos
            rooms = {event.room_nid for event in page}
            for server in await store.servers_ever_in(self._database, rooms):
                self._made(server).fall_behind(after)
        pos = after
        while changed := await self._means.lists.changed(pos, until, _AT_ONCE):
            pos = changed[-1].pos
            for row in changed:
                for server in await self._means.lists.servers(row.user_nid):
                    self._made(server).fall_behind(after)
        async for server in self._with_pdus():
            self._made(server).fall_behind(after)
        async for server in self._with_edus():
            self._made(server).edus = True
        if self._notes[0] is first:
            self._notes.popleft()
        for queue in list(self._queues.values()):
            queue.wake()
        self._changed.set()

    async def _hand_out(self, note: Note) -> None:
        if isinstance(note.what, OwnChange):
            notes = notes_of(note.what)
            for server in await self._means.lists.servers(note.what.user_nid):
                self._made(server).add_list(notes)
            return
        servers = await self._rooms.before(note.room_nid, note.after + 1)
        if isinstance(note.what, RoomEdu):
            if servers:
                content = note.what.content(await self._rooms.room_id(note.room_nid))
                for server in servers:
                    self._ephemeral(server, note.what.type, content, note.what.key)
            return
        appended = note.what
        assert appended is not None
        if appended.servers:
            servers |= self._rooms.moved(note.room_nid, appended.servers)
        pos = note.after + 1
        if appended.flags & LOCAL and servers:
            pdu = Pdu(pos, appended.nid, appended.pdu)
            maker = server_of(appended.event.sender)
            for server in servers:
                if server != maker:
                    self._made(server).add(pdu)
        for member in appended.members:
            came = member.membership == JOIN and member.was != JOIN
            if came and servers and member.user_id.endswith(self._suffix):
                notes, known = await self._means.lists.met(member.user_nid, note.room_nid, pos)
                for server in servers - known if notes else ():
                    self._made(server).add_list(notes)
        for server, nid in appended.letters:
            if nid != appended.nid or server not in servers:
                queue = self._made(server)
                queue.letters = True
                queue.add(Pdu(pos, nid, appended.pdu if nid == appended.nid else None))

    def _made(self, server: str) -> Queue:
        queue = self._queues.get(server)
        if queue is None:
            queue = self._queues[server] = Queue(server, self._means, self.position)
        return queue

    def _ephemeral(self, server: str, edu_type: str, content: bytes, key: str) -> None:
        if not self._closing and is_server_name(server):
            self._made(server).add_ephemeral(edu_type, content, key)

    def _edus_wait(self, server: str) -> None:
        if not self._closing and is_server_name(server):
            self._made(server).add_edus()

    def _alive(self, server: str) -> None:
        queue = self._queues.get(server)
        if queue is not None and not self._closing:
            queue.retry()

    async def _with_pdus(self) -> AsyncIterator[str]:
        server: str | None = ""
        while server := await store.next_server_with_pdus(self._database, server or ""):
            yield server

    async def _with_edus(self) -> AsyncIterator[str]:
        server: str | None = ""
        while server := await store.next_server_with_edus(self._database, server or ""):
            yield server

    # --- saving

    async def save_now_and_then(self) -> None:
        """Save how far the servers are, some time after it has changed, until cancelled."""
        while True:
            await self._changed.wait()
            await self._clock.sleep(SAVE_SECONDS)
            self._changed.clear()
            self._outbox.wake_noted()
            try:
                await self._save()
            except Exception:
                self._changed.set()  # what could not be saved is saved by the next try
                raise

    async def _save(self) -> None:
        if self._saved is None:
            return  # it has not begun: nothing is known
        changes: list[Change] = []
        position = self.position
        rows: dict[str, int | None] = {}
        cleared: dict[str, int] = {}
        had: dict[str, int] = {}
        gone: list[EduOutboxRow] = []
        for server, queue in self._queues.items():
            floor = queue.floor
            own = floor if queue.is_slow else None
            if own is None and floor is not None:
                position = min(position, floor)
            if own != queue.saved:
                rows[server] = own
            if queue.letters:
                done = queue.acked if floor is None else floor
                if done > queue.cleared:
                    changes.append(store.pdus_delivered(server, done))
                cleared[server] = done
                queue.letters = floor is not None
            if queue.delivered_edus:
                gone += queue.delivered_edus
                had[server] = len(queue.delivered_edus)
        changes += [
            Delete(DeliveryRow, (server,)) if pos is None else Put(DeliveryRow(server, pos))
            for server, pos in rows.items()
        ]
        changes += [Delete(EduOutboxRow, row[:3]) for row in gone]
        if gone:
            changes.append(store.unsent_edus_forgotten({row.edu_nid for row in gone}))
        if position != self._saved:
            changes.append(Put(DeliveryRow("", position)))
        if changes:
            try:
                await self._commits.commit(changes)
            except BaseException:
                for server in cleared:
                    self._queues[server].letters = True
                raise
        self._saved = position
        for server, pos in rows.items():
            self._queues[server].saved = pos
        for server, done in cleared.items():
            queue = self._queues[server]
            queue.cleared = max(queue.cleared, done)
        for server, number in had.items():
            del self._queues[server].delivered_edus[:number]
        if len(self._queues) > MAX_QUEUES:
            for server in [name for name, queue in self._queues.items() if queue.is_idle]:
                del self._queues[server]

    async def forget_orphans(self) -> None:
        """Drop EDUs that others have replaced."""
        await self._commits.commit([self._outbox.forgotten()])

    async def close(self) -> None:
        """Let what is under way arrive, for a moment; save how far everybody is."""
        self._closing = True
        tasks = [task for queue in self._queues.values() if (task := queue.stop()) is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        with suppress(MatrixError):  # then it is sent again after the next start
            await self._save()

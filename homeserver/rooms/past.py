"""The past of a room that other servers know and we don't, fetched when somebody pages into it.

Owns that one gap is filled once at a time, however many ask, that nobody waits long for it, and
that a room whose servers don't answer is left alone for a while. How they are asked is in the port
`RemoteHistory`.
"""

import asyncio
import enum
import logging

from homeserver.ports import RemoteHistory
from homeserver.rooms.actor import Room
from homeserver.runtime.clock import Clock
from storage.engine import Database
from storage.events import missing_before

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a client waits for other servers; what comes later is there the next time."""
AT_ONCE = 100
MAX_ENDS = 20
LEFT_ALONE = 30.0


class Filled(enum.Enum):
    """What came of asking: MORE of the past is here; there is none (START); or NOT_YET."""

    MORE = "more"
    START = "start"
    NOT_YET = "not yet"


class Past:
    """See the module."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._remote: RemoteHistory | None = None
        self._filling: dict[int, asyncio.Task[None]] = {}
        self._left_alone: dict[int, float] = {}

    def connect(self, remote: RemoteHistory) -> None:
        """Say how other servers are asked."""
        self._remote = remote

    async def more(self, room: Room) -> Filled:
        """Have the room's history go on before its first event, if it does."""
        ends = await missing_before(self._database, room.nid, MAX_ENDS)
        if not ends:
            return Filled.START
        now = self._clock.monotonic()
        if self._remote is None or self._left_alone.get(room.nid, 0.0) > now:
            return Filled.NOT_YET
        task = self._filling.get(room.nid)
        if task is None:
            work = self._fill(self._remote, room, ends)
            task = self._filling[room.nid] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(lambda _: self._filling.pop(room.nid, None))
        done, _ = await asyncio.wait([task], timeout=PATIENCE)
        if not done:
            return Filled.NOT_YET
        after = await missing_before(self._database, room.nid, MAX_ENDS)
        return Filled.NOT_YET if set(after) == set(ends) else Filled.MORE

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._filling.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _fill(self, remote: RemoteHistory, room: Room, ends: list[str]) -> None:
        try:
            await remote.more(room.room_id, ends, AT_ONCE)
        except Exception:
            log.exception("the past of %s can't be fetched", room.room_id)
        after = await missing_before(self._database, room.nid, MAX_ENDS)
        if set(after) == set(ends):
            if len(self._left_alone) > 10_000:
                self._left_alone.clear()
            self._left_alone[room.nid] = self._clock.monotonic() + LEFT_ALONE

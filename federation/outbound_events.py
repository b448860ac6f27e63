"""What goes out: events as ready JSON, and who was in their rooms, read once for all servers.

Owns two caches. `Pdus` has the JSON of events, bounded by bytes: a room with a thousand servers
reads and encodes each event once. `RoomServers` has the other servers in a room as of the last
event that was handed out. Neither decides anything about sending.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from homeserver.matrix.canonical import encode
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.rooms.servers import ServerMove
from homeserver.rooms.stored import event_of
from storage import outbound as store
from storage.engine import Database
from storage.events import events
from storage.rooms import rooms
from storage.schema import REDACTED

MAX_BYTES = 32 * 1_048_576
MAX_ROOMS = 20_000
MAX_SERVERS = 500_000


class Pdu(NamedTuple):
    """An event to be sent: its position, number, and JSON unless that must be read."""

    pos: int
    nid: int
    json: bytes | None


class Pdus:
    """The JSON of events, redacted where a redaction took effect."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    async def json(self, pdus: Collection[Pdu]) -> dict[int, bytes]:
        """By number; events that don't exist are absent."""
        found = {pdu.nid: pdu.json for pdu in pdus if pdu.json is not None}
        missing = []
        for pdu in pdus:
            if pdu.nid not in found:
                known = self._known.get(pdu.nid)
                if known is None:
                    missing.append(pdu.nid)
                else:
                    found[pdu.nid] = known
        if missing:
            read = await self._read(missing)
            for nid, json in read.items():
                self._keep(nid, json)
            found |= read
        return found

    async def _read(self, nids: Collection[int]) -> dict[int, bytes]:
        stored = await events(self._database, nids)
        redacted = [one for one in stored.values() if one.row.flags & REDACTED]
        found = {nid: one.json for nid, one in stored.items()}
        if redacted:
            rows = await rooms(self._database, {one.row.room_nid for one in redacted})
            for one in redacted:
                rules = ROOM_VERSIONS[rows[one.row.room_nid].version]
                found[one.row.event_nid] = encode(event_of(one, rules).pdu)
        return found

    def _keep(self, nid: int, json: bytes) -> None:
        if nid not in self._known:
            self._known[nid] = json
            self._bytes += len(json)
        while self._bytes > MAX_BYTES:
            self._bytes -= len(self._known.popitem(last=False)[1])


class RoomServers:
    """The names of the other servers in each room, moved on event by event."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rooms: OrderedDict[int, frozenset[str]] = OrderedDict()
        self._ids: dict[int, str] = {}
        self._count = 0

    async def before(self, room_nid: int, pos: int) -> frozenset[str]:
        """Who was in the room before the event at `pos`, which no later one was asked about."""
        known = self._rooms.get(room_nid)
        if known is None:
            known = frozenset(await store.servers_at(self._database, room_nid, pos - 1))
            self._set(room_nid, known)
        else:
            self._rooms.move_to_end(room_nid)
        return known

    def moved(self, room_nid: int, moves: Iterable[ServerMove]) -> frozenset[str]:
        """Who is in the room after an event by which these servers came or left."""
        after = set(self._rooms[room_nid])
        for move in moves:
            if move.after:
                after.add(move.server)
            else:
                after.discard(move.server)
        self._set(room_nid, frozenset(after))
        return self._rooms[room_nid]

    async def room_id(self, room_nid: int) -> str:
        """The id of a room that has servers."""
        known = self._ids.get(room_nid)
        if known is None:
            known = (await rooms(self._database, [room_nid]))[room_nid].room_id
            if len(self._ids) >= MAX_ROOMS:
                self._ids.clear()
            self._ids[room_nid] = known
        return known

    def clear(self) -> None:
        """Forget everything: events were missed."""
        self._rooms.clear()
        self._count = 0

    def _set(self, room_nid: int, servers: frozenset[str]) -> None:
        self._count += len(servers) - len(self._rooms.get(room_nid, ()))
        self._rooms[room_nid] = servers
        self._rooms.move_to_end(room_nid)
        while len(self._rooms) > MAX_ROOMS or self._count > MAX_SERVERS:
            if len(self._rooms) == 1:
                break
            self._count -= len(self._rooms.popitem(last=False)[1])

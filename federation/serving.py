"""What this server tells others of the rooms that it shares with them: events, state, history.

Owns who may ask (servers in the room, let in by its ACL), the walks back through a room's graph,
and their bounds. What a server may see of an event is decided in `homeserver.rooms.server_sight`.
Nothing of a room can be had under another room's name.
spec: server-server-api#backfilling-and-retrieving-missing-events,
spec: server-server-api#retrieving-events
"""

import heapq
from collections.abc import AsyncIterator, Collection, Iterable, Sequence

from federation.resident import Resident
from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.pdus import auth_chain, stored_pdus
from homeserver.rooms.server_sight import ServerSight
from homeserver.rooms.states import States
from homeserver.runtime.clock import Clock
from storage.engine import Database
from storage.events import event_ids, event_numbers, event_rows, near_time, rooms_of_event
from storage.outbound import servers_in
from storage.packing import unpack_numbers
from storage.schema import OUTLIER, REJECTED, EventRow

MAX_BACKFILL = 100
MAX_MISSING = 50
MAX_NAMED = 100
MAX_WALK = 5_000
MAX_NEAR = 100
_AT_ONCE = 200


class Serving:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        resident: Resident,
        sight: ServerSight,
        states: States,
        database: Database,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._rooms = rooms
        self._resident = resident
        self._sight = sight
        self._states = states
        self._database = database
        self._clock = clock
        self._server_name = server_name

    async def event(self, origin: str, event_id: str) -> bytes:
        """One event, of whichever room that the server is in. Raises `MatrixError` M_NOT_FOUND.

        Of state that the server may not see it gets what a redaction leaves: `state_ids` names it.
        """
        nids = await rooms_of_event(self._database, event_id)
        for room in (await self._rooms.by_nids(nids)).values():
            try:
                await self.room(origin, room.room_id)
                row = await self._row(room, event_id)
            except MatrixError:
                continue
            sees = await self._sight.sees(origin, room, [row.event_nid])
            if sees[row.event_nid] or row.key_nid is not None:
                return self._listed(await self._sight.pdus(origin, room, [row.event_nid]))
        raise _no_event()

    async def state(self, origin: str, room_id: str, event_id: str) -> AsyncIterator[bytes]:
        """The state before an event with its auth chain, piece by piece.

        Any event of the room may be asked about: a server that resolves state needs that before
        events which it may not see. What it may not see of the state it gets redacted.
        Raises `MatrixError` M_NOT_FOUND or M_FORBIDDEN before the first piece.
        """
        room = await self.room(origin, room_id)
        state, chain = await self._state(room, event_id)
        return self._pieces(origin, room, state, chain)

    async def state_ids(self, origin: str, room_id: str, event_id: str) -> bytes:
        """The same as event ids."""
        room = await self.room(origin, room_id)
        state, chain = await self._state(room, event_id)
        return canonical.encode(
            {"pdu_ids": await self._ids(state), "auth_chain_ids": await self._ids(chain)}
        )

    async def event_auth(self, origin: str, room_id: str, event_id: str) -> AsyncIterator[bytes]:
        """The whole auth chain of an event, piece by piece.

        It is open to every server in the room; see `server_sight`.
        """
        room = await self.room(origin, room_id)
        row = await self._row(room, event_id, outliers=True)
        chain = sorted(await auth_chain(self._database, [row.event_nid]))
        return self._chain(room, chain)

    async def backfill(self, origin: str, room_id: str, ids: Sequence[str], limit: int) -> bytes:
        """Events from these on backwards, themselves included, the newest first."""
        room = await self.room(origin, room_id)
        found = await event_numbers(self._database, room.nid, ids[:MAX_NAMED])
        walk = await self._back(room, found.values(), set(), min(limit, MAX_BACKFILL))
        return self._listed(await self._sight.pdus(origin, room, walk))

    async def missing(
        self,
        origin: str,
        room_id: str,
        earliest: Sequence[str],
        latest: Sequence[str],
        limit: int,
        min_depth: int,
    ) -> bytes:
        """Events between `earliest` and `latest`, neither included, the oldest first."""
        room = await self.room(origin, room_id)
        known = await event_numbers(self._database, room.nid, earliest[:MAX_NAMED])
        wanted = await event_numbers(self._database, room.nid, latest[:MAX_NAMED])
        rows = await event_rows(self._database, wanted.values())
        starts = {nid for row in rows.values() for nid in unpack_numbers(row.prevs)}
        stop = {*known.values(), *wanted.values()}
        walk = await self._back(
            room, starts - stop, stop, min(limit, MAX_MISSING), min_depth=min_depth
        )
        pdus = await self._sight.pdus(origin, room, walk[::-1])
        return b'{"events":[%b]}' % b",".join(pdus)

    async def near(self, origin: str, room_id: str, ts: int, *, backwards: bool) -> tuple[str, int]:
        """The id and time of the event nearest to a time (ms) on one side that the server may see.

        Raises `MatrixError` M_NOT_FOUND.
        """
        room = await self.room(origin, room_id)
        nids = await near_time(self._database, room.nid, ts, MAX_NEAR, backwards=backwards)
        sees = await self._sight.sees(origin, room, nids)
        rows = await event_rows(self._database, nids)
        for nid in nids:
            if sees.get(nid):
                return rows[nid].event_id, rows[nid].origin_ts
        raise MatrixError.not_found("There is no event on that side of that time")

    async def room(self, origin: str, room_id: str) -> Room:
        """A room that we and the server are in. Raises `MatrixError` M_NOT_FOUND or M_FORBIDDEN."""
        room = await self._resident.room(origin, room_id)
        servers = await servers_in(self._database, [room.nid])
        if origin not in servers.get(room.nid, ()):
            raise MatrixError.forbidden("Your server is not in that room")
        return room

    async def _row(self, room: Room, event_id: str, *, outliers: bool = False) -> EventRow:
        found = await event_numbers(self._database, room.nid, [event_id])
        if event_id not in found:
            raise _no_event()
        row = (await event_rows(self._database, [found[event_id]]))[found[event_id]]
        if row.flags & REJECTED or (row.flags & OUTLIER and not outliers):
            raise _no_event()
        return row

    async def _state(self, room: Room, event_id: str) -> tuple[list[int], list[int]]:
        """The numbers of the state before an event, and of its auth chain."""
        row = await self._row(room, event_id)
        if row.snap_nid is None:
            if row.auths or row.prevs:
                raise _no_event()  # history that was fetched: its state is not known here
            return [], []
        state = (await self._states.of_snapshots([row.snap_nid]))[row.snap_nid]
        nids = sorted(state.values())
        return nids, sorted(await auth_chain(self._database, nids))

    async def _back(
        self,
        room: Room,
        starts: Iterable[int],
        stop: Collection[int],
        limit: int,
        *,
        min_depth: int = 0,
    ) -> list[int]:
        """Event numbers on the way back from `starts`, the newest first.

        What was taken into the room last comes first; positions say that, never depths.
        """
        rows = await event_rows(self._database, list(starts))
        heap = [(-(row.pos if row.pos is not None else -(2**62)), nid) for nid, row in rows.items()]
        heapq.heapify(heap)
        seen = set(rows) | set(stop)
        found: list[int] = []
        for _ in range(MAX_WALK):
            if not heap or len(found) >= limit:
                break
            _, nid = heapq.heappop(heap)
            row = rows.pop(nid)
            if row.room_nid != room.nid or row.depth < min_depth:
                continue
            if not row.flags & (REJECTED | OUTLIER):
                found.append(nid)
            prevs = [prev for prev in unpack_numbers(row.prevs) if prev not in seen]
            seen.update(prevs)
            for prev, older in (await event_rows(self._database, prevs)).items():
                rows[prev] = older
                heapq.heappush(heap, (-(older.pos if older.pos is not None else -(2**62)), prev))
        return found

    async def _pieces(
        self, origin: str, room: Room, state: Sequence[int], chain: Sequence[int]
    ) -> AsyncIterator[bytes]:
        yield b'{"pdus":['
        for start in range(0, len(state), _AT_ONCE):
            part = state[start : start + _AT_ONCE]
            pdus = await self._sight.state_pdus(origin, room, part)
            yield (b"," if start else b"") + b",".join(pdus)
        yield b'],"auth_chain":['
        async for piece in self._joined(room, chain):
            yield piece
        yield b"]}"

    async def _chain(self, room: Room, chain: Sequence[int]) -> AsyncIterator[bytes]:
        yield b'{"auth_chain":['
        async for piece in self._joined(room, chain):
            yield piece
        yield b"]}"

    async def _joined(self, room: Room, nids: Sequence[int]) -> AsyncIterator[bytes]:
        for start in range(0, len(nids), _AT_ONCE):
            part = nids[start : start + _AT_ONCE]
            pdus = await stored_pdus(self._database, part, room.rules)
            joined = b",".join(pdus[nid] for nid in part if nid in pdus)
            yield (b"," if start else b"") + joined

    async def _ids(self, nids: Sequence[int]) -> list[str]:
        found: dict[int, str] = {}
        for start in range(0, len(nids), 1_000):
            found |= await event_ids(self._database, nids[start : start + 1_000])
        return [found[nid] for nid in nids if nid in found]

    def _listed(self, pdus: Iterable[bytes]) -> bytes:
        return b'{"origin":%b,"origin_server_ts":%d,"pdus":[%b]}' % (
            canonical.encode(self._server_name),
            self._clock.now_ms(),
            b",".join(pdus),
        )


def _no_event() -> MatrixError:
    return MatrixError.not_found("There is no such event that your server may have")

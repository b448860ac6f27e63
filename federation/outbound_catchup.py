"""What a server has missed while it was away.

Owns the choice: every event of ours, in order, from the rooms that the server was in at that time,
and what waits for it beside them. Where it has missed very much of one room, only the room's last
events and those that are sticky are sent, and it asks for the rest as for any other gap. Numbers
are collected, not events.
"""

from collections import deque
from collections.abc import Collection, Sequence
from heapq import merge

from federation.outbound_events import Pdu
from storage import outbound as store
from storage.engine import Database
from storage.sticky_events import own_between

FAR = 2_000
"""More missed events of one room than this are left to be asked for, but for the last ones."""
_LAST = 20
_AT_ONCE = 5_000


async def missed(database: Database, server: str, after: int, until: int, now: int) -> deque[Pdu]:
    """What the server must have of positions in (after, until], in order, at a moment (ms)."""
    stays = await store.stays_of(database, server)
    rooms: dict[int, deque[Pdu]] = {}
    counts: dict[int, int] = {}
    pos = after
    while stays:
        page = await store.own_events(database, pos, until, _AT_ONCE)
        for event in page:
            moves = stays.get(event.room_nid)
            if moves is not None and was_inside(moves, event.pos):
                found = rooms.setdefault(event.room_nid, deque(maxlen=FAR))
                found.append(Pdu(event.pos, event.event_nid, None))
                counts[event.room_nid] = counts.get(event.room_nid, 0) + 1
        if len(page) < _AT_ONCE:
            break
        pos = page[-1].pos
    whole: list[Collection[Pdu]] = [
        found if counts[room_nid] <= FAR else list(found)[-_LAST:]
        for room_nid, found in rooms.items()
    ]
    for room_nid in rooms:
        if counts[room_nid] > FAR:
            sticky = await own_between(database, room_nid, after, until, now, FAR)
            moves = stays[room_nid]
            whole.append([Pdu(pos, nid, None) for pos, nid in sticky if was_inside(moves, pos)])
    rows = await store.pdus_waiting(database, server, after)
    beside = [Pdu(row.pos, row.event_nid, None) for row in rows if row.pos <= until]
    ordered: deque[Pdu] = deque()
    seen: set[int] = set()
    for pdu in merge(*whole, beside):
        if pdu.nid not in seen:
            seen.add(pdu.nid)
            ordered.append(pdu)
    return ordered


def was_inside(moves: Sequence[tuple[int, bool]], pos: int) -> bool:
    """Whether a server with these (position, came) was in the room before or by `pos`."""
    inside = False
    for moved, came in moves:
        if moved > pos:
            break
        if moved == pos:
            return True
        inside = came
    return inside

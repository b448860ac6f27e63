"""Which other servers are in a room, and what they must hear beside its events.

Owns the counting of other servers' joined users, event by event, and the rows that say when a
server came and when it left. Invariant: they are written by the commit of the very event that
changes them. An event goes to the servers that are in the room before it or by it; the few that
must go elsewhere (`letters`) have rows of their own. This server itself is not counted. Nothing is
sent from here.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_server_name, server_of
from homeserver.rooms.head import Head, ServersMissing, StickyMissing
from homeserver.streams.numbers import Names
from storage.changes import Change, Delete, Insert, Pos, Put
from storage.schema import LOCAL, RoomServerRow, ServerStayRow

# Of a room with more loose ends than this a new server asks for the rest.
_MAX_ENDS = 10
MAX_STICKY = 200
"""Of more sticky events of ours in a room a server that comes into it hears of the last ones."""


@dataclass(frozen=True, slots=True)
class ServerMove:
    """Another server's joined users went from `before` to `after` in number."""

    server: str
    server_nid: int
    before: int
    after: int

    @property
    def crossed(self) -> bool:
        """Whether the first user came, or the last one left."""
        return (self.before == 0) != (self.after == 0)


def server_moves(
    head: Head,
    members: Iterable[tuple[str, Event | None, Event | None]],
    local_server: str,
) -> list[ServerMove]:
    """How member events change the counts: for each user, the event before and after.

    Raises `NamesMissing` or `ServersMissing`; nothing has changed then.
    """
    steps: Counter[str] = Counter()
    for user_id, before, after in members:
        step = _joined(after) - _joined(before)
        server = _server(user_id)
        if step and server is not None and server != local_server:
            steps[server] += step
    missing = [server for server in steps if server not in head.servers]
    if missing:
        raise ServersMissing(missing)
    return [
        ServerMove(
            server,
            head.names.nid(server),
            head.servers[server],
            max(0, head.servers[server] + step),
        )
        for server, step in steps.items()
        if step
    ]


def server_rows(head: Head, moves: Iterable[ServerMove], pos: Pos) -> list[Change]:
    """The rows of these moves at a position; the head's counts go with them."""
    changes: list[Change] = []
    for move in moves:
        head.servers[move.server] = move.after
        changes.append(
            Put(RoomServerRow(head.room_nid, move.server_nid, move.after))
            if move.after
            else Delete(RoomServerRow, (head.room_nid, move.server_nid))
        )
        if move.crossed:
            stay = ServerStayRow(head.room_nid, move.server_nid, pos, int(move.after > 0))
            changes.append(Insert(stay))
    return changes


def told_servers(
    names: Names,
    room_nid: int,
    before: Mapping[str, int],
    joined: Mapping[str, int],
    pos: Pos,
    local_server: str,
) -> list[Change]:
    """The rows of a room that we come into at `pos`, from the joined users of each server.

    `before` are the counts of an earlier stay of ours. Raises `NamesMissing`.
    """
    changes: list[Change] = []
    for server in before.keys() | joined.keys():
        if server == local_server or not is_server_name(server):
            continue
        old, new, nid = before.get(server, 0), joined.get(server, 0), names.nid(server)
        if new:
            changes.append(Put(RoomServerRow(room_nid, nid, new)))
        elif old:
            changes.append(Delete(RoomServerRow, (room_nid, nid)))
        if bool(old) != bool(new):
            changes.append(Insert(ServerStayRow(room_nid, nid, pos, int(new > 0))))
    return changes


def letters(
    head: Head,
    event: Event,
    nid: int,
    replaced: Event | None,
    moves: Collection[ServerMove],
    extremities: Sequence[tuple[int, str]],
    flags: int,
    local_server: str,
    now: int,
) -> tuple[tuple[str, int], ...]:
    """What goes to servers beside the events of their rooms: (server, event number).

    Who takes back an invite, or refuses a knock, tells the server of that user, which may not be in
    the room. And a server whose first user has come must hear of the room's other loose ends, which
    were sent while its join was under way: of all when it came through us, of ours otherwise. It
    must also hear of our users' sticky events (MSC4354). Raises `StickyMissing`.
    """
    found: list[tuple[str, int]] = []
    ours = bool(flags & LOCAL)
    if ours and event.type == "m.room.member" and replaced is not None:
        waiting = replaced.content.get("membership") in ("invite", "knock")
        gone = event.content.get("membership") in ("leave", "ban")
        target = _server(event.state_key or "")
        if waiting and gone and target not in (None, local_server, server_of(event.sender)):
            found.append((str(target), nid))
    new = [move.server for move in moves if not move.before]
    if new:
        ends = [end for end, _ in extremities if end != nid]
        if not ours:
            ends = [end for end in ends if _is_of(head.events.get(end), local_server)]
        if head.sticky is None:
            raise StickyMissing
        sticky = [one for one, until in head.sticky.items() if until > now and one not in ends]
        told = [*ends[:_MAX_ENDS], *sticky[-MAX_STICKY:]]
        found += [(server, one) for server in new for one in told]
    return tuple(found)


def _is_of(event: Event | None, server: str) -> bool:
    return event is not None and server_of(event.sender) == server


def _server(user_id: str) -> str | None:
    """The server of a user id; None for a state key that is none."""
    server = user_id.partition(":")[2]
    return server if is_server_name(server) else None


def _joined(event: Event | None) -> bool:
    return event is not None and event.content.get("membership") == "join"

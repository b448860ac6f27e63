"""Making the tables of a room say what its events say.

Owns the one commit of a repair: at a position of its own stand the changes of the current state,
as far as users were told otherwise, and all that follows from the state is written anew. Nothing is
sent to anybody: no event has happened. After the commit everybody reads the tables again.
"""

from collections.abc import Callable

from homeserver.matrix.ids import server_of
from homeserver.rooms.rederived import Rederived
from homeserver.rooms.send import Sending
from homeserver.rooms.snapshots import SnapshotChain
from homeserver.streams.numbers import Numbers
from storage.changes import Change, Delete, Insert, Pos, Put
from storage.schema import (
    CurrentStateRow,
    MembershipLogRow,
    MembershipRow,
    RoomServerRow,
    ServerStayRow,
    StateChangeRow,
)


class Repairing:
    """See the module."""

    def __init__(self, numbers: Numbers, local_server: str, refresh: Callable[[int], None]) -> None:
        """`refresh(position)` has everybody read the tables again."""
        self._numbers = numbers
        self._local_server = local_server
        self._refresh = refresh

    def repair(self, sending: Sending, found: Rederived) -> None:
        """Write what differs, as the head's verb.

        Raises `NamesMissing` or `NumbersExhausted`, before anything has changed.
        """
        head = sending.head
        room, names = head.room_nid, head.names
        servers = {server: names.nid(server) for server in {*found.counts, *found.inside}}
        snapshot = self._numbers.take("snapshot") if found.snapshot else None
        changes: list[Change] = []
        for key, (_, new) in found.values.items():
            changes.append(
                Delete(CurrentStateRow, (room, key))
                if new is None
                else Put(CurrentStateRow(room, key, new))
            )
        changes += [
            Insert(StateChangeRow(room, Pos(0), key, old, new))
            for key, (old, new) in found.history.items()
        ]
        for one, row, log in found.standings:
            same = row is not None and row.membership == one.membership
            told = log is not None and (log.membership, log.event_nid) == (
                one.membership,
                one.event_nid,
            )
            changes.append(
                Put(
                    MembershipRow(
                        room_nid=room,
                        user_nid=one.user_nid,
                        membership=one.membership,
                        event_nid=one.event_nid,
                        pos=log.pos if log is not None and told else Pos(0),
                        flags=row.flags if row is not None and same else 0,
                        stripped=None,
                    )
                )
            )
            if server_of(one.user_id) == self._local_server and not told:
                log_row = MembershipLogRow(
                    one.user_nid, room, Pos(0), one.membership, one.event_nid
                )
                changes.append(Insert(log_row))
        for server, (_, joined) in found.counts.items():
            changes.append(
                Put(RoomServerRow(room, servers[server], joined))
                if joined
                else Delete(RoomServerRow, (room, servers[server]))
            )
        changes += [
            Insert(ServerStayRow(room, servers[server], Pos(0), int(inside)))
            for server, inside in found.inside.items()
        ]
        if found.summary is not None:
            changes.append(Put(found.summary))
            head.summary = found.summary
        head.state = dict(found.state)
        head.events.clear()
        head.servers.clear()
        head.strangers.clear()
        if snapshot is not None:
            head.snapshots = SnapshotChain()
            whole = {key: (None, event) for key, event in head.state.items()}
            changes.append(Insert(head.snapshots.add(snapshot, room, head.state, whole)))
        head.extremities = list(found.ends)
        changes.append(
            Put(
                found.head._replace(
                    snap_nid=head.snapshots.nid or found.head.snap_nid, last_pos=Pos(0)
                )
            )
        )
        sending.changes += changes
        sending.ahead = 1
        sending.published = self._refresh

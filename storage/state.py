"""Reading state: what is current, how it changed, what it was at a position, and the snapshots.

`current_state` is the resolved state of each room; `state_changes` has every change of it, so that
the state at any position is the present one with later changes undone. Snapshots hold the state
before an event where that is something else. Decoding them is not done here.
"""

from collections import defaultdict
from collections.abc import Collection

from storage.engine import Database
from storage.schema import SnapshotRow, StateChangeRow


async def current_states(db: Database, room_nids: Collection[int]) -> dict[int, dict[int, int]]:
    """The whole current state of each room: key_nid to event_nid."""
    rows = await db.scan(
        "SELECT room_nid, key_nid, event_nid FROM current_state WHERE room_nid IN (??)", room_nids
    )
    states: dict[int, dict[int, int]] = {}
    for room_nid, key_nid, event_nid in rows:
        states.setdefault(room_nid, {})[key_nid] = event_nid
    return states


async def current_values(
    db: Database, room_nids: Collection[int], key_nids: Collection[int]
) -> dict[int, dict[int, int]]:
    """By room the current events of these keys: key_nid to event_nid."""
    rows = await db.fetch(
        "SELECT room_nid, key_nid, event_nid FROM current_state"
        " WHERE room_nid IN (??) AND key_nid IN (??)",
        room_nids,
        key_nids,
    )
    values: dict[int, dict[int, int]] = {}
    for room_nid, key_nid, event_nid in rows:
        values.setdefault(room_nid, {})[key_nid] = event_nid
    return values


async def state_changes(
    db: Database, room_nids: Collection[int], after: int, until: int
) -> dict[int, list[StateChangeRow]]:
    """By room the changes at positions in (after, until], in order."""
    rows = await db.scan(
        "SELECT room_nid, pos, key_nid, old_nid, new_nid FROM state_changes"
        " WHERE room_nid IN (??) AND pos > ? AND pos <= ? ORDER BY room_nid, pos, key_nid",
        room_nids,
        after,
        until,
    )
    changes: dict[int, list[StateChangeRow]] = defaultdict(list)
    for row in rows:
        changes[row[0]].append(StateChangeRow(*row))
    return dict(changes)


async def values_at(
    db: Database, room_nid: int, key_nids: Collection[int], pos: int
) -> dict[int, int]:
    """The events of these keys in the room's current state as it was after position `pos`."""
    rows = await db.fetch(
        "SELECT key_nid, old_nid FROM state_changes AS next"
        " WHERE room_nid = ? AND key_nid IN (??) AND pos = (SELECT min(later.pos)"
        " FROM state_changes AS later WHERE later.room_nid = next.room_nid"
        " AND later.key_nid = next.key_nid AND later.pos > ?)"
        " UNION ALL SELECT key_nid, event_nid FROM current_state AS now"
        " WHERE room_nid = ? AND key_nid IN (??) AND NOT EXISTS (SELECT 1"
        " FROM state_changes AS later WHERE later.room_nid = now.room_nid"
        " AND later.key_nid = now.key_nid AND later.pos > ?)",
        room_nid,
        key_nids,
        pos,
        room_nid,
        key_nids,
        pos,
    )
    return {key_nid: event_nid for key_nid, event_nid in rows if event_nid is not None}


async def replaced_at(
    db: Database, room_nid: int, positions: Collection[int]
) -> dict[tuple[int, int], int | None]:
    """By (position, key_nid), the event whose place was taken by a change at that position."""
    rows = await db.fetch(
        "SELECT pos, key_nid, old_nid FROM state_changes WHERE room_nid = ? AND pos IN (??)",
        room_nid,
        positions,
    )
    return {(pos, key_nid): old_nid for pos, key_nid, old_nid in rows}


async def key_history(db: Database, room_nid: int, key_nid: int) -> list[tuple[int, int | None]]:
    """(position, event_nid) of all values of one key of the room, in order."""
    rows = await db.fetch(
        "SELECT pos, new_nid FROM state_changes WHERE room_nid = ? AND key_nid = ? ORDER BY pos",
        room_nid,
        key_nid,
    )
    return [(pos, new_nid) for pos, new_nid in rows]


async def key_histories(
    db: Database, room_nid: int, key_nids: Collection[int]
) -> dict[int, list[tuple[int, int | None]]]:
    """By key what `key_history` gives for it; keys without a history are absent."""
    rows = await db.fetch(
        "SELECT key_nid, pos, new_nid FROM state_changes WHERE room_nid = ? AND key_nid IN (??)"
        " ORDER BY key_nid, pos",
        room_nid,
        key_nids,
    )
    found: dict[int, list[tuple[int, int | None]]] = {}
    for key_nid, pos, new_nid in rows:
        found.setdefault(key_nid, []).append((pos, new_nid))
    return found


async def last_values(db: Database, room_nid: int) -> dict[int, int | None]:
    """Where the changes of each of the room's keys end: key_nid to event_nid.

    Keys of a state that was told to us as a whole have none.
    """
    rows = await db.scan(
        "SELECT key_nid, new_nid FROM state_changes AS last WHERE room_nid = ? AND pos ="
        " (SELECT max(later.pos) FROM state_changes AS later"
        " WHERE later.room_nid = last.room_nid AND later.key_nid = last.key_nid)",
        room_nid,
    )
    return dict(rows)


async def state_at(db: Database, room_nid: int, pos: int) -> dict[int, int]:
    """The room's whole current state as it was after position `pos`: key_nid to event_nid."""
    rows = await db.scan(
        "SELECT key_nid, old_nid FROM state_changes AS next"
        " WHERE room_nid = ? AND pos > ? AND NOT EXISTS (SELECT 1"
        " FROM state_changes AS earlier WHERE earlier.room_nid = next.room_nid"
        " AND earlier.key_nid = next.key_nid AND earlier.pos > ? AND earlier.pos < next.pos)"
        " UNION ALL SELECT key_nid, event_nid FROM current_state AS now"
        " WHERE room_nid = ? AND NOT EXISTS (SELECT 1"
        " FROM state_changes AS later WHERE later.room_nid = now.room_nid"
        " AND later.key_nid = now.key_nid AND later.pos > ?)",
        room_nid,
        pos,
        pos,
        room_nid,
        pos,
    )
    return {key_nid: event_nid for key_nid, event_nid in rows if event_nid is not None}


async def snapshots(db: Database, snap_nids: Collection[int]) -> dict[int, SnapshotRow]:
    """Snapshots by number, as they are stored."""
    rows = await db.fetch(
        "SELECT snap_nid, room_nid, parent_nid, anchor_nid, level, size, state_hash, entries"
        " FROM snapshots WHERE snap_nid IN (??)",
        snap_nids,
    )
    return {row[0]: SnapshotRow(*row) for row in rows}


async def snapshot_chains(db: Database, snap_nids: Collection[int]) -> dict[int, list[SnapshotRow]]:
    """Of each snapshot all that is needed to decode it, itself first and its keyframe last.

    A delta (level 2) is followed by its parent, a cumulative delta (level 1) by its anchor.
    """
    rows = await db.fetch(
        "WITH RECURSIVE chain (root, step, snap_nid) AS ("
        "SELECT snap_nid, 0, snap_nid FROM snapshots WHERE snap_nid IN (??)"
        " UNION ALL SELECT root, step + 1,"
        " CASE level WHEN 2 THEN parent_nid WHEN 1 THEN anchor_nid END"
        " FROM chain JOIN snapshots ON snapshots.snap_nid = chain.snap_nid"
        " WHERE level <> 0)"
        " SELECT root, step, snapshots.snap_nid, room_nid, parent_nid, anchor_nid, level, size,"
        " state_hash, entries FROM chain"
        " JOIN snapshots ON snapshots.snap_nid = chain.snap_nid ORDER BY root, step",
        snap_nids,
    )
    chains: dict[int, list[SnapshotRow]] = defaultdict(list)
    for row in rows:
        chains[row[0]].append(SnapshotRow(*row[2:]))
    return dict(chains)


async def snapshots_by_hash(db: Database, room_nid: int, state_hash: bytes) -> list[SnapshotRow]:
    """The room's snapshots of this hash, a hint that their states may be equal."""
    rows = await db.fetch(
        "SELECT snap_nid, room_nid, parent_nid, anchor_nid, level, size, state_hash, entries"
        " FROM snapshots WHERE room_nid = ? AND state_hash = ?",
        room_nid,
        state_hash,
    )
    return [SnapshotRow(*row) for row in rows]


async def current_of_type(db: Database, room_nid: int, type_nid: int) -> list[int]:
    """The room's current state events of one type."""
    rows = await db.scan(
        "SELECT event_nid FROM current_state"
        " JOIN state_keys ON state_keys.key_nid = current_state.key_nid"
        " WHERE room_nid = ? AND type_nid = ?",
        room_nid,
        type_nid,
    )
    return [event_nid for (event_nid,) in rows]


async def current_of_types(
    db: Database, room_nid: int, type_nids: Collection[int]
) -> dict[int, int]:
    """The room's current state events of some types: key_nid to event_nid."""
    rows = await db.scan(
        "SELECT current_state.key_nid, event_nid FROM current_state"
        " JOIN state_keys ON state_keys.key_nid = current_state.key_nid"
        " WHERE room_nid = ? AND type_nid IN (??)",
        room_nid,
        type_nids,
    )
    return dict(rows)

"""Stored states of a room: three levels of packed (key, event) pairs.

Owns which level the next snapshot takes and how one is read back. A *keyframe* holds the whole
state; a *cumulative* snapshot what changed since its keyframe; a *single* one what changed since
its parent. `anchor` is the keyframe or cumulative snapshot a single one stands on, and a cumulative
one's keyframe. A message writes none. Only the room's actor adds snapshots.
"""

from collections.abc import Collection, Mapping

from storage.engine import Database
from storage.packing import pack_entries, unpack_entries
from storage.schema import SnapshotRow
from storage.state import snapshot_chains

KEYFRAME, CUMULATIVE, SINGLE = 0, 1, 2
_CUMULATIVE_EVERY = 64
_KEYFRAME_LEAST, _KEYFRAME_MOST = 256, 4_096
_MASK = (1 << 64) - 1


def state_hash(state: Mapping[int, int]) -> int:
    """A 64-bit hash of a state, the same in every order. Equal hashes are a hint, not a proof."""
    total = 0
    for key_nid, event_nid in state.items():
        total ^= _mix(key_nid, event_nid)
    return total


def _mix(key_nid: int, event_nid: int) -> int:
    mixed = (key_nid * 0x9E3779B97F4A7C15 ^ event_nid * 0xC2B2AE3D27D4EB4F) & _MASK
    mixed = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 & _MASK
    return mixed ^ (mixed >> 32)


class SnapshotChain:
    """The end of a room's chain of snapshots: where the next one is attached."""

    __slots__ = ("_anchor_nid", "_hash", "_keyframe_nid", "_since_anchor", "_since_keyframe", "nid")

    def __init__(self) -> None:
        self.nid: int | None = None
        self._keyframe_nid = 0
        self._anchor_nid = 0
        self._since_anchor = 0
        self._since_keyframe: dict[int, int | None] = {}
        self._hash = 0

    def add(
        self,
        nid: int,
        room_nid: int,
        state: Mapping[int, int],
        changed: Mapping[int, tuple[int | None, int | None]],
    ) -> SnapshotRow:
        """The row of the snapshot `nid` of `state`, which differs from the last by `changed`.

        `changed`: key to (old event, new event), None for absent.
        """
        for key_nid, (old, new) in changed.items():
            if old is not None:
                self._hash ^= _mix(key_nid, old)
            if new is not None:
                self._hash ^= _mix(key_nid, new)
            self._since_keyframe[key_nid] = new
        parent = self.nid
        self.nid = nid
        self._since_anchor += 1
        interval = min(max(len(state), _KEYFRAME_LEAST), _KEYFRAME_MOST)
        entries: Mapping[int, int | None]
        if parent is None or len(self._since_keyframe) + self._since_anchor > interval:
            level, anchor, entries = KEYFRAME, None, state
            self._keyframe_nid = self._anchor_nid = nid
            self._since_keyframe = {}
            self._since_anchor = 0
        elif self._since_anchor >= _CUMULATIVE_EVERY:
            level, anchor, entries = CUMULATIVE, self._keyframe_nid, self._since_keyframe
            self._anchor_nid = nid
            self._since_anchor = 0
        else:
            level, anchor = SINGLE, self._anchor_nid
            entries = {key_nid: new for key_nid, (_, new) in changed.items()}
        return SnapshotRow(
            snap_nid=nid,
            room_nid=room_nid,
            parent_nid=parent,
            anchor_nid=anchor,
            level=level,
            size=len(state),
            state_hash=self._hash.to_bytes(8, "big"),
            entries=pack_entries(entries),
        )

    @classmethod
    async def load(cls, database: Database, nid: int) -> "SnapshotChain":
        """The chain that ends in snapshot `nid`."""
        chain = cls()
        chain.nid = nid
        rows = (await snapshot_chains(database, [nid]))[nid]
        for row in reversed(rows):
            if row.level == KEYFRAME:
                chain._keyframe_nid = chain._anchor_nid = row.snap_nid
                continue
            chain._since_keyframe.update(unpack_entries(row.entries))
            if row.level == CUMULATIVE:
                chain._anchor_nid = row.snap_nid
            else:
                chain._since_anchor += 1
        chain._hash = int.from_bytes(rows[0].state_hash, "big")
        return chain


async def load_states(database: Database, snap_nids: Collection[int]) -> dict[int, dict[int, int]]:
    """Whole states (key number to event number) of snapshots."""
    states: dict[int, dict[int, int]] = {}
    for nid, rows in (await snapshot_chains(database, snap_nids)).items():
        state: dict[int, int] = {}
        for row in reversed(rows):
            for key_nid, event_nid in unpack_entries(row.entries).items():
                if event_nid is None:
                    state.pop(key_nid, None)
                else:
                    state[key_nid] = event_nid
        states[nid] = state
    return states

"""Every stored state can be read back, however long the chain of snapshots has become."""

import random
from collections import Counter

import pytest

from homeserver.rooms.snapshots import (
    CUMULATIVE,
    KEYFRAME,
    SINGLE,
    SnapshotChain,
    load_states,
    state_hash,
)
from storage.changes import Insert, Item
from storage.engine import Database
from storage.schema import SnapshotRow
from tests.rooms.paths import at
from tests.serving import Running

State = dict[int, int]
Changes = dict[int, tuple[int | None, int | None]]


def some_changes(chance: random.Random, state: State, event_nid: int, keys: int) -> Changes:
    """Mostly one key gets a new event; now and then many change, as by a resolution."""
    count = 1 if chance.random() < 0.95 else chance.randrange(2, 40)
    changes: Changes = {}
    for number in range(count):
        key = chance.randrange(1, keys + 1)
        if key in changes:
            continue
        old = state.get(key)
        new = None if old is not None and chance.random() < 0.1 else event_nid + number
        changes[key] = (old, new)
    return changes


def apply(state: State, changes: Changes) -> None:
    for key, (_, new) in changes.items():
        if new is None:
            state.pop(key, None)
        else:
            state[key] = new


@pytest.mark.parametrize(("seed", "keys", "steps"), [(1, 12, 400), (2, 700, 900), (3, 1, 330)])
async def test_every_snapshot_is_the_replayed_state(
    database: Database, seed: int, keys: int, steps: int
) -> None:
    """Also when the chain is loaded anew in between, as after a restart."""
    chance = random.Random(seed)
    await database.start_timeline()
    chain = SnapshotChain()
    state: State = {}
    expected: dict[int, State] = {}
    levels: Counter[int] = Counter()
    waiting: list[SnapshotRow] = []

    async def store() -> None:
        await database.commit([Item([Insert(row) for row in waiting])])
        waiting.clear()

    for nid in range(1, steps + 1):
        changes = some_changes(chance, state, nid * 100, keys)
        apply(state, changes)
        row = chain.add(nid, 1, state, changes)
        levels[row.level] += 1
        assert row.size == len(state)
        assert int.from_bytes(row.state_hash, "big") == state_hash(state)
        waiting.append(row)
        expected[nid] = dict(state)
        if chance.random() < 0.05:
            await store()
            chain = await SnapshotChain.load(database, nid)
    await store()
    numbers = list(expected)
    for start in range(0, steps, 50):
        some = numbers[start : start + 50]
        assert await load_states(database, some) == {nid: expected[nid] for nid in some}
    assert levels[KEYFRAME] >= (2 if keys > 256 else 1)
    assert levels[CUMULATIVE] >= 2
    assert levels[SINGLE] > steps * 0.9


async def test_a_chain_that_is_loaded_goes_on_as_if_it_had_never_ended(database: Database) -> None:
    """The same rows are written whether or not the server was restarted on the way."""
    await database.start_timeline()
    chance = random.Random(4)
    kept = SnapshotChain()
    state: State = {}
    for nid in range(1, 400):
        changes = some_changes(chance, state, nid * 100, 300)
        apply(state, changes)
        loaded = await SnapshotChain.load(database, nid - 1) if nid > 1 else SnapshotChain()
        row = kept.add(nid, 1, state, changes)
        assert loaded.add(nid, 1, state, changes) == row
        await database.commit([Item([Insert(row)])])


async def test_a_room_with_many_changes_of_state_goes_on_after_a_restart(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    for turn in range(3):
        for number in range(110):
            await alice.put_state(room, "m.custom", {"n": number, "turn": turn}, f"{number % 7}")
        await server.restart()
    state = await alice.ok("GET", at(room, "state"))
    found = {event["state_key"]: event["content"] for event in state if event["type"] == "m.custom"}
    assert found == {f"{n % 7}": {"n": n, "turn": 2} for n in range(103, 110)}

"""Messages on their way into inboxes: sorted once, whatever happens meanwhile."""

import asyncio
from collections.abc import Mapping

import pytest

from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from homeserver.users import parcels as module
from homeserver.users.parcels import SORT_SECONDS, Parcels
from storage import to_device as store
from storage.changes import Delete, Insert
from storage.engine import Database
from storage.schema import DeviceRow

ANN, BOB = 1, 2


@pytest.fixture
async def parcels(database: Database, commits: CommitQueue, clock: FakeClock) -> Parcels:
    """Nothing on its way to the devices ANN and BOB."""
    await commits.commit(
        [Insert(DeviceRow(nid, nid, f"D{nid}", None, None, None)) for nid in (ANN, BOB)]
    )
    return Parcels(database, commits, clock, 0)


async def send(parcels: Parcels, commits: CommitQueue, messages: Mapping[int, bytes]) -> int:
    """The position of messages that were committed and published."""
    changes = await parcels.packed(messages)
    return await commits.commit(changes, 1, lambda pos: parcels.arrived(pos, 100))


async def begun(parcels: Parcels, pos: int) -> "asyncio.Task[None]":
    """Sorting, when the changes for the parcel at this position are on their way."""
    task = asyncio.create_task(parcels.sort())
    for _ in range(100_000):
        if parcels.fetched([], pos, 0):
            return task
        await asyncio.sleep(0)
    raise AssertionError("nothing is sorted")


async def inbox(database: Database, device_nid: int) -> list[bytes]:
    """What stands in a device's inbox."""
    return [json for _, json in await store.waiting(database, device_nid, 0, 2**53, 1_000)]


async def test_what_was_not_fetched_comes_into_inboxes_in_order(
    parcels: Parcels, database: Database, commits: CommitQueue
) -> None:
    await send(parcels, commits, {ANN: b'{"n":1}', BOB: b'{"n":1}'})
    second = await send(parcels, commits, {ANN: b'{"n":2}', BOB: b'{"n":2}'})
    assert await inbox(database, BOB) == []
    assert parcels.fetched([ANN], second, second) == []  # nothing of it is in the inbox
    for _ in range(2):
        await parcels.sort()
        assert await inbox(database, ANN) == []
        assert await inbox(database, BOB) == [b'{"n":1}', b'{"n":2}']
    await send(parcels, commits, {ANN: b'{"n":3}', BOB: b'{"n":3}'})
    await parcels.sort()
    assert await inbox(database, ANN) == [b'{"n":3}']
    assert await inbox(database, BOB) == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert await store.parcels(database, 0, 10) == []


@pytest.mark.parametrize("bound", ["_AT_ONCE", "_MESSAGES_AT_ONCE"])
async def test_more_than_are_sorted_at_once_are_all_sorted(
    parcels: Parcels,
    database: Database,
    commits: CommitQueue,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
) -> None:
    monkeypatch.setattr(module, bound, 2)
    for number in range(5):
        await send(parcels, commits, {ANN: b"%d" % number})
    await parcels.sort()
    assert await inbox(database, ANN) == [b"%d" % number for number in range(5)]


async def test_they_are_sorted_after_a_while_or_when_there_are_many(
    parcels: Parcels,
    database: Database,
    commits: CommitQueue,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = asyncio.create_task(parcels.run())
    await send(parcels, commits, {ANN: b"1"})
    await clock.advance(SORT_SECONDS)
    for _ in range(100_000):
        if await inbox(database, ANN):
            break
        await asyncio.sleep(0)
    service.cancel()
    monkeypatch.setattr(module, "MAX_BYTES", 150)
    for number in (b"2", b"3"):
        await send(parcels, commits, {ANN: number})
    assert await inbox(database, ANN) == [b"1"]
    await send(parcels, commits, {ANN: b"4"})
    assert await inbox(database, ANN) == [b"1", b"2", b"3"]


async def test_what_is_fetched_while_it_is_sorted_does_not_stay(
    parcels: Parcels, database: Database, commits: CommitQueue
) -> None:
    pos = await send(parcels, commits, {ANN: b"1", BOB: b"1"})
    sorting = await begun(parcels, pos)
    await commits.commit(parcels.fetched([ANN], pos, pos))
    await sorting
    assert await inbox(database, ANN) == []
    assert await inbox(database, BOB) == [b"1"]


async def test_who_begins_to_sort_may_go_away(
    parcels: Parcels, database: Database, commits: CommitQueue
) -> None:
    pos = await send(parcels, commits, {ANN: b"1"})
    (await begun(parcels, pos)).cancel()
    await parcels.sort()
    assert await inbox(database, ANN) == [b"1"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_device_that_ends_leaves_nothing(
    parcels: Parcels, database: Database, commits: CommitQueue, when: str
) -> None:
    pos = await send(parcels, commits, {ANN: b"1", BOB: b"1"})
    sorting = await begun(parcels, pos) if when == "meanwhile" else None
    await commits.commit([Delete(DeviceRow, (ANN,))], 0, lambda _: parcels.forget([ANN]))
    await (sorting or parcels.sort())
    await commits.commit([])
    assert await inbox(database, ANN) == []
    assert await inbox(database, BOB) == [b"1"]


async def test_after_a_kill_nothing_is_lost_and_nobody_who_is_gone_has_any(
    parcels: Parcels, database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    pos = await send(parcels, commits, {ANN: b"1", BOB: b"1"})
    await commits.commit([Delete(DeviceRow, (ANN,))], 0, lambda _: parcels.forget([ANN]))
    again = Parcels(database, commits, clock, pos)
    await again.sort()
    assert await inbox(database, ANN) == []
    assert await inbox(database, BOB) == [b"1"]

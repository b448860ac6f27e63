"""When stale copies of device lists are fetched anew, and which, on a clock that stands still."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from federation import stale_lists
from federation.destinations import HOUR, Destinations
from federation.stale_lists import AT_ONCE, QUIET_MS, SOON_SECONDS, StaleLists
from homeserver.matrix.ids import server_of
from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from storage import device_lists as store
from storage.changes import Change, Put
from storage.engine import Database
from storage.schema import (
    JOIN,
    LEAVE,
    DeviceListRow,
    MembershipRow,
    UserRow,
    empty_summary,
)
from tests.users.conftest import NoMetrics

ENCRYPTED, PLAIN, LEFT = 1, 2, 3
"""Rooms: an encrypted one, one that is not, and an encrypted one that ours have left."""
HOUR_SECONDS = HOUR / 1000


async def met(holds: Callable[[], bool]) -> None:
    """Give other threads their time until something holds."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.001)


class World:
    """Users of other servers with copies of their lists, and what was asked of their servers."""

    def __init__(self, database: Database, commits: CommitQueue, clock: FakeClock) -> None:
        self.database = database
        self.commits = commits
        self.clock = clock
        self.destinations = Destinations(database, commits, clock)
        self.lists = StaleLists(self.destinations, database, clock)
        self.asked: list[tuple[str, set[str]]] = []
        self.down: set[str] = set()
        self.useless: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.hold: asyncio.Event | None = None

    async def rooms(self) -> None:
        ours = (await self.database.intern(["@ours:here.example"]))["@ours:here.example"]
        summaries = [empty_summary(room) for room in (ENCRYPTED, PLAIN, LEFT)]
        await self.commits.commit(
            [
                Put(UserRow(ours, "ours", None, 0, 0)),
                *(
                    Put(one._replace(encryption=None if one.room_nid == PLAIN else "m.megolm"))
                    for one in summaries
                ),
                self.member(ENCRYPTED, ours),
                self.member(PLAIN, ours),
                self.member(LEFT, ours, LEAVE),
            ]
        )

    def member(self, room_nid: int, user_nid: int, membership: int = JOIN) -> Change:
        return Put(MembershipRow(room_nid, user_nid, membership, 1, 1, 0, None))

    async def users(self, *user_ids: str, room_nid: int = ENCRYPTED) -> dict[str, int]:
        """Users in a room, with copies of their lists that are stale."""
        found = await self.database.intern(user_ids)
        await self.commits.commit([self.member(room_nid, nid) for nid in found.values()])
        await self.mark(found)
        return found

    async def mark(self, users: Mapping[str, int]) -> None:
        await self.commits.commit(
            [
                Put(DeviceListRow(nid, server_of(user_id), 1, 1, 1, "", 0, 0))
                for user_id, nid in users.items()
            ]
        )

    async def fetch(self, server: str, users: Mapping[str, int]) -> str:
        self.asked.append((server, set(users)))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.hold is not None:
            await self.hold.wait()
        self.at_once -= 1
        if server in self.down:
            await self.destinations.failed(server, "no answer", self.clock.now_ms())
            return "no answer"
        if server in self.useless:
            return "M_UNKNOWN"
        await self.destinations.succeeded(server)
        await self.commits.commit(
            [
                Put(DeviceListRow(nid, server_of(user_id), 1, 1, 0, "", 0, 0))
                for user_id, nid in users.items()
            ]
        )
        return ""

    async def until(self, holds: Callable[[], bool], seconds: float = SOON_SECONDS) -> None:
        """Move time on by so much, and then give other threads theirs until something holds."""
        await self.clock.advance(seconds)
        await met(holds)
        await self.idle()

    async def idle(self) -> None:
        """Wait until the service has nothing to do before a later time."""
        await met(lambda: self.clock.waiting() > 0)

    async def pass_by(self, seconds: float) -> None:
        """Move time on step by step, with all that is done on the way."""
        while seconds > 0:
            await self.idle()
            await self.clock.advance(min(seconds, 1.0))
            seconds -= 1.0
        await self.idle()

    def names(self) -> list[str]:
        return [server for server, _ in self.asked]


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[World]:
    await database.start_timeline()
    commits = CommitQueue(database, clock, NoMetrics(), lambda pos: None, lambda pos: None)
    commits.start()
    made = World(database, commits, clock)
    await made.rooms()
    yield made
    await commits.close()


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:
    """The world with the service, which has found nothing to do at its start."""
    task = asyncio.create_task(world.lists.run(world.fetch))
    await world.pass_by(2 * SOON_SECONDS)
    yield world
    task.cancel()
    await asyncio.wait([task])


async def test_all_that_went_stale_is_fetched_after_a_start(world: World) -> None:
    await world.users("@one:a.example", "@two:a.example", "@three:b.example")
    task = asyncio.create_task(world.lists.run(world.fetch))
    await world.until(lambda: len(world.asked) == 2)
    assert sorted(world.asked) == [
        ("a.example", {"@one:a.example", "@two:a.example"}),
        ("b.example", {"@three:b.example"}),
    ]
    await world.pass_by(30)
    assert len(world.asked) == 2
    assert not await store.stale(world.database, 0, 10)
    task.cancel()
    await asyncio.wait([task])


async def test_a_mark_has_its_user_fetched(running: World) -> None:
    users = await running.users("@one:a.example", "@two:a.example")
    running.lists.user(users["@one:a.example"])
    await running.until(lambda: bool(running.asked))
    assert running.asked == [("a.example", {"@one:a.example"})]


async def test_what_nobody_said_is_found_within_the_hour(running: World) -> None:
    await running.users("@one:a.example")
    await running.pass_by(60)
    assert not running.asked
    await running.until(lambda: bool(running.asked), HOUR_SECONDS)
    assert running.names() == ["a.example"]


@pytest.mark.parametrize("room_nid", [PLAIN, LEFT, 0])
async def test_who_shares_no_encrypted_room_is_not_asked_about(
    running: World, room_nid: int
) -> None:
    alone = await running.users("@one:a.example", room_nid=room_nid)
    shared = await running.users("@two:b.example")
    running.lists.user(alone["@one:a.example"])
    running.lists.server("a.example")
    running.lists.server("b.example")
    await running.until(lambda: bool(running.asked))
    running.lists.everything()
    await running.pass_by(30)
    assert running.asked == [("b.example", set(shared))]


async def test_few_servers_are_asked_at_once_and_each_once(running: World) -> None:
    await running.users(*(f"@u{n}:s{n % 9}.example" for n in range(27)))
    running.hold = asyncio.Event()
    running.lists.everything()
    await running.clock.advance(SOON_SECONDS)
    await met(lambda: running.at_once == AT_ONCE)
    running.hold.set()
    await running.until(lambda: len(running.asked) == 9)
    assert running.most_at_once == AT_ONCE
    assert len(set(running.names())) == 9


async def test_a_dead_server_is_left_alone_as_its_pause_says(running: World) -> None:
    users = await running.users("@one:a.example")
    running.down.add("a.example")
    running.lists.server("a.example")
    await running.until(lambda: bool(running.asked))
    for _ in range(300):
        running.lists.user(users["@one:a.example"])
        await running.pass_by(2)
    # Ten minutes: within two of them after pauses of 1 to 30 s, then of 1, 2 and 4 minutes.
    assert 4 <= len(running.asked) <= 16
    running.down.clear()
    running.destinations.on_alive(running.lists.server)
    await running.destinations.succeeded("a.example")
    before = len(running.asked)
    await running.until(lambda: len(running.asked) > before)
    assert not await store.stale(running.database, 0, 10)


async def test_a_server_whose_answers_are_useless_is_asked_hourly(running: World) -> None:
    users = await running.users("@one:a.example")
    running.useless.add("a.example")
    running.lists.server("a.example")
    await running.until(lambda: bool(running.asked))
    for _ in range(50):
        running.lists.user(users["@one:a.example"])
        running.lists.everything()
        await running.pass_by(3)
    assert len(running.asked) == 1
    await running.until(lambda: len(running.asked) == 2, HOUR_SECONDS)


async def test_a_server_that_has_its_lists_marked_again_and_again_gains_nothing(
    running: World,
) -> None:
    users = await running.users("@one:a.example")
    for _ in range(20):
        await running.mark(users)
        running.lists.user(users["@one:a.example"])
        await running.pass_by(3)
    assert len(running.asked) <= 60_000 / QUIET_MS + 2
    await running.pass_by(30)
    assert not await store.stale(running.database, 0, 10)


async def test_more_marks_than_are_remembered_lose_none(
    running: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_lists, "MAX_USERS", 3)
    monkeypatch.setattr(stale_lists, "PAGE", 4)
    users = await running.users(*(f"@u{n}:s{n}.example" for n in range(10)))
    for nid in users.values():
        running.lists.user(nid)
    await running.until(lambda: len(running.asked) == 10)
    assert not await store.stale(running.database, 0, 10)


async def test_more_lists_of_one_server_than_one_page_are_all_fetched(
    running: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_lists, "PAGE", 4)
    await running.users(*(f"@u{n}:a.example" for n in range(10)))
    running.lists.server("a.example")
    await running.pass_by(60)
    assert [len(users) for _, users in running.asked] == [4, 4, 2]
    assert not await store.stale(running.database, 0, 10)

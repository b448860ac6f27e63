"""Sticky events of other servers, and ours for servers that come later (MSC4354)."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from homeserver.matrix.event import Event
from homeserver.matrix.sticky import members_of
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.rooms.judging import Verdict
from storage.engine import DatabaseSettings
from tests.federation.house import house, until
from tests.rooms.paths import at
from tests.rooms.test_receive import BOB, Peer, Shared
from tests.rooms.test_sticky import LEFT, bodies, stick, timeline, told
from tests.serving import Running


@pytest.fixture
def database_settings(tmp_path: Path) -> DatabaseSettings:
    """SQLite alone: what the databases are asked is asked of both elsewhere."""
    return DatabaseSettings(path=tmp_path / "test.db", durable=False)


@pytest.fixture
async def shared(server: Running) -> Shared:
    """A room of Alice's with Bob of another server."""
    alice = await server.person("alice")
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    room = await server.app.services.rooms.find(room_id)
    assert room is not None
    one = Shared(server, alice, room, Peer(ROOM_VERSIONS["11"], room_id))
    await one.bob_joins()
    await alice.sync()
    return one


async def made(shared: Shared, text: str, ms: Any = 60_000) -> tuple[Event, bytes]:
    """A sticky event of Bob's behind what is there now."""
    state, prevs = await shared.head()
    content = {"body": text}
    sticky = members_of(ms)
    return shared.peer.make(BOB, "m.rtc.member", content, state=state, prevs=prevs, sticky=sticky)


async def test_one_begins_when_it_came_or_when_it_says_if_that_is_before(shared: Shared) -> None:
    now = shared.server.clock.now_ms()
    for origin, left in ((now + 500_000, 60_000), (now - 20_000, 40_000), (now - 70_000, None)):
        shared.peer.clock = origin - 1
        assert await shared.give(await made(shared, "hello")) is Verdict.ACCEPTED
        (event,) = timeline(await shared.alice.sync(), shared.room_id)
        assert event["unsigned"].get(LEFT) == left


@pytest.mark.parametrize("ms", ["60000", True, -1, None])
async def test_what_says_nothing_of_use_is_not_sticky(shared: Shared, ms: Any) -> None:
    assert await shared.give(await made(shared, "hello", ms)) is Verdict.ACCEPTED
    (event,) = timeline(await shared.alice.sync(), shared.room_id)
    assert "msc4354_sticky" not in event
    assert LEFT not in event["unsigned"]


async def test_more_than_an_hour_is_an_hour(shared: Shared) -> None:
    await shared.give(await made(shared, "hello", 2**50))
    (event,) = timeline(await shared.alice.sync(), shared.room_id)
    assert event["unsigned"][LEFT] == 3_600_000


async def bob(shared: Shared, membership: str, *, banned: bool) -> None:
    if banned:
        path = at(shared.room_id, "ban" if membership == "ban" else "unban")
        await shared.alice.ok("POST", path, body={"user_id": BOB})
    else:
        await shared.bob_joins()


@pytest.mark.parametrize("restarted", [False, True])
async def test_one_that_was_soft_failed_is_told_when_the_room_allows_it(
    shared: Shared, restarted: bool
) -> None:
    late = await made(shared, "late")
    brief = await made(shared, "brief", 10_000)
    plain = await made(shared, "plain", -1)
    await bob(shared, "ban", banned=True)
    await shared.alice.sync()
    for one in (late, brief, plain):
        assert await shared.give(one) is Verdict.SOFT_FAILED
    assert told(await shared.alice.sync(timeout=0), shared.room_id) == []
    await shared.server.clock.advance(20)
    if restarted:
        await shared.server.restart()
        shared.room = await known(shared)
    await bob(shared, "leave", banned=True)
    assert told(await shared.alice.sync(), shared.room_id) == []
    await bob(shared, "join", banned=False)
    found: list[Any] = []
    while not found:
        found = told(await shared.alice.sync(timeout=0), shared.room_id)
    (event,) = found
    assert event["event_id"] == late[0].event_id
    assert event["unsigned"][LEFT] == 40_000
    assert told(await shared.alice.sync(timeout=0), shared.room_id) == []


async def known(shared: Shared) -> Any:
    return await shared.server.app.services.rooms.find(shared.room_id)


async def test_a_server_that_comes_later_is_sent_what_is_sticky(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also when nobody can reach it at first, and we are killed meanwhile."""
    async with house(authority, tmp_path_factory.mktemp("sticky")) as one:
        a, b = await one.start("a.example", "b.example")
        alice, other = await a.person("alice"), await b.person("other")
        state = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room = await alice.create_room(preset="public_chat", initial_state=[state])
        await stick(alice, room, "first")
        await stick(alice, room, "second")
        await stick(alice, room, "over", 1)
        for number in range(30):
            await alice.say(room, str(number))
        await other.sync()
        await other.ok("POST", f"/join/{room}", body={}, query={"via": "a.example"})
        seen: list[str] = []

        async def all_seen() -> bool:
            answer = await other.sync(timeout=0)
            seen.extend(bodies(answer, room))
            seen.extend(
                event["content"]["body"]
                for event in timeline(answer, room)
                if "msc4354_sticky" in event
            )
            return set(seen) == {"first", "second"}

        await until(all_seen)
        assert sorted(seen) == ["first", "second"]

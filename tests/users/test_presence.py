"""Presence of users: what their devices say, what others see, what a restart leaves."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from homeserver.errors import MatrixError
from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from homeserver.users import presence as module
from homeserver.users.presence import Presence
from homeserver.users.sessions import Session
from storage.engine import Database

ALICE, BOB = 1, 2


def session(user_nid: int, device_nid: int) -> Session:
    given = {"user_nid": user_nid, "device_nid": device_nid, "user_id": f"@user{user_nid}:test"}
    return cast("Session", SimpleNamespace(**given))


PHONE, LAPTOP, OTHER = session(ALICE, 10), session(ALICE, 11), session(BOB, 20)


@pytest.fixture
def presence(database: Database, commits: CommitQueue, clock: FakeClock) -> Presence:
    return Presence(database, commits, clock, enabled=True)


async def seen(presence: Presence, user_nid: int = ALICE) -> dict[str, Any]:
    return await presence.content(user_nid)


async def state(presence: Presence) -> str:
    return str((await presence.content(ALICE))["presence"])


async def test_who_never_came_is_offline(presence: Presence) -> None:
    assert await seen(presence) == {"presence": "offline"}
    assert presence.shown() == []


async def test_a_syncing_device_is_online_until_half_a_minute_after_its_last_sync(
    presence: Presence, clock: FakeClock
) -> None:
    with presence.polling(PHONE):
        assert await seen(presence) == {
            "presence": "online",
            "last_active_ago": 0,
            "currently_active": True,
        }
        await clock.advance(200)
        assert await state(presence) == "online"
    await clock.advance(29)
    assert await state(presence) == "online"
    await clock.advance(5)
    assert await seen(presence) == {"presence": "offline", "last_active_ago": 234_000}
    assert presence.shown() == []
    await clock.advance(100)
    assert clock.waiting() == 0


async def test_syncs_that_change_nothing_are_no_changes(
    presence: Presence, clock: FakeClock
) -> None:
    with presence.polling(PHONE):
        pass
    before = presence.counter
    for _ in range(50):
        with presence.polling(PHONE), presence.polling(PHONE, "online"):
            await clock.advance(1)
    assert presence.counter == before


async def test_a_sync_may_keep_the_user_hidden_or_idle(presence: Presence) -> None:
    with presence.polling(PHONE, "offline"):
        assert await state(presence) == "offline"
    with presence.polling(PHONE, "unavailable"):
        assert await seen(presence) == {"presence": "unavailable"}


async def test_the_most_active_device_counts(presence: Presence, clock: FakeClock) -> None:
    with presence.polling(PHONE, "unavailable"):
        with presence.polling(LAPTOP, "online"):
            assert await state(presence) == "online"
        await clock.advance(35)
        assert await state(presence) == "unavailable"
    with presence.polling(LAPTOP, "unavailable"), presence.polling(PHONE, "online"):
        assert await state(presence) == "online"


async def test_who_does_nothing_is_not_currently_active_and_later_unavailable(
    presence: Presence, clock: FakeClock
) -> None:
    with presence.polling(PHONE):
        await clock.advance(65)
        content = await seen(presence)
        assert (content["presence"], content["currently_active"]) == ("online", False)
        await clock.advance(240)
        assert await state(presence) == "unavailable"
        presence.active(PHONE)
        assert await seen(presence) == {
            "presence": "online",
            "last_active_ago": 0,
            "currently_active": True,
        }


async def test_activity_does_not_betray_a_hidden_device(presence: Presence) -> None:
    presence.active(PHONE)
    with presence.polling(PHONE, "offline"):
        presence.active(PHONE)
    presence.set(PHONE, "offline", None)
    presence.active(PHONE)
    assert await state(presence) == "offline"


async def test_a_user_says_it_and_why(presence: Presence, clock: FakeClock) -> None:
    presence.set(PHONE, "online", "in a meeting")
    assert (await seen(presence))["status_msg"] == "in a meeting"
    presence.set(PHONE, "unavailable", "at lunch")
    assert await seen(presence) == {
        "presence": "unavailable",
        "last_active_ago": 0,
        "status_msg": "at lunch",
    }
    with presence.polling(PHONE):
        # A sync that says nothing does not take back what the user said.
        assert await state(presence) == "unavailable"
    presence.set(PHONE, "online", None)
    assert "status_msg" not in await seen(presence)
    await clock.advance(35)
    assert await state(presence) == "offline"


async def test_a_status_message_has_a_limit(presence: Presence) -> None:
    with pytest.raises(MatrixError, match="M_TOO_LARGE"):
        presence.set(PHONE, "online", "x" * 1_001)
    assert await state(presence) == "offline"
    presence.set(PHONE, "online", "x" * 1_000)


async def test_readers_are_told_what_changed_since(presence: Presence, clock: FakeClock) -> None:
    told: list[int] = []
    presence.on_change(told.append)
    presence.set(PHONE, "online", None)
    first = presence.counter
    presence.set(OTHER, "online", None)
    assert presence.changed_since(first) == [BOB]
    assert presence.changed_since(presence.counter) == []
    assert sorted(presence.changed_since(0)) == [ALICE, BOB]
    assert sorted(presence.changed_since(99)) == [ALICE, BOB]
    assert told == [ALICE, BOB]
    await clock.advance(40)
    assert presence.shown() == []
    assert sorted(presence.changed_since(first)) == [ALICE, BOB]


async def test_a_restart_keeps_status_and_gives_time_to_come_back(
    presence: Presence, database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    nids = await database.intern(["@user1:test", "@user2:test"])
    alice, bob = nids["@user1:test"], nids["@user2:test"]
    presence.set(session(alice, 10), "online", "here")
    presence.set(session(bob, 20), "offline", "gone")
    await presence.save()
    again = Presence(database, commits, clock, enabled=True)
    await again.restore()
    content = await again.content(alice)
    assert (content["presence"], content["status_msg"]) == ("online", "here")
    assert (await again.content(bob))["status_msg"] == "gone"
    assert again.changed_since(0) == [alice]
    before = again.counter
    with again.polling(session(alice, 10)):
        await clock.advance(59)
        assert again.counter == before
    await again.save()
    later = Presence(database, commits, clock, enabled=True)
    await later.restore()
    await clock.advance(40)
    assert (await later.content(alice))["presence"] == "offline"


async def test_a_closed_account_is_offline_and_is_not_written_again(
    presence: Presence, database: Database
) -> None:
    presence.set(PHONE, "online", "here")
    presence.forget(ALICE)
    assert await seen(presence) == {"presence": "offline"}
    await presence.save()
    assert await database.fetch("SELECT user_nid FROM presence") == []


async def test_switched_off_everybody_is_offline(
    database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    presence = Presence(database, commits, clock, enabled=False)
    await presence.restore()
    presence.set(PHONE, "online", "here")
    with presence.polling(PHONE):
        presence.active(PHONE)
        assert await seen(presence) == {"presence": "offline"}
    assert (presence.counter, clock.waiting()) == (0, 0)


async def test_the_offline_are_forgotten_beyond_a_number(
    presence: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OFFLINE", 2)
    for number in range(1, 6):
        presence.set(session(number, number * 10), "offline", "status")
    assert len(presence.changed_since(0)) == 2
    assert presence.floor == 3
    assert presence.changed_since(3) == [5, 4]

"""A user's turns: one after the other, never lost, never in each other's way."""

import asyncio

import pytest

from homeserver.errors import MatrixError
from homeserver.users import inbox
from homeserver.users.inbox import UserInbox


async def test_turns_of_one_user_follow_each_other() -> None:
    users = UserInbox()
    count = 0

    async def add() -> None:
        nonlocal count
        seen = count
        for _ in range(3):
            await asyncio.sleep(0)
        count = seen + 1

    await asyncio.gather(*(users.run(1, add) for _ in range(20)))
    assert count == 20


async def test_users_do_not_wait_for_each_other() -> None:
    users = UserInbox()
    gate = asyncio.Event()

    async def done() -> str:
        return "done"

    first = asyncio.create_task(users.run(1, gate.wait))
    await asyncio.sleep(0)
    assert await users.run(2, done) == "done"
    gate.set()
    await first


async def test_a_turn_goes_on_when_its_caller_has_gone() -> None:
    users = UserInbox()
    gate = asyncio.Event()
    finished = []

    async def work() -> None:
        await gate.wait()
        finished.append("first")

    async def later() -> None:
        finished.append("second")

    caller = asyncio.create_task(users.run(1, work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    second = asyncio.create_task(users.run(1, later))
    gate.set()
    await second
    assert finished == ["first", "second"]
    await users.close()


async def test_a_failure_is_its_callers_own() -> None:
    users = UserInbox()

    async def fail() -> None:
        raise MatrixError.not_found("nothing there")

    async def work() -> int:
        return 7

    with pytest.raises(MatrixError):
        await users.run(1, fail)
    assert await users.run(1, work) == 7


async def test_a_flood_of_one_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING", 2)
    users = UserInbox()
    gate = asyncio.Event()
    waiting = [asyncio.create_task(users.run(1, gate.wait)) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(MatrixError) as caught:
        await users.run(1, gate.wait)
    assert caught.value.status == 429
    gate.set()
    await asyncio.gather(*waiting)

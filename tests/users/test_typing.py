"""Typing notifications: who types, when it ends, what a reader is told."""

import pytest

from homeserver.matrix.canonical import decode
from homeserver.runtime.clock import FakeClock
from homeserver.users import typing
from homeserver.users.typing import Typing

ALICE, BOB = "@alice:example.org", "@bob:example.org"


class Room:
    """A typing service that remembers which rooms it said had changed."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.changed: list[int] = []
        self.typing = Typing(self.clock, self.changed.append)


async def test_typing_lasts_for_its_timeout() -> None:
    room = Room()
    room.typing.start(1, ALICE, 30_000)
    assert room.typing.users(1) == [ALICE]
    await room.clock.advance(29)
    assert room.typing.users(1) == [ALICE]
    await room.clock.advance(2)
    assert room.typing.users(1) == []
    assert room.changed == [1, 1]
    assert room.clock.waiting() == 0


async def test_typing_on_prolongs_without_a_change() -> None:
    room = Room()
    room.typing.start(1, ALICE, 10_000)
    await room.clock.advance(9)
    room.typing.start(1, ALICE, 10_000)
    await room.clock.advance(9)
    assert room.typing.users(1) == [ALICE]
    assert room.changed == [1]


async def test_stopping_ends_it_at_once() -> None:
    room = Room()
    room.typing.start(1, ALICE, 10_000)
    room.typing.start(1, BOB, 10_000)
    room.typing.stop(1, ALICE)
    assert room.typing.users(1) == [BOB]
    room.typing.stop(1, ALICE)
    room.typing.stop(2, ALICE)
    assert room.changed == [1, 1, 1]
    assert decode(room.typing.event(1)) == {"type": "m.typing", "content": {"user_ids": [BOB]}}


async def test_a_timeout_has_a_ceiling() -> None:
    room = Room()
    room.typing.start(1, ALICE, 10**15)
    await room.clock.advance(121)
    assert room.typing.users(1) == []


async def test_a_reader_is_told_what_changed_since() -> None:
    room = Room()
    room.typing.start(1, ALICE, 10_000)
    seen = room.typing.counter
    assert room.typing.changed_since(seen, {1, 2}) == []
    room.typing.start(2, ALICE, 10_000)
    assert room.typing.changed_since(seen, {1, 2}) == [2]
    assert room.typing.changed_since(seen, {1}) == []
    room.typing.stop(1, ALICE)
    assert sorted(room.typing.changed_since(seen, {1, 2})) == [1, 2]
    assert sorted(room.typing.changed_since(0, {1, 2})) == [1, 2]


async def test_a_foreign_counter_gets_the_present_state() -> None:
    room = Room()
    room.typing.start(1, ALICE, 10_000)
    room.typing.start(2, ALICE, 10_000)
    room.typing.stop(2, ALICE)
    assert room.typing.changed_since(77, {1, 2}) == [1]
    assert room.typing.changed_since(-1, {1, 2}) == [1]


async def test_rooms_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing, "MAX_ROOMS", 2)
    room = Room()
    for number in (1, 2, 3):
        room.typing.start(number, ALICE, 10_000)
    assert room.typing.floor == 1
    assert room.typing.changed_since(0, {1, 2, 3}) == [1, 2, 3]
    assert room.typing.changed_since(1, {1, 2, 3}) == [3, 2]

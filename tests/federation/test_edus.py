"""EDUs are answered for when they are committed; what can't be handled now must come again."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from federation.edus import Edus, Taken
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from storage.changes import DatabaseGone, Insert
from storage.engine import Database
from storage.schema import MessageIdRow
from storage.to_device import known_messages

ORIGIN = "a.example"


class NoMetrics:
    def committed(self, items: int, seconds: float) -> None: ...


def edus(error: Exception, handled: list[JsonObject]) -> Edus:
    """Of two types: `test.fails` raises the error, of `test.works` the contents are kept."""
    made = Edus(cast("CommitQueue", None))

    async def fails(origin: str, content: JsonObject) -> Sequence[Taken]:
        raise error

    async def works(origin: str, content: JsonObject) -> Sequence[Taken]:
        handled.append(content)
        return ()

    made.handle("test.fails", fails)
    made.handle("test.works", works)
    return made


BOTH = [
    {"edu_type": "test.fails", "content": {}},
    {"edu_type": "test.works", "content": {"n": 1}},
]


@pytest.mark.parametrize(
    "error",
    [
        DatabaseGone("it restarts"),
        MatrixError("M_UNKNOWN", "full", 503),
        MatrixError("M_LIMIT_EXCEEDED", "soon", 429),
    ],
)
async def test_what_can_t_be_handled_now_is_not_answered_for(error: Exception) -> None:
    with pytest.raises(type(error)):
        await edus(error, []).take(ORIGIN, BOTH)


@pytest.mark.parametrize("error", [MatrixError.forbidden("no"), ValueError("a fault of ours")])
async def test_what_never_can_be_handled_holds_up_nothing(error: Exception) -> None:
    handled: list[JsonObject] = []
    await edus(error, handled).take(ORIGIN, BOTH)
    assert handled == [{"n": 1}]


async def test_what_an_edu_brings_is_committed_before_it_is_answered_for(
    database: Database,
) -> None:
    """spec: server-server-api#send-to-device-messaging"""
    commits = CommitQueue(database, FakeClock(), NoMetrics(), lambda pos: None, lambda pos: None)
    made = Edus(commits)

    async def works(origin: str, content: JsonObject) -> Sequence[Taken]:
        return [Taken([Insert(MessageIdRow(origin, str(content["n"]), 0))])]

    made.handle("test.works", works)
    taking = asyncio.create_task(made.take(ORIGIN, BOTH))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not taking.done(), "nobody writes yet"
    commits.start()
    await taking
    assert await known_messages(database, ORIGIN, ["1"]) == {"1"}
    await commits.close()

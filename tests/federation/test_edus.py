"""EDUs that can't be handled: what may be handled later must come again, what never can is over."""

from collections.abc import Sequence
from typing import cast

import pytest

from federation.edus import Edus, Taken
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.streams.commit import CommitQueue
from storage.changes import DatabaseGone

ORIGIN = "a.example"


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

"""One turn at a time for what belongs to a user.

Owns the order of read-modify-write on a user's things (push rules, tags, receipts, devices): a turn
begins when the one before it, its commit included, has ended. A turn goes on when the caller that
asked for it is cancelled. It holds no data.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from homeserver.errors import MatrixError

T = TypeVar("T")

MAX_WAITING = 200


class UserInbox:
    """The turns of all users."""

    def __init__(self) -> None:
        self._turns: dict[int, asyncio.Lock] = {}
        self._waiting: dict[int, int] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, user_nid: int, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` in the user's turn; its result or its exception is the caller's.

        Raises `MatrixError` M_LIMIT_EXCEEDED when too many of the user's calls are waiting. `work`
        must not ask for a turn of the same user.
        """
        if self._waiting.get(user_nid, 0) >= MAX_WAITING:
            raise MatrixError(
                "M_LIMIT_EXCEEDED",
                "Too many of your requests are waiting",
                429,
                extra={"retry_after_ms": 1_000},
            )
        task = asyncio.get_running_loop().create_task(self._turn(user_nid, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait until every turn that was asked for has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _turn(self, user_nid: int, work: Callable[[], Awaitable[T]]) -> T:
        turn = self._turns.setdefault(user_nid, asyncio.Lock())
        self._waiting[user_nid] = self._waiting.get(user_nid, 0) + 1
        try:
            async with turn:
                return await work()
        finally:
            self._waiting[user_nid] -= 1
            if not self._waiting[user_nid]:
                del self._waiting[user_nid]
                del self._turns[user_nid]

"""The processes that make pictures smaller, from outside.

Owns their lives: started when there is work, ended when there was none for a while, killed when a
picture takes too long, replaced when one has died. Invariant: no more than `PROCESSES` run, and no
picture is waited for longer than `SECONDS`. What they do is in `shrinking.py`.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.runtime.clock import Clock, Timer

PROCESSES = 2
SECONDS = 20.0
IDLE_SECONDS = 60.0
MOST_WAITING = 200
_MOST_BYTES = 32 * 1_048_576


class NoPicture(Exception):
    """This can't be made smaller; the text says why."""


class Box(NamedTuple):
    """The size that is asked for, filled or only kept within, moving or still."""

    width: int
    height: int
    crop: bool
    animated: bool


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A smaller form."""

    content_type: str
    data: bytes


class Shrinkers:
    """See the module."""

    def __init__(self, clock: Clock, max_pixels: int) -> None:
        self._clock = clock
        self._max_pixels = max_pixels
        self._free = asyncio.Semaphore(PROCESSES)
        self._idle: list[Process] = []
        self._waiting = 0
        self._timer: Timer | None = None

    async def shrink(self, path: Path, box: Box) -> Shrunk | None:
        """A smaller form of the picture in a file; None when it is small already.

        Raises NoPicture, and MatrixError M_LIMIT_EXCEEDED when too many wait.
        """
        if self._waiting >= MOST_WAITING:
            raise MatrixError(
                "M_LIMIT_EXCEEDED",
                "Too many pictures are waiting",
                429,
                extra={"retry_after_ms": 5_000},
            )
        self._waiting += 1
        try:
            async with self._free:
                return await self._ask(path, box)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the processes that wait for work."""
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            await _ended(self._idle.pop())

    async def _ask(self, path: Path, box: Box) -> Shrunk | None:
        order: dict[str, object] = {"path": str(path), **box._asdict()}
        answer, data = None, b""
        if self._idle:
            # One that has died in the meantime says nothing of this picture.
            with suppress(NoPicture):
                answer, data = await self._answer(self._idle.pop(), order)
        if answer is None:
            answer, data = await self._answer(await self._started(), order)
        if "error" in answer:
            raise NoPicture(answer["error"])
        return None if answer.get("same") else Shrunk(answer["type"], data)

    async def _answer(
        self, process: Process, order: dict[str, object]
    ) -> tuple[dict[str, str], bytes]:
        """What a process answers; one that doesn't is ended."""
        try:
            async with asyncio.timeout(SECONDS):
                answer = await _exchange(process, order)
        except BaseException as error:
            await _ended(process)
            if isinstance(error, TimeoutError):
                raise NoPicture("it takes too long") from None
            if isinstance(error, OSError | EOFError | ValueError):
                raise NoPicture("it can't be read") from None
            raise
        self._idle.append(process)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(IDLE_SECONDS, self._rest)
        return answer

    def _rest(self) -> None:
        """Let the processes end that have no work."""
        while self._idle:
            process = self._idle.pop()
            assert process.stdin is not None
            process.stdin.close()

    async def _started(self) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "homeserver.media.shrinking",
            str(self._max_pixels),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ},
            start_new_session=True,
        )


async def _exchange(process: Process, order: dict[str, object]) -> tuple[dict[str, str], bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise EOFError
    answer = json.loads(line)
    size = int(answer.get("size", 0))
    if size > _MOST_BYTES:
        raise ValueError("too many bytes")
    return answer, await process.stdout.readexactly(size)


async def _ended(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()

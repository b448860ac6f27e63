"""What was found out about names, remembered.

Owns the cache of look-ups (well-known files, SRV records, addresses): in memory, and in the
database so that a restart asks nobody anew. Invariants: one look-up is under way for a name at a
time, whoever asks; answers live as long as their source says, within the bounds of their kind and
a little less by chance, so that a thousand names don't fall due together; failures are remembered
for a growing pause; while asking fails, the last good answer stands in. How to ask is the kinds'
matter.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import encode
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import federation as store
from storage.changes import Put
from storage.engine import Database
from storage.schema import LookupRow

MAX_IN_MEMORY = 20_000
STALE_MS = 7 * 86_400_000
"""How long an answer may stand in for failed look-ups after it has expired."""
SAVE_AGAIN_MS = 3_600_000
JITTER = 0.1


class LookupFailed(Exception):
    """Nothing was found out; the text says why. Asking later may help."""


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, which may be that there is nothing, and for how many seconds it is good."""

    answer: Any
    seconds: float


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of question is asked, and the bounds of its answers' and failures' lives."""

    ask: Callable[[str], Awaitable[Found]]
    least_seconds: float
    most_seconds: float
    first_pause: float
    longest_pause: float


@dataclass(slots=True)
class _Entry:
    """`answer` counts if `known`; `failure` says why the last look-up failed, if it did."""

    known: bool
    answer: Any
    expires: int
    keep_until: int
    failures: int = 0
    failure: str = ""


class Lookups:
    """The cache; `kinds` are added by `handle` before they are asked for."""

    def __init__(self, database: Database, commits: CommitQueue, clock: Clock) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._kinds: dict[str, Kind] = {}
        self._watchers: dict[str, Callable[[str], None]] = {}
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._saved: dict[tuple[str, str], tuple[bytes, int]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[_Entry]] = {}

    def handle(self, name: str, kind: Kind) -> None:
        """Say how questions of a kind are asked."""
        self._kinds[name] = kind

    def on_change(self, kind: str, watcher: Callable[[str], None]) -> None:
        """Call `watcher(name)` when there is another answer than the one before for a name."""
        self._watchers[kind] = watcher

    async def get(self, kind: str, name: str) -> Any:
        """The answer (JSON) for a name, perhaps an old one; raises LookupFailed without any."""
        key = (kind, name)
        entry = self._entries.get(key)
        if entry is None and key not in self._asking:
            entry = await self._load(key)
        if entry is None or self._clock.now_ms() >= entry.expires:
            asking = self._asking.get(key)
            if asking is None:
                asking = asyncio.get_running_loop().create_task(self._ask(key, entry))
                self._asking[key] = asking
                asking.add_done_callback(lambda _: self._asking.pop(key, None))
            entry = await asyncio.shield(asking)
        if not entry.known:
            raise LookupFailed(entry.failure)
        return entry.answer

    def doubt(self, kind: str, name: str) -> None:
        """What the answer led to did not work: look again, though not within 30 seconds."""
        entry = self._entries.get((kind, name))
        if entry is not None:
            entry.expires = min(entry.expires, self._clock.now_ms() + 30_000)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _load(self, key: tuple[str, str]) -> _Entry | None:
        kind, name = key
        row = (await store.lookups(self._database, kind, [name])).get(name)
        if row is None or key in self._entries:
            return self._entries.get(key)
        entry = _Entry(True, msgspec.json.decode(row.answer), row.expires_ts, row.keep_until)
        self._saved[key] = (row.answer, row.expires_ts)
        self._remember(key, entry)
        return entry

    async def _ask(self, key: tuple[str, str], before: _Entry | None) -> _Entry:
        kind = self._kinds[key[0]]
        try:
            found = await kind.ask(key[1])
        except LookupFailed as error:
            entry = self._failed(kind, before, str(error))
        else:
            seconds = min(max(found.seconds, kind.least_seconds), kind.most_seconds)
            expires = self._clock.now_ms() + self._shortened(seconds)
            entry = _Entry(True, found.answer, expires, expires + STALE_MS)
            self._save(key, entry)
        self._remember(key, entry)
        if before is not None and before.known and before.answer != entry.answer:
            self._watchers.get(key[0], _nobody)(key[1])
        return entry

    def _failed(self, kind: Kind, before: _Entry | None, reason: str) -> _Entry:
        now = self._clock.now_ms()
        failures = before.failures + 1 if before is not None else 1
        pause = min(kind.first_pause * 2.0 ** min(failures - 1, 30), kind.longest_pause)
        expires = now + self._shortened(pause)
        if before is not None and before.known and now < before.keep_until:
            return _Entry(True, before.answer, expires, before.keep_until, failures, reason)
        return _Entry(False, None, expires, 0, failures, reason)

    def _shortened(self, seconds: float) -> int:
        """Milliseconds, up to a tenth less by chance."""
        return int(seconds * 1000 * (1 - JITTER * random.random()))

    def _remember(self, key: tuple[str, str], entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_IN_MEMORY:
            gone, _ = self._entries.popitem(last=False)
            self._saved.pop(gone, None)

    def _save(self, key: tuple[str, str], entry: _Entry) -> None:
        """Write an answer, unless the database has it with nearly the same end."""
        answer = encode(entry.answer)
        saved = self._saved.get(key)
        if saved is not None and saved[0] == answer and entry.expires < saved[1] + SAVE_AGAIN_MS:
            return
        with suppress(MatrixError):  # the queue is full or closed; the next answer is as good
            row = LookupRow(*key, answer, entry.expires, entry.keep_until)
            self._commits.submit([Put(row)])
            self._saved[key] = (answer, entry.expires)


def _nobody(name: str) -> None:
    """Nobody wants to know."""

"""Which keys of other servers to believe, fetched when they are wanted.

Owns when a server is asked for its keys and when notaries are: the server first, notaries two
seconds later or when it fails. Invariants: one fetch is under way for a server at a time and
everybody who waits gets its outcome; nobody waits for one server longer than a patience of seconds,
though the fetch goes on; failures are remembered for a growing pause. Waiting for one server never
holds up the keys of another.
spec: server-server-api#retrieving-server-keys
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

from federation.client import ServerClient
from federation.key_fetcher import Criteria, Notary, ask_directly
from federation.key_store import KeyStore
from federation.own_keys import OwnKeys
from homeserver.errors import RemoteError, Unreachable
from homeserver.matrix.errors import Malformed
from homeserver.runtime.clock import Clock
from storage.schema import ServerKeyRow

log = logging.getLogger(__name__)

PATIENCE = 10.0
HEAD_START = 2.0
"""Seconds that a server has to answer before notaries are asked too."""
FETCH_SECONDS = 20.0
FETCHES_AT_ONCE = 64
MAX_REMEMBERED = 20_000

SECOND = 1_000
ANSWERED_PAUSE = 60 * SECOND
"""A server that has just told its keys is not asked again for so long."""
FIRST_PAUSE = 5 * SECOND
LONGEST_PAUSE = 600 * SECOND
URGENT_PAUSE = 10 * SECOND
"""The longest pause when a request claims to be from the server: it may just have come back."""
RENEW_BEFORE = 3_600 * SECOND


class Keyring:
    """Keys of all servers, this one included."""

    def __init__(self, own: OwnKeys, store: KeyStore, client: ServerClient, clock: Clock) -> None:
        self._own = own
        self._store = store
        self._client = client
        self._clock = clock
        self._notaries: Sequence[Notary] = ()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._asked: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._free = asyncio.Semaphore(FETCHES_AT_ONCE)

    def trust(self, notaries: Sequence[str]) -> None:
        """Ask these servers for keys that a server does not give itself."""
        self._notaries = [
            Notary(name, self._client, self._clock, self.request_keys) for name in notaries
        ]

    async def keys(
        self,
        server: str,
        key_ids: Collection[str],
        minimum_valid_until_ts: int = 0,
        *,
        patience: float = PATIENCE,
    ) -> dict[str, bytes]:
        """Those of the keys with which the server may have signed an event; 32 bytes each.

        `minimum_valid_until_ts` (ms) is the event's time in room versions that enforce the
        validity of keys, 0 in those that don't. Keys that can't be had within `patience` seconds
        are absent. spec: rooms/v5#signing-key-validity-period
        """
        criteria = dict.fromkeys(key_ids, minimum_valid_until_ts)
        return (await self.many({server: criteria}, patience=patience))[server]

    async def many(
        self, wanted: Mapping[str, Criteria], *, patience: float = PATIENCE
    ) -> dict[str, dict[str, bytes]]:
        """`keys` of many servers at once, each key id with its own least validity."""
        found = await asyncio.gather(
            *(self._keys(server, criteria, patience) for server, criteria in wanted.items())
        )
        return dict(zip(wanted, found, strict=True))

    async def request_keys(self, server: str, key_ids: Collection[str]) -> dict[str, bytes]:
        """Those of the keys with which the server may sign requests now.

        Old keys may not. One that is known and valid is enough not to ask for others.
        """
        now = self._clock.now_ms()
        if server == self._own.server_name:
            return self._own.valid(key_ids, now)
        criteria = dict.fromkeys(key_ids, now)
        rows = _current(await self._store.keys(server))
        found = _valid(rows, criteria)
        if found:
            if all(rows[key_id].valid_until_ts < now + RENEW_BEFORE for key_id in found):
                self._fetch_soon(server, criteria, urgent=True)
            return found
        await self._wait(self._fetch_soon(server, criteria, urgent=True), PATIENCE)
        return _valid(_current(await self._store.keys(server)), criteria)

    async def refresh(self, server: str, criteria: Criteria, patience: float) -> None:
        """Ask the server itself, unless that was done a moment ago; not the notaries."""
        await self._wait(self._fetch_soon(server, criteria, direct_only=True), patience)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for notary in self._notaries:
            await notary.close()

    async def _keys(self, server: str, criteria: Criteria, patience: float) -> dict[str, bytes]:
        if server == self._own.server_name:
            found = {}
            for key_id, until in criteria.items():
                found.update(self._own.valid([key_id], until))
            return found
        found = _valid(await self._store.keys(server), criteria)
        missing = {key_id: until for key_id, until in criteria.items() if key_id not in found}
        if missing:
            await self._wait(self._fetch_soon(server, missing), patience)
            found |= _valid(await self._store.keys(server), missing)
        return found

    async def _wait(self, task: "asyncio.Task[None] | None", patience: float) -> None:
        if task is not None:
            await asyncio.wait([task], timeout=patience)

    def _fetch_soon(
        self,
        server: str,
        criteria: Criteria,
        *,
        urgent: bool = False,
        direct_only: bool = False,
    ) -> "asyncio.Task[None] | None":
        """The fetch that is under way, or a new one; None while the server is left alone."""
        task = self._asking.get(server)
        if task is None and self._may_ask(server, urgent):
            notaries = [] if direct_only else [one for one in self._notaries if one.name != server]
            task = asyncio.get_running_loop().create_task(
                self._fetch(server, criteria, urgent, notaries), name=f"keys of {server}"
            )
            self._asking[server] = task
            task.add_done_callback(lambda done: self._ended(server, done))
        return task

    def _may_ask(self, server: str, urgent: bool) -> bool:
        asked, failures = self._asked.get(server, (0, 0))
        pause = ANSWERED_PAUSE
        if failures:
            pause = min(FIRST_PAUSE << min(failures - 1, 20), LONGEST_PAUSE)
        if urgent:
            pause = min(pause, URGENT_PAUSE)
        return self._clock.now_ms() >= asked + pause

    def _ended(self, server: str, task: "asyncio.Task[None]") -> None:
        self._asking.pop(server, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("fetching the keys of %s broke", server, exc_info=error)

    async def _fetch(
        self, server: str, criteria: Criteria, urgent: bool, notaries: Sequence[Notary]
    ) -> None:
        """Ask the server, then notaries too, until the wanted keys are there or all have failed."""
        answered = False
        async with self._free:
            waiting = {asyncio.ensure_future(self._direct(server, urgent))}
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    head_start: float | None = HEAD_START if notaries else None
                    while waiting:
                        done, waiting = await asyncio.wait(
                            waiting, timeout=head_start, return_when=asyncio.FIRST_COMPLETED
                        )
                        answered |= any(task.result() for task in done)
                        if answered and await self._has(server, criteria):
                            break
                        waiting |= {
                            asyncio.ensure_future(self._by_notary(notary, server, criteria))
                            for notary in notaries
                        }
                        notaries, head_start = (), None
            except TimeoutError:
                pass
            finally:
                for task in waiting:
                    task.cancel()
                if waiting:
                    await asyncio.wait(waiting)
                self._remember(server, answered)

    def _remember(self, server: str, answered: bool) -> None:
        failures = 0 if answered else self._asked.get(server, (0, 0))[1] + 1
        self._asked[server] = (self._clock.now_ms(), failures)
        self._asked.move_to_end(server)
        if len(self._asked) > MAX_REMEMBERED:
            self._asked.popitem(last=False)

    async def _has(self, server: str, criteria: Criteria) -> bool:
        return len(_valid(await self._store.keys(server), criteria)) == len(criteria)

    async def _direct(self, server: str, urgent: bool) -> bool:
        try:
            answer = await ask_directly(self._client, self._clock, server, despite_pause=urgent)
        except (Unreachable, RemoteError, Malformed) as error:
            log.info("no keys from %s: %s", server, error)
            return False
        await self._store.add(answer, by_notary=False)
        return True

    async def _by_notary(self, notary: Notary, server: str, criteria: Criteria) -> bool:
        answers = await notary.ask(server, criteria)
        for answer in answers:
            await self._store.add(answer, by_notary=True)
        return bool(answers)


def _valid(rows: Mapping[str, ServerKeyRow], criteria: Criteria) -> dict[str, bytes]:
    return {
        key_id: rows[key_id].public_key
        for key_id, until in criteria.items()
        if key_id in rows and rows[key_id].valid_until_ts >= until
    }


def _current(rows: Mapping[str, ServerKeyRow]) -> dict[str, ServerKeyRow]:
    return {key_id: row for key_id, row in rows.items() if row.expired_ts is None}

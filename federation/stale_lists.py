"""Copies of device lists that went stale, fetched anew before anybody asks for them.

Owns when that happens: soon after a mark, when a server comes back, when the pause of a server that
did not answer is over, and for all that is stale once an hour. Invariants: few servers are asked at
once, each by one query at a time; a server is asked neither during its pause (`destinations`), nor
within an hour after an answer that is of no use, nor twice within ten seconds, whatever it sends.
Of users without an encrypted room with ours nothing is asked: their lists wait until a client wants
them. What a fetch is, and whom it tells, is not known here. Memory is bounded: of more users or
servers than are remembered all lists are looked through.
spec: server-server-api#device-management
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

from federation.destinations import HOUR, SECOND, Destinations
from homeserver.errors import Unreachable
from homeserver.runtime.clock import Clock
from storage import device_lists as store
from storage.engine import Database
from storage.memberships import joined_rooms
from storage.names import names
from storage.schema import DeviceListRow

Fetch = Callable[[str, Mapping[str, int]], Awaitable[str]]
"""Fetch the lists of users (numbers by id) of a server; why that failed, or nothing."""
Page = Callable[[int, int], Awaitable[Sequence[DeviceListRow]]]

SOON_SECONDS = 2.0
QUIET_MS = 10 * SECOND
AT_ONCE = 4
PAGE = 200
MAX_USERS = 1_000
MAX_SERVERS = 10_000


class StaleLists:
    """See the module. `run` is a service."""

    def __init__(self, destinations: Destinations, database: Database, clock: Clock) -> None:
        self._destinations = destinations
        self._database = database
        self._clock = clock
        self._users: set[int] = set()
        self._everything = False
        self._next: dict[str, int] = {}
        self._wake = asyncio.Event()

    def user(self, user_nid: int) -> None:
        """The copy of a user's list went stale, if there is one; it is committed."""
        if len(self._users) < MAX_USERS:
            self._users.add(user_nid)
            self._wake.set()
        else:
            self.everything()

    def server(self, server: str) -> None:
        """All copies of a server's lists went stale, and it can be asked."""
        if server in self._next or len(self._next) < MAX_SERVERS:
            self._next[server] = self._clock.now_ms()
            self._wake.set()
        else:
            self.everything()

    def everything(self) -> None:
        """Any copy may be stale."""
        self._everything = True
        self._wake.set()

    async def run(self, fetch: Fetch) -> None:
        """Have what is stale fetched, until cancelled; at first all of it."""
        self._everything = True
        swept = 0
        while True:
            await self._clock.sleep(SOON_SECONDS)
            self._wake.clear()
            now = self._clock.now_ms()
            if now >= swept + HOUR:
                self._everything = True
            if self._everything:
                swept = now
            await self._look(fetch, now)
            wait_ms = min([swept + HOUR, *self._next.values()]) - self._clock.now_ms()
            timer = self._clock.call_later(max(0, wait_ms) / 1000, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    async def _look(self, fetch: Fetch, now: int) -> None:
        everything, self._everything = self._everything, False
        users, self._users = self._users, set()
        due = [server for server, at in self._next.items() if at <= now]
        for server in due:
            del self._next[server]
        if everything:
            await self._pages(fetch, partial(store.stale, self._database))
            return
        if users:
            rows = await store.lists(self._database, users)
            await self._refresh(fetch, [row for row in rows.values() if row.stale])
        for server in due:
            await self._pages(fetch, partial(store.stale_of, self._database, server))

    async def _pages(self, fetch: Fetch, page: Page) -> None:
        after = 0
        while rows := await page(after, PAGE):
            after = rows[-1].user_nid
            await self._refresh(fetch, rows)

    async def _refresh(self, fetch: Fetch, rows: Collection[DeviceListRow]) -> None:
        rooms = await joined_rooms(self._database, [row.user_nid for row in rows])
        encrypted = await store.encrypted_with_ours(self._database, set().union(*rooms.values()))
        by_server: dict[str, list[int]] = {}
        for row in rows:
            if not encrypted.isdisjoint(rooms.get(row.user_nid, ())):
                by_server.setdefault(row.server, []).append(row.user_nid)
        waiting = iter(by_server.items())

        async def ask() -> None:
            for server, nids in waiting:
                await self._ask(fetch, server, nids)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(by_server))):
                group.create_task(ask())

    async def _ask(self, fetch: Fetch, server: str, nids: Collection[int]) -> None:
        if server in self._next or len(self._next) >= MAX_SERVERS:
            return
        pause = await self._pause(server)
        if pause is None:
            user_ids = await names(self._database, nids)
            failed = await fetch(server, {user_id: nid for nid, user_id in user_ids.items()})
            pause = await self._pause(server)
            if pause is None:
                pause = self._clock.now_ms() + (HOUR if failed else QUIET_MS)
        self._next.setdefault(server, pause)

    async def _pause(self, server: str) -> int | None:
        """Until when the server is left alone, if it is."""
        try:
            await self._destinations.check(server)
        except Unreachable as error:
            return error.retry_ts or self._clock.now_ms() + HOUR
        return None

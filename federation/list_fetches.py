"""Asking other servers for the devices of their users: one request at a time to each.

Owns what is being asked for and in what order. Invariants: no server has two of these requests at a
time; whoever wants a user waits for the one request that has him; what a client waits for goes
before what is fetched for later, and breaks off a request for that, whose users come again
afterwards. What an answer means for the copies is not known here.
spec: server-server-api#device-management
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from itertools import islice
from typing import Any, TypeVar

from federation.device_answers import keys_of, list_of
from federation.requests import Requests, path_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.ids import server_of
from homeserver.users.public_keys import UserKeys

log = logging.getLogger(__name__)

T = TypeVar("T")

FETCH_SECONDS = 10.0
FEW = 3
"""Of more users than this keys are asked together, and their stream ids are not known then."""
BATCH = 200
MAX_BYTES = 8 * 1_048_576

Keep = Callable[[int, str, int, UserKeys], Awaitable[None]]
"""Keep what is known of a user (number, id): stream id, 0 where it is not known, and keys."""
Failed = Callable[[Mapping[str, int]], Awaitable[None]]
"""There is no answer for these users (numbers by id)."""
Users = dict[str, tuple[int, asyncio.Future[str]]]
Found = Mapping[str, tuple[int, UserKeys]]


class _Fetch:
    """What one server is and will be asked for: for clients, for later, and at this moment."""

    def __init__(self) -> None:
        self.urgent: Users = {}
        self.later: Users = {}
        self.under_way: Users = {}
        self.for_later: asyncio.Task[Found | str] | None = None
        """The request that is under way, if no client waits for it."""


class ListFetches:
    """See the module."""

    def __init__(self, requests: Requests, marked: set[int], keep: Keep, failed: Failed) -> None:
        """`marked` are the users whose lists went stale since a request for them began, if one did.

        When a request begins its users are taken out; they come back when it is broken off.
        """
        self._requests = requests
        self._marked = marked
        self._keep = keep
        self._failed = failed
        self._fetches: dict[str, _Fetch] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def fetch(
        self, users: Mapping[str, int], seconds: float, *, urgent: bool
    ) -> dict[str, str]:
        """Fetch the lists of users (numbers by id); why that failed, by server.

        `urgent` is what a client waits for.
        """
        waiting = {user_id: self._wanted(user_id, nid, urgent) for user_id, nid in users.items()}
        await asyncio.wait(waiting.values(), timeout=seconds)
        failures: dict[str, str] = {}
        for user_id, future in waiting.items():
            reason = future.result() if future.done() else "it has not answered in time"
            if reason:
                failures[server_of(user_id)] = reason
        return failures

    def under_way(self, server: str | None = None) -> set[int]:
        """The users who are being asked for, of all servers or of one."""
        found = self._fetches.values() if server is None else [self._fetches.get(server)]
        return {nid for fetch in found if fetch is not None for nid, _ in fetch.under_way.values()}

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _wanted(self, user_id: str, nid: int, urgent: bool) -> asyncio.Future[str]:
        server = server_of(user_id)
        fetch = self._fetches.get(server)
        if fetch is None:
            fetch = self._fetches[server] = _Fetch()
            self._begin(self._run(server, fetch))
        if urgent:
            self._break_off(fetch)
        under_way = fetch.under_way.get(user_id)
        if under_way is not None and nid not in self._marked:
            return under_way[1]
        if user_id not in fetch.urgent:
            known = fetch.later.pop(user_id, None) if urgent else fetch.later.get(user_id)
            queue = fetch.urgent if urgent else fetch.later
            queue[user_id] = known or (nid, asyncio.get_running_loop().create_future())
            return queue[user_id][1]
        return fetch.urgent[user_id][1]

    def _break_off(self, fetch: _Fetch) -> None:
        """End a request that no client waits for, unless its answer is there."""
        asking = fetch.for_later
        if asking is None or asking.done():
            return
        asking.cancel()
        fetch.for_later = None
        self._marked.update(nid for nid, _ in fetch.under_way.values())
        fetch.later = {**fetch.under_way, **fetch.later}
        fetch.under_way = {}

    def _begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, server: str, fetch: _Fetch) -> None:
        try:
            while queue := fetch.urgent or fetch.later:
                batch = dict(islice(queue.items(), BATCH))
                for user_id in batch:
                    del queue[user_id]
                fetch.under_way = batch
                nids = {user_id: nid for user_id, (nid, _) in batch.items()}
                self._marked.difference_update(nids.values())
                asking = self._begin(self._asked(server, nids))
                fetch.for_later = asking if queue is fetch.later else None
                await asyncio.wait([asking])
                fetch.for_later = None
                if fetch.under_way is not batch:
                    continue
                reason = await self._taken(nids, asking.result())
                fetch.under_way = {}
                for _, future in batch.values():
                    future.set_result(reason)
        finally:
            del self._fetches[server]

    async def _asked(self, server: str, users: Collection[str]) -> Found | str:
        """What a server says of some of its users, or why it says nothing."""
        try:
            if len(users) <= FEW:
                return {user_id: await self._ask_list(server, user_id) for user_id in users}
            return await self._ask_keys(server, users)
        except Unreachable as error:
            return error.reason
        except (RemoteError, MatrixError) as error:
            return str(error)
        except Exception:
            log.exception("lists of devices of %s could not be read", server)
            return "its answer could not be used"

    async def _taken(self, users: Mapping[str, int], found: Found | str) -> str:
        """Have an answer, or that there is none, kept; why there is none, or nothing."""
        try:
            if isinstance(found, str):
                await self._failed(users)
                return found
            for user_id, (version, keys) in found.items():
                await self._keep(users[user_id], user_id, version, keys)
        except MatrixError as error:
            return found if isinstance(found, str) else str(error)
        except Exception:
            log.exception("lists of devices could not be kept")
            return "its answer could not be used"
        return ""

    async def _ask_list(self, server: str, user_id: str) -> tuple[int, UserKeys]:
        path = path_of("federation/v1", "user", "devices", user_id)
        try:
            answer = await self._requests.request(
                server, "GET", path, timeout=FETCH_SECONDS, max_bytes=MAX_BYTES
            )
        except RemoteError as error:
            if error.status != 404:
                raise
            return (await self._ask_keys(server, [user_id]))[user_id]
        return list_of(user_id, answer)

    async def _ask_keys(
        self, server: str, user_ids: Collection[str]
    ) -> dict[str, tuple[int, UserKeys]]:
        answer = await self._requests.request(
            server,
            "POST",
            path_of("federation/v1", "user", "keys", "query"),
            body={"device_keys": {user_id: [] for user_id in user_ids}},
            timeout=FETCH_SECONDS,
            max_bytes=MAX_BYTES,
        )
        return {user_id: (0, keys_of(user_id, answer)) for user_id in user_ids}

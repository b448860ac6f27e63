"""How it goes with other servers, for operators: in words, and with the ways to step in.

Owns what is told of a server and nothing of what happens: the pauses are `destinations`', what
waits is the queues'. Implements the port `Peers`.
"""

from collections.abc import Collection, Iterator
from heapq import nlargest, nsmallest

from federation.destinations import Destinations
from federation.discovery import Discovery
from federation.outbound import Sender
from federation.outbound_catchup import missed
from federation.outbound_lists import OwnLists
from federation.outbound_queue import Queue
from homeserver.errors import MatrixError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_server_name
from homeserver.runtime.clock import Clock
from storage import federation as store
from storage import outbound as outbound_store
from storage.engine import Database
from storage.schema import DestinationRow

_AT_ONCE = 1_000
SLOWEST = 10
"""Servers that metrics name: those for whom something has waited longest."""


class PeersDesk:
    """See the module."""

    def __init__(
        self,
        database: Database,
        destinations: Destinations,
        discovery: Discovery,
        sender: Sender,
        lists: OwnLists,
        clock: Clock,
    ) -> None:
        self._lists = lists
        self._database = database
        self._destinations = destinations
        self._discovery = discovery
        self._sender = sender
        self._clock = clock

    async def peers(self, *, everyone: bool) -> list[JsonObject]:
        """See the port."""
        found: dict[str, JsonObject] = {}
        last = ""
        while rows := await store.destinations_after(self._database, last, _AT_ONCE):
            for row in rows:
                current = await self._destinations.state(row.server)
                told = self._told(current)
                if everyone or told["state"] != "well" or told["behind"]:
                    found[row.server] = told
            last = rows[-1].server
        for server in self._destinations.blocked:
            found[server] = self._told(await self._destinations.state(server))
        for queue in list(self._sender.queues):
            if queue.server not in found and queue.waits:
                found[queue.server] = self._told(await self._destinations.state(queue.server))
        return [found[server] for server in sorted(found)]

    async def peer(self, server: str) -> JsonObject:
        """See the port."""
        told = self._told(await self._state(server))
        try:
            route = await self._discovery.route(server)
            told["reached_by"] = route.source
            told["reached_at"] = [f"{one.host}:{one.port}" for one in route.targets]
        except Unreachable as error:
            told["reached_by"] = error.reason
            told["reached_at"] = []
        queue = self._sender.queue(server)
        if queue is not None and queue.behind:
            until = self._sender.position
            now = self._clock.now_ms()
            waiting = await missed(self._database, server, queue.acked, until, now)
            told["waiting_events"] = queue.in_memory + len(waiting)
        told["waiting_messages"] = await outbound_store.count_edus(self._database, server, _AT_ONCE)
        told["waiting_lists"] = await self._lists_waiting(queue) if queue is not None else 0
        return told

    async def lists_waiting(self, servers: Collection[str], most: int) -> dict[str, int]:
        """See `homeserver.users.key_health.Lacking`."""
        waiting = [
            (queue.since_ms, queue.server)
            for queue in self._sender.queues
            if queue.since_ms is not None and (queue.behind or queue.lists_in_memory)
        ]
        found: dict[str, int] = {}
        for server in {*servers, *(server for _, server in nsmallest(most, waiting))}:
            queue = self._sender.queue(server)
            if queue is not None:
                found[server] = await self._lists_waiting(queue)
        return found

    async def _lists_waiting(self, queue: Queue) -> int:
        if not queue.behind:
            return queue.lists_in_memory
        return len(await self._lists.missed(queue.server, queue.acked, _AT_ONCE))

    async def retry(self, server: str) -> None:
        """See the port."""
        await self._state(server)
        self._destinations.reset(server)

    async def block(self, server: str) -> None:
        """See the port."""
        self._check(server)
        await self._destinations.block(server)

    async def allow(self, server: str) -> None:
        """See the port."""
        self._check(server)
        await self._destinations.allow(server)

    def behind(self) -> int:
        """How many servers lack something because they are behind or fail."""
        return sum(queue.is_slow for queue in self._sender.queues)

    def in_memory(self) -> int:
        """How many events wait in memory, once for each server."""
        return sum(queue.in_memory for queue in self._sender.queues)

    def lags(self) -> Iterator[tuple[str, float]]:
        """The servers for whom something has waited longest, and for how many seconds."""
        now = self._clock.now_ms()
        waiting = [
            (now - queue.since_ms, queue.server)
            for queue in self._sender.queues
            if queue.since_ms is not None
        ]
        for waited, server in nlargest(SLOWEST, waiting):
            yield server, waited / 1000

    async def _state(self, server: str) -> DestinationRow:
        self._check(server)
        row = await self._destinations.state(server)
        known = row.last_success_ts is not None or row.failing_since_ts is not None
        known = known or self._sender.queue(server) is not None
        if not known and not self._destinations.is_blocked(server):
            raise MatrixError.not_found(f"This server has never had to do with {server}")
        return row

    def _check(self, server: str) -> None:
        if not is_server_name(server):
            raise MatrixError.invalid_param(f"{server!r} is no server name")

    def _told(self, row: DestinationRow) -> JsonObject:
        queue = self._sender.queue(row.server)
        failing = row.failing_since_ts is not None
        blocked = self._destinations.is_blocked(row.server)
        return {
            "server": row.server,
            "state": "blocked" if blocked else "failing" if failing else "well",
            "last_success_ts": row.last_success_ts,
            "failing_since_ts": row.failing_since_ts,
            "failures": row.failures,
            "retry_ts": row.retry_ts if failing and not blocked else None,
            "error": row.error,
            "behind": queue is not None and queue.behind,
            "waiting_events": queue.in_memory if queue is not None else 0,
            "waiting_since_ts": _since(queue),
        }


def _since(queue: Queue | None) -> int | None:
    return queue.since_ms if queue is not None and queue.waits else None

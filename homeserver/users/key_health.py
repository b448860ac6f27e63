"""Why somebody may be unable to decrypt: what operators are told of devices and their keys.

Owns the words and nothing of what happens. What is told never holds a key or a message. All tables
are read page by page, so memory is bounded however many devices there are; the few devices and
servers for which most waits are named. Metrics show what was found last, every few minutes: looking
rests after each page for longer than the page takes.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import nlargest
from operator import itemgetter
from typing import Protocol

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock
from homeserver.streams.numbers import Names
from homeserver.users.parcels import Parcels
from storage import key_health as store
from storage.accounts import users
from storage.device_lists import lists, remote_devices, stale
from storage.engine import Database

PAGE = 1_000
NAMED = 10
FIRST_SECONDS = 60.0
EVERY_SECONDS = 300.0
REST_SECONDS = 0.25
"""How long looking for metrics rests after each page."""


class Lacking(Protocol):
    """Knows which servers have not heard of changes of our users' keys."""

    async def lists_waiting(self, servers: Collection[str], most: int) -> Mapping[str, int]:
        """How many changes of devices and signing keys each of these servers has not heard of.

        And of up to `most` others that have waited longest.
        """


class KeyHealth:
    """See the module. `run` is a service."""

    def __init__(self, database: Database, names: Names, parcels: Parcels, clock: Clock) -> None:
        self._database = database
        self._names = names
        self._parcels = parcels
        self._clock = clock
        self._lacking: Lacking | None = None
        self._last: JsonObject = {}

    def ask(self, lacking: Lacking) -> None:
        """Have this say what other servers have not heard of."""
        self._lacking = lacking

    async def run(self) -> None:
        """Look at all of it now and then, for metrics, until cancelled."""
        await self._clock.sleep(FIRST_SECONDS)
        while True:
            self._last = await self.whole(REST_SECONDS)
            await self._clock.sleep(EVERY_SECONDS)

    def figure(self, name: str) -> float | None:
        """A number of `whole` as it was found last; None before that."""
        return self._last.get(name)

    def inboxes(self) -> Iterator[tuple[str, float]]:
        """The fullest inboxes as they were found last: user and device, and how much waits."""
        for one in self._last.get("inboxes", ()):
            yield f"{one['user_id']} {one['device_id']}", one["waiting"]

    def servers(self, name: str) -> Iterator[tuple[str, float]]:
        """The servers for whom most waited last, and a number of each."""
        for one in self._last.get("servers", ()):
            yield one["server"], one[name]

    async def whole(self, rest: float = 0.0) -> JsonObject:
        """All of it: `devices`, those `without_keys` and with `empty_pools`, `stale_lists`.

        And how many messages to devices are `waiting`, and `undelivered` to other servers.
        `inboxes` (`user_id`, `device_id`, `waiting`) and `servers` (`server`, `waiting_messages`
        to devices, `waiting_lists`: changes of devices and signing keys) name those for whom most
        waits. After each page it rests for so many seconds.
        """
        count = without_keys = empty_pools = waiting = 0
        fullest: list[store.Found] = []
        await self._parcels.sort()
        after = 0
        while page := await store.devices_after(self._database, after, PAGE):
            after = page[-1].device_nid
            count += len(page)
            without_keys += sum(not one.keys for one in page)
            empty_pools += sum(one.keys and not one.one_time_keys for one in page)
            waiting += sum(one.waiting for one in page)
            full = [*fullest, *(one for one in page if one.waiting)]
            fullest = nlargest(NAMED, full, key=lambda one: one.waiting)
            await self._rest(rest)
        undelivered, servers = await self._servers(rest)
        user_ids = await self._names.names({one.user_nid for one in fullest})
        return {
            "devices": count,
            "without_keys": without_keys,
            "empty_pools": empty_pools,
            "stale_lists": await self._stale(rest),
            "waiting": waiting,
            "undelivered": undelivered,
            "inboxes": [
                {
                    "user_id": user_ids[one.user_nid],
                    "device_id": one.device_id,
                    "waiting": one.waiting,
                }
                for one in fullest
            ],
            "servers": servers,
        }

    async def user(self, user_id: str) -> JsonObject:
        """`user_id` and the `devices` of one user.

        Of one of ours: `device_id`, `keys` (whether there are any), `one_time_keys`, `waiting`.
        Of another server's user: `device_id`, and beside them whether the copy is `stale`. Raises
        `MatrixError` M_NOT_FOUND where neither an account nor a copy is there.
        """
        nid = (await self._names.find([user_id])).get(user_id)
        if nid is not None and nid in await users(self._database, [nid]):
            await self._parcels.sort()
            return {
                "user_id": user_id,
                "devices": _told(await store.devices_of(self._database, nid)),
            }
        row = (await lists(self._database, [nid])).get(nid) if nid is not None else None
        if nid is None or row is None:
            raise MatrixError.not_found(f"Of {user_id} neither an account nor a copy is there")
        copied = (await remote_devices(self._database, [nid])).get(nid, {})
        return {
            "user_id": user_id,
            "stale": bool(row.stale),
            "devices": [{"device_id": device_id} for device_id in copied],
        }

    async def _stale(self, rest: float) -> int:
        count = after = 0
        while page := await stale(self._database, after, PAGE):
            after = page[-1].user_nid
            count += len(page)
            await self._rest(rest)
        return count

    async def _servers(self, rest: float) -> tuple[int, list[JsonObject]]:
        """How many messages are undelivered, and for whom most waits."""
        undelivered = 0
        most: list[tuple[str, int]] = []
        after = ""
        while page := await store.messages_by_server(self._database, after, PAGE):
            after = page[-1][0]
            undelivered += sum(count for _, count in page)
            most = nlargest(NAMED, [*most, *page], key=itemgetter(1))
            await self._rest(rest)
        messages = dict(most)
        lists: Mapping[str, int] = {}
        if self._lacking is not None:
            lists = await self._lacking.lists_waiting(messages, NAMED)
        found = [
            (messages.get(server, 0), lists.get(server, 0), server)
            for server in {*messages, *lists}
        ]
        return undelivered, [
            {"server": server, "waiting_messages": edus, "waiting_lists": changes}
            for edus, changes, server in nlargest(NAMED, found)
            if edus or changes
        ]

    async def _rest(self, seconds: float) -> None:
        if seconds:
            await self._clock.sleep(seconds)


def _told(devices: Iterable[store.Found]) -> list[JsonObject]:
    return [
        {
            "device_id": one.device_id,
            "keys": one.keys,
            "one_time_keys": one.one_time_keys,
            "waiting": one.waiting,
        }
        for one in devices
    ]

"""Why somebody may be unable to decrypt: what operators are told of devices and their keys.

Owns the words and nothing of what happens. What is told never holds a key or a message. All tables
are read page by page, so memory is bounded however many devices there are; the few devices and
servers for which most waits are named.
"""

from collections.abc import Iterable
from heapq import nlargest
from operator import itemgetter

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.streams.numbers import Names
from storage import key_health as store
from storage.accounts import users
from storage.device_lists import lists, remote_devices, stale
from storage.engine import Database
from storage.outbound import count_edus

PAGE = 1_000
NAMED = 10
MOST_EDUS = 100_000


class KeyHealth:
    """See the module."""

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._names = names

    async def whole(self) -> JsonObject:
        """All of it: `devices`, those `without_keys` and with `empty_pools`, `stale_lists`.

        `inboxes` (`user_id`, `device_id`, `waiting`) and `servers` (`server`, `waiting_edus`:
        messages to devices and changes of keys) name those for whom most waits.
        """
        count = without_keys = empty_pools = 0
        fullest: list[store.Found] = []
        after = 0
        while page := await store.devices_after(self._database, after, PAGE):
            after = page[-1].device_nid
            count += len(page)
            without_keys += sum(not one.keys for one in page)
            empty_pools += sum(one.keys and not one.one_time_keys for one in page)
            full = [*fullest, *(one for one in page if one.waiting)]
            fullest = nlargest(NAMED, full, key=lambda one: one.waiting)
        user_ids = await self._names.names({one.user_nid for one in fullest})
        return {
            "devices": count,
            "without_keys": without_keys,
            "empty_pools": empty_pools,
            "stale_lists": await self._stale(),
            "inboxes": [
                {
                    "user_id": user_ids[one.user_nid],
                    "device_id": one.device_id,
                    "waiting": one.waiting,
                }
                for one in fullest
            ],
            "servers": await self._servers(),
        }

    async def user(self, user_id: str) -> JsonObject:
        """`user_id` and the `devices` of one user.

        Of one of ours: `device_id`, `keys` (whether there are any), `one_time_keys`, `waiting`.
        Of another server's user: `device_id`, and beside them whether the copy is `stale`. Raises
        `MatrixError` M_NOT_FOUND where neither an account nor a copy is there.
        """
        nid = (await self._names.find([user_id])).get(user_id)
        if nid is not None and nid in await users(self._database, [nid]):
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

    async def _stale(self) -> int:
        count = after = 0
        while page := await stale(self._database, after, PAGE):
            after = page[-1].user_nid
            count += len(page)
        return count

    async def _servers(self) -> list[JsonObject]:
        most: list[tuple[str, int]] = []
        after = ""
        while page := await store.waiting_servers(self._database, after, PAGE):
            after = page[-1]
            counted = [
                (server, await count_edus(self._database, server, MOST_EDUS)) for server in page
            ]
            most = nlargest(NAMED, [*most, *counted], key=itemgetter(1))
        return [{"server": server, "waiting_edus": count} for server, count in most]


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

"""Copies of the keys of other servers' users, kept while they share a room with ours.

Owns when a copy is to be relied on. Invariants: a copy that is not stale is what the user's server
last said, and changes only in the user's turn; what may have been missed (a gap in `prev_id`, a
room shared anew, a server that was away or has new keys, a restart of ours) makes it stale, and a
stale copy is fetched anew before it is used, by one request at a time to each server. What a fetch
brings is stale at once when a mark came meanwhile, and clients are told of it exactly if it differs
from the copy. Whether the asker may see a user is not asked; `stale_lists` decides when a copy that
nobody asks for is fetched.
spec: server-server-api#device-management
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from federation.device_answers import (
    MAX_DEVICES,
    device_of,
    is_device_id,
    keys_of,
    list_of,
    name_of,
    signing_of,
)
from federation.requests import Requests, path_of
from federation.stale_lists import StaleLists
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import server_of
from homeserver.rooms.actor import Room
from homeserver.rooms.append import Appended
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.users.device_lists import DeviceLists
from homeserver.users.inbox import UserInbox
from homeserver.users.public_keys import PublicKeys, UserKeys
from storage import device_lists as store
from storage.changes import Change, Delete, Pos, Put
from storage.engine import Database
from storage.memberships import joined_rooms
from storage.schema import (
    JOIN,
    MASTER,
    SELF_SIGNING,
    DeviceListRow,
    RemoteDeviceRow,
    SigningKeyRow,
)

log = logging.getLogger(__name__)

FETCH_SECONDS = 10.0
REFRESH_SECONDS = 60.0
FEW = 3
"""Of more users than this keys are asked together, and their stream ids are not known then."""
BATCH = 200
MAX_BYTES = 8 * 1_048_576
SWEEP_SECONDS = 3_600.0
_AT_ONCE = 500


class Kept(NamedTuple):
    """Keys by user id, whose server could not be asked, and all users that are kept."""

    keys: dict[str, UserKeys]
    failures: dict[str, str]
    users: Collection[str]


class _Fetch:
    """What is wanted of one server, and what is being asked for."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[int, asyncio.Future[str]]] = {}
        self.under_way: dict[str, tuple[int, asyncio.Future[str]]] = {}


class DeviceCopies:
    """See the module. `run` is a service."""

    def __init__(
        self,
        requests: Requests,
        lists: DeviceLists,
        public: PublicKeys,
        names: Names,
        inbox: UserInbox,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        server_name: str,
        stale_lists: StaleLists,
    ) -> None:
        self._requests = requests
        self._lists = lists
        self._public = public
        self._names = names
        self._inbox = inbox
        self._database = database
        self._commits = commits
        self._clock = clock
        self._suffix = ":" + server_name
        self._stale_lists = stale_lists
        self._fetches: dict[str, _Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._marked: set[int] = set()
        self._left: set[int] = set()
        self._somebody_left = asyncio.Event()

    # --- asking

    async def of(self, asker_nid: int, user_ids: Collection[str], seconds: float) -> Kept:
        """The keys of those users who share a room with the asker, after at most so long."""
        nids = await self._names.find(user_ids)
        rooms = await joined_rooms(self._database, [asker_nid, *nids.values()])
        mine = rooms.get(asker_nid, set())
        kept = {
            user_id: nid for user_id, nid in nids.items() if not mine.isdisjoint(rooms.get(nid, ()))
        }
        failures: dict[str, str] = {}
        rows = await store.lists(self._database, kept.values())
        stale = {user_id: nid for user_id, nid in kept.items() if self._is_stale(nid, rows)}
        if stale:
            failures = await self._refresh(stale, seconds)
        keys = await self._public.of({nid: user_id for user_id, nid in kept.items()})
        found = {
            user_id: keys[nid]
            for user_id, nid in kept.items()
            if server_of(user_id) not in failures or keys[nid].devices or keys[nid].master
        }
        return Kept(found, failures, kept)

    async def fetch(self, server: str, users: Mapping[str, int]) -> str:
        """Fetch the lists of users of a server anew; why that failed, or nothing."""
        return (await self._refresh(users, REFRESH_SECONDS)).get(server, "")

    def _is_stale(self, nid: int, rows: Mapping[int, DeviceListRow]) -> bool:
        return nid in self._marked or nid not in rows or bool(rows[nid].stale)

    async def _refresh(self, users: Mapping[str, int], seconds: float) -> dict[str, str]:
        """Fetch the lists of users; why that failed, by server."""
        waiting = {user_id: self._wanted(user_id, nid) for user_id, nid in users.items()}
        await asyncio.wait(waiting.values(), timeout=seconds)
        failures: dict[str, str] = {}
        for user_id, future in waiting.items():
            reason = future.result() if future.done() else "it has not answered in time"
            if reason:
                failures[server_of(user_id)] = reason
        return failures

    def _wanted(self, user_id: str, nid: int) -> asyncio.Future[str]:
        server = server_of(user_id)
        fetch = self._fetches.get(server)
        if fetch is None:
            fetch = self._fetches[server] = _Fetch()
            task = asyncio.get_running_loop().create_task(self._run(server, fetch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        under_way = fetch.under_way.get(user_id)
        if under_way is not None and nid not in self._marked:
            return under_way[1]
        if user_id not in fetch.waiting:
            fetch.waiting[user_id] = (nid, asyncio.get_running_loop().create_future())
        return fetch.waiting[user_id][1]

    async def _run(self, server: str, fetch: _Fetch) -> None:
        try:
            while fetch.waiting:
                batch = dict(islice(fetch.waiting.items(), BATCH))
                for user_id in batch:
                    del fetch.waiting[user_id]
                fetch.under_way = batch
                self._marked -= {nid for nid, _ in batch.values()}
                reason = await self._fetched(
                    server, {user: nid for user, (nid, _) in batch.items()}
                )
                fetch.under_way = {}
                for _, future in batch.values():
                    future.set_result(reason)
        finally:
            del self._fetches[server]

    async def _fetched(self, server: str, users: Mapping[str, int]) -> str:
        """Fetch and keep the lists of some users of a server; why that failed, or nothing."""
        try:
            if len(users) <= FEW:
                found = {user_id: await self._ask_list(server, user_id) for user_id in users}
            else:
                found = await self._ask_keys(server, users)
            for user_id, (version, keys) in found.items():
                await self._keep(users[user_id], user_id, version, keys)
        except Unreachable as error:
            return error.reason
        except (RemoteError, MatrixError) as error:
            return str(error)
        except Exception:
            log.exception("lists of devices of %s could not be kept", server)
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

    async def _keep(self, nid: int, user_id: str, version: int, keys: UserKeys) -> None:
        async def turn() -> None:
            row = (await store.lists(self._database, [nid])).get(nid)
            before = (await self._public.of({nid: user_id}))[nid]
            differs = row is not None and before != keys
            pos = Pos(0) if differs else row.pos if row is not None else 0
            stale = int(nid in self._marked)
            changes: list[Change] = [
                Put(DeviceListRow(nid, server_of(user_id), pos, version, stale, "", 0, 0)),
                store.remote_devices_gone([nid]),
                *(
                    Put(RemoteDeviceRow(nid, device_id, keys.names.get(device_id), json))
                    for device_id, json in keys.devices.items()
                ),
                *_signing(nid, keys.master, keys.self_signing),
            ]
            if differs:
                publish = await self._lists.publishing(nid)
                await self._commits.commit(changes, 1, publish)
            else:
                await self._commits.commit(changes)
                self._lists.forget(nid)

        await self._inbox.run(nid, turn)

    # --- being told

    async def device_changed(self, nid: int, user_id: str, content: JsonObject) -> None:
        """`m.device_list_update`: take it over, or mark the list stale. Committed on return.

        Raises `MatrixError` when that can't be done now.
        """
        await self._told(nid, user_id, content, signing=False)

    async def signing_changed(self, nid: int, user_id: str, content: JsonObject) -> None:
        """`m.signing_key_update`; as `device_changed`."""
        await self._told(nid, user_id, content, signing=True)

    async def _told(self, nid: int, user_id: str, content: JsonObject, *, signing: bool) -> None:
        async def turn() -> None:
            row = (await store.lists(self._database, [nid])).get(nid)
            empty = DeviceListRow(nid, server_of(user_id), 0, 0, 1, "", 0, 0)
            changes: list[Change] | None = None
            version = row.version if row is not None else 0
            if row is not None and not self._is_stale(nid, {nid: row}):
                if signing:
                    changes = _signing_changes(nid, user_id, content)
                elif await self._follows(nid, version, content):
                    changes = _device_changes(nid, user_id, content)
                    version = content["stream_id"]
            self._marked.discard(nid)
            if any(user_id in fetch.under_way for fetch in self._fetches.values()):
                self._marked.add(nid)
            new = (row or empty)._replace(pos=Pos(0), version=version, stale=int(changes is None))
            publish = await self._lists.publishing(nid)
            await self._commits.commit([*(changes or ()), Put(new)], 1, publish)
            if new.stale:
                self._stale_lists.user(nid)

        await self._inbox.run(nid, turn)

    async def _follows(self, nid: int, version: int, content: JsonObject) -> bool:
        """Whether the copy is what the update builds upon, and has room for it."""
        stream_id, prev_id = content.get("stream_id"), content.get("prev_id")
        if version <= 0 or prev_id != [version] or type(stream_id) is not int:
            return False
        devices = (await store.remote_devices(self._database, [nid])).get(nid, {})
        return version < stream_id and len(devices) < MAX_DEVICES

    # --- marks

    async def begin(self) -> None:
        """What happened while this server was away, or just before it ended, is not known."""
        await self._commits.commit([store.all_lists_stale()])

    def alive(self, server: str) -> None:
        """A server has come back, has moved, or has other keys than before."""
        fetch = self._fetches.get(server)
        if fetch is not None:
            self._marked.update(nid for nid, _ in fetch.under_way.values())
        self._submit(store.stale_lists_of(server), lambda _: self._stale_lists.server(server))

    def entered(self, room: Room) -> None:
        """This server has come into a room."""
        self._mark_under_way()
        self._submit(store.stale_lists_in(room.nid), lambda _: self._stale_lists.everything())

    def happened(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events were committed; called in the order of the stream."""
        for appended in events:
            for member in appended.members:
                if member.user_id.endswith(self._suffix):
                    continue
                if member.membership == JOIN and member.was != JOIN:
                    self._mark(member.user_nid)
                elif member.membership != JOIN and member.was == JOIN:
                    self._left.add(member.user_nid)
                    self._somebody_left.set()

    def _mark(self, nid: int) -> None:
        """The user's list is stale from now on, also before that is committed."""
        self._marked.add(nid)

        def committed(_: int) -> None:
            under_way = [fetch.under_way.values() for fetch in self._fetches.values()]
            if all(nid != one for fetch in under_way for one, _ in fetch):
                self._marked.discard(nid)
            self._stale_lists.user(nid)

        self._submit(store.stale_list(nid), committed)

    def _mark_under_way(self) -> None:
        for fetch in self._fetches.values():
            self._marked.update(nid for nid, _ in fetch.under_way.values())

    def _submit(self, change: Change, committed: Callable[[int], None]) -> None:
        with suppress(MatrixError):  # the queue is full or closed: a start marks all
            self._commits.submit([change], 0, committed)

    # --- dropping

    async def run(self) -> None:
        """Drop the copies of who shares no room any more, until cancelled."""
        self._clock.call_later(SWEEP_SECONDS, self._sweep)
        while True:
            await self._somebody_left.wait()
            self._somebody_left.clear()
            left, self._left = self._left, set()
            await self._drop(await store.alone(self._database, left) if left else [])
            if not left:
                await self._drop_all()

    def _sweep(self) -> None:
        """Look at all: when the last of ours leaves a room nobody else moves."""
        self._left.clear()
        self._somebody_left.set()
        self._clock.call_later(SWEEP_SECONDS, self._sweep)

    async def _drop_all(self) -> None:
        after = 0
        while page := await store.copied(self._database, after, _AT_ONCE):
            after = page[-1]
            await self._drop(await store.alone(self._database, page))

    async def _drop(self, nids: Collection[int]) -> None:
        if nids:
            await self._commits.commit(store.copies_dropped(list(nids)))
            for nid in nids:
                self._lists.forget(nid)

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _device_changes(nid: int, user_id: str, content: JsonObject) -> list[Change] | None:
    """What an update changes of a copy; None for one that can't be used."""
    device_id = content.get("device_id")
    if not is_device_id(device_id):
        return None
    keys = content.get("keys")
    if content.get("deleted") is True or keys is None:
        return [Delete(RemoteDeviceRow, (nid, device_id))]
    made = device_of(user_id, device_id, keys)
    if made is None:
        return None
    name = name_of(content.get("device_display_name"))
    return [Put(RemoteDeviceRow(nid, device_id, name, made))]


def _signing_changes(nid: int, user_id: str, content: JsonObject) -> list[Change] | None:
    """What new signing keys change; None where they must be asked for."""
    master, own = signing_of(user_id, content.get("master_key"), content.get("self_signing_key"))
    if master is None or (own is None and "self_signing_key" in content):
        return None
    return _signing(nid, master, own)


def _signing(nid: int, master: bytes | None, self_signing: bytes | None) -> list[Change]:
    return [
        Put(SigningKeyRow(nid, usage, json))
        if json is not None
        else Delete(SigningKeyRow, (nid, usage))
        for usage, json in ((MASTER, master), (SELF_SIGNING, self_signing))
    ]

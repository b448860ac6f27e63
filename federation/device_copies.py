"""Copies of the keys of other servers' users, kept while they share a room with ours.

Owns when a copy is to be relied on. Invariants: a copy that is not stale is what the user's server
last said, and changes only in the user's turn; what may have been missed (a gap in `prev_id`, a
room shared anew, a server that was away or has new keys, a restart of ours) makes it stale, and a
stale copy is fetched anew (`list_fetches`) before it is used. What a fetch brings is stale at once
when a mark came meanwhile, and clients are told of it exactly if it differs from the copy. Who was
asked about in vain has an empty copy, so that it is fetched later. Whether the asker may see a user
is not asked; `stale_lists` decides when a copy that nobody asks for is fetched.
spec: server-server-api#device-management
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

from federation.device_answers import (
    MAX_DEVICES,
    device_of,
    is_device_id,
    name_of,
    signing_of,
)
from federation.list_fetches import ListFetches
from federation.requests import Requests
from federation.stale_lists import StaleLists
from homeserver.errors import MatrixError
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

REFRESH_SECONDS = 60.0
SWEEP_SECONDS = 3_600.0
_AT_ONCE = 500


class Kept(NamedTuple):
    """Keys by user id, and why a server could not be asked."""

    keys: dict[str, UserKeys]
    failures: dict[str, str]


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
        self._lists = lists
        self._public = public
        self._names = names
        self._inbox = inbox
        self._database = database
        self._commits = commits
        self._clock = clock
        self._suffix = ":" + server_name
        self._stale_lists = stale_lists
        self._marked: set[int] = set()
        self._fetches = ListFetches(requests, self._marked, self._keep, self._unknown)
        self._left: set[int] = set()
        self._somebody_left = asyncio.Event()

    # --- asking

    async def shared(self, asker_nid: int, user_ids: Collection[str]) -> dict[str, int]:
        """Those of these users, by number, who share a room with the asker."""
        nids = await self._names.find(user_ids)
        rooms = await joined_rooms(self._database, [asker_nid, *nids.values()])
        mine = rooms.get(asker_nid, set())
        return {
            user_id: nid for user_id, nid in nids.items() if not mine.isdisjoint(rooms.get(nid, ()))
        }

    async def of(self, users: Mapping[str, int], seconds: float) -> Kept:
        """The keys of users (numbers by id) who share a room, after at most so long."""
        failures: dict[str, str] = {}
        rows = await store.lists(self._database, users.values())
        stale = {user_id: nid for user_id, nid in users.items() if self._is_stale(nid, rows)}
        if stale:
            failures = await self._fetches.fetch(stale, seconds, urgent=True)
        keys = await self._public.of({nid: user_id for user_id, nid in users.items()})
        found = {
            user_id: keys[nid]
            for user_id, nid in users.items()
            if server_of(user_id) not in failures or keys[nid].devices or keys[nid].master
        }
        return Kept(found, failures)

    async def fetch(self, server: str, users: Mapping[str, int]) -> str:
        """Fetch the lists of users of a server anew; why that failed, or nothing."""
        return (await self._fetches.fetch(users, REFRESH_SECONDS, urgent=False)).get(server, "")

    def _is_stale(self, nid: int, rows: Mapping[int, DeviceListRow]) -> bool:
        return nid in self._marked or nid not in rows or bool(rows[nid].stale)

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

    async def _unknown(self, users: Mapping[str, int]) -> None:
        """These could not be fetched: who has no copy yet gets an empty one, which is stale."""
        known = await store.lists(self._database, users.values())
        new = {user_id: nid for user_id, nid in users.items() if nid not in known}
        if new:
            await self._commits.commit(
                [store.first_known(nid, server_of(user_id)) for user_id, nid in new.items()]
            )
            for nid in new.values():
                self._stale_lists.user(nid)

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
            if nid in self._fetches.under_way():
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
        self._marked |= self._fetches.under_way(server)
        self._submit(store.stale_lists_of(server), lambda _: self._stale_lists.server(server))

    def entered(self, room: Room) -> None:
        """This server has come into a room."""
        self._marked |= self._fetches.under_way()
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
            if nid not in self._fetches.under_way():
                self._marked.discard(nid)
            self._stale_lists.user(nid)

        self._submit(store.stale_list(nid), committed)

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
        await self._fetches.close()


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

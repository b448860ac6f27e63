"""What an application service that encrypts is told of devices.

Owns, for one service, what it is still to be told: which of its users' devices may have messages,
whose key counts moved; and the making of that part of a transaction. Messages and changed lists
stand at positions of the stream and are told with them; counts have no position, so all of them are
told again after a start, and those that moved whenever they do. A message is removed when the
service has acknowledged it and nobody else fetches it: its user is the service's alone, or nobody
is logged in with the device. It sends nothing and moves no cursor.
spec: MSC3202, MSC4203 (of MSC2409)
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from homeserver.appservices.interest import Interest
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.timeline import Timeline
from homeserver.streams.news import StoredNews
from homeserver.streams.numbers import Names
from homeserver.users.one_time_keys import OneTimeKeys
from homeserver.users.parcels import Parcels
from homeserver.users.to_device import Inboxes
from storage import accounts as accounts_store
from storage import to_device as store
from storage.changes import Change
from storage.device_keys import keyed_devices
from storage.device_lists import members_or_leavers
from storage.engine import Database
from storage.memberships import joined_rooms
from storage.schema import JOIN

MAX_POOLS = 1_000
_PAGE = 1_000
_FEW = 64
_NEVER = 2**53


class ServiceDevices:
    """What one service is to be told; without `wants` nothing is noted."""

    def __init__(self, interest: Interest) -> None:
        service = interest.service
        self.interest = interest
        self.wants = service.url is not None and (service.ephemeral or service.extended)
        self.keyed: dict[int, tuple[str, str]] = {}
        """By number the devices that have identity keys: user and device id."""
        self.inboxes: dict[int, None] = {}
        self.pools: dict[int, None] = {}
        self.users: dict[int, None] = {}
        """Users whose devices may be others than those of `keyed`."""

    @property
    def waiting(self) -> bool:
        """Whether there is something to tell that has no position."""
        return bool(self.pools or self.users)

    def message(self, user_nid: int, user_id: str | None, device_nid: int) -> bool:
        """A message for a device arrived; whether that concerns the service."""
        if not self.wants or (user_id is not None and not self.interest.user(user_nid, user_id)):
            return False
        self.inboxes[device_nid] = None
        return True

    def listed(self, user_nid: int, user_id: str | None, room_nids: Collection[int]) -> bool:
        """A user in these rooms has changed devices; whether that concerns the service."""
        if not self.wants:
            return False
        if user_id is not None and self.interest.user(user_nid, user_id):
            self.users[user_nid] = None
            return True
        return bool(self.keyed) and any(self.interest.sees(nid) for nid in room_nids)

    def counted(self, device_nids: Iterable[int] | None) -> bool:
        """Keys of devices (None: of all) came or went; whether that concerns the service."""
        moved = self.keyed if device_nids is None else self.keyed.keys() & set(device_nids)
        self.pools |= dict.fromkeys(moved)
        return bool(moved)


@dataclass(frozen=True, slots=True)
class Message:
    """A message for a device, as JSON that names it."""

    pos: int
    device_nid: int
    json: bytes


@dataclass(slots=True)
class Lists:
    """The users (ids) whose keys must be fetched anew, and those to be forgotten."""

    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class DeviceFeed:
    """Makes that part of a page, for all services."""

    def __init__(
        self,
        database: Database,
        names: Names,
        timeline: Timeline,
        inboxes: Inboxes,
        parcels: Parcels,
        one_time: OneTimeKeys,
    ) -> None:
        self._database = database
        self._names = names
        self._timeline = timeline
        self._inboxes = inboxes
        self._parcels = parcels
        self._one_time = one_time

    async def load(self, devices: ServiceDevices, after: int) -> None:
        """Note all that a service may not know that knows what stands up to a position."""
        if not devices.wants:
            return
        devices.keyed.clear()
        await self._parcels.sort()
        for some in _in_pages(devices.interest.users):
            await self._keyed(devices, some)
            for nid in await store.devices_with_messages(self._database, some, after):
                devices.inboxes[nid] = None

    async def messages(
        self,
        devices: ServiceDevices,
        device_nids: Collection[int],
        after: int,
        until: int,
        most: int,
    ) -> tuple[list[Message], int]:
        """The first messages in (after, until], in order, and the position up to which they go.

        At most `most`, but for those at the last position, which come all.
        """
        found: list[tuple[int, int]] = []
        if device_nids:
            await self._parcels.sort()
        for some in _in_pages(device_nids):
            found += await store.positions_of(self._database, some, after, until)
        if not found:
            return [], until
        found.sort()
        last = found[most - 1][0] if len(found) > most else until
        wanted = {device_nid for pos, device_nid in found if pos <= last}
        messages = []
        for some in _in_pages(wanted):
            addresses = await self._addresses(devices.interest, some)
            rows = await store.waiting_for(self._database, addresses, after, last)
            messages += [
                Message(pos, nid, b"%b,%b" % (json[:-1], addresses[nid])) for pos, nid, json in rows
            ]
        return sorted(messages, key=lambda message: message.pos), last

    async def removed(
        self, devices: ServiceDevices, device_nids: Collection[int], until: int
    ) -> list[Change]:
        """What removes the messages up to a position that a service has acknowledged."""
        service = devices.interest.service
        if not service.extended or not device_nids:
            return []
        known = await accounts_store.devices(self._database, device_nids)
        own = {
            nid for nid, row in known.items() if service.owns(devices.interest.users[row.user_nid])
        }
        shared = known.keys() - own
        if shared:
            own |= shared - (await accounts_store.tokens_of(self._database, shared)).keys()
        return await self._inboxes.taken(own, until)

    async def lists(
        self,
        devices: ServiceDevices,
        seen_before: Collection[int],
        rooms: Collection[int],
        after: int,
        end: int,
    ) -> Lists:
        """Whose keys must be fetched anew, or forgotten, because of what happened in (after, end].

        `seen_before` are those of the rooms that concerned the service before.
        """
        interest = devices.interest
        if not devices.keyed or end <= after:
            return Lists()
        news = StoredNews(self._database, self._names, self._timeline, after, end)
        seen = {nid for nid in rooms if interest.sees(nid)}
        stayed = seen.intersection(seen_before)
        changed: set[int] = set()
        away: set[int] = set()
        for move in await news.moves(stayed) if stayed else ():
            if move.now == JOIN:
                changed.add(move.user_nid)
            elif move.was == JOIN:
                away.add(move.user_nid)
        if seen - stayed:
            changed |= await members_or_leavers(self._database, seen - stayed, _NEVER)
        gone = set(seen_before) - seen
        if gone:
            away |= await members_or_leavers(self._database, gone, after)
        changed -= interest.users.keys()
        for user_nid in await news.device_lists():
            if user_nid in interest.users or any(
                interest.sees(nid) for nid in await news.rooms_of(user_nid)
            ):
                changed.add(user_nid)
        left = await self._alone(interest, away - interest.users.keys())
        names = await self._names.names(changed | left)
        return Lists(
            sorted(names[nid] for nid in changed - left), sorted(names[nid] for nid in left)
        )

    async def counts(self, devices: ServiceDevices) -> tuple[JsonObject, JsonObject]:
        """By user and device, the key counts and unused fallback keys that are to be told now."""
        moved, devices.users = list(devices.users), {}
        if moved:
            user_ids = {devices.interest.users[nid] for nid in moved}
            devices.keyed = {
                nid: ids for nid, ids in devices.keyed.items() if ids[0] not in user_ids
            }
            await self._keyed(devices, moved)
        told = list(devices.pools)[:MAX_POOLS]
        for nid in told:
            del devices.pools[nid]
        counts: JsonObject = {}
        fallbacks: JsonObject = {}
        pools = await self._one_time.pools([nid for nid in told if nid in devices.keyed])
        for nid, pool in pools.items():
            user_id, device_id = devices.keyed[nid]
            counts.setdefault(user_id, {})[device_id] = {"signed_curve25519": 0, **pool.counts}
            fallbacks.setdefault(user_id, {})[device_id] = sorted(pool.unused_fallbacks)
        return counts, fallbacks

    async def _keyed(self, devices: ServiceDevices, user_nids: Collection[int]) -> None:
        for row in await keyed_devices(self._database, user_nids):
            devices.keyed[row.device_nid] = (devices.interest.users[row.user_nid], row.device_id)
            devices.pools[row.device_nid] = None

    async def _addresses(
        self, interest: Interest, device_nids: Collection[int]
    ) -> dict[int, bytes]:
        """By number the service's devices among these, as the end of a message's JSON."""
        known = await accounts_store.devices(self._database, device_nids)
        users = await self._names.names({row.user_nid for row in known.values()})
        return {
            nid: canonical.encode(
                {"to_device_id": row.device_id, "to_user_id": users[row.user_nid]}
            )[1:]
            for nid, row in known.items()
            if interest.user(row.user_nid, users[row.user_nid])
        }

    async def _alone(self, interest: Interest, user_nids: Collection[int]) -> set[int]:
        """Those of the users who are in no room that concerns the service."""
        alone = set(user_nids)
        for some in _in_pages(user_nids, _FEW):
            for user_nid, rooms in (await joined_rooms(self._database, some)).items():
                if any(interest.sees(nid) for nid in rooms):
                    alone.discard(user_nid)
        return alone


def _in_pages(numbers: Collection[int], size: int = _PAGE) -> Iterator[list[int]]:
    every = list(numbers)
    for first in range(0, len(every), size):
        yield every[first : first + size]

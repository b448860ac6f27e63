"""Who must hear that a user's devices or signing keys changed.

Owns the change of a user's list: one row, one position of the stream, whoever shares a room with
the user; who that is, is found when it is read. Changes of one user are made in the user's turn, so
their versions follow each other. What the keys are is not known here.
spec: client-server-api#tracking-the-device-list-for-a-user
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from homeserver.streams.publish import Publisher
from homeserver.streams.ring import DeviceListEntry
from storage.changes import Change, Pos, Put
from storage.device_lists import lists
from storage.engine import Database
from storage.memberships import joined_rooms
from storage.schema import DeviceListRow

Watcher = Callable[[int], None]


class OwnChange(NamedTuple):
    """A local user's list has changed at a position.

    `device_ids` are the devices that did, in the order of the versions that end with `version`;
    `signing` says whether the signing keys did.
    """

    pos: int
    user_nid: int
    version: int
    device_ids: Sequence[str]
    signing: bool


class Told(NamedTuple):
    """Changes to be committed with what they tell of: `commit(changes, positions, publish)`."""

    changes: Sequence[Change] = ()
    positions: int = 0
    publish: Callable[[int], None] | None = None


class DeviceLists:
    """See the module."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher
        self._watchers: list[Watcher] = []
        self._told: Callable[[OwnChange], None] = _nobody

    def on_change(self, watcher: Watcher) -> None:
        """Call `watcher(user number)` when a change of a list was committed."""
        self._watchers.append(watcher)

    def on_own_change(self, told: Callable[[OwnChange], None]) -> None:
        """Have `told` called, in the order of the stream, with what other servers must hear."""
        self._told = told

    async def changed(
        self,
        user_nid: int,
        device_ids: Sequence[str] = (),
        *,
        signing: bool = False,
        ahead: int = 0,
    ) -> Told:
        """Devices of a local user, or the signing keys, have changed; call it in the user's turn.

        Every device takes a version; `ahead` are those that the same commit has taken before.
        """
        row = (await lists(self._database, [user_nid])).get(user_nid)
        if row is None:
            row = DeviceListRow(user_nid, "", Pos(0), 0, 0, "", 0, 0)
        version = row.version + ahead + len(device_ids)
        new = row._replace(pos=Pos(0), version=version)
        if device_ids:
            new = new._replace(device_id=device_ids[-1], devices_pos=Pos(0))
        if signing:
            new = new._replace(signing_pos=Pos(0))
        publish = await self.publishing(user_nid)

        def publish_and_tell(pos: int) -> None:
            publish(pos)
            self._told(OwnChange(pos, user_nid, version, device_ids, signing))

        return Told([Put(new)], 1, publish_and_tell)

    async def publishing(self, user_nid: int) -> Callable[[int], None]:
        """What publishes a change of the user's list that was committed at a position."""
        rooms = (await joined_rooms(self._database, [user_nid])).get(user_nid, set())

        def publish(pos: int) -> None:
            self.publish(pos, user_nid, rooms)

        return publish

    def publish(self, pos: int, user_nid: int, room_nids: Collection[int]) -> None:
        """A change was committed."""
        self.forget(user_nid)
        self._publisher.device_list(DeviceListEntry(pos, user_nid), room_nids)

    def forget(self, user_nid: int) -> None:
        """What is kept in memory of the user's keys is no longer true."""
        for watcher in self._watchers:
            watcher(user_nid)


def _nobody(change: OwnChange) -> None:
    """There are no other servers."""

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

    def on_change(self, watcher: Watcher) -> None:
        """Call `watcher(user number)` when a change of a list was committed."""
        self._watchers.append(watcher)

    async def changed(self, user_nid: int) -> Told:
        """The user's list has changed; call it in the user's turn."""
        row = (await lists(self._database, [user_nid])).get(user_nid)
        version = row.version if row is not None else 0
        changes: list[Change] = [Put(DeviceListRow(user_nid, "", Pos(0), version + 1, 0))]
        return Told(changes, 1, await self.publishing(user_nid))

    async def changed_elsewhere(self, user_nid: int, server: str) -> Told:
        """Another server says that the list of its user has changed.

        Nothing of it is kept: who hears of it asks for it anew.
        """
        changes: list[Change] = [Put(DeviceListRow(user_nid, server, Pos(0), 0, 1))]
        return Told(changes, 1, await self.publishing(user_nid))

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

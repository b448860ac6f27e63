"""What goes with a device: its keys, its messages, the signatures on it, its place in the list.

Owns the changes that are committed with the device's own row. A device that nobody is logged in by
(a dehydrated one) stays when its user logs everything out.
spec: client-server-api#device-management
"""

from collections.abc import Collection, Mapping

from homeserver.users.device_lists import DeviceLists, Told
from homeserver.users.one_time_keys import OneTimeKeys
from homeserver.users.to_device import Inboxes
from storage import device_keys as store
from storage.changes import Change, Delete
from storage.engine import Database
from storage.schema import DehydratedDeviceRow


class DeviceEnds:
    """See the module."""

    def __init__(
        self,
        database: Database,
        lists: DeviceLists,
        one_time: OneTimeKeys,
        inboxes: Inboxes,
    ) -> None:
        self._database = database
        self._lists = lists
        self._one_time = one_time
        self._inboxes = inboxes

    async def spared(self, user_nid: int) -> Collection[int]:
        """The devices that stay when a user logs all out."""
        rows = await store.dehydrated(self._database, [user_nid])
        return [row.device_nid for row in rows.values()]

    async def ending(self, user_nid: int, devices: Mapping[int, str]) -> Told:
        """The changes that take along what belongs to these devices (number to id)."""
        changes: list[Change] = store.devices_gone([*devices])
        changes.append(store.signatures_gone(user_nid, [*devices.values()]))
        if set(await self.spared(user_nid)) & devices.keys():
            changes.append(Delete(DehydratedDeviceRow, (user_nid,)))
        keyed = await store.device_keys(self._database, [*devices])
        ended = [device_id for nid, device_id in devices.items() if nid in keyed]
        listed = await self._lists.changed(user_nid, ended) if ended else Told()

        def publish(pos: int) -> None:
            self._one_time.forget([*devices])
            self._inboxes.forget([*devices])
            if listed.publish is not None:
                listed.publish(pos)

        return Told([*changes, *listed.changes], listed.positions, publish)

    async def renamed(self, user_nid: int, device_nid: int, device_id: str) -> Told:
        """What tells others of a device's new name; nothing for one without keys."""
        if device_nid not in await store.device_keys(self._database, [device_nid]):
            return Told()
        return await self._lists.changed(user_nid, [device_id])

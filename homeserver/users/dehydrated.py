"""Dehydrated devices: one that a user leaves on the server to take keys while no other is there.

Owns the user's one such device: it is a device like others, with keys and an inbox, but nobody is
logged in by it; a client that can decrypt what is stored with it reads its messages page by page
and then makes another. MSC3814.
"""

import re

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Numbers
from homeserver.users.device_ends import DeviceEnds
from homeserver.users.device_lists import Told
from homeserver.users.e2e_keys import E2EKeys, not_ended
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session, check_device_name
from homeserver.users.to_device import Inboxes
from storage import accounts as accounts_store
from storage import device_keys as store
from storage.changes import Change, Delete, Insert, Put
from storage.engine import Database
from storage.schema import DehydratedDeviceRow, DeviceRow

MAX_DATA = 262_144
_TOKEN = re.compile(r"d(\d{1,15})", re.ASCII)


class DehydratedDevices:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        numbers: Numbers,
        inbox: UserInbox,
        keys: E2EKeys,
        ends: DeviceEnds,
        inboxes: Inboxes,
    ) -> None:
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._inbox = inbox
        self._keys = keys
        self._ends = ends
        self._inboxes = inboxes

    async def put(
        self,
        session: Session,
        device_id: str,
        data: JsonObject,
        name: str | None,
        device_keys: JsonObject,
        one_time: JsonObject,
        fallback: JsonObject,
    ) -> None:
        """Make the user's dehydrated device, in place of one that there is.

        Raises as `E2EKeys.upload` does; M_INVALID_PARAM for the id of another device.
        """
        check_device_name(name)
        json = canonical.encode(data)
        if len(json) > MAX_DATA:
            raise MatrixError.too_large(f"device_data has at most {MAX_DATA} bytes")

        async def turn() -> None:
            await not_ended(self._database, session)
            before = await self._row(session.user_nid)
            devices = (await accounts_store.devices_of(self._database, [session.user_nid])).get(
                session.user_nid, {}
            )
            old = devices.get(device_id)
            if old is not None and (before is None or before.device_nid != old.device_nid):
                raise MatrixError.invalid_param("device_id: another device has this id")
            ended = Told()
            changes: list[Change] = []
            if before is not None:
                ids = {row.device_nid: one for one, row in devices.items()}
                ending = {before.device_nid: ids.get(before.device_nid, "")}
                ended = await self._ends.ending(session.user_nid, ending)
                changes = [*ended.changes, Delete(DeviceRow, (before.device_nid,))]
            nid = await self._numbers.take_soon("device")
            added = await self._keys.uploading(
                session.user_nid,
                session.user_id,
                nid,
                device_id,
                device_keys,
                one_time,
                fallback,
                ahead=ended.positions,
            )
            changes += [
                Insert(DeviceRow(nid, session.user_nid, device_id, name, None, None)),
                Put(DehydratedDeviceRow(session.user_nid, nid, json)),
                *added.changes,
            ]

            def publish(pos: int) -> None:
                for told in (ended, added):
                    if told.publish is not None:
                        told.publish(pos)

            await self._commits.commit(changes, 1, publish)

        await self._inbox.run(session.user_nid, turn)

    async def get(self, session: Session) -> JsonObject:
        """The device's id and what restores it; `MatrixError` M_NOT_FOUND when there is none."""
        row, device = await self._device(session)
        return {"device_id": device.device_id, "device_data": canonical.decode_object(row.json)}

    async def delete(self, session: Session) -> str:
        """Remove it; its id. `MatrixError` M_NOT_FOUND when there is none."""

        async def turn() -> str:
            _, device = await self._device(session)
            ending = {device.device_nid: device.device_id}
            told = await self._ends.ending(session.user_nid, ending)
            changes = [Delete(DeviceRow, (device.device_nid,)), *told.changes]
            await self._commits.commit(changes, told.positions, told.publish)
            return device.device_id

        return await self._inbox.run(session.user_nid, turn)

    async def events(
        self, session: Session, device_id: str, since: str | None, limit: int, *, token: bool
    ) -> bytes:
        """The next messages to it as JSON, at most `limit`; a token when there are more.

        With `token` one is there in any case. The messages stay until the device ends: a client
        that breaks off begins anew. Raises `MatrixError` M_FORBIDDEN for a device that is not the
        dehydrated one, M_INVALID_PARAM for a wrong token.
        """
        row = await self._row(session.user_nid)
        devices = await accounts_store.devices(self._database, [row.device_nid] if row else [])
        # It may have been replaced just now.
        device = devices.get(row.device_nid) if row is not None else None
        if row is None or device is None or device.device_id != device_id:
            raise MatrixError.forbidden("This is not your dehydrated device")
        after = 0
        if since is not None:
            found = _TOKEN.fullmatch(since)
            if found is None:
                raise MatrixError.invalid_param("from: this is not a token of this server")
            after = int(found[1])
        events, end, more = await self._inboxes.page(row.device_nid, after, limit)
        going_on = b',"next_batch":"d%d"' % end if more or token else b""
        return b'{"events":[%b]%b}' % (b",".join(events), going_on)

    async def _device(self, session: Session) -> tuple[DehydratedDeviceRow, DeviceRow]:
        row = await self._row(session.user_nid)
        devices = await accounts_store.devices(self._database, [row.device_nid] if row else [])
        if row is None or row.device_nid not in devices:
            raise MatrixError.not_found("You have no dehydrated device")
        return row, devices[row.device_nid]

    async def _row(self, user_nid: int) -> DehydratedDeviceRow | None:
        return (await store.dehydrated(self._database, [user_nid])).get(user_nid)

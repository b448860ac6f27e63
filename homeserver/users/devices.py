"""A user's devices.

Owns reading and naming them. Removing one ends its sessions, which is `sessions.py`'s to do.
spec: client-server-api#device-management
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.streams.commit import CommitQueue
from homeserver.users.device_lists import Told
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session, Sessions, check_device_name
from homeserver.users.uia import PASSWORD, Interactive, Operation
from storage import accounts as store
from storage.account_changes import device_named
from storage.changes import Missed
from storage.engine import Database
from storage.schema import DeviceRow

MAX_REMOVED = 1_000


class DeviceKeysOf(Protocol):
    """The keys of devices, as far as their names stand beside them."""

    async def renamed(self, user_nid: int, device_nid: int, device_id: str) -> Told:
        """What tells others of a device's new name, in the user's turn."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its user sees it; last seen in milliseconds."""

    device_id: str
    display_name: str | None
    last_seen_ip: str | None
    last_seen_ts: int | None


class Devices:
    """The devices of all users."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        sessions: Sessions,
        interactive: Interactive,
        inbox: UserInbox,
        keys: DeviceKeysOf,
    ) -> None:
        self._database = database
        self._commits = commits
        self._inbox = inbox
        self._keys = keys
        self._sessions = sessions
        self._interactive = interactive

    async def of(self, user_nid: int) -> list[Device]:
        """All devices of a user, in the order of their making."""
        return [shown(row) for row in sorted((await self._rows(user_nid)).values())]

    async def get(self, user_nid: int, device_id: str) -> Device:
        """One device; `MatrixError` M_NOT_FOUND when the user has none of that id."""
        return shown(await self._row(user_nid, device_id))

    async def rename(self, user_nid: int, device_id: str, name: str | None) -> None:
        """Give a device another name; None keeps it. `MatrixError` M_NOT_FOUND or M_TOO_LARGE."""
        check_device_name(name)
        row = await self._row(user_nid, device_id)
        if name is None:
            return

        async def turn() -> None:
            told = await self._keys.renamed(user_nid, row.device_nid, row.device_id)
            changes = [device_named(row.device_nid, name), *told.changes]
            await self._commits.commit(changes, told.positions, told.publish)

        try:
            await self._inbox.run(user_nid, turn)
        except Missed:
            raise _not_found() from None

    async def put(self, session: Session, device_id: str, name: str | None) -> bool:
        """Rename a device; an application service makes one that isn't there (True).

        Raises `MatrixError` M_NOT_FOUND, M_TOO_LARGE or M_INVALID_PARAM.
        spec: application-service-api#creating-devices
        """
        if session.service is None or device_id in await self._rows(session.user_nid):
            await self.rename(session.user_nid, device_id, name)
            return False
        await self._sessions.new_device(session.user_nid, device_id, name)
        return True

    async def remove(
        self, session: Session, device_ids: Collection[str], auth: JsonObject | None
    ) -> None:
        """Remove devices and end their sessions, once `auth` has given the password.

        Application services need give none. Devices that do not exist are passed over. Raises
        `MatrixError`: those of `Interactive.check`, M_INVALID_PARAM for too many at once.
        """
        if len(device_ids) > MAX_REMOVED:
            raise MatrixError.invalid_param(f"devices: more than {MAX_REMOVED}")
        user_nid = session.user_nid
        if session.service is not None:
            await self._sessions.end_devices(user_nid, device_ids)
            return
        user = (await store.users(self._database, [user_nid]))[user_nid]
        operation = Operation(_operation(device_ids), [(PASSWORD,)], user)
        proven = await self._interactive.check(operation, auth)
        await self._sessions.end_devices(user_nid, device_ids, also=proven.changes)

    async def _rows(self, user_nid: int) -> dict[str, DeviceRow]:
        return (await store.devices_of(self._database, [user_nid])).get(user_nid, {})

    async def _row(self, user_nid: int, device_id: str) -> DeviceRow:
        row = (await self._rows(user_nid)).get(device_id)
        if row is None:
            raise _not_found()
        return row


def _operation(device_ids: Collection[str]) -> str:
    """A proof for some devices is good for exactly these."""
    named = "\0".join(sorted(set(device_ids)))
    return f"remove {hashlib.sha256(named.encode()).hexdigest()}"


def shown(row: DeviceRow) -> Device:
    """A stored device as its user sees it."""
    return Device(row.device_id, row.name, row.last_ip, row.last_seen_ts)


def _not_found() -> MatrixError:
    return MatrixError.not_found("You have no such device")

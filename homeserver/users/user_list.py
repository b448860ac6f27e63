"""What administrators see of the accounts of this server.

Owns the list of accounts and the look at one. It changes nothing; see `user_changes`.
"""

from dataclasses import dataclass

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode
from homeserver.matrix.ids import split_user_id
from homeserver.users.devices import Device, shown
from storage import accounts as store
from storage.engine import Database
from storage.schema import ADMIN, DEACTIVATED, GUEST, LOCKED, SUSPENDED, UserRow

_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which accounts are listed; None and the empty text exclude nobody."""

    name: str = ""
    admins: bool | None = None
    guests: bool | None = None
    deactivated: bool | None = None
    locked: bool | None = None
    suspended: bool | None = None

    def has(self, user: UserRow) -> bool:
        for wanted, flag in (
            (self.admins, ADMIN),
            (self.guests, GUEST),
            (self.deactivated, DEACTIVATED),
            (self.locked, LOCKED),
            (self.suspended, SUSPENDED),
        ):
            if wanted is not None and wanted != bool(user.flags & flag):
                return False
        return self.name.lower() in user.localpart


class UserList:
    """Lists accounts."""

    def __init__(self, database: Database, server_name: str) -> None:
        self._database = database
        self._server_name = server_name

    async def page(self, wanted: Wanted, first: int, limit: int) -> tuple[list[JsonObject], int]:
        """Accounts in the order of their names from the `first` on, and how many there are."""
        found: list[UserRow] = []
        total, after = 0, ""
        while rows := await store.users_after(self._database, after, _AT_ONCE):
            after = rows[-1].localpart
            for row in rows:
                if wanted.has(row):
                    if first <= total < first + limit:
                        found.append(row)
                    total += 1
        profiles = await store.profiles(self._database, [row.user_nid for row in found])
        return [self._facts(row, profiles.get(row.user_nid, {})) for row in found], total

    async def get(self, user_id: str) -> JsonObject:
        """One account; `MatrixError` M_NOT_FOUND or M_INVALID_PARAM."""
        user = await self.row(user_id)
        profiles = await store.profiles(self._database, [user.user_nid])
        return self._facts(user, profiles.get(user.user_nid, {}))

    async def devices(self, user_id: str) -> list[Device]:
        """The devices of one account; raises as `get` does."""
        user = await self.row(user_id)
        found = (await store.devices_of(self._database, [user.user_nid])).get(user.user_nid, {})
        return [shown(row) for row in found.values()]

    async def row(self, user_id: str) -> UserRow:
        """The account's row; raises as `get` does."""
        user = await self.find(user_id)
        if user is None:
            raise MatrixError.not_found("User not found")
        return user

    async def find(self, user_id: str) -> UserRow | None:
        """The account's row if there is one; `MatrixError` M_INVALID_PARAM for other servers'."""
        localpart, server = split_user_id(user_id)
        if server != self._server_name:
            raise MatrixError.invalid_param("The user is not one of this server")
        return (await store.users_by_localpart(self._database, [localpart])).get(localpart)

    def _facts(self, user: UserRow, profile: dict[str, bytes]) -> JsonObject:
        return {
            "name": f"@{user.localpart}:{self._server_name}",
            "displayname": decode(profile["displayname"]) if "displayname" in profile else None,
            "avatar_url": decode(profile["avatar_url"]) if "avatar_url" in profile else None,
            "admin": bool(user.flags & ADMIN),
            "is_guest": bool(user.flags & GUEST),
            "deactivated": bool(user.flags & DEACTIVATED),
            "locked": bool(user.flags & LOCKED),
            "suspended": bool(user.flags & SUSPENDED),
            "erased": False,
            "shadow_banned": False,
            "user_type": None,
            "appservice_id": None,
            "creation_ts": user.created_ts,
            "threepids": [],
            "external_ids": [],
        }

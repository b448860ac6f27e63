"""What administrators do about accounts: look at them, suspend and lock them.

Owns who may do it to whom. A suspended user may read but not act; a locked one is kept out and
keeps the sessions. What a suspended user may not do is declared by the endpoints.
spec: client-server-api#account-moderation and client-server-api#server-administration
"""

from typing import Literal

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import split_user_id
from homeserver.streams.commit import CommitQueue
from homeserver.users.sessions import Session, Sessions
from storage import accounts as store
from storage.account_changes import flag_cleared, flag_set
from storage.changes import Missed
from storage.engine import Database
from storage.schema import ADMIN, DEACTIVATED, LOCKED, SUSPENDED, UserRow

Standing = Literal["suspended", "locked"]

_FLAGS: dict[Standing, int] = {"suspended": SUSPENDED, "locked": LOCKED}


class Moderation:
    """The standing of the accounts of this server."""

    def __init__(
        self, database: Database, commits: CommitQueue, sessions: Sessions, server_name: str
    ) -> None:
        self._database = database
        self._commits = commits
        self._sessions = sessions
        self._server_name = server_name

    async def get(self, session: Session, user_id: str, standing: Standing) -> bool:
        """Whether a user is suspended, or locked.

        Raises `MatrixError` M_FORBIDDEN unless an administrator asks about somebody who is none,
        M_INVALID_PARAM for users of other servers, M_NOT_FOUND.
        """
        user = await self._target(session, user_id)
        return bool(user.flags & _FLAGS[standing])

    async def put(self, session: Session, user_id: str, standing: Standing, value: bool) -> None:
        """Suspend or lock a user, or take that back; raises as `get` does."""
        user = await self._target(session, user_id)
        flag = _FLAGS[standing]
        change = flag_set(user.user_nid, flag) if value else flag_cleared(user.user_nid, flag)
        try:
            await self._commits.commit([change])
        except Missed:
            raise _not_found() from None
        self._sessions.forget_user(user.user_nid)

    async def whois(self, session: Session, user_id: str) -> JsonObject:
        """Where a user's devices were last seen; for the user, and for administrators.

        Raises `MatrixError` M_FORBIDDEN for others, M_NOT_FOUND when there is no such user.
        spec: client-server-api#get_matrixclientv3adminwhoisuserid
        """
        if user_id != session.user_id and not session.is_admin:
            raise MatrixError.forbidden("Only administrators may look at others")
        localpart, server = split_user_id(user_id)
        user = await self._find(localpart) if server == self._server_name else None
        if user is None:
            raise _not_found()
        devices = (await store.devices_of(self._database, [user.user_nid])).get(user.user_nid, {})
        shown: JsonObject = {}
        for device_id, row in devices.items():
            connection = {"ip": row.last_ip, "last_seen": row.last_seen_ts}
            seen = [connection] if row.last_seen_ts is not None else []
            shown[device_id] = {"sessions": [{"connections": seen}]}
        return {"user_id": user_id, "devices": shown}

    async def _target(self, session: Session, user_id: str) -> UserRow:
        if not session.is_admin:
            raise MatrixError.forbidden("Only administrators may do this")
        localpart, server = split_user_id(user_id)
        if server != self._server_name:
            raise MatrixError.invalid_param("The user is not one of this server")
        user = await self._find(localpart)
        if user is None or user.flags & DEACTIVATED:
            raise _not_found()
        if user.flags & ADMIN:
            raise MatrixError.forbidden("Administrators can't be suspended or locked")
        return user

    async def _find(self, localpart: str) -> UserRow | None:
        return (await store.users_by_localpart(self._database, [localpart])).get(localpart)


def _not_found() -> MatrixError:
    return MatrixError.not_found("There is no such user")

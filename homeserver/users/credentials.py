"""Changing one's password.

Owns the proof that it takes, and what becomes of the user's other sessions. Hashing is done by
`passwords.py`.
spec: client-server-api#password-management
"""

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.streams.commit import CommitQueue
from homeserver.users.passwords import Passwords
from homeserver.users.sessions import Session, Sessions
from homeserver.users.uia import EMAIL, PASSWORD, Interactive, Operation
from storage import accounts as store
from storage.account_changes import password_set
from storage.changes import Missed
from storage.engine import Database
from storage.schema import DEACTIVATED, UserRow
from storage.threepids import owners


class Credentials:
    """Changes passwords."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        passwords: Passwords,
        sessions: Sessions,
        interactive: Interactive,
    ) -> None:
        self._database = database
        self._commits = commits
        self._passwords = passwords
        self._sessions = sessions
        self._interactive = interactive

    async def change_password(
        self, session: Session | None, password: str, auth: JsonObject | None, *, log_out: bool
    ) -> None:
        """Give the user another password, once `auth` has given the present one.

        Who has no session proves to have the account's mail address. With `log_out` all devices but
        that of the session are removed. Raises `MatrixError`: those of `Passwords.hash` for the new
        password, before anything is asked for, and those of `Interactive.check`.
        spec: client-server-api#post_matrixclientv3accountpassword
        """
        self._passwords.check(password)
        if session is None:
            flows, user = [(EMAIL,)], None
        else:
            flows = [(PASSWORD,)]
            user = (await store.users(self._database, [session.user_nid]))[session.user_nid]
        proven = await self._interactive.check(Operation("password", flows, user), auth)
        if user is None:
            user = await self._owner(proven.mail.address if proven.mail is not None else "")
        hashed = await self._passwords.hash(password)
        changes = [password_set(user.user_nid, hashed), *proven.changes]
        try:
            if log_out:
                await self._sessions.end_devices(
                    user.user_nid,
                    None,
                    also=changes,
                    keep=session.device_id if session is not None else None,
                )
            else:
                await self._commits.commit(changes)
        except Missed:
            raise MatrixError("M_USER_DEACTIVATED", "The account was deactivated", 403) from None

    async def _owner(self, address: str) -> UserRow:
        row = (await owners(self._database, "email", [address])).get(address)
        users = await store.users(self._database, [row.user_nid]) if row is not None else {}
        user = users.get(row.user_nid) if row is not None else None
        if user is None or user.flags & DEACTIVATED:
            raise MatrixError("M_THREEPID_NOT_FOUND", "No account here has this address", 400)
        return user

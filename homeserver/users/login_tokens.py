"""Login tokens: one client logs in another.

Owns their making, after the password was given again, and their use, once and within two minutes.
Only a hash of a token is stored.
spec: client-server-api#post_matrixclientv1loginget_token
"""

import secrets

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.access_tokens import hash_token
from homeserver.users.logins import check_standing
from homeserver.users.sessions import Begun, DeviceRequest, Sessions
from homeserver.users.uia import PASSWORD, Interactive, Operation
from storage import accounts as store
from storage.account_changes import login_token_used, login_tokens_expired
from storage.changes import Insert, Missed
from storage.engine import Database
from storage.schema import LoginTokenRow, UserRow

LIFETIME_MS = 120_000
TIDY_UP_EVERY_MS = 30 * 60_000


class LoginTokens:
    """Makes and uses login tokens."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        sessions: Sessions,
        interactive: Interactive,
        clock: Clock,
    ) -> None:
        self._database = database
        self._commits = commits
        self._sessions = sessions
        self._interactive = interactive
        self._clock = clock
        self._look_again = clock.now_ms() + TIDY_UP_EVERY_MS

    async def create(self, user_nid: int, auth: JsonObject | None) -> str:
        """A token, once `auth` has given the password; raises those of `Interactive.check`."""
        user = (await store.users(self._database, [user_nid]))[user_nid]
        operation = Operation("login token", [(PASSWORD,)], user)
        proven = await self._interactive.check(operation, auth)
        token = secrets.token_urlsafe(24)
        expires = self._clock.now_ms() + LIFETIME_MS
        row = LoginTokenRow(hash_token(token), user_nid, expires)
        await self._commits.commit([*proven.changes, Insert(row)])
        return token

    async def log_in(self, token: str, device: DeviceRequest) -> tuple[UserRow, Begun]:
        """Use a token up for a session of its user.

        Raises `MatrixError` M_FORBIDDEN for a token that is not good (any more), and those of
        `check_standing` and `Sessions.begin`.
        """
        token_hash = hash_token(token)
        row = (await store.login_tokens(self._database, [token_hash])).get(token_hash)
        if row is None:
            raise _not_good()
        user = (await store.users(self._database, [row.user_nid]))[row.user_nid]
        check_standing(user)
        used = login_token_used(token_hash, self._clock.now_ms())
        try:
            return user, await self._sessions.begin(user.user_nid, device, [used])
        except Missed:
            raise _not_good() from None

    async def forget_expired(self) -> None:
        """Remove the tokens whose time is over; looks now and then."""
        now = self._clock.now_ms()
        if now >= self._look_again:
            self._look_again = now + TIDY_UP_EVERY_MS
            await self._commits.commit([login_tokens_expired(now)])


def _not_good() -> MatrixError:
    return MatrixError.forbidden("The login token is not known, was used, or has expired")

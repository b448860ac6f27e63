"""Registration tokens: invitations to make an account.

Owns which tokens are good. A use is counted in the transaction that makes the account, so a token
is never used more often than it may be.
spec: client-server-api#token-authenticated-registration
"""

import re
import secrets

from homeserver.errors import MatrixError
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import accounts as store
from storage.account_changes import registration_token_used
from storage.changes import Change, Conflict, Insert
from storage.engine import Database
from storage.schema import RegistrationTokenRow

_GRAMMAR = re.compile(r"[0-9A-Za-z._~-]{1,64}")


class RegistrationTokens:
    """Reads, makes and uses tokens."""

    def __init__(self, database: Database, commits: CommitQueue, clock: Clock) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock

    async def is_valid(self, token: str) -> bool:
        """Whether an account could be made with the token now."""
        if _GRAMMAR.fullmatch(token) is None:
            return False
        row = (await store.registration_tokens(self._database, [token])).get(token)
        if row is None or (row.expires_ts is not None and row.expires_ts <= self._clock.now_ms()):
            return False
        return row.uses_allowed is None or row.completed < row.uses_allowed

    async def create(
        self,
        token: str | None = None,
        *,
        uses_allowed: int | None = None,
        expires_ts: int | None = None,
    ) -> str:
        """Make a token, a random one unless given; None means no limit.

        Raises `MatrixError` M_INVALID_PARAM for a text that can't be a token or is one already.
        """
        token = token or secrets.token_urlsafe(12)
        if _GRAMMAR.fullmatch(token) is None:
            raise MatrixError.invalid_param("token: 1 to 64 letters, digits and ._~-")
        try:
            row = RegistrationTokenRow(token, uses_allowed, 0, expires_ts)
            await self._commits.commit([Insert(row)])
        except Conflict:
            raise MatrixError.invalid_param("token: it exists already") from None
        return token

    def use(self, token: str) -> Change:
        """The change that counts one use; its item fails with `Missed` if there is none left."""
        return registration_token_used(token, self._clock.now_ms())

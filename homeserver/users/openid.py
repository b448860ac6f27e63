"""Tokens by which a third party learns from us who a user is.

Owns their form: the user, when it ends and our signature over both, so that nothing is stored. A
token says who somebody is and is good for nothing else.
spec: client-server-api#openid, server-server-api#openid
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode

from homeserver.errors import MatrixError
from homeserver.matrix.ids import split_user_id
from homeserver.matrix.sign import SigningKey, verify_bytes
from homeserver.runtime.clock import Clock
from storage.accounts import users_by_localpart
from storage.engine import Database
from storage.schema import DEACTIVATED

LIFETIME_SECONDS = 3_600
_PREFIX = b"openid token\0"  # no signed JSON begins like this
_SIGNATURE_BYTES = 64
_MAX_TOKEN = 600


class OpenID:
    """See the module."""

    def __init__(self, database: Database, key: SigningKey, clock: Clock) -> None:
        self._database = database
        self._key = key
        self._clock = clock

    def token(self, user_id: str) -> str:
        """A token of the user, good for an hour."""
        until = self._clock.now_ms() + LIFETIME_SECONDS * 1_000
        told = f"{until} {user_id}".encode()
        return urlsafe_b64encode(self._key.sign(_PREFIX + told) + told).decode()

    async def user_of(self, token: str) -> str:
        """Whose token it is; raises `MatrixError` M_UNKNOWN_TOKEN (401) unless it is good."""
        user_id = self._read(token) if len(token) <= _MAX_TOKEN else None
        if user_id is not None:
            localpart, _ = split_user_id(user_id)
            user = (await users_by_localpart(self._database, [localpart])).get(localpart)
            if user is not None and not user.flags & DEACTIVATED:
                return user_id
        raise MatrixError("M_UNKNOWN_TOKEN", "The access token is unknown or has expired", 401)

    def _read(self, token: str) -> str | None:
        try:
            raw = urlsafe_b64decode(token.encode())
        except ValueError:
            return None
        signature, told = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not verify_bytes(_PREFIX + told, signature, self._key.public_key):
            return None
        until, _, user_id = told.decode().partition(" ")
        return user_id if int(until) > self._clock.now_ms() else None

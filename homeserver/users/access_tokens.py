"""Access tokens and the refresh tokens beside them.

Owns their making: what they look like, how long they are good, and the row that remembers their
hashes. Who gets one, and what becomes of the one before, is decided by `sessions.py`.
spec: client-server-api#refreshing-access-tokens
"""

import hashlib
import secrets
from dataclasses import dataclass

from homeserver import config
from homeserver.errors import MatrixError
from storage.schema import AccessTokenRow

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long tokens are good, in milliseconds; None: for ever.

    `refreshed` is that of access tokens which their client can refresh, `token` that of the others,
    `refresh` that of a refresh token that nobody uses.
    """

    refreshed: int | None = None
    token: int | None = None
    refresh: int | None = None

    @classmethod
    def configured(cls, sessions: config.Sessions) -> "Lifetimes":
        """Those of the configuration, where 0 is for ever."""
        return cls(
            refreshed=sessions.refreshed_minutes * _MINUTE_MS or None,
            token=sessions.token_days * _DAY_MS or None,
            refresh=sessions.refresh_days * _DAY_MS or None,
        )


FOR_EVER = Lifetimes()


@dataclass(frozen=True, slots=True)
class Issued:
    """New tokens: the only moment at which they are known."""

    access_token: str
    refresh_token: str | None
    expires_in_ms: int | None


def issue(
    device_nid: int,
    user_nid: int,
    lifetimes: Lifetimes,
    now: int,
    *,
    refreshes: bool,
    replaces: bytes | None = None,
) -> tuple[Issued, AccessTokenRow]:
    """Tokens for a device, from `now` (ms), and their row; a refresh token if it `refreshes`."""
    access_token = secrets.token_urlsafe(32)
    refresh_token = secrets.token_urlsafe(32) if refreshes else None
    lifetime = lifetimes.refreshed if refreshes else lifetimes.token
    return Issued(access_token, refresh_token, lifetime), AccessTokenRow(
        token_hash=hash_token(access_token),
        device_nid=device_nid,
        user_nid=user_nid,
        expires_ts=_after(now, lifetime),
        refresh_hash=hash_token(refresh_token) if refresh_token is not None else None,
        refresh_expires_ts=_after(now, lifetimes.refresh) if refreshes else None,
        replaces=replaces,
    )


def hash_token(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def unknown_token(message: str, *, soft_logout: bool = False) -> MatrixError:
    """M_UNKNOWN_TOKEN; after a soft logout the client may keep its keys and log in again."""
    return MatrixError("M_UNKNOWN_TOKEN", message, 401, extra={"soft_logout": soft_logout})


def user_locked() -> MatrixError:
    """What a locked user is told everywhere; spec: client-server-api#account-locking"""
    return MatrixError(
        "M_USER_LOCKED", "This account has been locked", 401, extra={"soft_logout": True}
    )


def _after(now: int, lifetime: int | None) -> int | None:
    return now + lifetime if lifetime is not None else None

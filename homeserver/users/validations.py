"""Whether somebody who asks controls a mail address.

Owns the exchange: a client asks, a mail with a link goes to the address, and once the link was
followed the client can prove it. A validation is good for one purpose only, so that a link which
promises one thing can't be used for another; what would give an account away asks once more on its
page, because programs that look at mail follow links by themselves.
spec: client-server-api#adding-account-administrative-contact-information
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode, urlsplit

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock
from homeserver.runtime.limits import RateLimits
from homeserver.runtime.mail import Mailer, is_mail_address
from homeserver.streams.commit import CommitQueue
from storage import threepids as store
from storage.changes import Change, Conflict, Delete, Insert, Put
from storage.engine import Database
from storage.schema import ThreepidRow, ValidationRow

Purpose = Literal["register", "add", "password"]

EMAIL = "email"
LIFETIME_MS = 24 * 3_600_000
PATH = "/_homeserver/mail/validate"
_SECRET = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_SUBJECTS = {
    "register": "Confirm your address",
    "add": "Confirm your address",
    "password": "Set a new password",
}


@dataclass(frozen=True, slots=True)
class Validated:
    """An address that was shown to be controlled, since `ts` (ms)."""

    sid: str
    address: str
    ts: int

    def added(self, user_nid: int, now: int) -> list[Change]:
        """The changes that give a user the address (at `now`, ms) and use the validation up.

        They fail with `Conflict` of storage when the address is another account's.
        """
        row = ThreepidRow(EMAIL, self.address, user_nid, self.ts, now, "[]")
        return [Insert(row), Delete(ValidationRow, (self.sid,))]


class Validations:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        mailer: Mailer,
        limits: RateLimits,
        clock: Clock,
        base_url: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._mailer = mailer
        self._limits = limits
        self._clock = clock
        self._base_url = base_url
        self._look_again = clock.now_ms() + LIFETIME_MS

    @property
    def possible(self) -> bool:
        """Whether this server sends mail."""
        return self._mailer.enabled

    async def request(
        self, purpose: Purpose, address: str, secret: str, attempt: int, next_link: str | None
    ) -> str:
        """Send a mail unless this attempt has sent one; returns the session id.

        `address` is a canonical one (`canonical_address`). Raises `MatrixError`:
        M_THREEPID_MEDIUM_NOT_SUPPORTED without mail, M_INVALID_PARAM, M_LIMIT_EXCEEDED, and
        M_UNKNOWN (502) when the mail could not be sent.
        """
        check_secret(secret)
        if not self.possible:
            raise MatrixError("M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server sends no mail", 400)
        if next_link is not None and urlsplit(next_link).scheme not in ("http", "https"):
            raise MatrixError.invalid_param("next_link must begin with https:// or http://")
        now = self._clock.now_ms()
        row = await store.validation_for(self._database, address, secret, purpose)
        if row is not None and row.expires_ts > now and attempt <= row.attempt:
            return row.sid
        self._limits.charge("mail", address)
        token = secrets.token_urlsafe(24)
        sid = row.sid if row is not None else secrets.token_hex(16)
        row = ValidationRow(
            sid=sid,
            address=address,
            client_secret=secret,
            purpose=purpose,
            token_hash=_hash(token),
            attempt=attempt,
            next_link=next_link,
            validated_ts=None,
            expires_ts=now + LIFETIME_MS,
        )
        query = urlencode({"sid": sid, "client_secret": secret, "token": token})
        values = {
            "purpose": purpose,
            "link": f"{self._base_url}{PATH}?{query}",
            "hours": LIFETIME_MS // 3_600_000,
        }
        await self._mailer.send(address, _SUBJECTS[purpose], "validate", values)
        try:
            await self._commits.commit([Put(row)])
        except Conflict:
            raise MatrixError("M_UNKNOWN", "Two requests for one mail; try again", 409) from None
        return sid

    async def purpose(self, sid: str, secret: str, token: str) -> str:
        """What a link is for. Raises `MatrixError` as `confirm` does."""
        return (await self._found(sid, secret, token)).purpose

    async def confirm(self, sid: str, secret: str, token: str) -> str | None:
        """A link was followed: the address is validated; returns where the client wants to go.

        Raises `MatrixError` M_TOKEN_INCORRECT for a link that is not good (any more).
        """
        row = await self._found(sid, secret, token)
        if row.validated_ts is None:
            await self._commits.commit([Put(row._replace(validated_ts=self._clock.now_ms()))])
        return row.next_link

    async def proven(self, purpose: Purpose, credentials: JsonObject) -> Validated | None:
        """The address that these credentials (`sid`, `client_secret`) have validated, or None.

        Raises `MatrixError` M_MISSING_PARAM or M_BAD_JSON.
        """
        sid, secret = _text(credentials, "sid"), _text(credentials, "client_secret")
        row = (await store.validations(self._database, [sid])).get(sid)
        if (
            row is None
            or row.validated_ts is None
            or row.purpose != purpose
            or row.expires_ts <= self._clock.now_ms()
            or not hmac.compare_digest(row.client_secret.encode(), secret.encode())
        ):
            return None
        return Validated(sid, row.address, row.validated_ts)

    async def forget_expired(self) -> None:
        """Remove what nobody has used in time; looks once an hour."""
        now = self._clock.now_ms()
        if now >= self._look_again:
            self._look_again = now + 3_600_000
            await self._commits.commit([store.validations_expired(now)])

    async def _found(self, sid: str, secret: str, token: str) -> ValidationRow:
        row = (await store.validations(self._database, [sid])).get(sid)
        if (
            row is None
            or row.expires_ts <= self._clock.now_ms()
            or not hmac.compare_digest(row.client_secret.encode(), secret.encode())
            or not hmac.compare_digest(row.token_hash, _hash(token))
        ):
            raise MatrixError("M_TOKEN_INCORRECT", "This link is not good any more", 400)
        return row


def canonical_address(medium: str, address: str) -> str:
    """The one form of an address; raises `MatrixError` M_INVALID_PARAM or
    M_THREEPID_MEDIUM_NOT_SUPPORTED. spec: appendices#e-mail
    """
    if medium != EMAIL:
        raise MatrixError(
            "M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server knows mail addresses only", 400
        )
    if not is_mail_address(address):
        raise MatrixError("M_INVALID_PARAM", "email: this is no mail address", 400)
    return address.casefold()


def check_secret(secret: str) -> None:
    """Raise `MatrixError` M_INVALID_PARAM for what can't be a client secret."""
    if _SECRET.fullmatch(secret) is None:
        raise MatrixError.invalid_param(
            "client_secret has 1 to 255 of the characters a-zA-Z0-9.=_-"
        )


def _text(credentials: JsonObject, key: str) -> str:
    value = credentials.get(key)
    if value is None:
        raise MatrixError.missing_param(f"threepid_creds.{key} is missing")
    if not isinstance(value, str):
        raise MatrixError.bad_json(f"threepid_creds.{key} must be a string")
    return value


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()

"""Who is making a request.

Owns what access tokens stand for, and the sessions in memory. Only the hash of a token is ever
stored or kept. Invariant: a session that was ended is refused from the moment its end is committed,
whatever was in memory. Checking passwords and making accounts is done elsewhere.
spec: client-server-api#using-access-tokens
"""

import hashlib
import secrets
import sys
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from homeserver.errors import MatrixError
from homeserver.matrix.ids import is_device_id
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Numbers
from homeserver.users.inbox import UserInbox
from storage import accounts as store
from storage.account_changes import device_seen
from storage.changes import Change, Delete, Insert
from storage.engine import Database
from storage.schema import (
    ADMIN,
    DEACTIVATED,
    GUEST,
    AccessTokenRow,
    DeviceRow,
)

MAX_CACHED = 50_000
MAX_DEVICE_NAME = 100
SEEN_EVERY_MS = 5 * 60_000


@dataclass(frozen=True, slots=True)
class Session:
    """An authenticated user and device.

    `device_id` and `device_nid` are None for tokens without a device (application services).
    spec: client-server-api#relationship-between-access-tokens-and-devices
    """

    user_id: str
    user_nid: int
    device_id: str | None
    device_nid: int | None
    is_admin: bool
    is_guest: bool
    token_hash: bytes


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a client asked for the device of its new session; the name is for a new device only."""

    device_id: str | None = None
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A new session: the only moment at which its token is known."""

    access_token: str
    device_id: str


class Remote(Protocol):
    """A request, as far as it tells where it comes from."""

    @property
    def remote(self) -> str:
        """The client's address."""


@dataclass(frozen=True, slots=True)
class _Cached:
    session: Session
    expires_ts: int | None
    # From then on the session has to be noted as seen again, or is over.
    good_until: int


class Sessions:
    """Begins, recognises and ends sessions."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        numbers: Numbers,
        inbox: UserInbox,
        clock: Clock,
    ) -> None:
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._inbox = inbox
        self._clock = clock
        self._cached: OrderedDict[bytes, _Cached] = OrderedDict()
        # Raised whenever sessions end, so that one that was being read just then isn't kept.
        self._endings = 0
        self._unsaved: dict[int, tuple[int, str]] = {}

    def cached(self, token: str) -> Session | None:
        """The session of an access token, if it is in memory, valid, and was noted as seen."""
        found = self._cached.get(_hash(token))
        if found is None or found.good_until <= self._clock.now_ms():
            return None
        return found.session

    async def authenticate(self, token: str, request: Remote) -> Session:
        """The session of an access token; notes from where it is used.

        Raises `MatrixError` M_UNKNOWN_TOKEN, with `soft_logout` when the token has expired.
        """
        token_hash = _hash(token)
        now = self._clock.now_ms()
        found = self._cached.get(token_hash)
        if found is None or (found.expires_ts is not None and found.expires_ts <= now):
            endings = self._endings
            session, expires_ts = await self._read(token_hash)
            kept = endings == self._endings
        else:
            session, expires_ts, kept = found.session, found.expires_ts, True
        if session.device_nid is not None:
            self._unsaved[session.device_nid] = (now, request.remote)
        if kept:
            good_until = min(now + SEEN_EVERY_MS, expires_ts or sys.maxsize)
            self._cached[token_hash] = _Cached(session, expires_ts, good_until)
            self._cached.move_to_end(token_hash)
            if len(self._cached) > MAX_CACHED:
                self._cached.popitem(last=False)
        return session

    async def begin(self, user_nid: int, wanted: DeviceRequest) -> Begun:
        """Log a user in, on a new device or on one that exists, whose older tokens end.

        Raises `MatrixError` M_INVALID_PARAM for a device id or name that can't be.
        """
        check_device(wanted)

        async def turn() -> Begun:
            device_id = wanted.device_id or new_device_id()
            devices = await store.devices_of(self._database, [user_nid])
            device = devices.get(user_nid, {}).get(device_id)
            if device is None:
                begun, changes = await self.first(
                    user_nid, DeviceRequest(device_id, wanted.display_name)
                )
                await self._commits.commit(changes)
                return begun
            token, hash_ = _new_token()
            ended = await self._tokens([device.device_nid])
            changes = [Delete(AccessTokenRow, (token_hash,)) for token_hash in ended]
            changes.append(Insert(AccessTokenRow(hash_, device.device_nid, user_nid, None)))
            await self._commits.commit(changes)
            self._forget(ended)
            return Begun(token, device_id)

        return await self._inbox.run(user_nid, turn)

    async def first(self, user_nid: int, wanted: DeviceRequest) -> tuple[Begun, list[Change]]:
        """A session on a new device, and the changes that make it (to be committed)."""
        token, token_hash = _new_token()
        device_nid = await self._numbers.take_soon("device")
        device_id = wanted.device_id or new_device_id()
        name = wanted.display_name
        return Begun(token, device_id), [
            Insert(DeviceRow(device_nid, user_nid, device_id, name, None, None)),
            Insert(AccessTokenRow(token_hash, device_nid, user_nid, None)),
        ]

    async def end(self, session: Session) -> None:
        """Log out: the session's device goes with all its tokens."""
        if session.device_id is None:
            await self._commits.commit([Delete(AccessTokenRow, (session.token_hash,))])
            self._forget([session.token_hash])
            return
        await self.end_devices(session.user_nid, [session.device_id])

    async def end_devices(
        self,
        user_nid: int,
        device_ids: Collection[str] | None,
        also: Collection[Change] = (),
    ) -> None:
        """Remove devices of a user and end their sessions; None means all of them.

        Devices that do not exist are passed over. `also` is committed with it.
        """

        async def turn() -> None:
            devices = (await store.devices_of(self._database, [user_nid])).get(user_nid, {})
            nids = [
                device.device_nid
                for device_id, device in devices.items()
                if device_ids is None or device_id in device_ids
            ]
            tokens = await self._tokens(nids)
            changes: list[Change] = [*also, *(Delete(DeviceRow, (nid,)) for nid in nids)]
            changes += [Delete(AccessTokenRow, (token_hash,)) for token_hash in tokens]
            if changes:
                await self._commits.commit(changes)
            self._forget(tokens)
            for nid in nids:
                self._unsaved.pop(nid, None)

        await self._inbox.run(user_nid, turn)

    async def save_seen(self) -> None:
        """Write when and from where devices were last used."""
        unsaved, self._unsaved = self._unsaved, {}
        if unsaved:
            await self._commits.commit(
                [device_seen(nid, now, address) for nid, (now, address) in unsaved.items()]
            )

    async def _tokens(self, device_nids: Collection[int]) -> list[bytes]:
        found = await store.tokens_of(self._database, device_nids)
        return [row.token_hash for rows in found.values() for row in rows]

    async def _read(self, token_hash: bytes) -> tuple[Session, int | None]:
        found = (await store.token_owners(self._database, [token_hash])).get(token_hash)
        if found is None or found.user.flags & DEACTIVATED:
            raise _unknown_token()
        expires_ts = found.token.expires_ts
        if expires_ts is not None and expires_ts <= self._clock.now_ms():
            raise _unknown_token(soft_logout=True)
        session = Session(
            user_id=found.user_id,
            user_nid=found.user.user_nid,
            device_id=found.device.device_id,
            device_nid=found.device.device_nid,
            is_admin=bool(found.user.flags & ADMIN),
            is_guest=bool(found.user.flags & GUEST),
            token_hash=token_hash,
        )
        return session, expires_ts

    def _forget(self, token_hashes: Collection[bytes]) -> None:
        self._endings += 1
        for token_hash in token_hashes:
            self._cached.pop(token_hash, None)


def check_device(wanted: DeviceRequest) -> None:
    """Raise `MatrixError` M_INVALID_PARAM for a device id or name that can't be."""
    if wanted.device_id is not None and not is_device_id(wanted.device_id):
        raise MatrixError.invalid_param("device_id has 1 to 255 bytes")
    check_device_name(wanted.display_name)


def check_device_name(name: str | None) -> None:
    """Raise `MatrixError` M_TOO_LARGE for a device name that is too long."""
    if name is not None and len(name) > MAX_DEVICE_NAME:
        raise MatrixError("M_TOO_LARGE", f"Device names have at most {MAX_DEVICE_NAME} characters")


def new_device_id() -> str:
    """A device id that nobody has: ten capital letters."""
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(10))


def _new_token() -> tuple[str, bytes]:
    token = secrets.token_urlsafe(32)
    return token, _hash(token)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _unknown_token(soft_logout: bool = False) -> MatrixError:
    return MatrixError(
        "M_UNKNOWN_TOKEN",
        "The access token has expired" if soft_logout else "Unknown access token",
        401,
        extra={"soft_logout": soft_logout},
    )

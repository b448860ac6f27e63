"""Who is making a request.

Owns what access tokens stand for, and the sessions in memory. Only the hash of a token is ever
stored or kept. Invariant: a session that was ended is refused from the moment its end is committed,
whatever was in memory. A device has one chain of tokens: a refresh makes a new access and refresh
token, and those before them end when a new one is first used, so that a client which never got the
answer can ask again. Checking passwords and making accounts is done elsewhere.
spec: client-server-api#using-access-tokens and client-server-api#refreshing-access-tokens
"""

import secrets
import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from homeserver.errors import MatrixError
from homeserver.matrix.ids import is_device_id
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Numbers
from homeserver.users.access_tokens import (
    FOR_EVER,
    Issued,
    Lifetimes,
    hash_token,
    issue,
    unknown_token,
    user_locked,
)
from homeserver.users.device_lists import Told
from homeserver.users.inbox import UserInbox
from storage import accounts as store
from storage.account_changes import device_seen
from storage.changes import Change, Delete, Insert, Put
from storage.engine import Database
from storage.push import pushers_ended
from storage.schema import (
    ADMIN,
    DEACTIVATED,
    GUEST,
    LOCKED,
    SUSPENDED,
    AccessTokenRow,
    DeviceRow,
    UserRow,
)

MAX_CACHED = 50_000
MAX_ENDED = 10_000
MAX_DEVICE_NAME = 100
SEEN_EVERY_MS = 5 * 60_000


@dataclass(frozen=True, slots=True)
class Session:
    """An authenticated user and device.

    `device_id` and `device_nid` are None for tokens without a device (application services);
    `service` is the id of the application service that asks; rate limits don't count what
    `is_unlimited`.
    spec: client-server-api#relationship-between-access-tokens-and-devices
    """

    user_id: str
    user_nid: int
    device_id: str | None
    device_nid: int | None
    is_admin: bool
    is_guest: bool
    token_hash: bytes
    is_suspended: bool = False
    is_locked: bool = False
    service: str | None = None
    is_unlimited: bool = False


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a client asked for its new session; the name is for a new device only.

    `refreshes`: the client knows how to use a refresh token.
    """

    device_id: str | None = None
    display_name: str | None = None
    refreshes: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A session with new tokens: the only moment at which they are known."""

    access_token: str
    device_id: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None


class Remote(Protocol):
    """A request, as far as it tells where it comes from."""

    @property
    def remote(self) -> str:
        """The client's address."""


class DeviceEnds(Protocol):
    """What else goes when devices end."""

    async def spared(self, user_nid: int) -> Collection[int]:
        """The devices (numbers) that stay when a user logs all out: nobody is logged in by them."""

    async def ending(self, user_nid: int, devices: Mapping[int, str]) -> Told:
        """The changes that take along what belongs to these devices (number to id)."""


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
        lifetimes: Lifetimes = FOR_EVER,
    ) -> None:
        self._lifetimes = lifetimes
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._inbox = inbox
        self._clock = clock
        self._cached: OrderedDict[bytes, _Cached] = OrderedDict()
        # Raised whenever sessions end, so that one that was being read just then isn't kept.
        self._endings = 0
        self._unsaved: dict[int, tuple[int, str]] = {}
        # The devices that ended last, for requests that began before that and wait.
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._ends: DeviceEnds | None = None

    def on_end(self, ends: DeviceEnds) -> None:
        """Have this say what goes when devices end."""
        self._ends = ends

    def cached(self, token: str) -> Session | None:
        """The session of an access token, if it is in memory, valid, and was noted as seen."""
        found = self._cached.get(hash_token(token))
        if found is None or found.good_until <= self._clock.now_ms():
            return None
        return found.session

    async def authenticate(self, token: str, request: Remote) -> Session:
        """The session of an access token; notes from where it is used.

        Raises `MatrixError` M_UNKNOWN_TOKEN, with `soft_logout` when the token has expired.
        """
        token_hash = hash_token(token)
        now = self._clock.now_ms()
        found = self._cached.get(token_hash)
        if found is None or (found.expires_ts is not None and found.expires_ts <= now):
            endings = self._endings
            session, row = await self._read(token_hash)
            if row.replaces is not None:
                await self._settle(row)
            expires_ts = row.expires_ts
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

    def check(self, session: Session) -> None:
        """Raise `MatrixError` M_UNKNOWN_TOKEN when the session's device ended while it waited."""
        if session.device_nid in self._ended:
            raise unknown_token("The device was logged out")

    async def assumed(self, user_id: str, device_id: str | None) -> Session:
        """What an application service does as this user, on one of the user's devices or none.

        Raises `MatrixError` M_FORBIDDEN for no account, M_UNKNOWN_DEVICE (400) for no such device.
        spec: application-service-api#identity-assertion
        """
        localpart = user_id[1:].partition(":")[0]
        user = (await store.users_by_localpart(self._database, [localpart])).get(localpart)
        if user is None or user.flags & DEACTIVATED:
            raise MatrixError.forbidden("The application service has not registered this user")
        device_nid = None
        if device_id is not None:
            devices = (await store.devices_of(self._database, [user.user_nid])).get(user.user_nid)
            device = (devices or {}).get(device_id)
            if device is None:
                raise MatrixError("M_UNKNOWN_DEVICE", "The user has no such device", 400)
            device_nid = device.device_nid
        return _session(user_id, user, device_id, device_nid, b"")

    async def begin(
        self, user_nid: int, wanted: DeviceRequest, also: Collection[Change] = ()
    ) -> Begun:
        """Log a user in, on a new device or on one that exists, whose older tokens end.

        `also` is committed with it. Raises `MatrixError` M_INVALID_PARAM or M_TOO_LARGE for a
        device id or name that can't be, and what storage raises of `also`.
        """
        check_device(wanted)

        async def turn() -> Begun:
            device_id = wanted.device_id or new_device_id()
            devices = await store.devices_of(self._database, [user_nid])
            device = devices.get(user_nid, {}).get(device_id)
            if device is None:
                begun, changes = await self.first(user_nid, replace(wanted, device_id=device_id))
                await self._commits.commit([*also, *changes])
                return begun
            ended = [row.token_hash for row in await self._tokens([device.device_nid])]
            issued, row = self._issue(device.device_nid, user_nid, refreshes=wanted.refreshes)
            await self._commits.commit([*also, *_ended(ended), Insert(row)])
            self._forget(ended)
            return _begun(issued, device_id)

        return await self._inbox.run(user_nid, turn)

    async def first(self, user_nid: int, wanted: DeviceRequest) -> tuple[Begun, list[Change]]:
        """A session on a new device, and the changes that make it (to be committed)."""
        device_nid = await self._numbers.take_soon("device")
        device_id = wanted.device_id or new_device_id()
        name = wanted.display_name
        issued, row = self._issue(device_nid, user_nid, refreshes=wanted.refreshes)
        return _begun(issued, device_id), [
            Insert(DeviceRow(device_nid, user_nid, device_id, name, None, None)),
            Insert(row),
        ]

    async def new_device(self, user_nid: int, device_id: str, name: str | None) -> None:
        """A device without an access token, for an application service; one that exists stays.

        Raises `MatrixError` M_INVALID_PARAM or M_TOO_LARGE.
        """
        check_device(DeviceRequest(device_id, name))

        async def turn() -> None:
            devices = await store.devices_of(self._database, [user_nid])
            if device_id not in devices.get(user_nid, {}):
                nid = await self._numbers.take_soon("device")
                row = DeviceRow(nid, user_nid, device_id, name, None, None)
                await self._commits.commit([Insert(row)])

        await self._inbox.run(user_nid, turn)

    async def refresh(self, refresh_token: str) -> Begun:
        """New tokens for the device of a refresh token.

        The tokens that it came with are good until one of the new ones is used. Raises
        `MatrixError` M_UNKNOWN_TOKEN, with `soft_logout` when it has expired, and M_USER_LOCKED.
        spec: client-server-api#post_matrixclientv3refresh
        """
        refresh_hash = hash_token(refresh_token)
        row = await self._refreshable(refresh_hash)

        async def turn() -> Begun:
            row = await self._refreshable(refresh_hash)
            owners = await store.token_owners(self._database, [row.token_hash])
            owner = owners[row.token_hash]
            if owner.user.flags & LOCKED:
                raise user_locked()
            now, expires = self._clock.now_ms(), row.refresh_expires_ts
            if expires is not None and expires <= now:
                raise unknown_token("The refresh token has expired", soft_logout=True)
            # All others of the device: those before, which end now, and answers that got lost.
            others = [
                other.token_hash
                for other in await self._tokens([row.device_nid])
                if other.token_hash != row.token_hash
            ]
            issued, new = self._issue(
                row.device_nid, row.user_nid, refreshes=True, replaces=row.token_hash
            )
            await self._commits.commit(
                [*_ended(others), Put(row._replace(replaces=None)), Insert(new)]
            )
            self._forget(others)
            return _begun(issued, owner.device.device_id)

        return await self._inbox.run(row.user_nid, turn)

    async def end(self, session: Session) -> None:
        """Log out: the session's device goes with all its tokens.

        Raises `MatrixError` M_FORBIDDEN for an application service without a device.
        """
        if session.device_id is None:
            raise MatrixError.forbidden("An application service's token is for ever")
        await self.end_devices(session.user_nid, [session.device_id])

    async def end_devices(
        self,
        user_nid: int,
        device_ids: Collection[str] | None,
        also: Collection[Change] = (),
        keep: str | None = None,
        *,
        for_ever: bool = False,
    ) -> None:
        """Remove devices of a user and end their sessions; None means all of them but `keep`.

        All of them are those by which somebody is logged in, with `for_ever` really all. Devices
        that do not exist are passed over. `also` is committed with it; what storage raises of it is
        the caller's.
        """

        async def turn() -> None:
            devices = (await store.devices_of(self._database, [user_nid])).get(user_nid, {})
            spared: Collection[int] = ()
            if device_ids is None and self._ends is not None and not for_ever:
                spared = await self._ends.spared(user_nid)
            nids = {
                device.device_nid: device_id
                for device_id, device in devices.items()
                if (
                    device_id != keep and device.device_nid not in spared
                    if device_ids is None
                    else device_id in device_ids
                )
            }
            tokens = [row.token_hash for row in await self._tokens([*nids])]
            changes: list[Change] = [*also, *(Delete(DeviceRow, (nid,)) for nid in nids)]
            changes += _ended(tokens)
            told = Told()
            if self._ends is not None and nids:
                told = await self._ends.ending(user_nid, nids)
            if nids:
                changes.append(pushers_ended(nids))

            def publish(pos: int) -> None:
                self._ended.update(dict.fromkeys(nids))
                while len(self._ended) > MAX_ENDED:
                    self._ended.popitem(last=False)
                if told.publish is not None:
                    told.publish(pos)

            if changes:
                await self._commits.commit([*changes, *told.changes], told.positions, publish)
            self._forget(tokens)
            for nid in nids:
                self._unsaved.pop(nid, None)

        await self._inbox.run(user_nid, turn)

    def forget_user(self, user_nid: int) -> None:
        """Read the user's sessions anew: the account's standing has changed."""
        self._forget(
            [key for key, found in self._cached.items() if found.session.user_nid == user_nid]
        )

    async def save_seen(self) -> None:
        """Write when and from where devices were last used."""
        unsaved, self._unsaved = self._unsaved, {}
        if unsaved:
            await self._commits.commit(
                [device_seen(nid, now, address) for nid, (now, address) in unsaved.items()]
            )

    def _issue(
        self, device_nid: int, user_nid: int, *, refreshes: bool, replaces: bytes | None = None
    ) -> tuple[Issued, AccessTokenRow]:
        now = self._clock.now_ms()
        return issue(
            device_nid, user_nid, self._lifetimes, now, refreshes=refreshes, replaces=replaces
        )

    async def _tokens(self, device_nids: Collection[int]) -> list[AccessTokenRow]:
        found = await store.tokens_of(self._database, device_nids)
        return [row for rows in found.values() for row in rows]

    async def _refreshable(self, refresh_hash: bytes) -> AccessTokenRow:
        row = (await store.refreshable(self._database, [refresh_hash])).get(refresh_hash)
        if row is None:
            raise unknown_token("Unknown refresh token")
        return row

    async def _settle(self, used: AccessTokenRow) -> None:
        """A token that replaced another is in use: the other ends."""

        async def turn() -> None:
            for row in await self._tokens([used.device_nid]):
                if row.token_hash == used.token_hash and row.replaces is not None:
                    settled = Put(row._replace(replaces=None))
                    await self._commits.commit([*_ended([row.replaces]), settled])
                    self._forget([row.replaces])

        await self._inbox.run(used.user_nid, turn)

    async def _read(self, token_hash: bytes) -> tuple[Session, AccessTokenRow]:
        found = (await store.token_owners(self._database, [token_hash])).get(token_hash)
        if found is None or found.user.flags & DEACTIVATED:
            raise unknown_token("Unknown access token")
        expires_ts = found.token.expires_ts
        if expires_ts is not None and expires_ts <= self._clock.now_ms():
            raise unknown_token("The access token has expired", soft_logout=True)
        device = found.device
        session = _session(
            found.user_id, found.user, device.device_id, device.device_nid, token_hash
        )
        return session, found.token

    def _forget(self, token_hashes: Collection[bytes]) -> None:
        self._endings += 1
        for token_hash in token_hashes:
            self._cached.pop(token_hash, None)


def _session(
    user_id: str, user: UserRow, device_id: str | None, device_nid: int | None, token_hash: bytes
) -> Session:
    return Session(
        user_id=user_id,
        user_nid=user.user_nid,
        device_id=device_id,
        device_nid=device_nid,
        is_admin=bool(user.flags & ADMIN),
        is_guest=bool(user.flags & GUEST),
        token_hash=token_hash,
        is_suspended=bool(user.flags & SUSPENDED),
        is_locked=bool(user.flags & LOCKED),
    )


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


def _begun(issued: Issued, device_id: str) -> Begun:
    return Begun(issued.access_token, device_id, issued.refresh_token, issued.expires_in_ms)


def _ended(token_hashes: Collection[bytes]) -> list[Change]:
    return [Delete(AccessTokenRow, (token_hash,)) for token_hash in token_hashes]

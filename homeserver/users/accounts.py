"""Making accounts.

Owns which names may be registered and the one transaction that makes an account: user, profile,
first session, the use of a token; a guest's account becomes a person's in one transaction, too.
The first account of a server is its administrator; two that are made at once do not both become it.
Who may register is decided by `registration.py`.
spec: client-server-api#account-registration
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import encode
from homeserver.matrix.ids import fits, is_new_localpart
from homeserver.rooms.known_users import known_user
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.users.passwords import Passwords
from homeserver.users.sessions import Begun, DeviceRequest, Session, Sessions, check_device
from homeserver.users.validations import Validated
from storage import accounts as store
from storage.account_changes import guest_upgraded
from storage.changes import Change, Conflict, Insert, Missed
from storage.engine import Database
from storage.schema import (
    ADMIN,
    GUEST,
    SERVICE,
    AcceptedTermsRow,
    MetaRow,
    ProfileRow,
    UserRow,
)

T = TypeVar("T")

_FIRST_ACCOUNT = "first_account"


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to be made. Without a `device` nobody is logged in.

    A `service` account is an application service's or the server's own: it is never the first.
    `accepted` are the policies that its user has accepted, with their versions; `mail` is the
    address that was shown to be the user's.
    """

    localpart: str
    password: str | None = None
    admin: bool = False
    displayname: str | None = None
    device: DeviceRequest | None = None
    guest: bool = False
    service: bool = False
    accepted: Mapping[str, str] = field(default_factory=dict)
    mail: Validated | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """The account that was made, and its first session."""

    user_id: str
    session: Begun | None


class Accounts:
    """Makes accounts and knows which names are free."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        names: Names,
        sessions: Sessions,
        passwords: Passwords,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._names = names
        self._sessions = sessions
        self._passwords = passwords
        self._clock = clock
        self._server_name = server_name
        self._has_accounts = False
        self._reserved: list[Callable[[str], None]] = []

    def reserve(self, check: Callable[[str], None]) -> None:
        """Have `check(user_id)` raise `MatrixError` for names that people may not take."""
        self._reserved.append(check)

    async def check_free(self, localpart: str, *, service: bool = False) -> str:
        """The localpart as it would be registered: capitals become small letters.

        Raises `MatrixError` M_INVALID_USERNAME, M_USER_IN_USE, or M_EXCLUSIVE for a name that only
        a `service` may make. spec: client-server-api#get_matrixclientv3registeravailable
        """
        localpart = self._checked(localpart)
        if not service:
            for check in self._reserved:
                check(f"@{localpart}:{self._server_name}")
        if await store.users_by_localpart(self._database, [localpart]):
            raise _in_use()
        return localpart

    async def create(self, new: NewAccount, also: tuple[Change, ...] = ()) -> Registered:
        """Make the account, and whatever else must happen with it, in one transaction.

        Raises `MatrixError` M_INVALID_USERNAME, M_USER_IN_USE, M_THREEPID_IN_USE, those of password
        and device, and M_FORBIDDEN when something in `also` was no longer possible (a token that
        was used up).
        """
        localpart = await self.check_free(new.localpart, service=new.service)
        if new.device is not None:
            check_device(new.device)
        hashed = await self._passwords.hash(new.password) if new.password is not None else None
        user_id = f"@{localpart}:{self._server_name}"
        user_nid = (await self._names.nids([user_id]))[user_id]
        flags = (ADMIN if new.admin else 0) | (GUEST if new.guest else 0)
        flags |= SERVICE if new.service else 0
        now = self._clock.now_ms()
        user = UserRow(user_nid, localpart, hashed, flags, now)
        changes: list[Change] = list(also)
        changes += _shown(new, user_nid, now)
        if new.displayname is not None:
            changes.append(Insert(ProfileRow(user_nid, "displayname", encode(new.displayname))))
        changes.append(known_user(user_nid, user_id, new.displayname, None))
        begun = None
        if new.device is not None:
            begun, added = await self._sessions.first(user_nid, new.device)
            changes += added

        def made(more: int) -> Change:
            return Insert(user._replace(flags=user.flags | more))

        try:
            if flags & (GUEST | SERVICE):
                await self._commits.commit([made(0), *changes])
            else:
                await self._commit(made, changes, self._commits.commit)
        except Missed:
            raise MatrixError.forbidden("The registration token can't be used any more") from None
        except Conflict as conflict:
            raise _taken(conflict) from None
        return Registered(user_id, begun)

    async def upgrade(
        self, guest: Session, new: NewAccount, password: str, also: tuple[Change, ...]
    ) -> Registered:
        """Make the guest's account that of a person, who has all that the guest had.

        The guest's devices stay logged in. Raises `MatrixError` as `create` does, M_FORBIDDEN also
        when the account is no guest's any more.
        spec: client-server-api#guest-access
        """
        hashed = await self._passwords.hash(password)
        changes = [*also, *_shown(new, guest.user_nid, self._clock.now_ms())]

        def made(more: int) -> Change:
            return guest_upgraded(guest.user_nid, hashed, more)

        async def write(changes: list[Change]) -> Begun | None:
            if new.device is not None:
                return await self._sessions.begin(guest.user_nid, new.device, changes)
            await self._commits.commit(changes)
            return None

        try:
            begun = await self._commit(made, changes, write)
        except Missed:
            raise MatrixError.forbidden(
                "The account is no guest's, or the registration token can't be used any more"
            ) from None
        except Conflict as conflict:
            raise _taken(conflict) from None
        self._sessions.forget_user(guest.user_nid)
        return Registered(guest.user_id, begun)

    def random_localpart(self) -> str:
        """A name for those who asked for none."""
        return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(12))

    async def _commit(
        self,
        made: Callable[[int], Change],
        changes: list[Change],
        write: Callable[[list[Change]], Awaitable[T]],
    ) -> T:
        """Write what makes a person's account, given the flags that it is to have besides."""
        if not self._has_accounts:
            self._has_accounts = await store.any_account(self._database)
        if not self._has_accounts:
            try:
                return await write([made(ADMIN), Insert(MetaRow(_FIRST_ACCOUNT, "")), *changes])
            except Conflict as conflict:
                if conflict.table != "meta":
                    raise
        return await write([made(0), *changes])

    def _checked(self, localpart: str) -> str:
        localpart = localpart.lower() if localpart.isascii() else localpart
        if not is_new_localpart(localpart):
            raise MatrixError(
                "M_INVALID_USERNAME",
                "User names have the characters a-z, 0-9 and ._=-/+ only",
                400,
            )
        if not fits(f"@{localpart}:{self._server_name}"):
            raise MatrixError("M_INVALID_USERNAME", "The user name is too long", 400)
        return localpart


def _shown(new: NewAccount, user_nid: int, now: int) -> list[Change]:
    """The changes that note what a new user has accepted and shown (at `now`, ms)."""
    accepted: list[Change] = [
        Insert(AcceptedTermsRow(user_nid, policy, version, now))
        for policy, version in new.accepted.items()
    ]
    return accepted + (new.mail.added(user_nid, now) if new.mail is not None else [])


def _taken(conflict: Conflict) -> MatrixError:
    if conflict.table == "threepids":
        return MatrixError("M_THREEPID_IN_USE", "An account has this address", 400)
    return _in_use()


def _in_use() -> MatrixError:
    return MatrixError("M_USER_IN_USE", "This user name is taken", 400)

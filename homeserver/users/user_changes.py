"""What administrators do with accounts: make and change them, set passwords, close them.

Owns the changes that need no proof by the user. How each is carried out belongs to the services
that do the same for users themselves. Suspending and locking is `moderation`'s.
"""

from dataclasses import dataclass

from homeserver.errors import MatrixError
from homeserver.matrix.ids import split_user_id
from homeserver.streams.commit import CommitQueue
from homeserver.users.accounts import Accounts, NewAccount
from homeserver.users.deactivation import Deactivation
from homeserver.users.passwords import Passwords
from homeserver.users.profiles import Profiles
from homeserver.users.sessions import Sessions
from homeserver.users.user_list import UserList
from storage.account_changes import flag_cleared, flag_set, password_set
from storage.changes import Missed
from storage.schema import ADMIN, DEACTIVATED, UserRow


@dataclass(frozen=True, slots=True)
class Changed:
    """What an account shall be; None leaves a thing as it is, an empty text takes it away."""

    password: str | None = None
    log_out: bool = True
    displayname: str | None = None
    avatar_url: str | None = None
    admin: bool | None = None
    deactivated: bool | None = None


class UserChanges:
    """Changes accounts for administrators."""

    def __init__(
        self,
        users: UserList,
        commits: CommitQueue,
        accounts: Accounts,
        sessions: Sessions,
        passwords: Passwords,
        profiles: Profiles,
        deactivation: Deactivation,
    ) -> None:
        self._users = users
        self._commits = commits
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._profiles = profiles
        self._deactivation = deactivation

    async def put(self, user_id: str, changed: Changed) -> bool:
        """Make the account or change it; whether it was made.

        Raises `MatrixError`: M_INVALID_USERNAME, those of passwords and profiles, and for an
        account that is closed M_USER_DEACTIVATED: it stays closed.
        """
        user = await self._users.find(user_id)
        made = user is None
        if user is None:
            new = NewAccount(split_user_id(user_id)[0], changed.password, admin=bool(changed.admin))
            await self._accounts.create(new)
            user = await self._users.row(user_id)
        elif user.flags & DEACTIVATED:
            raise _deactivated()
        else:
            if changed.password is not None:
                await self._set_password(user, changed.password, log_out=changed.log_out)
            if changed.admin is not None:
                await self._set_admin(user, admin=changed.admin)
        for field in ("displayname", "avatar_url"):
            value = getattr(changed, field)
            if value is not None:
                await self._profiles.put(user.user_nid, field, {field: value})
        if changed.deactivated:
            await self._deactivation.close(user.user_nid)
        return made

    async def set_password(self, user_id: str, password: str, *, log_out: bool) -> None:
        """Give the account another password; raises `MatrixError` as `put` does."""
        await self._set_password(await self._users.row(user_id), password, log_out=log_out)

    async def deactivate(self, user_id: str, *, erase: bool) -> None:
        """Close the account for ever; `MatrixError` M_NOT_FOUND."""
        await self._deactivation.close((await self._users.row(user_id)).user_nid, erase=erase)

    async def remove_devices(self, user_id: str, device_ids: list[str] | None) -> None:
        """Log devices out, None means all; those that do not exist are passed over."""
        await self._sessions.end_devices((await self._users.row(user_id)).user_nid, device_ids)

    async def _set_password(self, user: UserRow, password: str, *, log_out: bool) -> None:
        change = password_set(user.user_nid, await self._passwords.hash(password))
        try:
            if log_out:
                await self._sessions.end_devices(user.user_nid, None, also=[change])
            else:
                await self._commits.commit([change])
        except Missed:
            raise _deactivated() from None

    async def _set_admin(self, user: UserRow, *, admin: bool) -> None:
        change = flag_set(user.user_nid, ADMIN) if admin else flag_cleared(user.user_nid, ADMIN)
        try:
            await self._commits.commit([change])
        except Missed:
            raise _deactivated() from None
        self._sessions.forget_user(user.user_nid)


def _deactivated() -> MatrixError:
    return MatrixError("M_USER_DEACTIVATED", "The account was deactivated; it stays closed", 400)

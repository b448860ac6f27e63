"""Logging in with a password.

Owns how a client names the account it wants, and the answer to a wrong password, which is the same
in words and time whether the account exists or not. After too many wrong ones in a row an account
is closed to further tries for a while, from wherever they come.
spec: client-server-api#legacy-login
"""

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.limits import RateLimits
from homeserver.streams.commit import CommitQueue
from homeserver.users.access_tokens import user_locked
from homeserver.users.passwords import Passwords
from storage import accounts as store
from storage.account_changes import password_renewed
from storage.engine import Database
from storage.schema import DEACTIVATED, LOCKED, UserRow
from storage.threepids import owners


class Logins:
    """Finds and checks the account of a login by password."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        passwords: Passwords,
        limits: RateLimits,
        server_name: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._passwords = passwords
        self._limits = limits
        self._server_name = server_name

    async def check(self, request: JsonObject, password: str) -> UserRow:
        """The account that the request names, when this is its password.

        `request` holds `identifier`, or the older `user`, `medium` and `address`. Raises
        `MatrixError` M_FORBIDDEN for a wrong password or account, M_USER_DEACTIVATED,
        M_USER_LOCKED, M_LIMIT_EXCEEDED, and those of `localpart_of`.
        """
        localpart = localpart_of(request, self._server_name) or await self._by_mail(request)
        if localpart is not None:
            # A right password gives it back; so wrong ones are counted also while many are tried.
            self._limits.charge("login_account", localpart.lower())
        user = await self.find(localpart) if localpart is not None else None
        right = await self._passwords.matches(password, user.password if user else None)
        if user is not None and user.flags & DEACTIVATED and (right or user.password is None):
            raise MatrixError("M_USER_DEACTIVATED", "This account has been deactivated", 403)
        if user is None or not right:
            raise MatrixError.forbidden("The name or the password is wrong")
        self._limits.forgive("login_account", user.localpart.lower())
        check_standing(user)
        await self._renew(user, password)
        return user

    async def named(self, request: JsonObject) -> UserRow:
        """The account that a request names, for an application service, which needs no password.

        Raises `MatrixError` M_FORBIDDEN when there is none, M_USER_DEACTIVATED, M_USER_LOCKED, and
        those of `localpart_of`.
        """
        localpart = localpart_of(request, self._server_name)
        user = await self.find(localpart) if localpart is not None else None
        if user is None:
            raise MatrixError.forbidden("There is no such user")
        check_standing(user)
        return user

    async def proves(self, user: UserRow, password: str) -> bool:
        """Whether this is the user's password; `MatrixError` M_LIMIT_EXCEEDED after wrong ones."""
        self._limits.charge("login_account", user.localpart.lower())
        right = await self._passwords.matches(password, user.password)
        if right:
            self._limits.forgive("login_account", user.localpart.lower())
            await self._renew(user, password)
        return right

    async def _renew(self, user: UserRow, password: str) -> None:
        """Put a hash of today in place of one from elsewhere, or of another cost."""
        if user.password is not None and self._passwords.is_outdated(user.password):
            hashed = await self._passwords.hash(password)
            await self._commits.commit([password_renewed(user.user_nid, user.password, hashed)])

    async def _by_mail(self, request: JsonObject) -> str | None:
        """The localpart of the account whose mail address a login names."""
        named = request.get("identifier") or request
        medium, address = named.get("medium"), named.get("address")
        if medium != "email" or not isinstance(address, str):
            return None
        row = (await owners(self._database, medium, [address.casefold()])).get(address.casefold())
        if row is None:
            return None
        return (await store.users(self._database, [row.user_nid]))[row.user_nid].localpart

    async def find(self, localpart: str) -> UserRow | None:
        """The local account of this localpart; capitals are overlooked if it is not there as is."""
        wanted = {localpart, localpart.lower()}
        found = await store.users_by_localpart(self._database, wanted)
        return found.get(localpart) or found.get(localpart.lower())


def check_standing(user: UserRow) -> None:
    """Raise `MatrixError` M_USER_DEACTIVATED or M_USER_LOCKED for who may not log in."""
    if user.flags & DEACTIVATED:
        raise MatrixError("M_USER_DEACTIVATED", "This account has been deactivated", 403)
    if user.flags & LOCKED:
        raise user_locked()


def localpart_of(request: JsonObject, server_name: str) -> str | None:
    """The localpart that a login names, None when it can't be an account of this server.

    Third-party identifiers are known to no account here. Raises `MatrixError` M_MISSING_PARAM,
    M_BAD_JSON, or M_UNKNOWN for an unknown kind of identifier.
    spec: client-server-api#identifier-types
    """
    identifier = request.get("identifier")
    if identifier is None:
        if request.get("user") is None and request.get("medium") is not None:
            return None
        return _localpart(request.get("user"), "user", server_name)
    if not isinstance(identifier, dict):
        raise MatrixError.bad_json("identifier must be an object")
    kind = identifier.get("type")
    if kind == "m.id.user":
        return _localpart(identifier.get("user"), "identifier.user", server_name)
    required = {"m.id.thirdparty": ("medium", "address"), "m.id.phone": ("country", "phone")}
    if not isinstance(kind, str) or kind not in required:
        raise MatrixError("M_UNKNOWN", "identifier.type is not known", 400)
    for key in required[kind]:
        if not isinstance(identifier.get(key), str):
            raise MatrixError.missing_param(f"identifier.{key} is missing")
    return None


def _localpart(user: object, field: str, server_name: str) -> str | None:
    if user is None:
        raise MatrixError.missing_param(f"{field} is missing")
    if not isinstance(user, str):
        raise MatrixError.bad_json(f"{field} must be a string")
    if not user.startswith("@"):
        return user
    localpart, _, server = user[1:].partition(":")
    return localpart if server == server_name else None

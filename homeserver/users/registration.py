"""Who may register, and by which steps.

Owns the policy (open, by token, closed; guests or not; an address, terms to be accepted), the order
of checks, and registration by shared secret, which tools and administrators use. Making the account
itself is done by `accounts.py`.
spec: client-server-api#post_matrixclientv3register
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from homeserver import config
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import split_user_id
from homeserver.runtime.clock import Clock
from homeserver.users.access_tokens import user_locked
from homeserver.users.accounts import Accounts, NewAccount, Registered
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.sessions import DeviceRequest, Session, check_device
from homeserver.users.uia import (
    DUMMY,
    EMAIL,
    REGISTER,
    REGISTRATION_TOKEN,
    TERMS,
    Flow,
    Interactive,
    Operation,
)

NONCE_LIFETIME_MS = 60_000
MAX_NONCES = 1_000


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """What a client asks for; `auth` is its user-interactive step.

    `guest`: who wants to be no guest any more, and keep the account.
    """

    username: str | None
    password: str | None
    auth: JsonObject | None
    device: DeviceRequest
    inhibit_login: bool
    guest: Session | None = None


class Registration:
    """Registration by clients."""

    def __init__(
        self,
        settings: config.Registration,
        terms: Iterable[config.Terms],
        accounts: Accounts,
        interactive: Interactive,
        tokens: RegistrationTokens,
    ) -> None:
        self._accounts = accounts
        self._interactive = interactive
        self._tokens = tokens
        self.configure(settings, terms)

    def configure(self, settings: config.Registration, terms: Iterable[config.Terms]) -> None:
        """Go by these options from now on."""
        self._settings = settings
        self._policies = policies_of(terms)

    @property
    def policies(self) -> JsonObject:
        """The documents that a new user must accept, as clients are told of them.

        spec: client-server-api#terms-of-service-at-registration
        """
        return self._policies

    async def register(self, request: RegistrationRequest) -> Registered:
        """Make an account when every step is done.

        Raises `MatrixError`: M_FORBIDDEN when registration is closed, M_INVALID_USERNAME and
        M_USER_IN_USE before any step is asked for, the 401 of the next step, M_MISSING_PARAM for a
        password that is missing at the end, M_THREEPID_IN_USE for an address that another account
        has got since the link was mailed; for a guest M_MISSING_PARAM and M_INVALID_PARAM without
        the user name of the account, M_FORBIDDEN when it is none.
        """
        self.check_open()
        if request.guest is not None:
            _check_guest(request.guest, request.username)
        elif request.username is not None:
            await self._accounts.check_free(request.username)
        check_device(request.device)
        proven = await self._interactive.check(self._operation(), request.auth)
        if request.password is None:
            raise MatrixError.missing_param("password is missing")
        new = NewAccount(
            localpart=request.username or self._accounts.random_localpart(),
            password=request.password,
            device=None if request.inhibit_login else request.device,
            accepted=proven.accepted,
            mail=proven.mail,
        )
        also = proven.changes
        if proven.registration_token is not None:
            also = (*also, self._tokens.use(proven.registration_token))
        if request.guest is not None:
            return await self._accounts.upgrade(request.guest, new, request.password, also)
        return await self._accounts.create(new, also)

    async def register_service_user(
        self, username: str, device: DeviceRequest | None
    ) -> Registered:
        """Make an account for an application service, which has no password and no steps.

        Whether it may have the name is checked before. Raises `MatrixError` M_INVALID_USERNAME and
        M_USER_IN_USE. spec: application-service-api#server-admin-style-permissions
        """
        return await self._accounts.create(NewAccount(username, device=device, service=True))

    async def register_guest(self, display_name: str | None) -> Registered:
        """Make a guest's account, on a new device.

        Raises `MatrixError` M_GUEST_ACCESS_FORBIDDEN when there are no guests here.
        spec: client-server-api#guest-access
        """
        if not self._settings.guests:
            raise MatrixError("M_GUEST_ACCESS_FORBIDDEN", "This server takes no guests", 403)
        localpart = f"guest-{self._accounts.random_localpart()}"
        device = DeviceRequest(display_name=display_name)
        return await self._accounts.create(NewAccount(localpart, device=device, guest=True))

    def check_open(self) -> None:
        """Raise `MatrixError` M_FORBIDDEN when nobody may register."""
        if self._settings.mode == "closed":
            raise MatrixError.forbidden("Registration is closed on this server")

    def _operation(self) -> Operation:
        flow: Flow = () if self._settings.mode == "open" else (REGISTRATION_TOKEN,)
        if self._settings.verify_email:
            flow = (*flow, EMAIL)
        if not self._policies:
            return Operation(REGISTER, [flow or (DUMMY,)])
        return Operation(REGISTER, [(*flow, TERMS)], params={TERMS: {"policies": self._policies}})


def _check_guest(guest: Session, username: str | None) -> None:
    """The name must be said with the token: a client that mixes up two accounts is told."""
    if guest.is_locked:
        raise user_locked()
    if not guest.is_guest:
        raise MatrixError.forbidden("guest_access_token is not a guest's")
    if username is None:
        raise MatrixError.missing_param("username: a guest keeps the name, and must say it")
    if username.lower() != split_user_id(guest.user_id)[0]:
        raise MatrixError.invalid_param("username is not the name of the guest")


def policies_of(terms: Iterable[config.Terms]) -> JsonObject:
    """By policy its version and, by language, its name and address."""
    policies: JsonObject = {}
    for one in terms:
        policy = policies.setdefault(one.policy, {"version": one.version})
        policy[one.language] = {"name": one.name, "url": one.url}
    return policies


class SharedSecret:
    """Registration by whoever knows the server's secret, proven by a code over a nonce."""

    def __init__(self, secret: str, accounts: Accounts, clock: Clock) -> None:
        self.configure(secret)
        self._accounts = accounts
        self._clock = clock
        self._nonces: OrderedDict[str, int] = OrderedDict()

    def configure(self, secret: str) -> None:
        """Go by this secret from now on; empty: not offered."""
        self._secret = secret.encode()

    def nonce(self) -> str:
        """A new nonce, good once and for a minute; `MatrixError` M_UNKNOWN if not offered."""
        self._check_offered()
        now = self._clock.now_ms()
        while self._nonces:
            oldest, expires = next(iter(self._nonces.items()))
            if expires > now and len(self._nonces) < MAX_NONCES:
                break
            del self._nonces[oldest]
        nonce = secrets.token_hex(64)
        self._nonces[nonce] = now + NONCE_LIFETIME_MS
        return nonce

    async def register(
        self, new: NewAccount, nonce: str, mac: str, user_type: str | None
    ) -> Registered:
        """Make the account if `mac` proves the secret.

        `mac` is the hexadecimal HMAC-SHA1 over nonce, user name, password, `admin` or `notadmin`
        and, if given, the user type, joined by NUL. Raises `MatrixError` M_UNKNOWN for a nonce
        that is not good (any more), M_FORBIDDEN for a wrong code, and those of making an account.
        """
        self._check_offered()
        expires = self._nonces.pop(nonce, None)
        if expires is None or expires <= self._clock.now_ms():
            raise MatrixError("M_UNKNOWN", "nonce: not known, used or expired", 400)
        parts = [nonce, new.localpart, new.password or "", "admin" if new.admin else "notadmin"]
        if user_type is not None:
            parts.append(user_type)
        code = hmac.new(self._secret, "\0".join(parts).encode(), hashlib.sha1).hexdigest()
        if not hmac.compare_digest(code.encode(), mac.lower().encode()):
            raise MatrixError.forbidden("The code is wrong")
        return await self._accounts.create(new)

    def _check_offered(self) -> None:
        if not self._secret:
            raise MatrixError("M_UNKNOWN", "Registration by shared secret is not offered", 400)

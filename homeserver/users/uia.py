"""User-interactive authentication: proving more than an access token before something is done.

Owns the sessions of that exchange and the checks of its stages. A session belongs to one operation
of one user; it is written only when a step is missing, so a client that sends all at once costs
nothing. What the operation does is its caller's business, who commits the end of the session with
it: when the operation fails, the session is still there to try again. A stage can also be done on a
page in a browser, which knows nothing but the session's id.
spec: client-server-api#user-interactive-authentication-api
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.logins import Logins, localpart_of
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.validations import Purpose, Validated, Validations
from storage import accounts as store
from storage.account_changes import uia_sessions_expired
from storage.changes import Change, Delete, Put
from storage.engine import Database
from storage.schema import UiaSessionRow, UserRow

DUMMY = "m.login.dummy"
EMAIL = "m.login.email.identity"
PASSWORD = "m.login.password"
REGISTRATION_TOKEN = "m.login.registration_token"
TERMS = "m.login.terms"

REGISTER = "register"
"""The name of the operation that makes an account."""

LIFETIME_MS = 30 * 60_000

Flow = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is to be done: a text that names it with its target, by which user, by which flows.

    `params` is what clients need to know of a stage; that of TERMS holds the policies.
    """

    name: str
    flows: Sequence[Flow]
    user: UserRow | None = None
    params: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Proven:
    """All stages of a flow are done. `changes` end the session, together with the operation.

    `accepted` are the policies that were shown and accepted, with their versions; `mail` is the
    mail address that was shown to be controlled.
    """

    registration_token: str | None
    accepted: Mapping[str, str]
    changes: tuple[Change, ...]
    mail: Validated | None = None


class _Progress(msgspec.Struct):
    operation: str
    user_nid: int | None
    flows: list[tuple[str, ...]] = []
    completed: list[str] = []
    registration_token: str | None = None
    # By policy the version that the client was told of.
    shown: dict[str, str] = {}
    mail: Validated | None = None


class Interactive:
    """Checks the `auth` of requests against the flows of their operation."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        logins: Logins,
        tokens: RegistrationTokens,
        validations: Validations,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._validations = validations
        self._database = database
        self._commits = commits
        self._logins = logins
        self._tokens = tokens
        self._clock = clock
        self._server_name = server_name
        self._look_again = clock.now_ms() + LIFETIME_MS

    async def check(self, operation: Operation, auth: JsonObject | None) -> Proven:
        """Take the step that `auth` offers; returns when no other is needed.

        Raises `MatrixError`: the 401 that tells what is missing; M_UNKNOWN for a session that does
        not exist, M_FORBIDDEN (403) for one of another operation or when somebody else's password
        is offered; M_BAD_JSON and M_MISSING_PARAM for the fields of the stage.
        """
        user_nid = operation.user.user_nid if operation.user is not None else None
        progress = _Progress(operation.name, user_nid)
        if auth is None:
            raise await self._challenge(operation, None, progress)
        session_id = _optional(auth, "session")
        if session_id is not None:
            begun = await self._load(session_id)
            if (begun.operation, begun.user_nid) != (operation.name, user_nid):
                raise MatrixError.forbidden("This session was begun for something else")
            progress = begun
        progress.flows = list(operation.flows)
        error = None
        if "type" in auth:
            error = await self._step(progress, operation.user, _required(auth, "type"), auth)
        if error is None and tuple(progress.completed) in operation.flows:
            accepted = progress.shown if TERMS in progress.completed else {}
            ended = [Delete(UiaSessionRow, (session_id,))] if session_id is not None else []
            return Proven(progress.registration_token, accepted, tuple(ended), progress.mail)
        raise await self._challenge(operation, session_id, progress, error)

    async def fallback(self, session_id: str, stage: str, form: JsonObject) -> None:
        """Take a step of a session from a page; `form` holds what a client would put in `auth`.

        Raises `MatrixError` M_UNKNOWN for a session that does not exist (any more), and the error
        of a step that did not succeed; the page may try again after a 401.
        spec: client-server-api#fallback
        """
        progress = await self._load(session_id)
        user = None
        if progress.user_nid is not None:
            user = (await store.users(self._database, [progress.user_nid]))[progress.user_nid]
            form = {**form, "identifier": {"type": "m.id.user", "user": user.localpart}}
        error = await self._step(progress, user, stage, form)
        if error is not None:
            raise error
        await self._commits.commit([self._stored(session_id, progress)])

    async def mail_purpose(self, session_id: str) -> Purpose:
        """What a link that is mailed for a session's step proves an address for.

        Raises `MatrixError` M_UNKNOWN for a session that does not exist (any more), M_UNRECOGNIZED
        for one that wants no address.
        """
        progress = await self._load(session_id)
        if not any(EMAIL in flow for flow in progress.flows):
            raise MatrixError("M_UNRECOGNIZED", "Nothing here asks for a mail address", 404)
        return _mail_purpose(progress)

    async def forget_expired(self) -> None:
        """Remove the sessions whose time is over; looks once in a session's lifetime."""
        now = self._clock.now_ms()
        if now >= self._look_again:
            self._look_again = now + LIFETIME_MS
            await self._commits.commit([uia_sessions_expired(now)])

    async def _load(self, session_id: str) -> _Progress:
        row = (await store.uia_sessions(self._database, [session_id])).get(session_id)
        if row is None or row.expires_ts <= self._clock.now_ms():
            raise MatrixError("M_UNKNOWN", "session: there is no such session", 400)
        return msgspec.json.decode(row.json, type=_Progress)

    async def _step(
        self, progress: _Progress, user: UserRow | None, stage: str, auth: JsonObject
    ) -> MatrixError | None:
        """Try one stage; the error if it can be tried again."""
        if stage in progress.completed:
            return None
        done = len(progress.completed)
        reached = [flow for flow in progress.flows if list(flow[:done]) == progress.completed]
        if not any(flow[done : done + 1] == (stage,) for flow in reached):
            return MatrixError("M_UNRECOGNIZED", f"type: {stage} is not the next stage", 401)
        error = None
        if stage == PASSWORD:
            error = await self._check_password(user, auth)
        elif stage == REGISTRATION_TOKEN:
            token = _required(auth, "token")
            if await self._tokens.is_valid(token):
                progress.registration_token = token
            else:
                error = MatrixError("M_UNAUTHORIZED", "The registration token is not valid", 401)
        elif stage == EMAIL:
            error = await self._check_mail(progress, auth)
        elif stage == TERMS and not progress.shown:
            return None  # Nobody was told what there is to accept: that comes with the answer.
        if error is None:
            progress.completed.append(stage)
        return error

    async def _check_mail(self, progress: _Progress, auth: JsonObject) -> MatrixError | None:
        given = auth.get("threepid_creds", auth.get("threepidCreds"))
        if not isinstance(given, dict):
            raise MatrixError.missing_param("auth.threepid_creds is missing")
        validated = await self._validations.proven(_mail_purpose(progress), given)
        if validated is None:
            return MatrixError("M_UNAUTHORIZED", "The link in the mail was not followed yet", 401)
        progress.mail = validated
        return None

    async def _check_password(self, user: UserRow | None, auth: JsonObject) -> MatrixError | None:
        password = _required(auth, "password")
        localpart = localpart_of(auth, self._server_name)
        if user is None or localpart is None or localpart.lower() != user.localpart.lower():
            raise MatrixError.forbidden("This is not the account that is logged in")
        if await self._logins.proves(user, password):
            return None
        return MatrixError("M_FORBIDDEN", "The password is wrong", 401)

    async def _challenge(
        self,
        operation: Operation,
        session_id: str | None,
        progress: _Progress,
        error: MatrixError | None = None,
    ) -> MatrixError:
        session_id = session_id or secrets.token_urlsafe(18)
        progress.flows = list(operation.flows)
        if TERMS not in progress.completed:
            policies = operation.params.get(TERMS, {}).get("policies", {})
            progress.shown = {policy: told["version"] for policy, told in policies.items()}
        await self._commits.commit([self._stored(session_id, progress)])
        extra: JsonObject = {
            "flows": [{"stages": list(flow)} for flow in operation.flows],
            "params": operation.params,
            "session": session_id,
        }
        if progress.completed:
            extra["completed"] = progress.completed
        if error is None:
            # The first answer of the exchange is no error of the client's and names none.
            return MatrixError("", "", 401, extra=extra)
        return MatrixError(error.errcode, error.message, 401, extra=extra)

    def _stored(self, session_id: str, progress: _Progress) -> Change:
        expires = self._clock.now_ms() + LIFETIME_MS
        return Put(UiaSessionRow(session_id, msgspec.json.encode(progress), expires))


def _mail_purpose(progress: _Progress) -> Purpose:
    """A link that was mailed for one purpose proves nothing for another."""
    return "register" if progress.operation == REGISTER else "password"


def _required(auth: JsonObject, key: str) -> str:
    value = _optional(auth, key)
    if value is None:
        raise MatrixError.missing_param(f"auth.{key} is missing")
    return value


def _optional(auth: JsonObject, key: str) -> str | None:
    value = auth.get(key)
    if value is not None and not isinstance(value, str):
        raise MatrixError.bad_json(f"auth.{key} must be a string")
    return value

"""The addresses outside of Matrix that accounts have.

Owns which account has which address, and what identity servers were told of. Invariant: an address
belongs to one account at most. How an address is validated is in `validations.py`.
spec: client-server-api#adding-account-administrative-contact-information
"""

from typing import Literal

import msgspec

from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.ports import IdentityServers
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.sessions import Session
from homeserver.users.uia import PASSWORD, Interactive, Operation
from homeserver.users.validations import EMAIL, Purpose, Validations, canonical_address
from storage import accounts
from storage import threepids as store
from storage.changes import Change, Conflict, Delete, Put
from storage.engine import Database
from storage.schema import PusherRow, ThreepidRow

MAX_ADDRESSES = 20
_OF_TOKENS = {"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED"}


class ThirdPartyIds:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        validations: Validations,
        interactive: Interactive,
        identity: IdentityServers,
        clock: Clock,
    ) -> None:
        self._database = database
        self._commits = commits
        self._validations = validations
        self._interactive = interactive
        self._identity = identity
        self._clock = clock

    async def of(self, user_nid: int) -> list[JsonObject]:
        """The addresses of a user, as clients see them."""
        return [
            {
                "medium": row.medium,
                "address": row.address,
                "validated_at": row.validated_ts,
                "added_at": row.added_ts,
            }
            for row in await store.threepids_of(self._database, user_nid)
        ]

    async def request(
        self, purpose: Purpose, address: str, secret: str, attempt: int, next_link: str | None
    ) -> str:
        """Mail a link to an address; returns the session id.

        Raises `MatrixError` M_THREEPID_IN_USE for a new address that an account has,
        M_THREEPID_NOT_FOUND for a new password where none has it, and those of
        `Validations.request`.
        """
        address = canonical_address(EMAIL, address)
        known = address in await store.owners(self._database, EMAIL, [address])
        if purpose == "password" and not known and self._validations.possible:
            raise MatrixError("M_THREEPID_NOT_FOUND", "No account here has this address", 400)
        if purpose != "password" and known:
            raise _in_use()
        return await self._validations.request(purpose, address, secret, attempt, next_link)

    async def add(self, session: Session, credentials: JsonObject, auth: JsonObject | None) -> None:
        """Give the user a validated address, once `auth` has given the password.

        Raises `MatrixError` M_THREEPID_AUTH_FAILED when it was not validated, M_THREEPID_IN_USE,
        and those of `Interactive.check`.
        spec: client-server-api#post_matrixclientv3account3pidadd
        """
        user = (await accounts.users(self._database, [session.user_nid]))[session.user_nid]
        proven = await self._interactive.check(Operation("add 3pid", [(PASSWORD,)], user), auth)
        validated = await self._validations.proven("add", credentials)
        if validated is None:
            raise MatrixError(
                "M_THREEPID_AUTH_FAILED", "The address has not been validated (any more)", 400
            )
        if len(await store.threepids_of(self._database, session.user_nid)) >= MAX_ADDRESSES:
            raise MatrixError(
                "M_FORBIDDEN", f"An account has at most {MAX_ADDRESSES} addresses", 403
            )
        await self._commit(
            [*validated.added(session.user_nid, self._clock.now_ms()), *proven.changes]
        )

    async def delete(
        self, session: Session, medium: str, address: str, id_server: str | None
    ) -> Literal["success", "no-support"]:
        """Take an address from the user, and from the identity servers that were told of it.

        An address that isn't there is none any more. Says whether they have forgotten it.
        """
        row = await self._own(session, medium, address)
        if row is None:
            return "no-support"
        told = await self.unbind(session, medium, address, id_server)
        mails = Delete(PusherRow, (session.user_nid, "m.email", row.address))
        await self._commits.commit([Delete(ThreepidRow, (row.medium, row.address)), mails])
        return told

    async def bind(
        self, session: Session, credentials: JsonObject, id_server: str, access_token: str
    ) -> None:
        """Have an identity server publish an address that it has validated itself.

        Raises `MatrixError` M_THREEPID_AUTH_FAILED, or M_UNKNOWN (502) when it can't be reached.
        spec: client-server-api#post_matrixclientv3account3pidbind
        """
        try:
            bound = await self._identity.bind(id_server, access_token, credentials, session.user_id)
        except (RemoteError, Unreachable) as error:
            raise identity_error(error, "M_THREEPID_AUTH_FAILED") from None
        medium, address = bound.get("medium"), bound.get("address")
        if isinstance(medium, str) and isinstance(address, str):
            row = await self._own(session, medium, address)
            if row is not None:
                servers = set(msgspec.json.decode(row.id_servers)) | {id_server}
                named = msgspec.json.encode(sorted(servers)).decode()
                await self._commits.commit([Put(row._replace(id_servers=named))])

    async def unbind(
        self, session: Session, medium: str, address: str, id_server: str | None
    ) -> Literal["success", "no-support"]:
        """Have identity servers forget an address: one, or all that were told of it.

        spec: client-server-api#post_matrixclientv3account3pidunbind
        """
        row = await self._own(session, medium, address)
        known: list[str] = msgspec.json.decode(row.id_servers) if row is not None else []
        servers = [id_server] if id_server is not None else known
        left = set(known)
        for server in servers:
            try:
                await self._identity.unbind(server, medium, address, session.user_id)
            except (RemoteError, Unreachable):
                return "no-support"
            left.discard(server)
        if row is not None and left != set(known):
            named = msgspec.json.encode(sorted(left)).decode()
            await self._commits.commit([Put(row._replace(id_servers=named))])
        return "success" if servers else "no-support"

    async def _own(self, session: Session, medium: str, address: str) -> ThreepidRow | None:
        try:
            address = canonical_address(medium, address)
        except MatrixError:
            return None
        row = (await store.owners(self._database, medium, [address])).get(address)
        return row if row is not None and row.user_nid == session.user_nid else None

    async def _commit(self, changes: list[Change]) -> None:
        try:
            await self._commits.commit(changes)
        except Conflict:
            raise _in_use() from None


def _in_use() -> MatrixError:
    return MatrixError("M_THREEPID_IN_USE", "An account has this address", 400)


def identity_error(error: RemoteError | Unreachable, errcode: str) -> MatrixError:
    """What a client is told of an identity server's refusal, as `errcode` if it names none.

    Of its own access token a client must not think that it is at an end.
    """
    if isinstance(error, Unreachable):
        text = f"The identity server can't be asked: {error.reason}"
        return MatrixError("M_UNKNOWN", text, 502)
    named = error.errcode if error.errcode not in _OF_TOKENS else ""
    return MatrixError(named or errcode, error.message or str(error), 400)

"""Which application services there are.

Owns the registrations, in memory and in the database: those of the configured files, and those that
were added while the server ran. Invariant: ids, tokens and own users are unique. Each service has
its own user's account from the moment it is there.
spec: application-service-api#registration
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from homeserver.appservices.registration import BadRegistration, Registration
from homeserver.errors import MatrixError
from homeserver.matrix.ids import split_user_id
from homeserver.options import ConfigError
from homeserver.streams.commit import CommitQueue
from homeserver.users.accounts import Accounts, NewAccount
from storage import appservices as store
from storage.accounts import users_by_localpart
from storage.changes import Delete, Insert, Put
from storage.engine import Database
from storage.schema import AppserviceRow

log = logging.getLogger(__name__)


class Registry:
    """See the module. Every question is answered from memory."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        accounts: Accounts,
        position: Callable[[], int],
        server_name: str,
    ) -> None:
        """`position()` is the last published one: a new service hears of what comes after it."""
        self._database = database
        self._commits = commits
        self._accounts = accounts
        self._position = position
        self._server_name = server_name
        self._services: dict[str, Registration] = {}
        self._by_token: dict[bytes, Registration] = {}

    def all(self) -> list[Registration]:
        """Every service, in the order of their ids."""
        return [self._services[key] for key in sorted(self._services)]

    def get(self, service_id: str) -> Registration | None:
        """A service by its id."""
        return self._services.get(service_id)

    def of_token(self, token: str) -> Registration | None:
        """The service whose `as_token` this is."""
        return self._by_token.get(_hash(token)) if self._by_token else None

    def check_user(self, user_id: str, asking: Registration | None) -> None:
        """Raise `MatrixError` M_EXCLUSIVE when the user may not be made by who asks.

        A service makes users of its namespace; others none of any exclusive namespace.
        spec: application-service-api#server-admin-style-permissions
        """
        if asking is not None and not asking.is_user(user_id):
            raise _exclusive("The user is not in the namespace of this application service")
        for service in self._services.values():
            if service is not asking and (
                service.user_id == user_id or service.users.owns(user_id)
            ):
                raise _exclusive("The user name is reserved for an application service")

    def check_alias(self, alias: str, service_id: str | None) -> None:
        """Raise `MatrixError` M_EXCLUSIVE when the alias may not be made or removed by who asks.

        `service_id` names the service that asks; None for people.
        """
        asking = self._services.get(service_id) if service_id is not None else None
        if asking is not None and not asking.aliases.has(alias):
            raise _exclusive("The alias is not in the namespace of this application service")
        for service in self._services.values():
            if service is not asking and service.aliases.owns(alias):
                raise _exclusive("The alias is reserved for an application service")

    async def load(self, files: Collection[Path]) -> dict[str, AppserviceRow]:
        """Take what is stored and what the configured files say; returns the rows by id.

        Raises `ConfigError` with a sentence that names the file.
        """
        rows = await store.appservices(self._database)
        configured: dict[str, str] = {}
        for path in files:
            try:
                text = path.read_text(encoding="utf-8")
                service = Registration.read(text, self._server_name)
                self._check_unique(service)
            except (OSError, UnicodeDecodeError, BadRegistration) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(f"appservices.files: {path}: {reason}") from None
            self._keep(service)
            configured[service.id] = text
        changes: list[Put | Delete] = []
        for service_id, row in list(rows.items()):
            if row.configured and service_id not in configured:
                log.info("the application service %s is configured no longer", service_id)
                changes.append(Delete(AppserviceRow, (service_id,)))
                del rows[service_id]
        for service_id, text in configured.items():
            old = rows.get(service_id) or self._new(service_id, text)
            new = old._replace(text=text, configured=1)
            rows[service_id] = new
            if new != old or new.acked_pos == self._position():
                changes.append(Put(new))
        for service_id, row in rows.items():
            if service_id not in configured:
                service = Registration.read(row.text, self._server_name)
                self._check_unique(service)
                self._keep(service)
        if changes:
            await self._commits.commit(changes)
        for service in self._services.values():
            await self._make_user(service)
        return rows

    async def add(self, text: str) -> tuple[Registration, AppserviceRow]:
        """Add a service, or give one that was added before another registration.

        Raises `MatrixError` M_INVALID_PARAM with what is wrong with it.
        """
        try:
            service = Registration.read(text, self._server_name)
            self._check_unique(service)
        except BadRegistration as error:
            raise MatrixError.invalid_param(f"The registration can't be used: {error}") from None
        row = (await store.appservices(self._database)).get(service.id)
        if row is not None and row.configured:
            raise MatrixError.invalid_param(
                f"{service.id} stands in a configured file: change that"
            )
        if row is None:
            row = self._new(service.id, text)
            await self._commits.commit([Insert(row)])
        else:
            row = row._replace(text=text)
            await self._commits.commit([Put(row)])
        await self._make_user(service)
        self._keep(service)
        return service, row

    async def remove(self, service_id: str) -> None:
        """Forget a service that was added; its users and rooms stay.

        Raises `MatrixError` M_NOT_FOUND, and M_INVALID_PARAM for one of a configured file.
        """
        row = (await store.appservices(self._database)).get(service_id)
        if row is None:
            raise MatrixError.not_found(f"There is no application service {service_id}")
        if row.configured:
            raise MatrixError.invalid_param(
                f"{service_id} stands in a configured file: remove that"
            )
        await self._commits.commit([Delete(AppserviceRow, (service_id,))])
        gone = self._services.pop(service_id)
        self._by_token.pop(_hash(gone.as_token), None)

    def _new(self, service_id: str, text: str) -> AppserviceRow:
        pos = self._position()
        return AppserviceRow(service_id, text, 0, pos, pos, 0)

    def _keep(self, service: Registration) -> None:
        old = self._services.get(service.id)
        if old is not None:
            self._by_token.pop(_hash(old.as_token), None)
        self._services[service.id] = service
        self._by_token[_hash(service.as_token)] = service

    def _check_unique(self, service: Registration) -> None:
        others: Sequence[Registration] = [
            other for other in self._services.values() if other.id != service.id
        ]
        for other in others:
            if other.as_token == service.as_token:
                raise BadRegistration(f"its as_token is that of {other.id}")
            if other.user_id == service.user_id:
                raise BadRegistration(f"its sender_localpart is that of {other.id}")

    async def _make_user(self, service: Registration) -> None:
        localpart, _ = split_user_id(service.user_id)
        if not await users_by_localpart(self._database, [localpart]):
            await self._accounts.create(NewAccount(localpart, service=True))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _exclusive(message: str) -> MatrixError:
    return MatrixError("M_EXCLUSIVE", message, 400)

"""The application services of a running server: added, removed, sent to, asked how they are.

Owns the senders, one for each service, and telling them what was published. Invariant: there is a
sender for each registration and no other.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from homeserver.appservices.client import ServiceClient, ServiceFailed
from homeserver.appservices.feed import Feed
from homeserver.appservices.interest import Interest
from homeserver.appservices.queries import Queries
from homeserver.appservices.registration import Registration
from homeserver.appservices.registry import Registry
from homeserver.appservices.sender import Sender
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import split_user_id
from homeserver.rooms.append import Appended
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Supervisor
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.streams.ring import DeviceListEntry
from storage.accounts import users_by_localpart
from storage.appservices import appservices
from storage.engine import Database
from storage.schema import AppserviceRow

PING_SECONDS = 20.0


class Appservices:
    """See the module. `registry` knows whose names are whose, `queries` asks the services."""

    def __init__(
        self,
        registry: Registry,
        feed: Feed,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        position: Callable[[], int],
        names: Names,
        server_name: str,
    ) -> None:
        self.client = ServiceClient(clock)
        self.registry = registry
        self.queries = Queries(registry, self.client, clock)
        self._feed = feed
        self._database = database
        self._commits = commits
        self._clock = clock
        self._position = position
        self._names = names
        self._server_name = server_name
        self._senders: dict[str, Sender] = {}
        self._tasks = Supervisor(clock)
        self._sending: dict[str, asyncio.Task[None]] = {}

    async def start(self, files: Collection[Path]) -> None:
        """Load the registrations and begin to send; raises `ConfigError`."""
        rows = await self.registry.load(files)
        for service in self.registry.all():
            self._begin(service, rows[service.id])

    async def stop(self) -> None:
        """End all senders; what was not acknowledged is sent after the next start."""
        await self._tasks.stop()
        await self.client.close()

    def happened(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events of a room were published."""
        for sender in self._senders.values():
            interest = sender.interest
            for appended in events:
                interest.room(room_nid, appended.event.room_id)
                for member in appended.members:
                    known = member.user_nid in interest.users
                    if interest.user(member.user_nid, member.user_id):
                        interest.rooms.add(room_nid)
                        if not known:
                            self._tasks.once("query for a user", self._query(member.user_id))
            if room_nid in interest.rooms:
                sender.happened(room_nid)

    def receipt(self, room_nid: int) -> None:
        """A receipt was published."""
        for sender in self._senders.values():
            if sender.interest.service.ephemeral and room_nid in sender.interest.rooms:
                sender.happened(room_nid)

    def messages(self, users: Mapping[int, int]) -> None:
        """To-device messages were published, for these devices of these users (numbers)."""
        for sender in self._senders.values():
            for device_nid, user_nid in users.items():
                name = self._names.name(user_nid)
                if sender.devices.message(user_nid, name, device_nid):
                    sender.wake()

    def listed(self, entry: DeviceListEntry, room_nids: Collection[int]) -> None:
        """The change of a list of devices was published."""
        name = self._names.name(entry.user_nid)
        for sender in self._senders.values():
            if sender.devices.listed(entry.user_nid, name, room_nids):
                sender.wake()

    def counted(self, device_nids: Collection[int] | None) -> None:
        """One-time or fallback keys of devices (None: of all) came or went."""
        for sender in self._senders.values():
            if sender.devices.counted(device_nids):
                sender.wake()

    def lost(self) -> None:
        """Something was committed that nobody was told of."""
        for sender in self._senders.values():
            sender.missed()

    def typing(self, room_nid: int) -> None:
        """Who types in a room has changed."""
        for sender in self._senders.values():
            if room_nid in sender.interest.rooms:
                sender.typing(room_nid)

    def check_alias(self, alias: str, service_id: str | None) -> None:
        """Raise `MatrixError` M_EXCLUSIVE when who asks may not make or remove the alias."""
        self.registry.check_alias(alias, service_id)

    async def makes_alias(self, alias: str) -> bool:
        """Ask for an alias that isn't there; whether a service has made it."""
        return alias.endswith(f":{self._server_name}") and await self.queries.makes_alias(alias)

    def aliased(self, alias: str, room_nid: int) -> None:
        """A room was given an alias of this server."""
        for sender in self._senders.values():
            sender.interest.alias(alias, room_nid)

    async def add(self, text: str) -> JsonObject:
        """Add a service by its registration's text; its status."""
        service, row = await self.registry.add(text)
        await self._end(service.id)
        self._begin(service, row)
        return self.status(service.id)

    async def remove(self, service_id: str) -> None:
        """Forget a service. Raises `MatrixError` as `Registry.remove` does."""
        await self.registry.remove(service_id)
        await self._end(service_id)

    async def replay(self, service_id: str, positions: int) -> None:
        """Send what concerns a service in the last so many positions of the stream once more."""
        sender = self._sender(service_id)
        await self._end(service_id)
        await sender.replay(max(0, self._position() - positions))
        row = (await appservices(self._database))[service_id]
        self._begin(sender.interest.service, row)

    async def ping(self, service_id: str, transaction_id: str | None = None) -> int:
        """How long a service takes to answer, in ms; what waits for it is then sent at once.

        Raises `MatrixError`: M_NOT_FOUND, M_URL_NOT_SET, M_CONNECTION_FAILED, M_CONNECTION_TIMEOUT,
        M_BAD_STATUS. spec: application-service-api#pinging-1
        """
        sender = self._sender(service_id)
        service = sender.interest.service
        if service.url is None:
            raise MatrixError("M_URL_NOT_SET", "The registration has no url", 400)
        body = b"{}"
        if transaction_id is not None:
            body = msgspec.json.encode({"transaction_id": transaction_id})
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(PING_SECONDS):
                await self.client.request(
                    service, "POST", "/_matrix/app/v1/ping", body=body, seconds=PING_SECONDS + 1
                )
        except TimeoutError:
            raise MatrixError("M_CONNECTION_TIMEOUT", "No answer in time", 504) from None
        except ServiceFailed as failed:
            if failed.status is None:
                raise MatrixError("M_CONNECTION_FAILED", failed.reason, 502) from None
            extra = {"status": failed.status, "body": failed.body}
            raise MatrixError("M_BAD_STATUS", failed.reason, 502, extra=extra) from None
        sender.try_now()
        return round((self._clock.monotonic() - began) * 1_000)

    def status(self, service_id: str) -> JsonObject:
        """How a service is doing. Raises `MatrixError` M_NOT_FOUND."""
        sender = self._sender(service_id)
        service = sender.interest.service
        return {
            "id": service.id,
            "url": service.url,
            "user_id": service.user_id,
            "behind": sender.behind,
            "sent": sender.sent,
            "failing_since_ts": sender.failing_since,
            "error": sender.error,
            "rooms": len(sender.interest.rooms),
            "users": len(sender.interest.users),
        }

    def lags(self) -> dict[str, int]:
        """By service how many positions it is behind."""
        return {service_id: sender.behind for service_id, sender in self._senders.items()}

    def _sender(self, service_id: str) -> Sender:
        sender = self._senders.get(service_id)
        if sender is None:
            raise MatrixError.not_found(f"There is no application service {service_id}")
        return sender

    async def _query(self, user_id: str) -> None:
        """A user of a namespace was named in a room: the service may make the account now."""
        localpart, _ = split_user_id(user_id)
        if not await users_by_localpart(self._database, [localpart]):
            with suppress(MatrixError):
                await self.queries.makes_user(user_id)

    def _begin(self, service: Registration, row: AppserviceRow) -> None:
        interest = Interest(service, self._server_name)
        sender = Sender(
            row, interest, self._feed, self.client, self._commits, self._clock, self._position
        )
        self._senders[service.id] = sender
        self._sending[service.id] = self._tasks.once(
            f"application service {service.id}", sender.run(self._database)
        )

    async def _end(self, service_id: str) -> None:
        task = self._sending.pop(service_id, None)
        self._senders.pop(service_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

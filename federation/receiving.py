"""The parts that take what other servers send, built and connected once.

Owns the order in which they are made and ended, and their endpoints. Nothing here has behaviour of
its own.
"""

from dataclasses import dataclass

from federation.api import devices as devices_api
from federation.api.transactions import transaction_endpoints
from federation.device_copies import DeviceCopies
from federation.devices import RemoteDevices
from federation.edus import Edus
from federation.ephemera import Ephemera
from federation.gaps import Gaps
from federation.history import History
from federation.rooms import RoomFederation
from federation.staging import Staging
from federation.stale_lists import StaleLists
from federation.told_state import ToldState
from federation.transactions import Transactions
from federation.wiring import Federation
from homeserver.http.endpoint import Endpoint, endpoints_of
from homeserver.rooms.actor import Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.receive import Receiver
from homeserver.streams.numbers import Names, Numbers
from homeserver.users.encryption import Encryption
from homeserver.users.inbox import UserInbox
from homeserver.users.presence import Presence
from homeserver.users.receipts import Receipts
from homeserver.users.typing import Typing
from storage.engine import Database

TIDY_SECONDS = 3_600.0


@dataclass(frozen=True)
class Receiving:
    """The parts that others use."""

    federation: Federation
    edus: Edus
    staging: Staging
    transactions: Transactions
    history: History
    copies: DeviceCopies
    stale_lists: StaleLists

    @classmethod
    def build(
        cls,
        federation: Federation,
        room_federation: RoomFederation,
        rooms: Rooms,
        receiver: Receiver,
        elsewhere: Elsewhere,
        database: Database,
        names: Names,
        numbers: Numbers,
        typing: Typing,
        receipts: Receipts,
        presence: Presence,
        encryption: Encryption,
        inbox: UserInbox,
        server_name: str,
    ) -> "Receiving":
        """Make everything."""
        verifier, commits, clock = room_federation.verifier, federation.commits, federation.clock
        told_state = ToldState(federation.requests, verifier)
        gaps = Gaps(federation.requests, verifier, told_state, rooms, receiver, elsewhere, database)
        staging = Staging(rooms, receiver, verifier, gaps, database, commits, numbers, clock)
        staging.hold(elsewhere.entering.under_way)
        elsewhere.entering.on_entered(staging.wake)
        ephemera = Ephemera(rooms, elsewhere, typing, receipts, presence)
        staging.on_stored(ephemera.stored)
        edus = Edus(commits)
        edus.handle("m.typing", ephemera.typing)
        edus.handle("m.receipt", ephemera.receipts)
        edus.handle("m.presence", ephemera.presence)
        stale_lists = StaleLists(federation.destinations, database, clock)
        copies = DeviceCopies(
            federation.requests,
            encryption.lists,
            encryption.public,
            names,
            inbox,
            database,
            commits,
            clock,
            server_name,
            stale_lists,
        )
        federation.destinations.on_alive(copies.alive)
        elsewhere.entering.on_entered(copies.entered)
        devices = RemoteDevices(
            federation.requests,
            federation.outbox,
            encryption.inboxes,
            copies,
            names,
            database,
            clock,
        )
        edus.handle("m.direct_to_device", devices.take)
        edus.handle("m.device_list_update", devices.list_changed)
        edus.handle("m.signing_key_update", devices.signing_changed)
        encryption.inboxes.send_elsewhere(devices)
        encryption.keys.ask_elsewhere(devices)
        transactions = Transactions(
            rooms, elsewhere, verifier, staging, edus, database, commits, clock
        )
        history = History(told_state, gaps, rooms, receiver, elsewhere)
        return cls(federation, edus, staging, transactions, history, copies, stale_lists)

    def endpoints(self) -> list[Endpoint]:
        """Their endpoints of the API "federation"."""
        return [*transaction_endpoints(self.transactions), *endpoints_of(devices_api)]

    async def refetching(self) -> None:
        """Fetch stale copies of device lists anew, until cancelled."""
        await self.stale_lists.run(self.copies.fetch)

    async def tidy(self) -> None:
        """Forget what nobody asks for any more, every hour, until cancelled."""
        while True:
            await self.federation.clock.sleep(TIDY_SECONDS)
            await self.transactions.forget_old()

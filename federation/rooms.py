"""The part of federation that stands on rooms, built and connected once.

Owns the order in which its parts are made, and the endpoints that they answer; `wiring` has those
that rooms themselves are built on. Nothing here has behaviour of its own.
"""

from dataclasses import dataclass

from federation.api.events import event_endpoints
from federation.api.hierarchy import hierarchy_endpoints
from federation.api.membership import membership_endpoints
from federation.api.thirdparty import third_party_endpoints
from federation.events import Verifier
from federation.invites import Invites
from federation.joining import Joining
from federation.onbind import Onbind
from federation.resident import Resident
from federation.serving import Serving
from federation.wiring import Federation
from homeserver.http.endpoint import Endpoint
from homeserver.rooms.actor import Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.receive import Receiver
from homeserver.rooms.restricted import Restricted
from homeserver.rooms.send import Author
from homeserver.rooms.server_sight import ServerSight
from homeserver.rooms.state import RoomState
from homeserver.rooms.states import States
from homeserver.rooms.third_party import ThirdPartyInvites
from homeserver.streams.invite_permissions import InvitePermissions
from storage.engine import Database


@dataclass(frozen=True)
class RoomFederation:
    """The parts that others use."""

    verifier: Verifier
    joining: Joining
    resident: Resident
    invites: Invites
    onbind: Onbind
    serving: Serving

    @classmethod
    def build(
        cls,
        federation: Federation,
        rooms: Rooms,
        receiver: Receiver,
        restricted: Restricted,
        elsewhere: Elsewhere,
        states: States,
        state: RoomState,
        database: Database,
        author: Author,
        third_party: ThirdPartyInvites,
        permissions: InvitePermissions,
        sight: ServerSight,
    ) -> "RoomFederation":
        """Make everything."""
        verifier = Verifier(federation.keyring)
        joining = Joining(
            federation.requests,
            verifier,
            rooms,
            elsewhere.entering,
            elsewhere.outside,
            author,
        )
        resident = Resident(
            rooms, receiver, restricted, elsewhere, verifier, states, state, database, author
        )
        invites = Invites(rooms, elsewhere, verifier, database, permissions, author)
        onbind = Onbind(
            rooms, elsewhere, third_party, federation.requests, database, author.server_name
        )
        serving = Serving(
            rooms, resident, sight, states, database, author.clock, author.server_name
        )
        return cls(verifier, joining, resident, invites, onbind, serving)

    def endpoints(self) -> list[Endpoint]:
        """Their endpoints of the API "federation"."""
        return [
            *membership_endpoints(self.resident, self.invites),
            *hierarchy_endpoints(self.resident),
            *third_party_endpoints(self.resident, self.onbind),
            *event_endpoints(self.serving),
        ]

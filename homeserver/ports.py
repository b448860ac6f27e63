"""What the core needs of the outside, as small protocols.

`app.py` connects each with its implementation. Nothing here has behaviour.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.policy import Policy
from storage.changes import Change


class CommitMetrics(Protocol):
    """Where the commit queue reports its batches."""

    def committed(self, items: int, seconds: float) -> None:
        """One batch of `items` was committed in `seconds`."""


class SyncMetrics(Protocol):
    """Where sync reports whence its news came."""

    def news(self, *, in_memory: bool) -> None:
        """The news of one stretch were taken from the ring, or from the database."""


class Outbox(Protocol):
    """Where EDUs for other servers are put.

    spec: server-server-api#edus
    """

    def edu(
        self,
        destinations: Collection[str],
        type: str,  # noqa: A002
        content: JsonObject,
        key: str | None = None,
        pos: int = 0,
    ) -> list[Change]:
        """The changes that queue an EDU for these servers, to be committed with what it tells of.

        It is sent at least once, to each server in the order of positions and among the events of
        that time; `pos` counts the positions of the item that commits it, from 0. While it has not
        been sent to a server, a later one of the same `key` takes its place. What is too long is
        split by its `messages`. Raises `MatrixError` M_TOO_LARGE for what can't be.
        """

    def wake(self, destinations: Collection[str]) -> None:
        """What was queued for these servers is committed: send it at once."""

    def ephemeral(
        self,
        destinations: Collection[str],
        type: str,  # noqa: A002
        content: JsonObject,
        key: str,
    ) -> None:
        """Send an EDU that may be lost; a later one of the same type and key takes its place."""


class RemoteRooms(Protocol):
    """Rooms as other servers have them; all raise MatrixError with what a client may be told."""

    async def join(
        self, user_id: str, room_id: str, servers: Sequence[str], content: JsonObject
    ) -> None:
        """Join through one of the servers and store the room; `content` is that of the join."""

    async def knock(
        self, user_id: str, room_id: str, servers: Sequence[str], content: JsonObject
    ) -> None:
        """Knock through one of the servers and store that."""

    async def invite(
        self, server: str, event: Event, stripped: Sequence[JsonObject], via: Sequence[str]
    ) -> tuple[Event, bytes]:
        """The invite with the signature of the invited user's server, and its canonical JSON."""


class PolicyServers(Protocol):
    """Servers that say which events belong into the rooms that have chosen them.

    spec: server-server-api#asking-for-a-policy-server-signature-on-an-event
    """

    async def sign(self, policy: Policy, event: Event) -> Event:
        """The event with the signature of the policy server, which was checked.

        Raises `MatrixError` with what a client may be told: the server's refusal, or M_UNKNOWN
        (502) when it says nothing that counts.
        """


class RemoteDirectory(Protocol):
    """What other servers know of aliases, users and rooms; all raise MatrixError."""

    async def alias(self, alias: str) -> tuple[str, list[str]]:
        """The room id that an alias stands for, and servers that are in the room."""

    async def profile(self, user_id: str, field: str | None = None) -> JsonObject:
        """The profile of a user, or one field of it."""

    async def public_rooms(self, server: str, query: JsonObject) -> JsonObject:
        """A page of a server's directory; `query` is the body of the client's request."""

    async def hierarchy(
        self, servers: Sequence[str], room_id: str, suggested_only: bool
    ) -> JsonObject | None:
        """What the first of the servers that knows the space says of it; None if none does.

        spec: server-server-api#get_matrixfederationv1hierarchyroomid
        """


class Peers(Protocol):
    """Other servers, as operators see and treat them.

    A server is told of as an object with `server`, `state` (well, failing or blocked),
    `last_success_ts`, `failing_since_ts`, `failures`, `retry_ts`, `error`, `behind` (whether it has
    to catch up), `waiting_events` (in memory) and `waiting_since_ts`; times in ms.
    """

    async def peers(self, *, everyone: bool) -> list[JsonObject]:
        """Those that fail, are blocked or lack something; or every one that was spoken to."""

    async def peer(self, server: str) -> JsonObject:
        """One of them, with all of `waiting_events`, and `reached_at` and `reached_by`.

        `waiting_messages` are to devices, `waiting_lists` changes of devices and signing keys.
        Raises `MatrixError` M_INVALID_PARAM, or M_NOT_FOUND for one that was never spoken to.
        """

    async def retry(self, server: str) -> None:
        """Try a server at once; raises as `peer` does."""

    async def block(self, server: str) -> None:
        """Neither ask nor answer a server; raises `MatrixError` M_INVALID_PARAM."""

    async def allow(self, server: str) -> None:
        """Take that back; raises `MatrixError` M_INVALID_PARAM."""


class RemoteHistory(Protocol):
    """What other servers know of a room's past."""

    async def more(self, room_id: str, event_ids: Collection[str], limit: int) -> None:
        """Fetch events from these on backwards and store them, before everything that is there.

        Returns when that is done, or no server could be asked: nothing is raised for that.
        spec: server-server-api#get_matrixfederationv1backfillroomid
        """

    async def state_before(self, server: str, room_id: str, event_id: str) -> list[str]:
        """The ids of the state before an event, as a server in the room has it.

        Raises RemoteError for a refusal and Unreachable without an answer.
        spec: server-server-api#get_matrixfederationv1state_idsroomid
        """


class IdentityServers(Protocol):
    """Servers that know which user has which address outside of Matrix.

    Every call raises RemoteError for a refusal and Unreachable without an answer.
    spec: identity-service-api#establishing-associations
    """

    async def bind(
        self, server: str, access_token: str, credentials: JsonObject, user_id: str
    ) -> JsonObject:
        """Publish an address that the server has validated; its signed association."""

    async def find(self, server: str, access_token: str, medium: str, address: str) -> str | None:
        """The user whom an address belongs to, as the server says; None for nobody."""

    async def store_invite(self, server: str, access_token: str, invite: JsonObject) -> JsonObject:
        """Have an invite kept until its address is somebody's; the server's answer."""

    async def unbind(self, server: str, medium: str, address: str, user_id: str) -> None:
        """Have the server forget an association, in this server's name."""

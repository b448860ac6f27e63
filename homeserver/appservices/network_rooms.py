"""The room directories of third-party networks.

Owns which rooms application services list for the networks that they stand for. The published rooms
of this server itself are in `rooms/public_rooms.py`, which shows these, too.
spec: application-service-api#published-room-directories
"""

from homeserver.errors import MatrixError
from homeserver.streams.commit import CommitQueue
from homeserver.users.sessions import Session
from storage.appservices import directory_rooms
from storage.changes import Delete, Put
from storage.engine import Database
from storage.schema import AppserviceRoomRow

_MAX_ID = 255


class NetworkRooms:
    """See the module."""

    def __init__(self, database: Database, commits: CommitQueue) -> None:
        self._database = database
        self._commits = commits

    async def list_room(
        self, session: Session, network_id: str, room_nid: int, *, listed: bool
    ) -> None:
        """List a room for a network of the application service that asks, or no longer.

        Raises `MatrixError` M_FORBIDDEN for people.
        """
        if session.service is None:
            raise MatrixError.forbidden("Only application services keep directories of networks")
        network = f"{session.service}|{network_id}"
        if len(network.encode()) > _MAX_ID:
            raise MatrixError.invalid_param("networkId: too long")
        row = AppserviceRoomRow(network, room_nid)
        await self._commits.commit(
            [Put(row) if listed else Delete(AppserviceRoomRow, (network, room_nid))]
        )

    async def of(self, instance_id: str) -> set[int]:
        """The rooms (numbers) that are listed for a network, by its `instance_id`."""
        return await directory_rooms(self._database, [instance_id])

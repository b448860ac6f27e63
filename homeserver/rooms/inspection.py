"""A room under an operator's eyes: is its state what its events say, and what others have?

Owns what is told of it: the losses by state resolution that were noticed (`resets.py`), what
differs from the events (`rederived.py`), and how the state compares with that of other servers at
an event that both have. A repair is decided by what is found in the same turn in which it is made.
"""

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.comparison import Comparison
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.head import Head, Needs
from homeserver.rooms.rederived import Rederived, Rederiving
from homeserver.rooms.repair import Repairing
from homeserver.rooms.resets import in_words
from homeserver.rooms.send import Sending
from storage.engine import Database
from storage.events import event_ids
from storage.resets import resets_of

MAX_RESETS = 200


class Inspection:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        rederiving: Rederiving,
        repairing: Repairing,
        comparison: Comparison,
        elsewhere: Elsewhere,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._rederiving = rederiving
        self._repairing = repairing
        self._comparison = comparison
        self._elsewhere = elsewhere

    async def check(self, room_id: str, *, ask: bool) -> JsonObject:
        """What is known of a room; other servers are asked only if `ask` says so.

        `resets` are the losses noticed, the newest first; `differences` sentences on what the
        tables should say and don't; `servers` what came of the comparison.
        Raises `MatrixError` M_NOT_FOUND for an unknown room.
        """
        room = await self._room(room_id)
        found = await self._looked(room)
        present = await self._elsewhere.present(room)
        return {
            "room_id": room_id,
            "joined": present,
            "state_events": len(found.state),
            "ends": len(found.ends),
            "differences": found.differences,
            "resets": await self._resets(room),
            "servers": await self._comparison.of(room) if ask and present else [],
        }

    async def repair(self, room_id: str, *, apply: bool) -> JsonObject:
        """What differs from the events, and with `apply` its repair; `applied` says if it was made.

        Raises as `check` does.
        """
        room = await self._room(room_id)
        found = await self._looked(room, apply=apply)
        return {
            "room_id": room_id,
            "differences": found.differences,
            "applied": apply and bool(found.differences),
        }

    async def _room(self, room_id: str) -> Room:
        room = await self._rooms.find(room_id)
        if room is None:
            raise MatrixError.not_found("This server knows no such room")
        return room

    async def _looked(self, room: Room, *, apply: bool = False) -> Rederived:
        """What is found in the room's turn, and repaired in it."""
        looked: tuple[Head, Rederived] | None = None

        def verb(sending: Sending) -> Rederived:
            head = sending.head
            if looked is None or looked[0] is not head:

                async def load() -> None:
                    nonlocal looked
                    looked = (head, await self._rederiving.look(room, head))

                raise Needs(load)
            found = looked[1]
            if apply and found.differences:
                self._repairing.repair(sending, found)
            return found

        return await self._rooms.change(room, verb)

    async def _resets(self, room: Room) -> list[JsonObject]:
        rows = await resets_of(self._database, room.nid, MAX_RESETS)
        nids = {nid for row in rows for nid in (row.event_nid, row.lost_nid, row.left_nid)}
        ids = await event_ids(self._database, [nid for nid in nids if nid is not None])
        return [
            {
                "ts": row.ts,
                "event_id": ids.get(row.event_nid),
                "user_id": row.user_id,
                "what": row.what,
                "was": row.was,
                "now": row.now,
                "lost_event_id": ids.get(row.lost_nid),
                "left_event_id": None if row.left_nid is None else ids.get(row.left_nid),
                "sentence": in_words(row.user_id, row.what, row.was, row.now),
            }
            for row in rows
        ]

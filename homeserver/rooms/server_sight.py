"""What another server may see of a room's events: what one of its users may.

Owns the question for each event that leaves towards a server that is in the room. A server sees
what happened while a user of it was joined, and, by the room's history visibility then, what
happened before; while it is in the room, also what is sticky. Of state it sees what was the room's
while it was there: whoever joins is told that. Of what it may not see it gets no more than a
redaction leaves, so that it can still follow the room's graph and come to the same state. Events
that authorise others are open to all servers in the room: they are told with each join, and what
they prove must not change.
spec: server-server-api#backfilling-and-retrieving-missing-events,
spec: client-server-api#room-history-visibility
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence

from homeserver.matrix import canonical
from homeserver.matrix.redact import redact
from homeserver.matrix.visibility import OPEN, visibility_of
from homeserver.rooms.actor import Room
from homeserver.rooms.pdus import stored_pdus
from homeserver.rooms.stored import load_events
from homeserver.runtime.clock import Clock
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.events import event_rows
from storage.outbound import stays_in
from storage.schema import OUTLIER, REJECTED, EventRow
from storage.state import key_histories, key_history
from storage.sticky_events import sticky_until

_VISIBILITY = ("m.room.history_visibility", "")
_AUTHORISING = frozenset(
    {
        "m.room.create",
        "m.room.join_rules",
        "m.room.member",
        "m.room.power_levels",
        "m.room.third_party_invite",
    }
)


class ServerSight:
    """See the module."""

    def __init__(self, database: Database, names: Names, clock: Clock) -> None:
        self._clock = clock
        self._database = database
        self._names = names

    async def sees(self, server: str, room: Room, nids: Collection[int]) -> dict[int, bool]:
        """For each of the room's events whether the server may see it.

        The server must be in the room, or have been. Numbers that don't exist are absent.
        """
        rows = await event_rows(self._database, nids)
        stays = await stays_in(self._database, room.nid, server)
        at = [pos for pos, _ in stays]
        is_there = bool(stays) and stays[-1][1]
        sticky = await sticky_until(self._database, nids) if is_there else {}
        now = self._clock.now_ms()
        await self._names.load(keys=[_VISIBILITY])
        key_nid = self._names.key_nid(*_VISIBILITY)
        changes = await key_history(self._database, room.nid, key_nid)
        named = [nid for _, nid in changes if nid is not None]
        events = await load_events(self._database, named, room.rules)
        visibilities = [
            (pos, visibility_of(events[nid].content if nid is not None else None))
            for pos, nid in changes
        ]
        positions = [pos for pos, _ in visibilities]

        def seen(row: EventRow) -> bool:
            if row.pos is None or sticky.get(row.event_nid, 0) > now:
                return True
            stay = bisect_right(at, row.pos)
            if stay and stays[stay - 1][1]:
                return True
            index = bisect_right(positions, row.pos)
            return not index or visibilities[index - 1][1] in OPEN

        sees = {nid: seen(row) for nid, row in rows.items() if row.room_nid == room.nid}
        hidden = {
            nid: key
            for nid, row in rows.items()
            if (key := row.key_nid) is not None and not sees.get(nid, True)
        }
        if hidden:
            sees |= dict.fromkeys(await self._told(room, stays, hidden), True)
        return sees

    async def _told(
        self, room: Room, stays: Sequence[tuple[int, bool]], hidden: dict[int, int]
    ) -> list[int]:
        """Those of the state events (each with its key) that were told to the server all the same.

        They authorise others, or were the room's state at some moment of the server's `stays`.
        """
        names = await self._names.keys(set(hidden.values()))
        found = [nid for nid, key_nid in hidden.items() if names[key_nid][0] in _AUTHORISING]
        rest = {key_nid for key_nid in hidden.values() if names[key_nid][0] not in _AUTHORISING}
        at = [pos for pos, _ in stays]
        for changes in (await key_histories(self._database, room.nid, rest)).values():
            for index, (pos, nid) in enumerate(changes):
                if nid not in hidden:
                    continue
                # Between two of its stays there is one absence.
                stay = bisect_right(at, pos)
                there = stay > 0 and stays[stay - 1][1]
                until = changes[index + 1][0] if index + 1 < len(changes) else None
                came = next((pos for pos, inside in stays[stay : stay + 2] if inside), None)
                if there or (came is not None and (until is None or came <= until)):
                    found.append(nid)
        return found

    async def state_pdus(self, server: str, room: Room, nids: Collection[int]) -> list[bytes]:
        """Events of the room's state as the server may have them, in the given order."""
        sees = await self.sees(server, room, nids)
        pdus = await stored_pdus(self._database, nids, room.rules)
        return [
            pdus[nid] if sees[nid] else _redacted(pdus[nid], room)
            for nid in nids
            if nid in sees and nid in pdus
        ]

    async def pdus(self, server: str, room: Room, nids: Collection[int]) -> list[bytes]:
        """The events as the server may have them, in the given order; rejected ones left out."""
        rows = await event_rows(self._database, nids)
        kept = [nid for nid in nids if nid in rows and not rows[nid].flags & (REJECTED | OUTLIER)]
        return await self.state_pdus(server, room, kept)


def _redacted(pdu: bytes, room: Room) -> bytes:
    return canonical.encode(redact(canonical.decode_object(pdu), room.rules))

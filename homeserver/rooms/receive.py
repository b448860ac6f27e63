"""Events from other servers: what is received gets its place in its room.

Owns the ways in: one event that has come, several of a transaction, history, and events that only
authorise others, each stored in one commit. Their signatures and hash were checked already
(`federation`). What becomes of an event is decided by the verbs (`judging.py`, `backfilled.py`) and
the checks in the specification's order (`checks.py`). What it lacks is named; no other server is
asked here, but for the room's policy server where only this event waits for it.
spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.event import Event
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.at_hand import AtHand, Shelf, named
from homeserver.rooms.backfilled import Backfilled
from homeserver.rooms.branches import Branches
from homeserver.rooms.checks import Missing, Unasked
from homeserver.rooms.judging import Judging, Verdict, run_outlier
from homeserver.rooms.resets import Resets
from homeserver.rooms.send import Sending
from homeserver.rooms.states import States
from homeserver.streams.numbers import Names, Numbers
from storage.engine import Database
from storage.events import first_position
from storage.memberships import in_room_of
from storage.schema import BAN, LEAVE, LOCAL


class Receiver:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        states: States,
        database: Database,
        names: Names,
        numbers: Numbers,
        resets: Resets,
    ) -> None:
        self._rooms = rooms
        self._resets = resets
        self._held: Callable[[int], None] = _nobody
        self._states = states
        self._database = database
        self._names = names
        self._numbers = numbers

    def on_held(self, held: Callable[[int], None]) -> None:
        """Have `held(room number)` called for a sticky event that is not among what is new."""
        self._held = held

    async def receive(
        self,
        room: Room,
        event: Event,
        pdu: bytes,
        before: Collection[str] | None = None,
        *,
        relay: bool = False,
    ) -> Verdict | Missing:
        """Judge an event of the room and store it.

        `pdu` is its canonical JSON. `before` are the ids of the state before it, all of them
        stored, where its previous events can't be had: a state that has not what authorises the
        event is not the one before it, and they are still missing. `relay`: once accepted, it is
        ours to send to other servers. The room's policy server is asked where it must be. Raises
        `MatrixError` 503 when the room can't be written.
        """
        flags = LOCAL if relay else 0

        async def judged(asked: bool) -> Verdict | Missing | Unasked:
            at_hand = AtHand(self._database, event, also=before or ())
            branches = Branches(self._database, self._states, at_hand, before)
            judging = Judging(at_hand, branches, flags, asked=asked)
            return await self._rooms.change(
                room, lambda sending: self._judged(judging, sending, room, pdu)
            )

        verdict = await judged(False)
        if not isinstance(verdict, Unasked):
            return verdict
        with suppress(MatrixError):
            event = await self._rooms.recommended(room, event)
            pdu = canonical.encode(event.pdu)
        verdict = await judged(True)
        assert not isinstance(verdict, Unasked)
        return verdict

    def _judged(
        self, judging: Judging, sending: Sending, room: Room, pdu: bytes
    ) -> Verdict | Missing | Unasked:
        verdict = judging.run(sending, pdu, self._numbers)
        if judging.lost:
            event, lost = judging.event, judging.lost
            sending.changes.extend(self._resets.rows(room.nid, judging.nid, lost))
            sending.published = self._resets.happened(room, event, lost)
        elif judging.held:
            sending.published = lambda _: self._held(room.nid)
        return verdict

    async def receive_all(
        self, room: Room, events: Sequence[tuple[Event, bytes]]
    ) -> list[Verdict | Missing | Unasked | Exception]:
        """`receive` for events in an order in which each may stand behind those before it.

        What they name is read at once and they are committed together where they can be. An event
        that can't be stored has the exception in its place. Policy servers are not asked.
        """
        shelf = await self._shelf(room, [event for event, _ in events])

        async def one(event: Event, pdu: bytes) -> Verdict | Missing | Unasked | Exception:
            at_hand = AtHand(self._database, event, shelf)
            judging = Judging(at_hand, Branches(self._database, self._states, at_hand))
            try:
                return await self._rooms.change(
                    room, lambda sending: self._judged(judging, sending, room, pdu)
                )
            except Exception as error:
                return error

        return await asyncio.gather(*(one(event, pdu) for event, pdu in events))

    async def store_history(self, room: Room, events: Sequence[tuple[Event, bytes]]) -> int:
        """Put events before everything that is in the room's timeline, the newest first.

        Each is checked against its own auth events, all of which are stored; others are left out.
        They change nothing of what the room is now: what they did is in the state that came with
        our join. Returns how many have a place now.
        """
        shelf = await self._shelf(room, [event for event, _ in events])
        first = min(0, await first_position(self._database, room.nid))
        gone = await self._gone(room, {event.sender for event, _ in events})
        history = Backfilled(self._database, events, shelf, first, gone)

        def verb(sending: Sending) -> int:
            placed = history.run(sending, self._numbers)
            if history.held:
                sending.published = lambda _: self._held(room.nid)
            return placed

        return await self._rooms.change(room, verb)

    async def _shelf(self, room: Room, events: Sequence[Event]) -> Shelf:
        await self._names.load(
            {text for event in events for text in (event.type, event.sender)},
            {event.key for event in events if event.is_state},
        )
        ids = {id_ for event in events for id_ in named(event)}
        return await Shelf.read(self._database, room.nid, ids)

    async def _gone(self, room: Room, senders: Collection[str]) -> frozenset[str]:
        """Those of the senders who have left the room or are banned: few, mostly."""
        nids = await self._names.nids(senders)
        members = await in_room_of(self._database, room.nid, nids.values())
        left = {nid for nid, row in members.items() if row.membership in (LEAVE, BAN)}
        return frozenset(user_id for user_id, nid in nids.items() if nid in left)

    async def store_outliers(
        self, room: Room, events: Iterable[tuple[Event, bytes]]
    ) -> dict[str, bool]:
        """Store auth events without a place in the timeline, in an order in which each one's auth
        events come before it or are stored already.

        Each is checked against its own auth events. Returns by id whether the rules allow it; an
        event whose auth events are absent is left out.
        """
        allowed: dict[str, bool] = {}
        for event, pdu in events:
            at_hand = AtHand(self._database, event)

            def verb(sending: Sending, at_hand: AtHand = at_hand, pdu: bytes = pdu) -> bool | None:
                return run_outlier(at_hand, sending, pdu, self._numbers)

            found = await self._rooms.change(room, verb)
            if found is not None:
                allowed[event.event_id] = found
        return allowed


def _nobody(room_nid: int) -> None:
    """Nobody wants to know which sticky events are held back."""

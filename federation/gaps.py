"""What an event lacks: the events before it and those that authorise it, asked of other servers.

Owns which servers are asked for what, and the bounds of it: rounds, requests, events, bytes and
seconds. It runs beside the room, whose turn it takes only to have an event judged. What comes is
believed as far as signatures and the room's rules show it, and kept as far as it leads to what is
lacking; a server whose answer does not help is as one that has none, and the next is asked. The
state before an event whose past can't be had is the word of a server in the room, all of whose
events are judged by their own auth events, and which must have what authorises the event.
spec: server-server-api#backfilling-and-retrieving-missing-events,
spec: server-server-api#retrieving-events
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from federation.asking import Asking, some_of
from federation.events import Refused, Verifier
from federation.requests import Query, Requests, path_of
from federation.told_state import ToldState, is_of
from homeserver.errors import RemoteError, Unreachable
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.checks import Missing
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.entering import Held
from homeserver.rooms.receive import Receiver
from storage.engine import Database
from storage.events import event_numbers, first_depth

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_SERVERS = 4
ROUNDS = 10
AT_ONCE = 50
"""Events asked for in one round."""
MAX_EARLIER = 500
SECONDS = 180.0
REQUEST_SECONDS = 30.0
MAX_REQUESTS = 2_000
"""Requests made to fill one gap."""
MAX_EVENT_BYTES = 262_144
MAX_EVENTS_BYTES = 16 * 1_048_576
FEW = 50
"""So many absent events of a state are asked for one by one; more come with the whole state."""
SINGLE_REQUESTS = 8
MAX_STATES = 5
"""Events of a gap whose state is asked for."""
AUTH_ROUNDS = 10


class Gaps:
    """See the module."""

    def __init__(
        self,
        requests: Requests,
        verifier: Verifier,
        told_state: ToldState,
        rooms: Rooms,
        receiver: Receiver,
        elsewhere: Elsewhere,
        database: Database,
    ) -> None:
        self._requests = requests
        self._verifier = verifier
        self.told_state = told_state
        self._rooms = rooms
        self._receiver = receiver
        self._elsewhere = elsewhere
        self._database = database

    async def fill(self, room: Room, event: Event, origin: str) -> bool:
        """Fetch what the event lacks and have it judged; whether it was judged.

        `origin` is the server that has sent it.
        """
        preferred = [origin, server_of(event.sender)]
        servers = some_of(preferred, await self._elsewhere.servers(room), MAX_SERVERS)
        filling = _Filling(self, room, servers)
        try:
            async with asyncio.timeout(SECONDS):
                return await filling.run(event)
        except TimeoutError:
            log.info("the gap before %s took too long", event.event_id)
            return False

    async def authorise(
        self, room: Room, server: str, event: Event, wanted: Collection[str]
    ) -> None:
        """Fetch and store the auth chain of an event as a server has it, as far as `wanted`, which
        it lacks, leads to it.
        """
        await _Filling(self, room, [server]).authorising(event, wanted)

    # What `_Filling` uses of this.

    async def ask(
        self,
        server: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: JsonObject | None = None,
        max_bytes: int = MAX_EVENTS_BYTES,
    ) -> JsonObject:
        """The answer of a server; raises as `Requests.request` does."""
        return await self._requests.request(
            server,
            method,
            path,
            query=query,
            body=body,
            timeout=REQUEST_SECONDS,
            max_bytes=max_bytes,
        )

    async def events(
        self,
        room: Room,
        pdus: object,
        most: int,
        unverified: dict[str, Event] | None = None,
    ) -> dict[str, Event]:
        """By id those of the first PDUs that are signed events of the room.

        Those whose keys can't be had are put into `unverified` where their ids are hashes, so that
        at least what they stand behind is theirs.
        """
        is_hashed = room.rules.event_ids != "sender"
        listed = [
            pdu
            for pdu in (pdus[:most] if isinstance(pdus, list) else ())
            if isinstance(pdu, dict) and is_of(pdu, room)
        ]
        found: dict[str, Event] = {}
        for start in range(0, len(listed), 100):
            part = listed[start : start + 100]
            verified = await self._verifier.verify(part, room.rules)
            for pdu, event in zip(part, verified, strict=True):
                if isinstance(event, Event):
                    if event.room_id == room.room_id:
                        found[event.event_id] = event
                elif event is Refused.NO_KEY and unverified is not None and is_hashed:
                    absent = Event.parse(pdu, room.rules)
                    unverified[absent.event_id] = absent
        return found

    async def absent(self, room: Room, ids: Collection[str]) -> list[str]:
        """Those of the events that are not stored."""
        known: dict[str, int] = {}
        listed = list(ids)
        for start in range(0, len(listed), 1_000):
            known |= await event_numbers(self._database, room.nid, listed[start : start + 1_000])
        return [id_ for id_ in listed if id_ not in known]

    async def receive(
        self, room: Room, event: Event, before: Collection[str] | None = None
    ) -> Missing | None:
        """Have an event judged; what it lacks for that."""
        pdu = canonical.encode(event.pdu)
        verdict = await self._receiver.receive(room, event, pdu, before)
        return verdict if isinstance(verdict, Missing) else None

    async def store(self, room: Room, events: Mapping[str, Held]) -> None:
        """Store events (by id) as outliers, each after those that authorise it."""
        await self._receiver.store_outliers(
            room,
            (
                (Event.stored(canonical.decode_object(held.pdu), room.rules, id_), held.pdu)
                for id_, held in in_order(events, lambda held: held.auth_ids)
            ),
        )

    async def first_depth(self, room: Room) -> int:
        """The depth of the first event that the room's timeline has here."""
        return await first_depth(self._database, room.nid)

    async def ends(self, room: Room) -> list[str]:
        """The ids of the room's last events."""
        return await self._rooms.read(room, lambda head: [id_ for _, id_ in head.extremities])


class _Filling:
    """One gap."""

    def __init__(self, gaps: Gaps, room: Room, servers: Sequence[str]) -> None:
        self._gaps = gaps
        self._room = room
        self._asking = Asking(servers)
        self._states = 0
        self._requests = 0

    async def run(self, event: Event) -> bool:
        missing = await self._gaps.receive(self._room, event)
        if missing is None:
            return True
        if missing.prev:
            for earlier in await self._earlier(event, missing.prev):
                await self._settle(earlier)
        return await self._settle(event)

    async def _settle(self, event: Event) -> bool:
        """Have an event judged with what can be had of what it lacks."""
        room, gaps = self._room, self._gaps
        missing = await gaps.receive(room, event)
        if missing is not None and missing.auth:
            await self.authorising(event, missing.auth)
            missing = await gaps.receive(room, event)
        if missing is None:
            return True
        if missing.auth or self._states >= MAX_STATES:
            return False
        self._states += 1

        async def judged(server: str) -> bool | None:
            before = await self._state_before(server, event)
            if before is None or await gaps.receive(room, event, before) is not None:
                return None
            return True

        return bool(await self._asking.first(judged))

    async def _earlier(self, event: Event, missing: Collection[str]) -> list[Event]:
        """Events between the room's ends and this one, the oldest first.

        What stands before all that we have of the room is history, and no part of the gap.
        """
        room, gaps = self._room, self._gaps
        least = await gaps.first_depth(room)
        found: dict[str, Event] = {}
        wanted, frontier = set(missing), [event.event_id]
        ends = await gaps.ends(room)

        async def told(server: str) -> dict[str, Event] | None:
            self._count(server)
            answer = await gaps.ask(
                server,
                "POST",
                path_of("federation/v1", "get_missing_events", room.room_id),
                body={
                    "earliest_events": ends[-20:],
                    "latest_events": frontier[:20],
                    "limit": AT_ONCE,
                    "min_depth": least,
                },
            )
            events = await gaps.events(room, answer.get("events"), 2 * AT_ONCE)
            events.pop(event.event_id, None)
            late = {id_: one for id_, one in events.items() if one.depth >= least}
            return leading(late, wanted, lambda one: one.prev_event_ids) or None

        for _ in range(ROUNDS):
            new = await self._asking.first(told)
            if new is None:
                break
            found |= new
            named = {id_ for one in new.values() for id_ in one.prev_event_ids}
            wanted = set(await gaps.absent(room, (wanted | named) - {event.event_id, *found}))
            frontier = [
                one.event_id
                for one in (event, *found.values())
                if one.depth > least and wanted & set(one.prev_event_ids)
            ]
            if not frontier or len(found) >= MAX_EARLIER:
                break
        return [one for _, one in in_order(found, lambda one: one.prev_event_ids)]

    async def authorising(self, event: Event, wanted: Collection[str]) -> None:
        """Fetch and store the events that authorise one."""
        room, gaps = self._room, self._gaps

        async def told(server: str) -> bool | None:
            await gaps.store(room, await self._chain(server, event, wanted))
            return None if await gaps.absent(room, wanted) else True

        await self._asking.first(told)

    async def _chain(self, server: str, event: Event, wanted: Collection[str]) -> dict[str, Held]:
        """What a server has of `wanted`, which authorise an event, and of what authorises them."""
        room, gaps = self._room, self._gaps
        told: dict[str, Held] = {}
        self._count(server)
        try:
            told = await gaps.told_state.auth_chain(server, room, event.event_id)
        except (RemoteError, Malformed) as error:
            log.debug("the auth chain of %s: %s", event.event_id, error)
        chain = leading(told, wanted, lambda one: one.auth_ids)
        for _ in range(AUTH_ROUNDS):
            named = {id_ for one in chain.values() for id_ in one.auth_ids}
            lost = await gaps.absent(room, {*wanted, *named} - chain.keys())
            if not lost or len(lost) > MAX_EARLIER:
                break
            got = await self._single(server, lost)
            if not got:
                break
            chain |= got
        return chain

    async def _state_before(self, server: str, event: Event) -> list[str] | None:
        """The ids of the state before an event, all stored; None when the server has it not."""
        room, gaps = self._room, self._gaps
        self._count(server)
        state, chain = await gaps.told_state.ids(server, room.room_id, event.event_id)
        lost = await gaps.absent(room, {*state, *chain})
        if len(lost) > FEW:
            self._count(server)
            await gaps.store(room, await gaps.told_state.events(server, room, event.event_id, lost))
        elif lost:
            await gaps.store(room, await self._single(server, lost))
        if await gaps.absent(room, state):
            return None
        return state

    async def _single(self, server: str, ids: Sequence[str]) -> dict[str, Held]:
        """Events by id, each asked for by itself."""
        slots = asyncio.Semaphore(SINGLE_REQUESTS)

        async def one(event_id: str) -> dict[str, Held]:
            async with slots:
                path = path_of("federation/v1", "event", event_id)
                try:
                    self._count(server)
                    answer = await self._gaps.ask(server, "GET", path, max_bytes=MAX_EVENT_BYTES)
                except (Unreachable, RemoteError):
                    return {}
            found = await self._gaps.events(self._room, answer.get("pdus"), 1)
            return {event_id: Held.of(found[event_id])} if event_id in found else {}

        found = await asyncio.gather(*(one(event_id) for event_id in ids[:MAX_EARLIER]))
        return {id_: event for events in found for id_, event in events.items()}

    def _count(self, server: str) -> None:
        """One more request, to this server; raises Unreachable when there were enough."""
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise Unreachable(server, "enough was asked to fill one gap")


def leading(
    events: Mapping[str, T], wanted: Iterable[str], named: Callable[[T], Iterable[str]]
) -> dict[str, T]:
    """Those of the events that are wanted, or that one which is names; all others are left out."""
    found: dict[str, T] = {}
    queue = list(wanted)
    while queue:
        id_ = queue.pop()
        if id_ in events and id_ not in found:
            found[id_] = events[id_]
            queue += named(events[id_])
    return found


def in_order(
    events: Mapping[str, T], named: Callable[[T], Iterable[str]]
) -> Iterator[tuple[str, T]]:
    """Events by id so that those which one names come before it; what stands in a circle is left
    out.
    """
    graph = {
        id_: [other for other in named(event) if other in events] for id_, event in events.items()
    }
    while graph:
        try:
            ordered = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            for id_ in error.args[1]:
                graph.pop(id_, None)
            graph = {
                id_: [other for other in others if other in graph] for id_, others in graph.items()
            }
            continue
        yield from ((id_, events[id_]) for id_ in ordered)
        return

"""A room's state beside that of other servers in it.

Owns whom is asked, at which event, and the sentence that comes of it. Servers are asked in
parallel, each within a bound of time; what they say is compared and never stored.
"""

import asyncio
from collections.abc import Mapping, Sequence

from homeserver.errors import RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.ports import RemoteHistory
from homeserver.rooms.actor import Room
from homeserver.rooms.states import States
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.events import event_ids, event_numbers, event_rows, timeline
from storage.outbound import joined_by_server
from storage.schema import EventRow

MAX_SERVERS = 10
AT_ONCE = 5
SECONDS = 8.0
"""For how long one server is waited for; all of them are asked within twice that."""
EARLIER = 20
"""Who lacks the newest event is asked about the one so many before it."""
MAX_NAMED = 10
_POSITIONS = 2**62
_IDS_AT_ONCE = 1_000


class Comparison:
    """See the module."""

    def __init__(
        self, database: Database, names: Names, states: States, remote: RemoteHistory
    ) -> None:
        self._database = database
        self._names = names
        self._states = states
        self._remote = remote

    async def of(self, room: Room) -> list[JsonObject]:
        """What came of it by server, those with the most users first.

        `same` is null where it could not be found out; `sentence` says all in words.
        """
        counts = await joined_by_server(self._database, room.nid)
        servers = sorted(counts, key=lambda server: (-counts[server], server))[:MAX_SERVERS]
        events = await self._events(room)
        if not events:
            return []
        places = asyncio.Semaphore(AT_ONCE)

        async def one(server: str) -> JsonObject:
            async with places:
                try:
                    async with asyncio.timeout(SECONDS):
                        return await self._compare(room, server, events)
                except TimeoutError:
                    reason = f"has not answered within {SECONDS:.0f} seconds"
                except Unreachable as error:
                    reason = f"can't be asked: {error.reason}"
                except RemoteError as error:
                    reason = f"refuses: {error.errcode or error.status} {error.message}".rstrip()
            return {"server": server, "same": None, "sentence": f"{server} {reason}"}

        found = await asyncio.gather(*(one(server) for server in servers))
        return list(found)

    async def _events(self, room: Room) -> list[EventRow]:
        """The newest event, and one before it that others have more surely."""
        newest = await timeline(
            self._database, room.nid, 0, _POSITIONS, EARLIER + 1, newest_first=True
        )
        rows = [stored.row for stored in newest if stored.row.snap_nid is not None]
        return rows[:1] + rows[1:][-1:]

    async def _compare(self, room: Room, server: str, events: Sequence[EventRow]) -> JsonObject:
        for number, event in enumerate(events):
            try:
                theirs = set(await self._remote.state_before(server, room.room_id, event.event_id))
            except RemoteError as error:
                if error.status == 404 and number + 1 < len(events):
                    continue
                raise
            assert event.snap_nid is not None
            state = (await self._states.of_snapshots([event.snap_nid]))[event.snap_nid]
            ours = await self._ids(list(state.values()))
            more, less = sorted(theirs - ours), sorted(ours - theirs)
            sentence = f"{server} has the same {len(ours)} state events before {event.event_id}"
            if more or less:
                sentence = f"{server} has another state before {event.event_id}:"
                sentence += await self._named(room, " it has", more)
                sentence += await self._named(room, " it lacks", less)
            return {
                "server": server,
                "same": not more and not less,
                "before": event.event_id,
                "only_theirs": more[:_IDS_AT_ONCE],
                "only_ours": less[:_IDS_AT_ONCE],
                "sentence": sentence,
            }
        raise AssertionError("there is at least one event")

    async def _ids(self, nids: Sequence[int]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(nids), _IDS_AT_ONCE):
            part = await event_ids(self._database, nids[start : start + _IDS_AT_ONCE])
            found |= set(part.values())
        return found

    async def _named(self, room: Room, how: str, ids: Sequence[str]) -> str:
        """Some of these events, with what we know of them."""
        if not ids:
            return ""
        shown = ids[:MAX_NAMED]
        nids = await event_numbers(self._database, room.nid, shown)
        rows = await event_rows(self._database, nids.values())
        keys = await self._names.keys(
            {row.key_nid for row in rows.values() if row.key_nid is not None}
        )
        said = [_in_words(id_, rows.get(nids.get(id_, 0)), keys) for id_ in shown]
        more = f" and {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
        return f"{how} {', '.join(said)}{more}"


def _in_words(event_id: str, row: EventRow | None, keys: Mapping[int, tuple[str, str]]) -> str:
    if row is None:
        return f"{event_id} (unknown here)"
    type_, state_key = keys.get(row.key_nid or 0, ("no state", ""))
    return f"{event_id} ({type_}{' of ' + state_key if state_key else ''})"

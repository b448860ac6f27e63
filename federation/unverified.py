"""Staged events whose keys could not be had when they came: verified beside their rooms.

Owns one task for each server that has sent some and each server whose users they claim to be of, so
that nobody waits for the keys of another. Invariant: what becomes of an unverified copy changes
nothing about a verified one of the same event.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from federation.events import Refused, Verifier
from federation.shares import Slots
from federation.tries import later
from homeserver.matrix import canonical
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.rooms.actor import Room
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import inbound as store
from storage.changes import Change
from storage.engine import Database
from storage.schema import InboundPduRow

log = logging.getLogger(__name__)

RUN = 50

Key = tuple[str, str]


class Unverified:
    """See the module. `wake` is called for a room some of whose events are verified now."""

    def __init__(
        self,
        verifier: Verifier,
        slots: Slots,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        wake: Callable[[Room], None],
    ) -> None:
        self._verifier = verifier
        self._slots = slots
        self._database = database
        self._commits = commits
        self._clock = clock
        self._wake = wake
        self._waiting: dict[Key, dict[tuple[int, str], Room]] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def check(self, room: Room, rows: Sequence[InboundPduRow]) -> None:
        """Verify these rows of a room, unless that is under way."""
        for row in rows:
            sender = canonical.decode_object(row.pdu).get("sender")
            key = (row.origin, server_of(sender) if isinstance(sender, str) else "")
            self._waiting.setdefault(key, {})[room.nid, row.event_id] = room
            if key not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._run(key))
                self._tasks[key] = task

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return list(self._tasks.values())

    async def _run(self, key: Key) -> None:
        try:
            async with self._slots.of(key[0]):
                while waiting := self._waiting[key]:
                    room = next(iter(waiting.values()))
                    ids = [event_id for nid, event_id in waiting if nid == room.nid][:RUN]
                    await self._settle(room, ids)
                    for event_id in ids:
                        waiting.pop((room.nid, event_id), None)
        except Exception:
            log.exception("events that %s has sent can't be verified", key[0])
        finally:
            self._waiting.pop(key, None)
            self._tasks.pop(key, None)

    async def _settle(self, room: Room, event_ids: Sequence[str]) -> None:
        """Verify a run of rows."""
        staged = await store.staged_rows(self._database, room.nid, event_ids)
        rows = [row for row in staged if not row.verified]
        pdus = [canonical.decode_object(row.pdu) for row in rows]
        found = await self._verifier.verify(pdus, room.rules)
        changes: list[Change] = []
        absent: list[InboundPduRow] = []
        for row, event in zip(rows, found, strict=True):
            if isinstance(event, Event):
                changes.append(store.verified(row, canonical.encode(event.pdu)))
            elif event is Refused.NO_KEY:
                absent.append(row)
            else:
                changes.append(store.given_up(row))
        await self._commits.commit([*changes, *later(absent, self._clock.now_ms())])
        if any(isinstance(event, Event) for event in found):
            self._wake(room)

"""Events that are sent later, unless their user says otherwise before (MSC4140).

Owns the table of such events and the task that sends each when its time has come; calls are what
they are for: a client that vanishes leaves a call because it no longer puts off its leaving. A row
is removed after its event was committed, and its id is the event's transaction id, so that it is
sent once also across a crash. A state event that somebody else has set meanwhile wins.
"""

import asyncio
import hashlib
import logging
import secrets
from typing import Literal

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import Txn
from homeserver.rooms.head import Head
from homeserver.rooms.members import Members
from homeserver.rooms.posting import Posting, check_sticky
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.users.sessions import Session
from storage import delayed_events as store
from storage.changes import Delete, Insert, Put
from storage.engine import Database
from storage.schema import DelayedEventRow

log = logging.getLogger(__name__)

Action = Literal["cancel", "restart", "send"]
LONGEST_MS = 86_400_000
MOST_OF_A_USER = 100
_AT_ONCE = 50
_LOOK_AGAIN_SECONDS = 60.0
_MOST_BYTES = 65_536


class DelayedEvents:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        posting: Posting,
        members: Members,
        names: Names,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._posting = posting
        self._members = members
        self._names = names
        self._database = database
        self._commits = commits
        self._clock = clock
        self._wake = asyncio.Event()

    async def schedule(
        self,
        session: Session,
        room: Room,
        event_type: str,
        state_key: str | None,
        content: JsonObject,
        delay: int,
        sticky_ms: int | None = None,
    ) -> str:
        """Have an event sent in `delay` ms; returns the id by which it can be put off or dropped.

        `sticky_ms`: how long it is sticky then (MSC4354).

        Raises `MatrixError` M_FORBIDDEN for who isn't in the room, M_INVALID_PARAM and MSC4140's
        errors for too long a delay or too many events.
        """
        check_sticky(sticky_ms)
        if delay < 0:
            raise MatrixError.invalid_param("org.matrix.msc4140.delay: less than nothing")
        if delay > LONGEST_MS:
            raise _refused("M_MAX_DELAY_EXCEEDED", "The delay is too long", max_delay=LONGEST_MS)
        data = canonical.encode(content)
        if len(data) > _MOST_BYTES:
            raise MatrixError.too_large("The event is larger than any can be")
        user_id = session.user_id
        if await self._rooms.read(room, lambda head: head.membership(user_id)) != "join":
            raise MatrixError.forbidden("You are not in this room")
        known = await store.delayed_events_of(self._database, session.user_nid, MOST_OF_A_USER)
        if len(known) >= MOST_OF_A_USER:
            raise _refused("M_MAX_DELAYED_EVENTS_EXCEEDED", "You have too many delayed events")
        now = self._clock.now_ms()
        row = DelayedEventRow(
            delay_id=secrets.token_urlsafe(24),
            user_nid=session.user_nid,
            device_nid=session.device_nid,
            room_nid=room.nid,
            type=event_type,
            state_key=state_key,
            content=data,
            delay=delay,
            since=now,
            run_at=now + delay,
            sticky_ms=sticky_ms,
        )
        await self._commits.commit([Insert(row)])
        self._wake.set()
        return row.delay_id

    async def of(self, session: Session) -> list[JsonObject]:
        """The user's events that are not sent yet."""
        rows = await store.delayed_events_of(self._database, session.user_nid, MOST_OF_A_USER)
        rooms = await self._rooms.by_nids({row.room_nid for row in rows})
        return [
            {
                "delay_id": row.delay_id,
                "room_id": rooms[row.room_nid].room_id,
                "type": row.type,
                "delay": row.delay,
                "running_since": row.since,
                "content": canonical.decode_object(row.content),
                **({} if row.state_key is None else {"state_key": row.state_key}),
            }
            for row in rows
        ]

    async def act(self, delay_id: str, action: Action) -> None:
        """Drop an event, begin its delay anew, or send it now; whoever knows the id may.

        Raises `MatrixError` M_NOT_FOUND, or what sending the event raises.
        """
        row = await store.delayed_event(self._database, delay_id)
        if row is None:
            raise MatrixError.not_found("There is no such delayed event")
        if action == "cancel":
            await self._commits.commit([Delete(DelayedEventRow, (delay_id,))])
        elif action == "restart":
            now = self._clock.now_ms()
            await self._commits.commit([Put(row._replace(since=now, run_at=now + row.delay))])
            self._wake.set()
        else:
            await self._send(row)

    async def run(self) -> None:
        """Send what falls due, until cancelled."""
        while True:
            self._wake.clear()
            due = await store.delayed_events_due(self._database, self._clock.now_ms(), _AT_ONCE)
            for row in due:
                try:
                    await self._send(row)
                except (MatrixError, Rejected) as error:
                    log.info("a delayed event could not be sent: %s", error)
            if not due:
                await self._pause()

    async def _pause(self) -> None:
        next_at = await store.next_delayed_at(self._database)
        seconds = _LOOK_AGAIN_SECONDS
        if next_at is not None:
            seconds = min((next_at - self._clock.now_ms()) / 1000, seconds)
        if seconds <= 0:
            return
        timer = self._clock.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _send(self, row: DelayedEventRow) -> None:
        """Send the event, which is gone then whether that is allowed or not."""
        try:
            await self._sent(row)
        except MatrixError as error:
            if error.status >= 500 or error.errcode == "M_LIMIT_EXCEEDED":
                later = self._clock.now_ms() + 1_000
                await self._commits.commit([Put(row._replace(run_at=later))])
                raise
            await self._commits.commit([Delete(DelayedEventRow, (row.delay_id,))])
            raise
        except Rejected:
            await self._commits.commit([Delete(DelayedEventRow, (row.delay_id,))])
            raise
        await self._commits.commit([Delete(DelayedEventRow, (row.delay_id,))])

    async def _sent(self, row: DelayedEventRow) -> None:
        user_id = (await self._names.names([row.user_nid]))[row.user_nid]
        room = (await self._rooms.by_nids([row.room_nid]))[row.room_nid]
        content = canonical.decode_object(row.content)
        if row.state_key is None:
            await self._posting.send(
                user_id, room, row.type, content, _txn(row), None, row.sticky_ms
            )
            return
        key = (row.type, row.state_key)

        def is_outdated(head: Head) -> bool:
            now = head.event(*key)
            return now is not None and now.sender != user_id and now.origin_server_ts > row.since

        if await self._rooms.read(room, is_outdated):
            return
        if row.type == "m.room.member":
            await self._members.put_state(user_id, room, row.state_key, content)
        else:
            await self._posting.put_state(user_id, room, row.type, row.state_key, content)


def _txn(row: DelayedEventRow) -> Txn | None:
    if row.device_nid is None:
        return None
    digest = hashlib.blake2b(b"delayed event", digest_size=8).digest()
    return Txn(row.device_nid, int.from_bytes(digest, "big", signed=True), row.delay_id)


def _refused(errcode: str, message: str, **more: int) -> MatrixError:
    extra: JsonObject = {"org.matrix.msc4140.errcode": errcode}
    extra |= {f"org.matrix.msc4140.{key}": value for key, value in more.items()}
    return MatrixError("M_UNKNOWN", message, 400, extra=extra)

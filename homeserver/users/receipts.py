"""Receipts and read markers: up to where a user has read a room.

Owns moving them, forward only, and the rules of threads. A receipt belongs to a user, a kind and a
thread (or none); private ones reach nobody else. The fully read marker is account data that only
this module writes.
spec: client-server-api#receipts and client-server-api#fully-read-markers
"""

from dataclasses import dataclass
from typing import Any

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.rooms.actor import Room
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.streams.publish import Publisher
from homeserver.streams.ring import ReceiptEntry
from homeserver.users.account_data import FULLY_READ, AccountData
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session
from storage import user_data as store
from storage.changes import Pos, Put
from storage.engine import Database
from storage.events import StoredEvent, events_by_id
from storage.schema import READ, READ_PRIVATE, REJECTED, SOFT_FAILED, ReceiptRow

KINDS = {"m.read": READ, "m.read.private": READ_PRIVATE}
MAIN = "main"
_UNTHREADED = ""
# Relations followed from an event on the way to its thread.
_MOST_HOPS = 3


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a client says it has read: `kind` is a key of `KINDS` or `m.fully_read`."""

    kind: str
    event_id: str
    thread_id: str | None = None


class Receipts:
    """The receipts of all users. Callers have made sure that the user is in the room."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        publisher: Publisher,
        inbox: UserInbox,
        account_data: AccountData,
        names: Names,
        clock: Clock,
    ) -> None:
        self._names = names
        self._database = database
        self._commits = commits
        self._publisher = publisher
        self._inbox = inbox
        self._account_data = account_data
        self._clock = clock

    async def move(self, session: Session, room: Room, *receipts: Receipt) -> None:
        """Move receipts and the marker to events; what would move back stays where it is.

        Raises `MatrixError` M_INVALID_PARAM for an unknown kind or a thread that does not fit,
        M_NOT_FOUND for an event that the room does not have. Then none of them has moved.
        """
        found: list[tuple[Receipt, StoredEvent]] = []
        for receipt in receipts:
            _check(receipt)
            event = await self._event(room, receipt.event_id)
            if event is None:
                raise MatrixError.not_found(f"The room has no event {receipt.event_id}")
            if receipt.thread_id is not None:
                await self._check_thread(room, event, receipt.thread_id)
            found.append((receipt, event))

        async def turn() -> None:
            for receipt, event in found:
                if receipt.kind == FULLY_READ:
                    await self._mark(session, room, event)
                else:
                    now = self._clock.now_ms()
                    await self._move(session.user_nid, session.user_id, room, receipt, event, now)

        await self._inbox.run(session.user_nid, turn)

    async def told(
        self, room: Room, user_id: str, event_id: str, thread_id: str | None, ts: int
    ) -> bool:
        """Another server tells up to where its user has read, at `ts` (ms).

        Whether the room has the event; what would move back stays where it is.
        spec: server-server-api#receipts
        """
        event = await self._event(room, event_id)
        if event is None:
            return False
        receipt = Receipt("m.read", event_id, thread_id)
        user_nid = (await self._names.nids([user_id]))[user_id]
        await self._inbox.run(
            user_nid, lambda: self._move(user_nid, user_id, room, receipt, event, ts)
        )
        return True

    async def _move(
        self,
        user_nid: int,
        user_id: str,
        room: Room,
        receipt: Receipt,
        event: StoredEvent,
        now: int,
    ) -> None:
        kind = KINDS[receipt.kind]
        thread = receipt.thread_id or _UNTHREADED
        pos = event.row.pos or 0
        known = await store.receipts_of(self._database, user_nid, [room.nid])
        for row in known.get(room.nid, ()):
            if (row.kind, row.thread) == (kind, thread) and row.event_pos >= pos:
                return
        row = ReceiptRow(room.nid, user_nid, kind, thread, event.row.event_id, pos, now, Pos(0))

        def publish(first: int) -> None:
            self._publisher.receipt(
                ReceiptEntry(
                    pos=first,
                    room_nid=room.nid,
                    user_nid=user_nid,
                    user_id=user_id,
                    private=kind == READ_PRIVATE,
                    thread=thread,
                    event_id=event.row.event_id,
                    ts=now,
                )
            )

        await self._commits.commit([Put(row)], 1, publish)

    async def _mark(self, session: Session, room: Room, event: StoredEvent) -> None:
        stored = await self._account_data.stored(session.user_nid, room.nid, FULLY_READ)
        if stored is not None:
            event_id = decode_object(stored)["event_id"]
            before = await self._event(room, event_id)
            if before is not None and (before.row.pos or 0) >= (event.row.pos or 0):
                return
        content = encode({"event_id": event.row.event_id})
        await self._account_data.write(session.user_nid, room.nid, FULLY_READ, content)

    async def _event(self, room: Room, event_id: str) -> StoredEvent | None:
        """An event of the room's timeline."""
        found = (await events_by_id(self._database, room.nid, [event_id])).get(event_id)
        if found is None or found.row.pos is None or found.row.flags & (REJECTED | SOFT_FAILED):
            return None
        return found

    async def _check_thread(self, room: Room, event: StoredEvent, thread_id: str) -> None:
        """Raise M_INVALID_PARAM unless the event is in the thread; a root is in its own, too."""
        if event.row.event_id != thread_id and await self._thread_of(room, event) != thread_id:
            raise MatrixError.invalid_param("thread_id: the event is not in this thread")

    async def _thread_of(self, room: Room, event: StoredEvent) -> str:
        """The thread of an event: the id of its root, or `main`.

        Read from the event as it was sent: a redacted one keeps its place.
        spec: client-server-api#threaded-read-receipts
        """
        for _ in range(_MOST_HOPS):
            relation = _relation(decode_object(event.json)["content"].get("m.relates_to"))
            if relation is None:
                return MAIN
            kind, parent_id = relation
            if kind == "m.thread":
                return parent_id
            parent = await self._event(room, parent_id)
            if parent is None:
                return MAIN
            event = parent
        return MAIN


def _relation(relates_to: Any) -> tuple[str, str] | None:
    """The kind and the event id of a relation, None unless both are there."""
    if not isinstance(relates_to, dict):
        return None
    kind, parent_id = relates_to.get("rel_type"), relates_to.get("event_id")
    if not isinstance(kind, str) or not isinstance(parent_id, str):
        return None
    return kind, parent_id


def thread_in(body: JsonObject | None) -> str | None:
    """The thread that a request's body names; `MatrixError` M_INVALID_PARAM if it is no text."""
    thread_id = body.get("thread_id") if body is not None else None
    if body is not None and "thread_id" in body and not isinstance(thread_id, str):
        raise MatrixError.invalid_param("thread_id must be a string")
    return thread_id


def _check(receipt: Receipt) -> None:
    if receipt.kind != FULLY_READ and receipt.kind not in KINDS:
        raise MatrixError.invalid_param(f"{receipt.kind} is not a kind of receipt")
    if receipt.thread_id is None:
        return
    if not receipt.thread_id:
        raise MatrixError.invalid_param("thread_id must not be empty")
    if receipt.kind == FULLY_READ:
        raise MatrixError.invalid_param("thread_id: the fully read marker has no threads")
    if receipt.thread_id != MAIN and not receipt.thread_id.startswith("$"):
        raise MatrixError.invalid_param("thread_id must be main or an event id")

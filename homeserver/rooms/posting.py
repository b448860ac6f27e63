"""Sending into a room on a client's behalf: messages, state and redactions, each once.

Owns idempotence: the same transaction of a device answers the same event id, also when both
requests run at once, after a restart, or when the first answer was lost.
spec: client-server-api#transaction-identifiers
"""

import asyncio
from collections.abc import Awaitable, Callable

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.matrix.ids import is_event_id
from homeserver.matrix.sticky import MAX_MS
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import Txn
from homeserver.rooms.canonical_alias import CANONICAL_ALIAS, added, misled
from homeserver.rooms.redact_events import is_redactable
from homeserver.rooms.relations import Relating
from homeserver.rooms.send import Draft, Sending, unchanged
from homeserver.runtime.clock import Clock
from storage.changes import Conflict
from storage.engine import Database
from storage.events import event_ids, event_numbers, sent_event
from storage.rooms import aliases

# So many of the last answers are remembered so long: who repeats a request does so soon.
_ANSWERS = 4_096
_ANSWERS_SECONDS = 600.0
_REDACTION = "m.room.redaction"


class Posting:
    """See the module."""

    def __init__(self, rooms: Rooms, database: Database, relating: Relating, clock: Clock) -> None:
        self._rooms = rooms
        self._relating = relating
        self._database = database
        self._clock = clock
        self._pending: dict[Txn, asyncio.Future[None]] = {}
        self._answered: dict[Txn, tuple[str, float]] = {}

    async def send(
        self,
        user_id: str,
        room: Room,
        type: str,  # noqa: A002
        content: JsonObject,
        txn: Txn | None = None,
        ts: int | None = None,
        sticky_ms: int | None = None,
    ) -> str:
        """Send a message event; returns its id. A redaction takes its effect.

        `sticky_ms`: it is a sticky event for so long (MSC4354). Raises `MatrixError`
        M_INVALID_PARAM for more than an hour.
        """
        check_sticky(sticky_ms)
        if type == _REDACTION:
            target = content.get("redacts")
            if not isinstance(target, str):
                raise MatrixError.missing_param("redacts: a redaction must name an event")
            if not is_event_id(target):
                raise MatrixError.invalid_param("redacts is not an event ID")
            rest = {key: value for key, value in content.items() if key != "redacts"}
            return await self.redact(user_id, room, target, rest, txn, sticky_ms)

        def verb(sending: Sending) -> str:
            draft = Draft(user_id, type, content, txn=txn, ts=ts, sticky_ms=sticky_ms)
            return sending.add(draft).event_id

        async def run() -> str:
            async with self._relating.allowed(user_id, room, type, content):
                return await self._rooms.change(room, verb)

        return await self._once(txn, run)

    async def put_state(
        self,
        user_id: str,
        room: Room,
        type: str,  # noqa: A002
        state_key: str,
        content: JsonObject,
        ts: int | None = None,
    ) -> str:
        """Set state; returns the event's id: the current one's where nothing would change.

        Raises `MatrixError` M_INVALID_PARAM and M_BAD_ALIAS for what new aliases of the canonical
        alias are not. Member events are `Members.put_state`'s.
        """
        if type == _REDACTION:
            raise MatrixError.invalid_param("event_type: a redaction is no state")
        if type == CANONICAL_ALIAS and not state_key:
            await self._check_aliases(room, content)
        draft = Draft(user_id, type, content, state_key, ts=ts)

        def verb(sending: Sending) -> str:
            same = unchanged(sending.head, draft)
            return (same or sending.add(draft)).event_id

        return await self._rooms.change(room, verb)

    async def redact(
        self,
        user_id: str,
        room: Room,
        event_id: str,
        content: JsonObject,
        txn: Txn | None = None,
        sticky_ms: int | None = None,
    ) -> str:
        """Redact an event of the room; returns the redaction's id.

        Raises `MatrixError` M_NOT_FOUND for an event that isn't there, M_FORBIDDEN for who has
        neither sent it nor the power to redact.
        spec: client-server-api#redactions
        """

        async def run() -> str:
            found = await event_numbers(self._database, room.nid, [event_id])
            nid = found.get(event_id)

            def verb(sending: Sending) -> str:
                head = sending.head
                if head.membership(user_id) != "join":
                    raise MatrixError.forbidden("You are not in this room")
                if nid is None:
                    raise MatrixError.not_found("The room has no such event")
                target = head.loaded(nid)
                if not is_redactable(target):
                    raise MatrixError.forbidden(f"{target.type} can't be redacted")
                levels = head.power_levels()
                own = target.sender == user_id
                if not own and levels.user_level(user_id) < levels.redact:
                    raise MatrixError.forbidden("You may not redact what others have sent")
                draft = Draft(
                    user_id,
                    _REDACTION,
                    content,
                    redacts=event_id,
                    txn=txn,
                    sticky_ms=sticky_ms,
                )
                return sending.add(draft, redacted=(nid, target)).event_id

            return await self._rooms.change(room, verb)

        return await self._once(txn, run)

    async def _check_aliases(self, room: Room, content: JsonObject) -> None:
        """Aliases that the canonical alias did not name before must lead to the room.

        spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
        """
        known = await self._rooms.read(room, lambda head: head.event(CANONICAL_ALIAS))
        new = added(content, known.content if known is not None else {})
        leading = await aliases(self._database, new)
        for alias in new:
            if alias not in leading or leading[alias].room_nid != room.nid:
                raise misled(alias)

    async def _once(self, txn: Txn | None, run: Callable[[], Awaitable[str]]) -> str:
        """The event id of the transaction, which `run` makes unless it is there already.

        Nobody looks first: a transaction that was committed before can't be again, and then, or
        when the event isn't allowed any more, the answer is that of the first time.
        """
        if txn is None:
            return await run()
        while (pending := self._pending.get(txn)) is not None:
            await asyncio.wait([pending])
        answered = self._answered.get(txn)
        if answered is not None and self._clock.monotonic() < answered[1]:
            return answered[0]
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[txn] = mine
        try:
            event_id = await run()
        except (MatrixError, Rejected, Conflict):
            stored = await self._stored(txn)
            if stored is None:
                raise
            event_id = stored
        finally:
            del self._pending[txn]
            mine.set_result(None)
        if len(self._answered) >= _ANSWERS:
            del self._answered[next(iter(self._answered))]
        self._answered[txn] = event_id, self._clock.monotonic() + _ANSWERS_SECONDS
        return event_id

    async def _stored(self, txn: Txn) -> str | None:
        nid = await sent_event(self._database, txn.device_nid, txn.path_hash, txn.txn_id)
        return None if nid is None else (await event_ids(self._database, [nid]))[nid]


def check_sticky(sticky_ms: int | None) -> None:
    """Raise `MatrixError` M_INVALID_PARAM for what can't be the duration of a sticky event."""
    if sticky_ms is not None and not 0 <= sticky_ms <= MAX_MS:
        raise MatrixError.invalid_param(f"sticky_duration_ms must be 0 to {MAX_MS}")

"""Transactions of other servers: checked, made durable, then answered.

Owns the way of a transaction until its answer: sizes, whose events they are, ids, signatures,
hashes, the room's ACL, the EDUs. What was answered with success is in the tables: the room judges
it afterwards (`staging`), also after a crash. A transaction that comes twice has one effect and one
answer.
spec: server-server-api#transactions
"""

import asyncio
from collections.abc import Sequence

from federation.edus import Edus
from federation.events import Refused, Verifier
from federation.staging import Staging
from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_room_id
from homeserver.rooms.acl import allowed as acl_allows
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import inbound as store
from storage.changes import Put
from storage.engine import Database
from storage.schema import InboundTxnRow

MAX_PDUS = 50
MAX_EDUS = 100
KEPT_MS = 24 * 3_600_000
KEYS_SECONDS = 5.0
MAX_TXN_ID = 255

Answers = dict[str, JsonObject]


class Transactions:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        elsewhere: Elsewhere,
        verifier: Verifier,
        staging: Staging,
        edus: Edus,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._elsewhere = elsewhere
        self._verifier = verifier
        self._staging = staging
        self._edus = edus
        self._database = database
        self._commits = commits
        self._clock = clock
        self._under_way: dict[tuple[str, str], asyncio.Task[bytes]] = {}

    async def receive(self, origin: str, txn_id: str, body: JsonObject) -> bytes:
        """Take a transaction; the JSON of its answer, `{pdus: {event id: {} or {error}}}`.

        Raises `MatrixError` M_INVALID_PARAM for one that can't be.
        spec: server-server-api#put_matrixfederationv1sendtxnid
        """
        if len(txn_id.encode()) > MAX_TXN_ID:
            raise MatrixError.invalid_param("txnId: too long")
        pdus, edus = body.get("pdus"), body.get("edus", [])
        if not isinstance(pdus, list) or not isinstance(edus, list):
            raise MatrixError.bad_json("pdus and edus must be lists")
        if len(pdus) > MAX_PDUS or len(edus) > MAX_EDUS:
            raise MatrixError.invalid_param(
                f"A transaction has at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs"
            )
        if body.get("origin", origin) != origin:
            raise MatrixError.forbidden("The transaction is another server's")
        key = (origin, txn_id)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._take(key, pdus, edus))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def forget_old(self) -> None:
        """Forget the answers that nobody asks for any more."""
        await self._commits.commit([store.txns_forgotten(self._clock.now_ms() - KEPT_MS)])

    async def _take(
        self, key: tuple[str, str], pdus: Sequence[object], edus: Sequence[object]
    ) -> bytes:
        origin, txn_id = key
        stored = await store.answered(self._database, origin, txn_id)
        if stored is not None:
            return stored
        answers: Answers = {}
        staged: list[tuple[Room, Event, bool]] = []
        for room_id, listed in _by_room(pdus).items():
            room = await self._rooms.find(room_id) if is_room_id(room_id) else None
            if room is None:
                _refuse(answers, listed, "This server doesn't know the room")
            elif self._elsewhere.entering.under_way(room_id):
                await self._verify(room, listed, answers, staged)
            elif not await self._elsewhere.present(room):
                await self._end_invites(room, listed, answers)
            elif not await self._rooms.read(room, lambda head: acl_allows(origin, head)):
                _refuse(answers, listed, "The room's server ACL doesn't let this server in", room)
            else:
                await self._verify(room, listed, answers, staged)
        await self._edus.take(origin, edus)
        rows = await self._staging.rows(origin, staged, answers)
        answer = canonical.encode({"pdus": answers})
        txn = InboundTxnRow(origin, txn_id, answer, self._clock.now_ms())
        await self._commits.commit([*rows, Put(txn)])
        for room in {room.nid: room for room, _, _ in staged}.values():
            self._staging.wake(room)
        return answer

    async def _end_invites(
        self, room: Room, listed: Sequence[JsonObject], answers: Answers
    ) -> None:
        """Of a room that nobody of ours is in, only the end of an invite concerns us."""
        members = [pdu for pdu in listed if pdu.get("type") == "m.room.member"]
        others = [pdu for pdu in listed if pdu.get("type") != "m.room.member"]
        _refuse(answers, others, "Nobody of this server is in the room", room)
        for event in await self._verifier.verify(members, room.rules, patience=KEYS_SECONDS):
            if isinstance(event, Event):
                pdu = canonical.encode(event.pdu)
                ended = await self._elsewhere.outside.retracted(room, event, pdu)
                answers[event.event_id] = (
                    {} if ended else {"error": "Nobody of this server is in the room"}
                )

    async def _verify(
        self,
        room: Room,
        listed: Sequence[JsonObject],
        answers: Answers,
        staged: list[tuple[Room, Event, bool]],
    ) -> None:
        found = await self._verifier.verify(listed, room.rules, patience=KEYS_SECONDS)
        for pdu, event in zip(listed, found, strict=True):
            if isinstance(event, Event):
                answers[event.event_id] = {}
                staged.append((room, event, True))
            elif event is Refused.NO_KEY:
                # The key may be had later: it is not the sender's fault that it can't be now.
                unverified = Event.parse(pdu, room.rules)
                answers[unverified.event_id] = {}
                staged.append((room, unverified, False))
            else:
                _refuse(answers, [pdu], f"The event is {event.value}", room)


def _by_room(pdus: Sequence[object]) -> dict[str, list[JsonObject]]:
    """The PDUs of each room; what names none is passed over, as it has no id to be answered by."""
    rooms: dict[str, list[JsonObject]] = {}
    for pdu in pdus:
        if not isinstance(pdu, dict):
            continue
        room_id = pdu.get("room_id")
        if isinstance(room_id, str):
            rooms.setdefault(room_id, []).append(pdu)
    return rooms


def _refuse(
    answers: Answers, listed: Sequence[JsonObject], reason: str, room: Room | None = None
) -> None:
    for pdu in listed:
        event_id = pdu.get("event_id")
        if room is not None:
            try:
                event_id = Event.parse(pdu, room.rules).event_id
            except Malformed:
                continue
        if isinstance(event_id, str) and len(event_id) <= MAX_TXN_ID:
            answers[event_id] = {"error": reason}

"""Typing, receipts and presence of other servers' users.

Owns what another server may tell of its users: only of those that are its own, in rooms where they
and we are, and only as much as one server may fill. A receipt for an event that has not come yet
waits a while for it, in memory.
spec: server-server-api#typing-notifications, server-server-api#receipts,
spec: server-server-api#presence
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from federation.edus import Taken
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_event_id, is_user_id, server_of
from homeserver.rooms.acl import allowed as acl_allows
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.head import Head
from homeserver.users.presence import Presence
from homeserver.users.receipts import Receipts
from homeserver.users.typing import Typing

TYPING_MS = 30_000
MAX_ROOMS = 100
MAX_USERS = 200
MAX_WAITING = 10_000


class _Receipt(NamedTuple):
    user_id: str
    event_id: str
    thread_id: str | None
    ts: int


class Ephemera:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        elsewhere: Elsewhere,
        typing: Typing,
        receipts: Receipts,
        presence: Presence,
    ) -> None:
        self._rooms = rooms
        self._elsewhere = elsewhere
        self._typing = typing
        self._receipts = receipts
        self._presence = presence
        self._waiting: OrderedDict[tuple[int, str], list[_Receipt]] = OrderedDict()

    async def typing(self, origin: str, content: JsonObject) -> Sequence[Taken]:
        """`m.typing`: a user types, or does no longer."""
        room_id, user_id = content.get("room_id"), content.get("user_id")
        room = await self._room(origin, room_id)
        if room is None or not _is_of(user_id, origin) or not await self._joined(room, user_id):
            return ()
        if content.get("typing") is True:
            self._typing.start(room.nid, str(user_id), TYPING_MS)
        else:
            self._typing.stop(room.nid, str(user_id))
        return ()

    async def receipts(self, origin: str, content: JsonObject) -> Sequence[Taken]:
        """`m.receipt`: up to where users have read."""
        for room_id, kinds in islice(content.items(), MAX_ROOMS):
            users = kinds.get("m.read") if isinstance(kinds, dict) else None
            room = await self._room(origin, room_id) if isinstance(users, dict) else None
            if room is None or users is None:
                continue
            for user_id, told in islice(users.items(), MAX_USERS):
                receipt = _receipt(user_id, told)
                if receipt is None or not _is_of(user_id, origin):
                    continue
                if await self._joined(room, user_id):
                    await self._read(room, receipt)
        return ()

    async def presence(self, origin: str, content: JsonObject) -> Sequence[Taken]:
        """`m.presence`: who is there."""
        pushed = content.get("push")
        for told in pushed[:MAX_USERS] if isinstance(pushed, list) else ():
            user_id = told.get("user_id") if isinstance(told, dict) else None
            if _is_of(user_id, origin):
                await self._presence.told(str(user_id), told)
        return ()

    async def stored(self, room: Room, event_ids: Sequence[str]) -> None:
        """Events have come for which receipts may have been waiting."""
        for event_id in event_ids:
            for receipt in self._waiting.pop((room.nid, event_id), ()):
                await self._receipts.told(
                    room, receipt.user_id, receipt.event_id, receipt.thread_id, receipt.ts
                )

    async def _read(self, room: Room, receipt: _Receipt) -> None:
        known = await self._receipts.told(
            room, receipt.user_id, receipt.event_id, receipt.thread_id, receipt.ts
        )
        if known:
            return
        waiting = self._waiting.setdefault((room.nid, receipt.event_id), [])
        if len(waiting) < MAX_USERS:
            waiting.append(receipt)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    async def _room(self, origin: str, room_id: object) -> Room | None:
        """A room that we are in and whose ACL lets the server in."""
        room = await self._rooms.find(room_id) if isinstance(room_id, str) else None
        if room is None or not await self._elsewhere.present(room):
            return None
        return room if await self._rooms.read(room, lambda head: acl_allows(origin, head)) else None

    async def _joined(self, room: Room, user_id: object) -> bool:
        def look(head: Head) -> bool:
            return head.membership(str(user_id)) == "join"

        return await self._rooms.read(room, look)


def _is_of(user_id: object, origin: str) -> bool:
    return isinstance(user_id, str) and is_user_id(user_id) and server_of(user_id) == origin


def _receipt(user_id: object, told: object) -> _Receipt | None:
    if not isinstance(user_id, str) or not isinstance(told, dict):
        return None
    event_ids, data = told.get("event_ids"), told.get("data")
    event_id = event_ids[0] if isinstance(event_ids, list) and event_ids else None
    if not isinstance(event_id, str) or not is_event_id(event_id) or not isinstance(data, dict):
        return None
    ts, thread_id = data.get("ts"), data.get("thread_id")
    if not isinstance(ts, int) or isinstance(ts, bool) or not 0 <= ts < 2**53:
        return None
    if thread_id is not None and not (isinstance(thread_id, str) and 0 < len(thread_id) <= 255):
        return None
    return _Receipt(user_id, event_id, thread_id, ts)

"""What other servers hear of our users beside events: typing, receipts, presence.

Owns the form of these EDUs and when they are sent. They may be lost; of each user and room only the
newest matters. What came from other servers is not passed on. A private receipt leaves nobody's
own server.
spec: server-server-api#typing-notifications, server-server-api#receipts,
server-server-api#presence
"""

import asyncio

from federation.outbound import RoomEdu, Sender
from federation.outbox import Outbox
from homeserver.matrix.canonical import JsonObject, encode
from homeserver.runtime.clock import Clock
from homeserver.streams.memberships import Memberships
from homeserver.streams.ring import ReceiptEntry
from homeserver.users.presence import Presence
from homeserver.users.typing import Typing
from storage.engine import Database
from storage.outbound import servers_in

TYPING_AGAIN_SECONDS = 25.0
"""Other servers forget that somebody types: it is said again while it lasts."""
PRESENCE_SECONDS = 2.0
"""Changes of presence are gathered for so long."""
MAX_GATHERED = 1_000


class LocalEdus:
    """Tells other servers of this server's users."""

    def __init__(self, server_name: str, sender: Sender, typing: Typing, clock: Clock) -> None:
        self._suffix = ":" + server_name
        self._sender = sender
        self._typing = typing
        self._clock = clock
        self._typers: dict[int, frozenset[str]] = {}

    def receipt(self, entry: ReceiptEntry) -> None:
        """A receipt has moved."""
        if entry.private or not entry.user_id.endswith(self._suffix):
            return
        data: JsonObject = {"ts": entry.ts}
        if entry.thread:
            data["thread_id"] = entry.thread
        told = {"m.read": {entry.user_id: {"data": data, "event_ids": [entry.event_id]}}}
        key = f"{entry.room_nid} {entry.thread} {entry.user_id}"
        self._sender.room_edu(
            entry.room_nid, RoomEdu("m.receipt", key, lambda room_id: encode({room_id: told}))
        )

    def typing(self, room_nid: int) -> None:
        """Those who type in a room are others than before."""
        before = self._typers.get(room_nid, frozenset())
        now = frozenset(
            user for user in self._typing.users(room_nid) if user.endswith(self._suffix)
        )
        for user in before - now:
            self._tell(room_nid, user, typing=False)
        for user in now - before:
            self._tell(room_nid, user, typing=True)
            self._clock.call_later(TYPING_AGAIN_SECONDS, self._again, room_nid, user)
        if now:
            self._typers[room_nid] = now
        else:
            self._typers.pop(room_nid, None)

    def _again(self, room_nid: int, user: str) -> None:
        if user in self._typers.get(room_nid, ()):
            self._tell(room_nid, user, typing=True)
            self._clock.call_later(TYPING_AGAIN_SECONDS, self._again, room_nid, user)

    def _tell(self, room_nid: int, user: str, *, typing: bool) -> None:
        def content(room_id: str) -> bytes:
            return encode({"room_id": room_id, "typing": typing, "user_id": user})

        self._sender.room_edu(room_nid, RoomEdu("m.typing", f"{room_nid} {user}", content))


class LocalPresence:
    """Tells the servers that share rooms with a user of the user's presence; `run` is a service."""

    def __init__(
        self,
        outbox: Outbox,
        presence: Presence,
        memberships: Memberships,
        database: Database,
        clock: Clock,
    ) -> None:
        self._outbox = outbox
        self._presence = presence
        self._memberships = memberships
        self._database = database
        self._clock = clock
        self._changed: dict[int, None] = {}
        self._woken = asyncio.Event()

    def changed(self, user_nid: int) -> None:
        """A user's presence has changed."""
        if len(self._changed) < MAX_GATHERED:
            self._changed[user_nid] = None
            self._woken.set()

    async def run(self) -> None:
        """Tell of what has changed, until cancelled."""
        while True:
            await self._woken.wait()
            await self._clock.sleep(PRESENCE_SECONDS)
            self._woken.clear()
            changed, self._changed = self._changed, {}
            for user_nid in changed:
                await self._tell(user_nid)

    async def _tell(self, user_nid: int) -> None:
        user_id = self._presence.user_id(user_nid)
        rooms = (await self._memberships.of(user_nid)).joined
        if user_id is None or not rooms:
            return
        servers = (await servers_in(self._database, rooms)).values()
        together: set[str] = set().union(*servers)
        if together:
            content = {**await self._presence.content(user_nid), "user_id": user_id}
            self._outbox.ephemeral(together, "m.presence", {"push": [content]}, user_id)

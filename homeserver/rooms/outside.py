"""Memberships of our users in rooms that we are not in: invites, knocks, and how they end.

Owns what is stored of such a room: its row, the user's membership with the stripped state that came
with it, and the one event as an outlier. No state of the room is known, so nothing can be judged by
its rules; what is believed is what the user is shown. Leaving is ours alone to say: it is stored at
once, and told to the room's servers by a job.
spec: server-server-api#inviting-to-a-room, server-server-api#leaving-rooms-rejecting-invites
"""

from collections.abc import Callable, Sequence

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event, build
from homeserver.matrix.ids import server_of
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import MemberChange
from homeserver.rooms.head import Needs
from homeserver.rooms.membership import membership_number
from homeserver.rooms.send import Author, Sending
from homeserver.rooms.shown import stored_json
from homeserver.rooms.stored import load_events
from homeserver.runtime.jobs import Jobs
from homeserver.streams.numbers import Names
from storage.changes import Change, Insert, Pos, Put
from storage.engine import Database
from storage.events import event_numbers
from storage.memberships import members_outside, of_user_in
from storage.schema import (
    INVITE,
    KNOCK,
    LEAVE,
    OUTLIER,
    EventRow,
    MembershipLogRow,
    MembershipRow,
)

LEAVE_JOB = "leave elsewhere"
MAX_INVITES = 1_000
"""Invites and knocks that one user may have open in rooms of other servers."""

Publish = Callable[[int, int, MemberChange, Event], None]
"""Tells who must hear of it that a membership has changed: room number, position, change."""


class Outside:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        names: Names,
        author: Author,
        jobs: Jobs,
        publish: Publish,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._names = names
        self._author = author
        self._jobs = jobs
        self._publish = publish

    async def membership(self, user_id: str, room: Room) -> MembershipRow | None:
        """The user's membership if it stands on no state of the room that we have."""
        user_nid = (await self._names.nids([user_id]))[user_id]
        row = (await of_user_in(self._database, user_nid, [room.nid])).get(room.nid)
        return row if row is not None and row.stripped is not None else None

    async def sender(self, room: Room, row: MembershipRow) -> str:
        """Who has sent the event of such a membership."""
        events = await load_events(self._database, [row.event_nid], room.rules)
        return events[row.event_nid].sender

    async def put(
        self, room: Room, event: Event, pdu: bytes, stripped: Sequence[JsonObject]
    ) -> None:
        """The user of the event's state key is invited to the room, or has knocked at it.

        Raises `MatrixError` M_LIMIT_EXCEEDED for a user who has too many open invites.
        """
        user_id = event.state_key or ""
        user_nid = (await self._names.nids([user_id]))[user_id]
        if await members_outside(self._database, user_nid, MAX_INVITES) >= MAX_INVITES:
            raise MatrixError("M_LIMIT_EXCEEDED", "The user has too many open invites", 429)
        shown = canonical.encode([*stripped, _stripped(event)])
        await self._store(room, event, pdu, shown)

    async def leave(self, user_id: str, room: Room, reason: str | None) -> bool:
        """Decline an invite or take back a knock; False when the user has none of that kind."""
        row = await self.membership(user_id, room)
        if row is None or row.membership not in (INVITE, KNOCK):
            return False
        former = (await load_events(self._database, [row.event_nid], room.rules))[row.event_nid]
        content: JsonObject = {"membership": "leave"}
        if reason is not None:
            content["reason"] = reason
        author = self._author
        event, pdu = build(
            room.rules,
            room_id=room.room_id,
            sender=user_id,
            type="m.room.member",
            content=content,
            state_key=user_id,
            prev_event_ids=[former.event_id],
            auth_event_ids=[former.event_id],
            depth=former.depth + 1,
            origin_server_ts=author.clock.now_ms(),
            sign=author.key,
            server_name=author.server_name,
        )
        args = {
            "room_id": room.room_id,
            "user_id": user_id,
            "server": server_of(former.sender),
            "event_id": event.event_id,
            "reason": reason,
        }
        job = await self._jobs.new(LEAVE_JOB, args)
        if await self._store(room, event, pdu, b"[]", [job], expected=row):
            self._jobs.wake()
        return True

    async def retracted(self, room: Room, event: Event, pdu: bytes) -> bool:
        """Another server takes an invite or a knock of our user back, or bans the user.

        It is believed of the servers that could know: that of whoever invited the user, and, of a
        knock, the one that names the room or whoever answered it. `event` is signed, and of `room`.
        """
        user_id = event.state_key
        if event.type != "m.room.member" or user_id is None:
            return False
        row = await self.membership(user_id, room)
        if row is None or row.membership not in (INVITE, KNOCK):
            return False
        if event.content.get("membership") not in ("leave", "ban"):
            return False
        former = (await load_events(self._database, [row.event_nid], room.rules))[row.event_nid]
        names_it = former.event_id in (*event.auth_event_ids, *event.prev_event_ids)
        same_server = server_of(event.sender) == server_of(former.sender)
        if not names_it and not (same_server and event.sender != user_id):
            return False
        await self._store(room, event, pdu, b"[]", expected=row)
        return True

    async def still(self, room: Room, user_id: str, event_id: str) -> bool:
        """Whether the user's last word on the room is this event."""
        user_nid = (await self._names.nids([user_id]))[user_id]
        row = (await of_user_in(self._database, user_nid, [room.nid])).get(room.nid)
        found = await event_numbers(self._database, room.nid, [event_id])
        return row is not None and row.event_nid == found.get(event_id)

    async def _store(
        self,
        room: Room,
        event: Event,
        pdu: bytes,
        stripped: bytes,
        more: Sequence[Change] = (),
        expected: MembershipRow | None = None,
    ) -> bool:
        """Write event and membership in the room's turn; False if that was written already.

        With `expected` nothing is written when the membership is another one by then.
        """
        assert event.state_key is not None
        user_id = event.state_key
        await self._names.load([event.type, event.sender, user_id], [event.key])
        numbers = self._author.numbers
        nid = await numbers.take_soon("event")
        read: list[tuple[MembershipRow | None, int | None]] = []

        def verb(sending: Sending) -> bool:
            names = sending.head.names
            user_nid = names.nid(user_id)
            if not read:

                async def load() -> None:
                    rows = await of_user_in(self._database, user_nid, [room.nid])
                    stored = await event_numbers(self._database, room.nid, [event.event_id])
                    read.append((rows.get(room.nid), stored.get(event.event_id)))

                raise Needs(load)
            current, stored = read.pop()
            if stored is not None or (expected is not None and current != expected):
                return False
            membership = membership_number(event.content.get("membership"))
            sending.changes += [
                Insert(
                    EventRow(
                        event_nid=nid,
                        event_id=event.event_id,
                        room_nid=room.nid,
                        pos=Pos(0),
                        depth=event.depth,
                        type_nid=names.nid(event.type),
                        key_nid=names.key_nid(*event.key),
                        sender_nid=names.nid(event.sender),
                        origin_ts=event.origin_server_ts,
                        snap_nid=None,
                        flags=OUTLIER,
                        prevs=b"",
                        auths=b"",
                    )
                ),
                *stored_json(nid, pdu, self._author.server_name),
                Put(MembershipRow(room.nid, user_nid, membership, nid, Pos(0), 0, stripped)),
                Insert(MembershipLogRow(user_nid, room.nid, Pos(0), membership, nid)),
                *more,
            ]
            sending.ahead = 1
            change = MemberChange(user_nid, user_id, membership, nid, LEAVE)
            sending.published = lambda pos: self._publish(room.nid, pos, change, event)
            return True

        return await self._rooms.change(room, verb)


def _stripped(event: Event) -> JsonObject:
    return {
        "content": event.content,
        "sender": event.sender,
        "state_key": event.state_key,
        "type": event.type,
    }

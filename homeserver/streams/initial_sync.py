"""/initialSync: everything at once, as clients asked for it before there was /sync.

Owns the form of these answers. Their content is a first sync's with the state at its end, or one
room's history and state.
spec: client-server-api#get_matrixclientv3initialsync
"""

from typing import Any

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.filters import EventFilter, Filter
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.history import History
from homeserver.rooms.membership import NAME_OF
from homeserver.streams.memberships import Memberships
from homeserver.streams.sync import Sync, SyncRequest
from homeserver.streams.tokens import Timelines
from homeserver.users.account_data import DELETED
from homeserver.users.sessions import Session
from storage.engine import Database
from storage.rooms import summaries
from storage.schema import INVITE
from storage.user_data import account_data_in

_MOST_MESSAGES = 1_000
_ALL = EventFilter.parse({})
_NOW = 2**62


class InitialSync:
    """See the module."""

    def __init__(
        self,
        sync: Sync,
        history: History,
        rooms: Rooms,
        memberships: Memberships,
        timelines: Timelines,
        database: Database,
    ) -> None:
        self._sync = sync
        self._history = history
        self._rooms = rooms
        self._memberships = memberships
        self._timelines = timelines
        self._database = database

    async def everything(self, session: Session, limit: int, *, archived: bool) -> JsonObject:
        """All rooms of the user, `archived` ones too, each with its last `limit` messages."""
        wanted = {
            "room": {
                "timeline": {"limit": max(1, min(limit, _MOST_MESSAGES))},
                "include_leave": archived,
            }
        }
        answer = canonical.decode_object(
            await self._sync(
                SyncRequest(
                    session,
                    None,
                    Filter.parse(wanted),
                    0,
                    state_name="state_after",
                    devices=False,
                )
            )
        )
        sections: dict[str, JsonObject] = {}
        for kind in ("join", "invite", "knock", "leave"):
            sections.update(answer.get("rooms", {}).get(kind, {}))
        user = await self._memberships.of(session.user_nid)
        by_nid = await self._rooms.by_nids(user.rooms.keys())
        listed = await summaries(self._database, user.rooms.keys())
        rooms = []
        for nid, room in by_nid.items():
            if room.room_id not in sections:
                continue
            member = user.rooms[nid]
            info: JsonObject = {
                "room_id": room.room_id,
                "membership": NAME_OF[member.membership],
                "visibility": _visibility(listed[nid].published),
            }
            if member.membership == INVITE:
                event = await self._history.own_event(session, room, member.event_nid)
                info["invite"] = canonical.decode_object(event)
                info["inviter"] = info["invite"]["sender"]
            elif "timeline" in (section := sections[room.room_id]):
                info |= _told(room.room_id, section, limit, str(answer["next_batch"]))
            rooms.append(info)
        return {
            "end": answer["next_batch"],
            "rooms": rooms,
            "account_data": answer.get("account_data", {}).get("events", []),
            "presence": answer.get("presence", {}).get("events", []),
        }

    async def of_room(self, session: Session, room_id: str, limit: int) -> bytes:
        """One room that the user may read, in it or not, with its last `limit` messages.

        Raises `MatrixError` M_FORBIDDEN for any other.
        spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
        """
        history = self._history
        position = self._sync.position
        looking = await history.look(session, room_id)
        room = looking.room
        page = await history.page(
            looking,
            _ALL,
            pos=position.pos,
            to=None,
            limit=max(1, min(limit, _MOST_MESSAGES)),
            backwards=True,
        )
        until = position if looking.until is None else position._replace(pos=looking.until)
        head: JsonObject = {
            "room_id": room_id,
            "visibility": _visibility((await self._summary(room)).published),
            "account_data": await self._account_data(session, room),
        }
        membership = looking.reader.membership_at(_NOW)
        if looking.reader.was_member or membership != "leave":
            head["membership"] = membership
        start = b""
        if page.next_pos is not None:
            start = b'"start":"%b",' % self._timelines.room_token(page.next_pos).encode()
        return (
            b'%b,"messages":{%b"end":"%b","chunk":%b},"state":%b,"receipts":[],"presence":[]}'
            % (
                canonical.encode(head)[:-1],
                start,
                self._timelines.sync_token(until).encode(),
                history.json_list(looking, reversed(page.views)),
                history.json_list(looking, await history.state(looking)),
            )
        )

    async def _summary(self, room: Room) -> Any:
        return (await summaries(self._database, [room.nid]))[room.nid]

    async def _account_data(self, session: Session, room: Room) -> list[JsonObject]:
        rows = await account_data_in(self._database, session.user_nid, [room.nid])
        return [
            {"type": type_, "content": canonical.decode_object(row.content)}
            for type_, row in rows.get(room.nid, {}).items()
            if row.content != DELETED
        ]


def _told(room_id: str, section: JsonObject, limit: int, end: str) -> JsonObject:
    """A section of a sync answer in the old form."""

    def events(part: str) -> list[JsonObject]:
        found: list[JsonObject] = section.get(part, {}).get("events", [])
        return found

    messages = events("timeline") if limit else []
    return {
        "messages": {
            "start": section["timeline"]["prev_batch"],
            "end": end,
            "chunk": [{**event, "room_id": room_id} for event in messages],
        },
        "state": [{**event, "room_id": room_id} for event in events("state_after")],
        "account_data": events("account_data"),
        "receipts": [event for event in events("ephemeral") if event["type"] == "m.receipt"],
    }


def _visibility(published: int) -> str:
    return "public" if published else "private"

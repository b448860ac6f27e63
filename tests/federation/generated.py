"""A room of any size on a homeserver that the test plays, for joins that are long, odd or hostile.

Owns the room's events, made and signed by the guest, and its answers to make_join and send_join.
A test may change what is answered before it is sent (`state`, `chain`, `returned`), have the answer
stop in the middle (`held`), stand in a list as version 1 has it (`in_list`) or say that members are
left out (`omitted`), or count what was asked.
"""

import asyncio
import json
from collections.abc import Sequence

from aiohttp import web

from homeserver.matrix.canonical import JsonObject, encode
from homeserver.matrix.event import Event, build
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.house import Guest

_PIECE = 65_536


class GeneratedRoom:
    """See the module. `members` users of the guest are joined beside its creator."""

    def __init__(self, guest: Guest, version: str = "11", members: int = 0) -> None:
        self.guest = guest
        self.rules = ROOM_VERSIONS[version]
        self.room_id = f"!generated{members}v{version}:{guest.name}"
        self.events: list[Event] = []
        self.joins: list[JsonObject] = []
        self.held = asyncio.Event()
        self.held.set()
        self.cut_at: int | None = None
        self.in_list = False
        self.omitted = False
        self.pieces_sent = 0
        creator = guest.user("creator")
        create: JsonObject = {"room_version": version}
        if not self.rules.creator_is_sender:
            create["creator"] = creator
        self.create = self.add("m.room.create", creator, create, "", [])
        if self.rules.room_id_is_hash:
            self.room_id = "!" + self.create.event_id[1:]
        base = [] if self.rules.room_id_is_hash else [self.create]
        joined = self.add("m.room.member", creator, {"membership": "join"}, creator, base)
        levels = {} if self.rules.privileged_creators else {"users": {creator: 100}}
        self.levels = self.add("m.room.power_levels", creator, levels, "", [*base, joined])
        auth = [*base, joined, self.levels]
        rules = self.add("m.room.join_rules", creator, {"join_rule": "public"}, "", auth)
        self.add("m.room.name", creator, {"name": "Generated"}, "", auth)
        self.auth = [*base, self.levels, rules]
        self.base_auth = auth
        for number in range(members):
            self.member(guest.user(f"member{number}"))
        self.state = [event.pdu for event in self.events]
        self.chain = [event.pdu for event in [*base, joined, self.levels, rules]]
        self.returned: JsonObject | None = None

    def add(
        self,
        event_type: str,
        sender: str,
        content: JsonObject,
        state_key: str | None,
        auth: Sequence[Event],
        room_id: str | None = None,
    ) -> Event:
        """A new event behind the last one; it is not part of `state` yet."""
        last = self.events[-1:]
        is_create = event_type == "m.room.create" and self.rules.room_id_is_hash
        event, _ = build(
            self.rules,
            room_id=None if is_create else room_id or self.room_id,
            sender=sender,
            type=event_type,
            content=content,
            state_key=state_key,
            prev_event_ids=[event.event_id for event in last],
            auth_event_ids=[event.event_id for event in auth],
            depth=len(self.events) + 1,
            origin_server_ts=self.guest.keys.clock.now_ms(),
            sign=self.guest.keys.key,
            server_name=self.guest.name,
        )
        self.events.append(event)
        return event

    def member(self, user_id: str) -> Event:
        """A join of a user of the guest."""
        return self.add("m.room.member", user_id, {"membership": "join"}, user_id, self.auth)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the guest answers; `guest.answer` is set to this."""
        parts = request.path.split("/")
        if "make_join" in parts:
            return web.json_response(self._template(parts[-1]))
        if "send_join" in parts:
            return await self._send_join(request)
        return web.json_response({"errcode": "M_NOT_FOUND", "error": "no"}, status=404)

    def _template(self, user_id: str) -> JsonObject:
        last = self.events[-1]
        paired = self.rules.event_ids == "sender"

        def names(events: Sequence[Event]) -> list[object]:
            return [[one.event_id, {}] if paired else one.event_id for one in events]

        event = {
            "type": "m.room.member",
            "room_id": self.room_id,
            "sender": user_id,
            "state_key": user_id,
            "content": {"membership": "join"},
            "depth": last.depth + 1,
            "prev_events": names([last]),
            "auth_events": names(self.auth),
        }
        return {"room_version": self.rules.version, "event": event}

    async def _send_join(self, request: web.BaseRequest) -> web.StreamResponse:
        join = json.loads(await request.read())
        self.joins.append(join)
        body = encode(
            {
                "auth_chain": self.chain,
                "event": self.returned or join,
                "members_omitted": self.omitted,
                "origin": self.guest.name,
                "servers_in_room": [self.guest.name],
                "state": self.state,
            }
        )
        if self.in_list:
            body = b"[200, %b]" % body
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for start in range(0, len(body), _PIECE):
            if start:
                await self.held.wait()
            if self.cut_at is not None and start >= self.cut_at:
                assert request.transport is not None
                request.transport.abort()
                break
            await response.write(body[start : start + _PIECE])
            self.pieces_sent += 1
        return response

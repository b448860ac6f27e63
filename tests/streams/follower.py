"""A client that does with a sync answer what the specification tells clients to do.

It keeps the state and the timeline of each room, fills the gaps of limited timelines by /messages,
and knows nothing but what it was sent. What it holds can be compared with what the server says.
"""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.serving import Person

StateKey = tuple[str, str]


@dataclass
class Followed:
    """What a client holds of one room that it is in, or was in."""

    state: dict[StateKey, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    senders: set[str] = field(default_factory=set)
    first_batch: str = ""


@dataclass
class Follower:
    """One client. `filter` is its filter; `timeline_filter` that part of it /messages takes."""

    person: Person
    filter: dict[str, Any] = field(default_factory=dict)
    since: str | None = None
    rooms: dict[str, Followed] = field(default_factory=dict)
    left: dict[str, Followed] = field(default_factory=dict)
    invites: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def timeline_filter(self) -> dict[str, Any]:
        wanted = dict(self.filter.get("room", {}).get("timeline", {}))
        wanted.pop("limit", None)
        return wanted

    async def take(self, answer: Any) -> None:
        """Apply a sync answer."""
        rooms = answer.get("rooms", {})
        for room_id, section in rooms.get("join", {}).items():
            self.invites.pop(room_id, None)
            known = room_id in self.rooms
            room = self.rooms.setdefault(room_id, Followed())
            await self._apply(room_id, room, section, known=known)
        for room_id, section in rooms.get("leave", {}).items():
            self.invites.pop(room_id, None)
            known = room_id in self.rooms
            room = self.rooms.pop(room_id) if known else Followed()
            await self._apply(room_id, room, section, known=known)
            if known:
                self.left[room_id] = room
        for part in ("invite", "knock"):
            for room_id, section in rooms.get(part, {}).items():
                self.rooms.pop(room_id, None)
                self.invites[room_id] = section[f"{part}_state"]["events"]
        self.since = answer["next_batch"]

    async def _apply(self, room_id: str, room: Followed, section: Any, *, known: bool) -> None:
        timeline = section["timeline"]
        events = timeline["events"]
        after = section.get("state_after") or section.get("org.matrix.msc4222.state_after")
        assert ("state" in section) == (after is None)
        told = section["state"]["events"] + events if after is None else after["events"]
        for event in told:
            if "state_key" in event:
                room.state[event["type"], event["state_key"]] = event["event_id"]
        if known and timeline["limited"]:
            assert self.since is not None
            gap = await self.page(room_id, timeline["prev_batch"], self.since)
            room.events.extend(reversed(gap))
        if not known:
            room.first_batch = timeline["prev_batch"]
        room.events.extend(event["event_id"] for event in events)
        room.senders.update(event["sender"] for event in events)

    async def page(self, room_id: str, start: str | None, to: str | None = None) -> list[str]:
        """Event ids of the room from a point backwards, newest first."""
        found: list[str] = []
        while True:
            query = {"dir": "b", "limit": 7, "filter": json.dumps(self.timeline_filter)}
            if start is not None:
                query["from"] = start
            if to is not None:
                query["to"] = to
            path = f"/rooms/{quote(room_id, safe='')}/messages"
            page = await self.person.ok("GET", path, query=query)
            found.extend(event["event_id"] for event in page["chunk"])
            if "end" not in page:
                return found
            start = page["end"]

    async def whole(self, room_id: str) -> list[str]:
        """All the client can show of a room: what came before its first answer, then the rest."""
        room = self.rooms.get(room_id) or self.left[room_id]
        before = await self.page(room_id, room.first_batch)
        return [*reversed(before), *room.events]

    async def real_state(self, room_id: str) -> dict[StateKey, str]:
        """The state the server says the room has, or had when this user left."""
        state = await self.person.ok("GET", f"/rooms/{quote(room_id, safe='')}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in state}

"""Random histories of a few people in a few rooms, as strategies and as deeds.

A deed names people and rooms by their index. What the rules of the room forbid is refused by the
server and changes nothing: no deed need be possible.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from tests.serving import Person, Reply

PEOPLE = 3
ROOMS = 2

_people = st.integers(0, PEOPLE - 1)
_rooms = st.integers(0, ROOMS - 1)
_few = st.integers(0, 3)

KINDS = (
    *("say",) * 6,
    *("join",) * 3,
    *("state",) * 3,
    *("redact",) * 2,
    *("relate",) * 3,
    *("receipt",) * 2,
    "leave",
    "kick",
    "ban",
    "unban",
    "invite",
    "rename",
    "typing",
    "account data",
    "room data",
    "tag",
    "ignore",
    "visibility",
    "marker",
    "notice",
    *("sync",) * 6,
)
Deed = tuple[str, int, int, int, int]
deeds: st.SearchStrategy[Deed] = st.tuples(st.sampled_from(KINDS), _people, _people, _rooms, _few)
histories = st.lists(deeds, min_size=12, max_size=45)


@dataclass
class Town:
    """The people and rooms of one history. `ignoring`: who ever changed whom they ignore."""

    people: list[Person]
    rooms: list[str] = field(default_factory=list)
    sent: list[tuple[int, str]] = field(default_factory=list)
    ignoring: set[int] = field(default_factory=set)
    _count: int = 0

    async def settle(self) -> None:
        """The first of them opens the rooms."""
        for _ in range(ROOMS):
            options = {"preset": "public_chat", "power_level_content_override": {"invite": 0}}
            self.rooms.append(await self.people[0].create_room(**options))

    async def do(self, deed: Deed) -> None:
        """Do it, if it is allowed."""
        kind, actor, target, room, value = deed
        person, other, room_id = self.people[actor], self.people[target], self.rooms[room]
        path = f"/rooms/{quote(room_id, safe='')}"
        user = f"/user/{quote(person.user_id, safe='')}"
        self._count += 1
        if kind in ("say", "notice"):
            msgtype = "m.text" if kind == "say" else "m.notice"
            content: dict[str, Any] = {"msgtype": msgtype, "body": f"{value}"}
            if value == 3:
                content["url"] = "mxc://test.example/picture"
            reply = await person.raw(
                "PUT", f"{path}/send/m.room.message/t{self._count}", body=content
            )
            self._note(room, reply)
        elif kind in ("join", "leave"):
            await person.raw("POST", f"{path}/{kind}", body={})
        elif kind in ("kick", "ban", "unban", "invite"):
            await person.raw("POST", f"{path}/{kind}", body={"user_id": other.user_id})
        elif kind == "state":
            type_ = ("m.room.name", "m.room.topic", "test.state", "test.state")[value]
            key = ("name", "topic", "value", "value")[value]
            content = {key: f"{self._count % 3}"}
            state_key = str(target) if type_ == "test.state" else ""
            reply = await person.raw("PUT", f"{path}/state/{type_}/{state_key}", body=content)
            self._note(room, reply)
        elif kind == "relate":
            await self._relate(person, room, path, value, target)
        elif kind == "visibility":
            content = {
                "history_visibility": ("shared", "joined", "invited", "world_readable")[value]
            }
            await person.raw("PUT", f"{path}/state/m.room.history_visibility/", body=content)
        elif kind == "rename":
            member = f"{path}/state/m.room.member/{quote(person.user_id, safe='')}"
            content = {"membership": "join", "displayname": f"{person.user_id} {self._count}"}
            reply = await person.raw("GET", member)
            if reply.status == 200 and reply.body.get("membership") == "join":
                await person.raw("PUT", member, body=content)
        elif kind in ("redact", "receipt", "marker"):
            here = [event_id for number, event_id in self.sent if number == room]
            if here:
                event_id = quote(here[-1 - (value + target) % len(here)], safe="")
                await self._about(kind, person, path, event_id, value)
        elif kind == "typing":
            body = {"typing": value > 0, "timeout": 30_000}
            await person.raw("PUT", f"{path}/typing/{quote(person.user_id, safe='')}", body=body)
        elif kind == "account data":
            await person.raw(
                "PUT", f"{user}/account_data/test.{value % 2}", body={"at": self._count}
            )
        elif kind == "room data":
            await person.raw(
                "PUT", f"{user}{path}/account_data/test.{value % 2}", body={"at": self._count}
            )
        elif kind == "tag":
            await person.raw(
                "PUT", f"{user}{path}/tags/u.{value}", body={"order": self._count % 7 / 8}
            )
        elif kind == "ignore":
            self.ignoring.add(actor)
            ignored: dict[str, Any] = {} if value == 0 else {other.user_id: {}}
            await person.raw(
                "PUT",
                f"{user}/account_data/m.ignored_user_list",
                body={"ignored_users": ignored},
            )

    async def _relate(self, person: Person, room: int, path: str, value: int, back: int) -> None:
        here = [event_id for number, event_id in self.sent if number == room]
        if not here:
            return
        parent = here[-1 - back % len(here)]
        rel_type = ("m.thread", "m.replace", "m.reference", "m.annotation")[value]
        content: dict[str, Any] = {
            "msgtype": "m.text",
            "body": "related",
            "m.new_content": {"msgtype": "m.text", "body": "new"},
            "m.relates_to": {"rel_type": rel_type, "event_id": parent, "key": "x"},
        }
        type_ = "m.reaction" if rel_type == "m.annotation" else "m.room.message"
        reply = await person.raw("PUT", f"{path}/send/{type_}/t{self._count}", body=content)
        self._note(room, reply)

    async def _about(self, kind: str, person: Person, path: str, event_id: str, value: int) -> None:
        if kind == "redact":
            await person.raw("PUT", f"{path}/redact/{event_id}/r{self._count}", body={})
        elif kind == "marker":
            body = {"m.fully_read": event_id.replace("%24", "$")}
            await person.raw("POST", f"{path}/read_markers", body=body)
        else:
            receipt = "m.read" if value % 2 else "m.read.private"
            body = {"thread_id": "main"} if value > 1 else {}
            await person.raw("POST", f"{path}/receipt/{receipt}/{event_id}", body=body)

    def _note(self, room: int, reply: Reply) -> None:
        if reply.status == 200:
            self.sent.append((room, reply.body["event_id"]))

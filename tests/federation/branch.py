"""A branch of a room's graph, made by hand by a server that the test plays.

Owns what a guest got when it joined, and makes events behind it as it is told: honest ones by
default, in every respect otherwise where an argument says so. Nothing is sent.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix.auth import auth_keys
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event, build
from homeserver.matrix.sign import SigningKey
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from tests.federation.house import Guest, HouseServer

VERSION = "11"
RULES = ROOM_VERSIONS[VERSION]
_later = itertools.count(60_000)


@dataclass
class Branch:
    """See the module. `last` is the event that the next one follows, `state` the state after it."""

    guest: Guest
    room: str
    user: str
    state: dict[tuple[str, str], Event]
    last: Event
    others: list[Event] = field(default_factory=list)
    rules: RoomRules = RULES

    @classmethod
    async def join(
        cls,
        guest: Guest,
        to: HouseServer,
        room: str,
        localpart: str = "g",
        rules: RoomRules = RULES,
    ) -> "Branch":
        """Join a room, of version 11 by default, with a user of the guest; the branch begins with
        the join.
        """
        user = guest.user(localpart)
        joined = await guest.join(to, room, user)
        events = [Event.parse(pdu, rules) for pdu in (*joined["state"], joined["event"])]
        state = {event.key: event for event in events}
        return cls(guest, room, user, state, state["m.room.member", user], rules=rules)

    def fork(self) -> "Branch":
        """Another branch that begins here."""
        state = dict(self.state)
        return Branch(self.guest, self.room, self.user, state, self.last, rules=self.rules)

    def make(
        self,
        type: str,  # noqa: A002
        content: JsonObject,
        state_key: str | None = None,
        *,
        sender: str | None = None,
        room: str | None = None,
        prevs: Sequence[str] | None = None,
        auths: Sequence[str] | None = None,
        depth: int | None = None,
        ts: int | None = None,
        key: SigningKey | None = None,
    ) -> Event:
        """An event behind `last`, which stays what it is. Each is later than those before."""
        by = sender or self.user
        keys = auth_keys(self.rules, type, by, state_key, content)
        if auths is None:
            auths = [self.state[one].event_id for one in keys if one in self.state]
        event, _ = build(
            self.rules,
            room_id=room or self.room,
            sender=by,
            type=type,
            content=content,
            state_key=state_key,
            prev_event_ids=[self.last.event_id] if prevs is None else prevs,
            auth_event_ids=auths,
            depth=self.last.depth + 1 if depth is None else depth,
            origin_server_ts=self.guest.keys.clock.now_ms() + next(_later) if ts is None else ts,
            sign=key or self.guest.keys.key,
            server_name=self.guest.name,
        )
        return event

    def add(self, *args: Any, **options: Any) -> Event:
        """`make`, and the branch goes on behind it."""
        self.last = self.make(*args, **options)
        if self.last.is_state:
            self.state[self.last.key] = self.last
        return self.last

    def say(self, text: str, **options: Any) -> Event:
        """A message, made as `make` does."""
        return self.make("m.room.message", {"msgtype": "m.text", "body": text}, **options)

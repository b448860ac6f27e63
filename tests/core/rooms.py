"""Rooms for tests of the core: events as a server would have stored them, without signatures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from homeserver.matrix.auth import AuthState, auth_keys
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.sign import event_id_of
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules

ALICE, BOB, CAROL = "@alice:one.example", "@bob:two.example", "@carol:one.example"

State = dict[tuple[str, str], Event]


def looked_up(state: Mapping[tuple[str, str], Event]) -> AuthState:
    """A state as the auth rules ask for it."""
    return lambda event_type, state_key: state.get((event_type, state_key))


def make_event(
    rules: RoomRules,
    room_id: str | None,
    event_type: str,
    sender: str,
    content: JsonObject,
    state_key: str | None = None,
    *,
    prev: Sequence[Event] = (),
    auth: Iterable[Event] = (),
    ts: int = 0,
    depth: int | None = None,
    **fields: Any,
) -> Event:
    """An event whose id is right for its version; `room_id` None leaves it out."""
    auth_ids = [event.event_id for event in auth]
    prev_ids = [event.event_id for event in prev]
    if depth is None:
        depth = max((event.depth for event in prev), default=0) + 1
    pdu: JsonObject = {
        "type": event_type,
        "sender": sender,
        "content": content,
        "depth": depth,
        "origin_server_ts": ts,
        "auth_events": auth_ids,
        "prev_events": prev_ids,
        "hashes": {"sha256": "aa"},
        "signatures": {},
        **fields,
    }
    if room_id is not None:
        pdu["room_id"] = room_id
    if state_key is not None:
        pdu["state_key"] = state_key
    if not rules.hashed_event_ids:
        pdu["auth_events"] = [[event_id, {}] for event_id in auth_ids]
        pdu["prev_events"] = [[event_id, {}] for event_id in prev_ids]
        if "event_id" not in pdu:
            digest = event_id_of(pdu, ROOM_VERSIONS["4"])[1:12]
            pdu["event_id"] = f"${digest}:{sender.partition(':')[2]}"
    return Event.stored(pdu, rules, event_id_of(pdu, rules))


class Room:
    """A room that grows event by event, without forks; nothing that is put into it is refused."""

    def __init__(self, version: str, creator: str = ALICE, **content: Any) -> None:
        self.rules = ROOM_VERSIONS[version]
        content["room_version"] = version
        if not self.rules.creator_is_sender:
            content["creator"] = creator
        self.create = make_event(
            self.rules,
            None if self.rules.room_id_is_hash else "!room:one.example",
            "m.room.create",
            creator,
            content,
            "",
        )
        self.room_id = self.create.room_id
        self.state: State = {self.create.key: self.create}
        self.last = self.create

    def event(
        self,
        event_type: str,
        sender: str,
        content: JsonObject | None = None,
        state_key: str | None = None,
        **fields: Any,
    ) -> Event:
        """An event after the last one, with the auth events that it should have."""
        content = {} if content is None else content
        auth = [
            self.state[key]
            for key in auth_keys(self.rules, event_type, sender, state_key, content)
            if key in self.state
        ]
        fields = {"prev": [self.last], "auth": auth, **fields}
        return make_event(
            self.rules, self.room_id, event_type, sender, content, state_key, **fields
        )

    def put(
        self,
        event_type: str,
        sender: str,
        content: JsonObject | None = None,
        state_key: str | None = "",
        **fields: Any,
    ) -> Event:
        """Add an event to the room, whatever the rules say."""
        event = self.event(event_type, sender, content, state_key, **fields)
        self.last = event
        if event.is_state:
            self.state[event.key] = event
        return event

    def member(self, user: str, membership: str, sender: str | None = None, **more: Any) -> Event:
        """Set a user's membership, by the user if no other sender is given."""
        return self.put("m.room.member", sender or user, {"membership": membership, **more}, user)

"""A client of sliding sync that does with an answer what MSC4186 tells clients to do.

It keeps, of each room that it was told of, the state and the end of the timeline, and knows nothing
but what it was sent.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.serving import Person, Reply

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
ALL_STATE = [["*", "*"]]
EXTENSIONS = {
    name: {"enabled": True}
    for name in (
        *("to_device", "e2ee", "account_data", "receipts", "typing"),
        "io.element.msc4308.thread_subscriptions",
    )
}


def window(
    *ranges: tuple[int, int],
    limit: int = 10,
    state: Any = (),
    **filters: Any,
) -> dict[str, Any]:
    """A list of these ranges, or of all rooms."""
    wanted: dict[str, Any] = {"timeline_limit": limit, "required_state": state or []}
    if ranges:
        wanted["ranges"] = [list(one) for one in ranges]
    if filters:
        wanted["filters"] = filters
    return wanted


@dataclass
class Held:
    """What a client holds of one room."""

    state: dict[tuple[str, str], str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    membership: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sliding:
    """One connection of a person's client; `lists` and the rest go with every request."""

    person: Person
    lists: dict[str, Any] = field(default_factory=dict)
    subscriptions: dict[str, Any] = field(default_factory=dict)
    extensions: dict[str, Any] = field(default_factory=dict)
    conn_id: str = "main"
    pos: str | None = None
    rooms: dict[str, Held] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        return {
            "conn_id": self.conn_id,
            "lists": self.lists,
            "room_subscriptions": self.subscriptions,
            "extensions": self.extensions,
        }

    async def ask(self, *, pos: str | None = None, timeout: int = 0, **changed: Any) -> Reply:
        """A request from `pos`, or from where this client stands; nothing is taken over."""
        query: dict[str, Any] = {"timeout": timeout}
        pos = pos or self.pos
        if pos is not None:
            query["pos"] = pos
        return await self.person.raw("POST", PATH, query=query, body={**self.body, **changed})

    async def sync(self, *, timeout: int = 0, **changed: Any) -> Any:
        """One answer, taken over."""
        reply = await self.ask(timeout=timeout, **changed)
        assert reply.status == 200, (reply.status, reply.body)
        self.take(reply.body)
        return reply.body

    def take(self, answer: Any) -> None:
        self.pos = answer["pos"]
        for room_id, result in answer["rooms"].items():
            self._apply(room_id, result)
        told = answer["extensions"].get("to_device")
        if told is not None:
            wanted = self.extensions["to_device"]
            self.extensions = {
                **self.extensions,
                "to_device": {**wanted, "since": told["next_batch"]},
            }

    def _apply(self, room_id: str, result: Any) -> None:
        if result.get("initial"):
            self.rooms[room_id] = Held()
        held = self.rooms[room_id]
        held.membership = result["membership"]
        held.fields.update(result)
        for event in result.get("required_state", ()):
            key = (event["type"], event["state_key"])
            if "content" in event:
                held.state[key] = event["event_id"]
            else:
                held.state.pop(key, None)
        events = [event["event_id"] for event in result.get("timeline", ())]
        if result.get("unstable_expanded_timeline") or result.get("limited"):
            held.events = events
        else:
            held.events += events


def texts(result: Any) -> list[str]:
    """The bodies of a result's messages."""
    return [
        event["content"]["body"]
        for event in result.get("timeline", ())
        if event["type"] == "m.room.message"
    ]


def state_keys(result: Any) -> set[tuple[str, str]]:
    """The keys of a result's required state."""
    return {(event["type"], event["state_key"]) for event in result.get("required_state", ())}

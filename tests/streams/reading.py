"""Looking into sync answers."""

import json
from typing import Any
from urllib.parse import quote

from tests.serving import Person


def filtered(**room: Any) -> str:
    """An inline filter of these parts of `room`; a limit of the timeline as `limit`."""
    if "limit" in room:
        room["timeline"] = {**room.get("timeline", {}), "limit": room.pop("limit")}
    return json.dumps({"room": room})


LAZY = {"lazy_load_members": True}


def joined(answer: Any, room_id: str) -> Any:
    return answer["rooms"]["join"][room_id]


def left(answer: Any, room_id: str) -> Any:
    return answer["rooms"]["leave"][room_id]


def said(section: Any) -> list[str]:
    """The event ids of a section's timeline."""
    return [event["event_id"] for event in section["timeline"]["events"]]


def state_of(section: Any, name: str = "state") -> dict[tuple[str, str], Any]:
    """A section's state by type and state key."""
    return {(event["type"], event["state_key"]): event for event in section[name]["events"]}


def members(section: Any) -> set[str]:
    """The users whose member events a section's state holds."""
    return {key for type_, key in state_of(section) if type_ == "m.room.member"}


def ephemeral(section: Any, type_: str) -> list[Any]:
    """The contents of a section's ephemeral events of a type."""
    events = section.get("ephemeral", {}).get("events", [])
    return [event["content"] for event in events if event["type"] == type_]


def unread(section: Any) -> int:
    return int(section["unread_notifications"]["notification_count"])


async def invite(person: Person, room_id: str, other: Person) -> None:
    await moved(person, room_id, "invite", other)


async def moved(person: Person, room_id: str, verb: str, other: Person | None = None) -> None:
    """leave; or invite, kick, ban, unban somebody."""
    body = {} if other is None else {"user_id": other.user_id}
    await person.ok("POST", f"/rooms/{quote(room_id, safe='')}/{verb}", body=body)


async def typing(person: Person, room_id: str, is_typing: bool = True) -> None:
    path = f"/rooms/{quote(room_id, safe='')}/typing/{quote(person.user_id, safe='')}"
    await person.ok("PUT", path, body={"typing": is_typing, "timeout": 30_000})


async def read(
    person: Person, room_id: str, event_id: str, kind: str = "m.read", **body: Any
) -> None:
    path = f"/rooms/{quote(room_id, safe='')}/receipt/{kind}/{quote(event_id, safe='')}"
    await person.ok("POST", path, body=body)


async def redact(person: Person, room_id: str, event_id: str) -> str:
    path = f"/rooms/{quote(room_id, safe='')}/redact/{quote(event_id, safe='')}/r{event_id[1:9]}"
    return str((await person.ok("PUT", path, body={}))["event_id"])


async def keep(person: Person, type_: str, content: Any, room_id: str | None = None) -> None:
    """Write account data."""
    room = f"/rooms/{quote(room_id, safe='')}" if room_id is not None else ""
    path = f"/user/{quote(person.user_id, safe='')}{room}/account_data/{type_}"
    await person.ok("PUT", path, body=content)


async def ignore(person: Person, *others: Person) -> None:
    content: dict[str, Any] = {"ignored_users": {other.user_id: {} for other in others}}
    await keep(person, "m.ignored_user_list", content)


async def messages(person: Person, room_id: str, start: str, **query: Any) -> list[str]:
    """The event ids of one page of history, backwards."""
    path = f"/rooms/{quote(room_id, safe='')}/messages"
    page = await person.ok("GET", path, query={"dir": "b", "from": start, "limit": 50, **query})
    return [event["event_id"] for event in page["chunk"]]


ALWAYS = {"next_batch", "device_one_time_keys_count", "device_unused_fallback_key_types"}


def told(answer: Any) -> set[str]:
    """The sections of a sync answer, without what every one has."""
    return set(answer) - ALWAYS

"""Client filters: which events, of which rooms, in which shape.

Owns the parsed form of the specification's Filter and its decision for one event. Parsing does all
the work (sets, globs, paths), so that `matches` is a handful of set look-ups. Matching never
backtracks: the time of a hostile pattern is linear in the event type. Storing filters and cutting
timelines to their limit is done elsewhere. Unknown keys are ignored, as unstable ones must be.
spec: client-server-api#filtering
"""

from typing import Any, Literal

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed

MAX_ENTRIES = 10_000
MAX_ENTRY_LENGTH = 1_024
MAX_GLOBS = 256
MAX_FIELDS = 256

Path = tuple[str, ...]


class EventFilter:
    """An EventFilter or RoomEventFilter.

    `plain`: nothing at all is filtered out. `limit` is None when the client gave none.
    """

    __slots__ = (
        "_exact",
        "_globs",
        "_not_exact",
        "_not_globs",
        "contains_url",
        "include_redundant_members",
        "lazy_load_members",
        "limit",
        "not_rooms",
        "not_senders",
        "plain",
        "rooms",
        "senders",
        "unread_thread_notifications",
    )

    def __init__(self, source: JsonObject, where: str) -> None:
        self._exact, self._globs = _types(source, where, "types")
        not_exact, self._not_globs = _types(source, where, "not_types")
        self._not_exact = not_exact or frozenset()
        self.senders = _ids(source, where, "senders", "@")
        self.not_senders = _ids(source, where, "not_senders", "@") or frozenset()
        self.rooms = _ids(source, where, "rooms", "!")
        self.not_rooms = _ids(source, where, "not_rooms", "!") or frozenset()
        self.contains_url = _flag(source, where, "contains_url")
        self.lazy_load_members = bool(_flag(source, where, "lazy_load_members"))
        self.include_redundant_members = bool(_flag(source, where, "include_redundant_members"))
        self.unread_thread_notifications = bool(_flag(source, where, "unread_thread_notifications"))
        self.limit = _limit(source, where)
        self.plain = (
            self._exact is None
            and not self._not_exact
            and not self._not_globs
            and self.senders is None
            and not self.not_senders
            and self.rooms is None
            and not self.not_rooms
            and self.contains_url is None
        )

    @classmethod
    def parse(cls, source: JsonObject, where: str = "filter") -> "EventFilter":
        """The filter of an endpoint that takes a RoomEventFilter; Malformed names the field."""
        return cls(source, where)

    def matches(
        self,
        type: str,  # noqa: A002 - the specification's word
        sender: str | None = None,
        room_id: str | None = None,
        contains_url: bool = False,
    ) -> bool:
        """Whether an event passes. `contains_url`: its content has a key `url`.

        What has no sender or room (account data) passes no list of senders or rooms.
        """
        if self.plain:
            return True
        return (
            self._type_passes(type)
            and (self.senders is None or sender in self.senders)
            and sender not in self.not_senders
            and (self.rooms is None or room_id in self.rooms)
            and room_id not in self.not_rooms
            and (self.contains_url is None or self.contains_url == contains_url)
        )

    def admits_room(self, room_id: str) -> bool:
        """Whether any event of the room could pass."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    def capped(self, default: int, most: int) -> int:
        """The limit to use: the client's or the default, never above `most`."""
        return min(self.limit if self.limit is not None else default, most)

    def _type_passes(self, type_: str) -> bool:
        if type_ in self._not_exact or any(glob.matches(type_) for glob in self._not_globs):
            return False
        if self._exact is None or type_ in self._exact:
            return True
        return any(glob.matches(type_) for glob in self._globs)


class RoomFilter:
    """The `room` part of a filter. `plain`: no room and no event is filtered out."""

    __slots__ = (
        "account_data",
        "ephemeral",
        "include_leave",
        "not_rooms",
        "plain",
        "rooms",
        "state",
        "timeline",
    )

    def __init__(self, source: JsonObject, where: str) -> None:
        self.rooms = _ids(source, where, "rooms", "!")
        self.not_rooms = _ids(source, where, "not_rooms", "!") or frozenset()
        self.include_leave = bool(_flag(source, where, "include_leave"))
        self.account_data = _part(source, where, "account_data")
        self.ephemeral = _part(source, where, "ephemeral")
        self.state = _part(source, where, "state")
        self.timeline = _part(source, where, "timeline")
        self.plain = (
            self.rooms is None
            and not self.not_rooms
            and self.account_data.plain
            and self.ephemeral.plain
            and self.state.plain
            and self.timeline.plain
        )

    def admits_room(self, room_id: str) -> bool:
        """Whether the room takes part at all; asked before the filters of its events."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


class Filter:
    """A whole Filter, as stored by `POST /filter` or given inline.

    `plain`: every event passes unchanged (lazy loading and limits may still be asked for).
    """

    __slots__ = (
        "account_data",
        "event_fields",
        "event_format",
        "plain",
        "presence",
        "room",
    )

    def __init__(self, source: JsonObject) -> None:
        self.account_data = _part(source, "", "account_data")
        self.presence = _part(source, "", "presence")
        self.room = RoomFilter(_object(source, "", "room"), "room")
        self.event_format = _event_format(source)
        self.event_fields = _event_fields(source)
        self.plain = (
            self.account_data.plain
            and self.presence.plain
            and self.room.plain
            and self.event_format == "client"
            and self.event_fields is None
        )

    @classmethod
    def parse(cls, source: JsonObject) -> "Filter":
        """Raises Malformed, naming the field, when the object is not a Filter."""
        return cls(source)


def parse_path(path: str) -> Path:
    r"""The property names of a dot-separated path; `\.` and `\\` are a literal dot and backslash.

    spec: appendices#dot-separated-property-paths
    """
    names: list[str] = []
    name: list[str] = []
    index = 0
    while index < len(path):
        char = path[index]
        if char == "\\" and path[index + 1 : index + 2] in (".", "\\"):
            index += 1
            name.append(path[index])
        elif char == ".":
            names.append("".join(name))
            name = []
        else:
            name.append(char)
        index += 1
    names.append("".join(name))
    return tuple(names)


def select_fields(event: JsonObject, fields: tuple[Path, ...]) -> JsonObject:
    """A copy of the event with only the given fields; what the event lacks is left out.

    `fields` as a Filter holds them: none of them lies below another one.
    """
    selected: JsonObject = {}
    for path in fields:
        _copy_field(event, selected, path)
    return selected


def _copy_field(source: JsonObject, target: JsonObject, path: Path) -> None:
    trail: list[str] = []
    value: Any = source
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return
        trail.append(name)
        value = value[name]
    for name in trail[:-1]:
        below = target.get(name)
        if below is None:
            below = target[name] = {}
        target = below
    target[trail[-1]] = value


class _Glob:
    """A pattern whose `*` stands for any sequence of characters, matched part by part."""

    __slots__ = ("_first", "_last", "_middle", "_size")

    def __init__(self, pattern: str) -> None:
        parts = pattern.split("*")
        self._first, self._last = parts[0], parts[-1]
        self._middle = [part for part in parts[1:-1] if part]
        self._size = sum(map(len, parts))

    def matches(self, text: str) -> bool:
        if len(text) < self._size:
            return False
        if not (text.startswith(self._first) and text.endswith(self._last)):
            return False
        at, end = len(self._first), len(text) - len(self._last)
        for part in self._middle:
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


def _named(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _object(source: JsonObject, where: str, key: str) -> JsonObject:
    value = source.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"{_named(where, key)} must be an object")
    return value


def _part(source: JsonObject, where: str, key: str) -> EventFilter:
    part = _object(source, where, key)
    return EventFilter(part, _named(where, key)) if part else _PLAIN


def _flag(source: JsonObject, where: str, key: str) -> bool | None:
    value = source.get(key)
    if value is not None and not isinstance(value, bool):
        raise Malformed(f"{_named(where, key)} must be true or false")
    return value


def _limit(source: JsonObject, where: str) -> int | None:
    value = source.get("limit")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Malformed(f"{_named(where, 'limit')} must be an integer greater than 0")
    # Clients do send 0, meaning "as little as possible".
    return max(value, 1)


def _strings(source: JsonObject, where: str, key: str, most: int) -> list[str] | None:
    value = source.get(key)
    if value is None:
        return None
    name = _named(where, key)
    if not isinstance(value, list):
        raise Malformed(f"{name} must be a list")
    if len(value) > most:
        raise Malformed(f"{name} has more than {most} entries")
    for index, entry in enumerate(value):
        if not isinstance(entry, str):
            raise Malformed(f"{name}[{index}] must be a string")
        if len(entry) > MAX_ENTRY_LENGTH:
            raise Malformed(f"{name}[{index}] is longer than {MAX_ENTRY_LENGTH} characters")
    return value


def _ids(source: JsonObject, where: str, key: str, sigil: str) -> frozenset[str] | None:
    values = _strings(source, where, key, MAX_ENTRIES)
    if values is None:
        return None
    for index, value in enumerate(values):
        if not value.startswith(sigil) or (sigil == "@" and ":" not in value):
            kind = "user" if sigil == "@" else "room"
            raise Malformed(f"{_named(where, key)}[{index}] is not a {kind} id")
    return frozenset(values)


def _types(
    source: JsonObject, where: str, key: str
) -> tuple[frozenset[str] | None, tuple[_Glob, ...]]:
    values = _strings(source, where, key, MAX_ENTRIES)
    if values is None:
        return None, ()
    patterns = [value for value in values if "*" in value]
    if len(patterns) > MAX_GLOBS:
        raise Malformed(f"{_named(where, key)} has more than {MAX_GLOBS} wildcards")
    return frozenset(value for value in values if "*" not in value), tuple(map(_Glob, patterns))


def _event_format(source: JsonObject) -> Literal["client", "federation"]:
    value = source.get("event_format")
    if value is None or value == "client":
        return "client"
    if value == "federation":
        return "federation"
    raise Malformed("event_format must be client or federation")


def _event_fields(source: JsonObject) -> tuple[Path, ...] | None:
    paths = _strings(source, "", "event_fields", MAX_FIELDS)
    if not paths:
        # Nobody wants empty events: an empty list is read as an absent one.
        return None
    parsed = set(map(parse_path, paths))
    return tuple(
        path
        for path in sorted(parsed)
        if not any(path[:length] in parsed for length in range(1, len(path)))
    )


_PLAIN = EventFilter({}, "")

"""Client filters: parsing, its refusals, and what passes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import Malformed
from homeserver.matrix.filters import EventFilter, Filter, parse_path, select_fields

ROOM = "!room:example.org"
ALICE = "@alice:example.org"


def passes(source: dict[str, Any], type_: str = "m.room.message", **event: Any) -> bool:
    return EventFilter.parse(source).matches(
        type_,
        event.get("sender", ALICE),
        event.get("room_id", ROOM),
        event.get("contains_url", False),
    )


def test_an_empty_filter_is_plain_and_passes_everything() -> None:
    whole = Filter.parse({})
    assert whole.plain
    assert whole.room.plain
    assert whole.room.timeline.plain
    assert whole.event_fields is None
    assert whole.event_format == "client"
    assert not whole.room.include_leave
    assert passes({})


def test_lazy_loading_and_limits_leave_a_filter_plain() -> None:
    whole = Filter.parse({"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 5}}})
    assert whole.plain
    assert whole.room.state.lazy_load_members
    assert whole.room.timeline.limit == 5


def test_types_are_a_list_of_what_passes() -> None:
    assert passes({"types": ["m.room.message"]})
    assert not passes({"types": ["m.room.topic"]})
    assert not passes({"types": []})


def test_not_types_win_over_types() -> None:
    assert not passes({"types": ["m.room.message"], "not_types": ["m.room.message"]})
    assert not passes({"not_types": ["m.room.*"]})
    assert passes({"not_types": ["m.call.*"]})


@pytest.mark.parametrize(
    ("pattern", "type_", "expected"),
    [
        ("m.*", "m.room.message", True),
        ("*", "anything", True),
        ("m.room.*", "m.room", False),
        ("*.message", "m.room.message", True),
        ("m.*.message", "m.room.message", True),
        ("m.*.*.x", "m.a.b.x", True),
        ("m.**x", "m.x", True),
        ("a*a", "a", False),
        ("m.room.m?ssage", "m.room.message", False),
        ("m.room.(*", "m.room.(x", True),
        ("*room*message*", "m.room.message", True),
        ("*message*room*", "m.room.message", False),
    ],
)
def test_a_star_stands_for_any_sequence(pattern: str, type_: str, expected: bool) -> None:
    assert passes({"types": [pattern]}, type_) is expected


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not passes({"types": ["*a" * 400 + "*b"]}, "a" * 1000)


@given(st.text(alphabet="ab*", max_size=8), st.text(alphabet="ab", max_size=10))
def test_globs_agree_with_their_definition(pattern: str, text: str) -> None:
    def by_definition(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(by_definition(pattern[1:], text[i:]) for i in range(len(text) + 1))
        return text[:1] == pattern[0] and by_definition(pattern[1:], text[1:])

    assert passes({"types": [pattern]}, text) is by_definition(pattern, text)


def test_senders() -> None:
    assert passes({"senders": [ALICE]})
    assert not passes({"senders": [ALICE], "not_senders": [ALICE]})
    assert not passes({"senders": ["@bob:example.org"]})
    assert not passes({"senders": []})
    assert not passes({"senders": [ALICE]}, sender=None)
    assert passes({"not_senders": [ALICE]}, sender=None)


def test_rooms() -> None:
    assert passes({"rooms": [ROOM]})
    assert not passes({"rooms": [ROOM], "not_rooms": [ROOM]})
    assert not passes({"rooms": []})
    room = Filter.parse({"room": {"rooms": [ROOM, "!x"], "not_rooms": ["!x"]}}).room
    assert room.admits_room(ROOM)
    assert not room.admits_room("!x")
    assert not room.admits_room("!y:example.org")
    assert not room.plain


def test_contains_url() -> None:
    assert passes({"contains_url": True}, contains_url=True)
    assert not passes({"contains_url": True}, contains_url=False)
    assert passes({"contains_url": False}, contains_url=False)
    assert not passes({"contains_url": False}, contains_url=True)


def test_limits_are_capped() -> None:
    assert EventFilter.parse({}).capped(10, 100) == 10
    assert EventFilter.parse({"limit": 50}).capped(10, 100) == 50
    assert EventFilter.parse({"limit": 10**12}).capped(10, 100) == 100
    assert EventFilter.parse({"limit": 0}).capped(10, 100) == 1


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"presence": "x"}, "presence"),
        ({"account_data": []}, "account_data"),
        ({"room": 1}, "room"),
        ({"room": {"state": "x"}}, "room.state"),
        ({"room": {"timeline": {"types": "m.room.message"}}}, "room.timeline.types"),
        ({"room": {"timeline": {"types": [1]}}}, "room.timeline.types[0]"),
        ({"room": {"timeline": {"not_types": {}}}}, "room.timeline.not_types"),
        ({"room": {"timeline": {"senders": ["alice"]}}}, "room.timeline.senders[0]"),
        ({"room": {"timeline": {"senders": ["@alice"]}}}, "room.timeline.senders[0]"),
        ({"room": {"timeline": {"not_senders": [None]}}}, "room.timeline.not_senders[0]"),
        ({"room": {"rooms": ["room"]}}, "room.rooms[0]"),
        ({"room": {"not_rooms": "!a:b"}}, "room.not_rooms"),
        ({"room": {"include_leave": 1}}, "room.include_leave"),
        ({"room": {"ephemeral": {"limit": "10"}}}, "room.ephemeral.limit"),
        ({"room": {"ephemeral": {"limit": -1}}}, "room.ephemeral.limit"),
        ({"room": {"ephemeral": {"limit": True}}}, "room.ephemeral.limit"),
        ({"room": {"ephemeral": {"limit": 1.5}}}, "room.ephemeral.limit"),
        ({"room": {"state": {"lazy_load_members": "yes"}}}, "room.state.lazy_load_members"),
        ({"room": {"state": {"contains_url": 0}}}, "room.state.contains_url"),
        ({"event_format": "xml"}, "event_format"),
        ({"event_fields": "type"}, "event_fields"),
        ({"event_fields": [1]}, "event_fields[0]"),
        ({"event_fields": ["x" * 2000]}, "event_fields[0]"),
        ({"event_fields": ["x"] * 1000}, "event_fields"),
        ({"room": {"rooms": ["!a:b"] * 10_001}}, "room.rooms"),
        ({"presence": {"types": ["a*"] * 300}}, "presence.types"),
    ],
)
def test_malformed_filters_are_refused_naming_the_field(source: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed) as caught:
        Filter.parse(source)
    assert str(caught.value).startswith(field + " ")


def test_unknown_and_unstable_keys_are_ignored() -> None:
    assert Filter.parse(
        {"org.matrix.msc0000": 1, "room": {"timeline": {"org.matrix.x": [], "limit": None}}}
    ).plain


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to", ("content", "m.relates_to")),
        (r"content.m\\foo", ("content", r"m\foo")),
        (r"content.m\x", ("content", r"m\x")),
        ("type", ("type",)),
        ("a\\", ("a\\",)),
        ("a..b", ("a", "", "b")),
    ],
)
def test_property_paths(path: str, names: tuple[str, ...]) -> None:
    assert parse_path(path) == names


def select(event: dict[str, Any], *paths: str) -> dict[str, Any]:
    fields = Filter.parse({"event_fields": list(paths)}).event_fields
    assert fields is not None
    return select_fields(event, fields)


def test_event_fields_select_a_part_of_the_event() -> None:
    event: dict[str, Any] = {
        "type": "m.room.message",
        "content": {"body": "hi", "msgtype": "m.text", "m.relates_to": {"a": 1, "b": [2]}},
    }
    assert select(event, "type") == {"type": "m.room.message"}
    assert select(event, "content.body", "type") == {
        "type": "m.room.message",
        "content": {"body": "hi"},
    }
    assert select(event, r"content.m\.relates_to.a", r"content.m\.relates_to.b") == {
        "content": {"m.relates_to": {"a": 1, "b": [2]}}
    }
    assert select(event, "content.body", "content") == {"content": event["content"]}
    assert select(event, "nothing", "type.deeper", "content.nothing.x") == {}
    assert event["content"]["body"] == "hi"


def test_no_event_fields_means_all_of_them() -> None:
    assert Filter.parse({"event_fields": []}).event_fields is None

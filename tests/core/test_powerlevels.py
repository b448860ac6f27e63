"""Levels are read as each room version has it, and nobody rises by their own hand."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import Rejected
from homeserver.matrix.powerlevels import CREATOR_LEVEL, PowerLevels, check_change, parse_level
from homeserver.matrix.versions import ROOM_VERSIONS

ALICE, BOB, CAROL = "@alice:one.example", "@bob:two.example", "@carol:one.example"
V1, V6, V9, V10, V12 = (ROOM_VERSIONS[version] for version in ("1", "6", "9", "10", "12"))
NOBODY: frozenset[str] = frozenset()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
LEVEL_FIELDS = st.sampled_from(
    ["users", "events", "notifications", "users_default", "ban", "kick", "invite", "redact"]
)
USERS = st.sampled_from([ALICE, BOB, "@", "m.room.name", ""])
WILD_CONTENT = st.dictionaries(LEVEL_FIELDS, JSON | st.dictionaries(USERS, JSON), max_size=5)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("100", 100),
        ("000100", 100),
        ("+100", 100),
        ("-100", -100),
        (" 100 ", 100),
        (" \t00100\n", 100),
        (" +100 ", 100),
        (" -100 ", -100),
    ],
)
def test_up_to_version_9_a_string_may_stand_for_an_integer(text: str, level: int) -> None:
    assert parse_level(V1, text) == level
    assert parse_level(V9, text) == level
    assert parse_level(V10, text) is None


@pytest.mark.parametrize(
    "text",
    ["", " ", "1_000", "1.0", "1e2", "0x10", "+-1", "- 1", "1 0", "--1", "٣", "ten", "9" * 5_000],
)
def test_other_strings_stand_for_nothing(text: str) -> None:
    assert parse_level(V1, text) is None


@pytest.mark.parametrize(
    ("number", "level"), [(50.57, 50), (5.114698e4, 51146), (-1.9, -1), (0.0, 0)]
)
def test_up_to_version_5_floats_are_truncated(number: float, level: int) -> None:
    assert parse_level(V1, number) == level
    assert parse_level(V6, number) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True, None, [], {}])
def test_what_is_no_number_is_no_level(value: object) -> None:
    assert parse_level(V1, value) is None
    assert parse_level(V12, value) is None


def test_defaults_with_and_without_the_event() -> None:
    contents: tuple[dict[str, Any] | None, ...] = (None, {})
    for content in contents:
        levels = PowerLevels(V10, content, NOBODY)
        assert (levels.ban, levels.kick, levels.redact, levels.invite) == (50, 50, 50, 0)
        assert levels.event_level("m.room.topic", is_state=True) == 50
        assert levels.event_level("m.room.message", is_state=False) == 0
        assert levels.notification_level("room") == 50
        assert levels.user_level(BOB) == 0


def test_explicit_levels_win() -> None:
    content = {
        "users": {BOB: 7},
        "users_default": 1,
        "events": {"m.room.topic": 3},
        "state_default": 60,
        "events_default": 2,
        "invite": 4,
        "notifications": {"room": 9},
    }
    levels = PowerLevels(V10, content, NOBODY)
    assert levels.user_level(BOB) == 7
    assert levels.user_level(CAROL) == 1
    assert levels.event_level("m.room.topic", is_state=True) == 3
    assert levels.event_level("m.room.name", is_state=True) == 60
    assert levels.event_level("m.room.message", is_state=False) == 2
    assert levels.invite == 4
    assert levels.notification_level("room") == 9


def test_the_creator_has_100_until_there_are_power_levels() -> None:
    assert PowerLevels(V10, None, frozenset((ALICE,))).user_level(ALICE) == 100
    assert PowerLevels(V10, {}, frozenset((ALICE,))).user_level(ALICE) == 0


def test_creators_outrank_everybody_in_version_12() -> None:
    contents: tuple[dict[str, Any] | None, ...] = (None, {}, {"users": {ALICE: 1}})
    for content in contents:
        assert PowerLevels(V12, content, frozenset((ALICE,))).user_level(ALICE) == CREATOR_LEVEL
    assert CREATOR_LEVEL > 2**53


def test_nonsense_in_the_state_counts_as_absent() -> None:
    content: dict[str, Any] = {
        "users": [1],
        "events": None,
        "ban": "x",
        "kick": {},
        "notifications": 3,
    }
    levels = PowerLevels(V9, content, NOBODY)
    assert levels.user_level(ALICE) == 0
    assert levels.event_level("m.room.topic", is_state=True) == 50
    assert (levels.ban, levels.kick, levels.notification_level("room")) == (50, 50, 50)


def _change(
    old: dict[str, object] | None, new: dict[str, object], version: str = "10", sender: str = ALICE
) -> None:
    rules = ROOM_VERSIONS[version]
    levels = PowerLevels(rules, old, NOBODY)
    check_change(rules, old, new, sender, levels, NOBODY)


OLD: dict[str, object] = {"users": {ALICE: 50, BOB: 50, CAROL: 20}, "events": {"a": 60, "b": 50}}


@pytest.mark.parametrize(
    "change",
    [
        {"users": {ALICE: 50, BOB: 50, CAROL: 50}},
        {"users": {ALICE: 50, BOB: 50}},
        {"users": {ALICE: 0, BOB: 50, CAROL: 20}},
        {"users": {BOB: 50, CAROL: 20}},
        {"events": {"a": 60, "b": 0}},
        {"events": {"a": 60}},
        {"events": {"a": 60, "b": 50, "c": 50}},
        {"ban": 50},
        {"users_default": 50},
        {"notifications": {"room": 50}},
    ],
)
def test_changes_within_the_senders_power(change: dict[str, object]) -> None:
    _change(OLD, {**OLD, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"users": {ALICE: 51, BOB: 50, CAROL: 20}},
        {"users": {ALICE: 50, BOB: 49, CAROL: 20}},
        {"users": {ALICE: 50, CAROL: 20}},
        {"users": {ALICE: 50, BOB: 50, CAROL: 51}},
        {"events": {"a": 50, "b": 50}},
        {"events": {"b": 50}},
        {"events": {"a": 60, "b": 51}},
        {"ban": 51},
        {"state_default": 100},
        {"notifications": {"room": 51}},
    ],
)
def test_changes_beyond_the_senders_power(change: dict[str, object]) -> None:
    with pytest.raises(Rejected):
        _change(OLD, {**OLD, **change})


def test_what_is_above_the_sender_can_not_be_lowered() -> None:
    with pytest.raises(Rejected):
        _change({**OLD, "kick": 70}, {**OLD, "kick": 10})


def test_notifications_are_checked_from_version_6_on() -> None:
    new = {**OLD, "notifications": {"room": 99}}
    _change(OLD, new, "5")
    with pytest.raises(Rejected):
        _change(OLD, new, "6")


def test_the_same_level_written_otherwise_is_no_change() -> None:
    _change({**OLD, "ban": 99}, {**OLD, "ban": " +099 "}, "9")


@pytest.mark.parametrize("version", ["1", "9", "10", "12"])
@pytest.mark.parametrize(
    "users", [[], None, 5, {"alice": 5}, {"@alice": 5}, {ALICE: None}, {ALICE: "x"}, {ALICE: []}]
)
def test_users_must_be_an_object_of_user_ids_and_integers(version: str, users: object) -> None:
    with pytest.raises(Rejected):
        _change(None, {"users": users}, version)


@pytest.mark.parametrize(
    "content", [{"ban": "50"}, {"ban": None}, {"events": []}, {"notifications": {"room": "5"}}]
)
def test_all_levels_must_be_integers_from_version_10_on(content: dict[str, object]) -> None:
    _change(None, content, "9")
    with pytest.raises(Rejected):
        _change(None, content, "10")


def test_creators_must_not_be_named_in_version_12() -> None:
    creators = frozenset((ALICE, CAROL))
    levels = PowerLevels(V12, None, creators)
    check_change(V12, None, {"users": {BOB: 100}}, ALICE, levels, creators)
    with pytest.raises(Rejected):
        check_change(V12, None, {"users": {CAROL: 100}}, ALICE, levels, creators)


@given(old=st.none() | WILD_CONTENT, new=WILD_CONTENT, version=st.sampled_from(["1", "6", "12"]))
def test_whatever_the_content_the_answer_is_yes_or_rejected(
    old: dict[str, object] | None, new: dict[str, object], version: str
) -> None:
    rules = ROOM_VERSIONS[version]
    levels = PowerLevels(rules, old, frozenset((ALICE,)))
    assert isinstance(levels.user_level(BOB), int)
    assert isinstance(levels.event_level("m.room.name", is_state=True), int)
    with suppress(Rejected):
        check_change(rules, old, new, BOB, levels, frozenset((ALICE,)))

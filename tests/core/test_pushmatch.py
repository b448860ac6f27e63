"""Which rule an event meets.

spec: client-server-api#conditions-1 and client-server-api#predefined-rules
"""

import time
from typing import Any

import pytest

from homeserver.matrix.pushmatch import Facts, Outcome, actions_for, outcome_of, tweaks_of
from homeserver.matrix.pushrules import Changes, put_rule, ruleset, set_enabled

ME = "@me:here.example"
ROOM = "!room:here.example"


def event(content: Any = None, type_: str = "m.room.message", **more: Any) -> Any:
    return {
        "type": type_,
        "sender": "@other:here.example",
        "room_id": ROOM,
        "content": {"msgtype": "m.text", "body": "hello"} if content is None else content,
        **more,
    }


def outcome(
    shown: Any, changes: Changes | None = None, members: int = 3, may_ping: bool = False
) -> Outcome:
    rules = ruleset(ME, changes or Changes())
    return outcome_of(actions_for(rules, Facts(shown, members, may_ping)))


def meets(condition: Any, shown: Any, members: int = 3) -> bool:
    changes = put_rule(
        Changes(), "override", "mine", {"conditions": [condition], "actions": ["notify"]}
    )
    actions = actions_for({**ruleset(ME, changes), "underride": []}, Facts(shown, members, False))
    return actions == ["notify"]


NOTHING = Outcome(notify=False, highlight=False)
PLAIN = Outcome(notify=True, highlight=False)
LOUD = Outcome(notify=True, highlight=True)
MENTION = {"m.mentions": {"user_ids": [ME]}}
EDIT = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (event(), PLAIN),
        (event({}, "m.room.encrypted"), PLAIN),
        (event({"msgtype": "m.notice", "body": ME}), NOTHING),
        (event({"msgtype": "m.text", "body": "x", **MENTION}), LOUD),
        (event({"msgtype": "m.notice", "body": "x", **MENTION}), NOTHING),
        (event({"body": "x", **EDIT}), NOTHING),
        (event({"body": "x", **EDIT, **MENTION}), LOUD),
        (event({}, "m.reaction"), NOTHING),
        (event({}, "m.room.tombstone", state_key=""), LOUD),
        (event({}, "m.room.tombstone", state_key="x"), NOTHING),
        (event({}, "m.room.topic", state_key=""), NOTHING),
        (event({"membership": "invite"}, "m.room.member", state_key=ME), PLAIN),
        (event({"membership": "invite"}, "m.room.member", state_key="@you:x"), NOTHING),
        (event({"membership": "join", **MENTION}, "m.room.member", state_key="@x:x"), NOTHING),
        (event({}, "m.call.invite"), PLAIN),
    ],
)
def test_default_rules(shown: Any, expected: Outcome) -> None:
    assert outcome(shown) == expected


def test_the_whole_room_is_only_pinged_by_who_may() -> None:
    ping = event({"body": "x", "m.mentions": {"room": True}})
    assert outcome(ping, may_ping=True) == LOUD
    assert outcome(ping) == PLAIN
    assert outcome(event({"m.mentions": {"room": 1}}), may_ping=True) == PLAIN


def test_a_muted_room_and_a_muted_account() -> None:
    muted = put_rule(Changes(), "room", ROOM, {"actions": []})
    assert outcome(event(), muted) == NOTHING
    assert outcome(event({"body": "x", **MENTION}), muted) == LOUD
    silent = set_enabled(Changes(), "override", ".m.rule.master", True)
    assert outcome(event({"body": "x", **MENTION}), silent) == NOTHING


@pytest.mark.parametrize(
    ("pattern", "body", "found"),
    [
        ("cake", "I like CAKE.", True),
        ("cake", "cakes", False),
        ("cake*", "cheesecakes", False),
        ("*cake*", "cheesecakes", True),
        ("c?ke", "a cake!", True),
        ("cake", "pan-cake", True),
        ("a.b", "axb", False),
        ("über", "Über alles", True),
        ("lunch*plan", "lunch\nis the plan", True),
    ],
)
def test_words_of_a_body(pattern: str, body: str, found: bool) -> None:
    rule = {"actions": ["notify", {"set_tweak": "highlight"}], "pattern": pattern}
    changes = put_rule(Changes(), "content", "word", rule)
    assert outcome(event({"body": body}), changes).highlight == found


@pytest.mark.parametrize(
    ("condition", "shown", "met"),
    [
        ({"kind": "event_match", "key": "type", "pattern": "m.room.*"}, event(), True),
        ({"kind": "event_match", "key": "type", "pattern": "m.room"}, event(), False),
        ({"kind": "event_match", "key": "content.x\\.y", "pattern": "z"}, {"x.y": "z"}, True),
        ({"kind": "event_match", "key": "content.x.y", "pattern": "z"}, {"x": {"y": "Z"}}, True),
        ({"kind": "event_match", "key": "content.x", "pattern": "1"}, {"x": 1}, False),
        ({"kind": "event_property_is", "key": "content.x", "value": True}, {"x": True}, True),
        ({"kind": "event_property_is", "key": "content.x", "value": True}, {"x": 1}, False),
        ({"kind": "event_property_is", "key": "content.x", "value": None}, {"x": None}, True),
        ({"kind": "event_property_is", "key": "content.x", "value": None}, {}, False),
        ({"kind": "event_property_contains", "key": "content.x", "value": 1}, {"x": [2, 1]}, True),
        ({"kind": "event_property_contains", "key": "content.x", "value": 1}, {"x": 1}, False),
        ({"kind": "room_member_count", "is": "3"}, {}, True),
        ({"kind": "room_member_count", "is": "<3"}, {}, False),
        ({"kind": "room_member_count", "is": ">=3"}, {}, True),
        ({"kind": "room_member_count", "is": "~3"}, {}, False),
        ({"kind": "nobody.knows"}, {}, False),
    ],
)
def test_conditions(condition: Any, shown: Any, met: bool) -> None:
    assert meets(condition, shown if "type" in shown else event(shown)) == met


def test_tweaks() -> None:
    actions = ["notify", {"set_tweak": "sound", "value": "ring"}, {"set_tweak": "highlight"}]
    assert tweaks_of(actions) == {"sound": "ring", "highlight": True}
    assert outcome_of(["notify", {"set_tweak": "highlight", "value": False}]) == PLAIN
    assert outcome_of([{"set_tweak": "highlight"}]) == NOTHING


def test_hostile_patterns_take_no_time() -> None:
    rule = {"actions": ["notify"], "pattern": "*a" * 60 + "*b"}
    changes = put_rule(Changes(), "content", "slow", rule)
    started = time.process_time()
    outcome(event({"body": "a" * 60_000}), changes)
    assert time.process_time() - started < 2

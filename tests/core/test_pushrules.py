"""The default push rules and a user's changes to them."""

from typing import Any

import pytest

from homeserver.matrix import pushrules
from homeserver.matrix.errors import Malformed, Rejected
from homeserver.matrix.pushrules import Changes, Kind

ALICE = "@alice:example.org"
QUIET: dict[str, Any] = {"actions": []}


def ids(changes: Changes, kind: Kind) -> list[str]:
    return [rule["rule_id"] for rule in pushrules.ruleset(ALICE, changes)[kind]]


def own_ids(changes: Changes, kind: Kind) -> list[str]:
    return [rule_id for rule_id in ids(changes, kind) if not rule_id.startswith(".")]


def with_rooms(*rule_ids: str) -> Changes:
    """Changes whose room rules have this order."""
    changes = Changes()
    for rule_id in reversed(rule_ids):
        changes = pushrules.put_rule(changes, "room", rule_id, QUIET)
    return changes


def test_the_default_rules_are_those_of_the_specification_in_their_order() -> None:
    full = pushrules.ruleset(ALICE, Changes())
    assert list(full) == ["override", "content", "room", "sender", "underride"]
    assert ids(Changes(), "override") == [
        ".m.rule.master",
        ".m.rule.suppress_notices",
        ".m.rule.invite_for_me",
        ".m.rule.member_event",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
        ".m.rule.reaction",
        ".m.rule.room.server_acl",
        ".m.rule.suppress_edits",
    ]
    assert ids(Changes(), "underride") == [
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
    ]
    assert full["content"] == full["room"] == full["sender"] == []


def test_default_rules_are_enabled_but_for_the_master() -> None:
    for rules in pushrules.ruleset(ALICE, Changes()).values():
        for rule in rules:
            assert rule["default"] is True
            assert rule["enabled"] is (rule["rule_id"] != ".m.rule.master")


def test_default_rules_name_their_user() -> None:
    invite = pushrules.find_rule(ALICE, Changes(), "override", ".m.rule.invite_for_me")
    assert invite is not None
    assert invite["conditions"] == [
        {"kind": "event_match", "key": "type", "pattern": "m.room.member"},
        {"kind": "event_match", "key": "content.membership", "pattern": "invite"},
        {"kind": "event_match", "key": "state_key", "pattern": ALICE},
    ]
    assert invite["actions"] == ["notify", {"set_tweak": "sound", "value": "default"}]
    mention = pushrules.find_rule(
        "@bob:example.org", Changes(), "override", ".m.rule.is_user_mention"
    )
    assert mention is not None
    assert mention["conditions"] == [
        {
            "kind": "event_property_contains",
            "key": r"content.m\.mentions.user_ids",
            "value": "@bob:example.org",
        }
    ]


def test_a_ruleset_can_be_altered_without_harm_to_the_next() -> None:
    pushrules.ruleset(ALICE, Changes())["override"][0]["conditions"].append("x")
    assert pushrules.ruleset(ALICE, Changes())["override"][0]["conditions"] == []


def test_own_rules_stand_before_the_defaults_but_after_the_master() -> None:
    changes = pushrules.put_rule(Changes(), "override", "mine", QUIET)
    changes = pushrules.put_rule(changes, "underride", "mine", QUIET)
    assert ids(changes, "override")[:3] == [".m.rule.master", "mine", ".m.rule.suppress_notices"]
    assert ids(changes, "underride")[:2] == ["mine", ".m.rule.call"]


def test_a_new_rule_is_enabled_and_the_most_important() -> None:
    changes = with_rooms("!a:x", "!b:x")
    assert own_ids(changes, "room") == ["!a:x", "!b:x"]
    rule = pushrules.find_rule(ALICE, changes, "room", "!a:x")
    assert rule == {"rule_id": "!a:x", "default": False, "enabled": True, "actions": []}


def test_content_rules_have_a_pattern_and_override_rules_conditions() -> None:
    changes = pushrules.put_rule(
        Changes(), "content", "cake", {"actions": ["notify"], "pattern": "cake*lie"}
    )
    rule = pushrules.find_rule(ALICE, changes, "content", "cake")
    assert rule is not None
    assert rule["pattern"] == "cake*lie"
    assert "conditions" not in rule
    conditions = [{"kind": "room_member_count", "is": "<=10"}, {"kind": "org.example.unknown"}]
    changes = pushrules.put_rule(
        changes, "override", "few", {"actions": ["notify"], "conditions": conditions}
    )
    rule = pushrules.find_rule(ALICE, changes, "override", "few")
    assert rule is not None
    assert rule["conditions"] == conditions


@pytest.mark.parametrize(
    ("before", "after", "order"),
    [
        (None, None, ["n", "a", "b", "c"]),
        ("b", None, ["a", "n", "b", "c"]),
        (None, "b", ["a", "b", "n", "c"]),
        ("c", "a", ["a", "b", "n", "c"]),
        (None, "c", ["a", "b", "c", "n"]),
    ],
)
def test_a_rule_is_put_before_or_after_another(
    before: str | None, after: str | None, order: list[str]
) -> None:
    changes = pushrules.put_rule(
        with_rooms("a", "b", "c"), "room", "n", QUIET, before=before, after=after
    )
    assert own_ids(changes, "room") == order


def test_an_update_keeps_place_and_switch_unless_told_otherwise() -> None:
    changes = pushrules.set_enabled(with_rooms("a", "b", "c"), "room", "b", False)
    assert changes is not None
    changes = pushrules.put_rule(changes, "room", "b", {"actions": ["notify"]})
    assert own_ids(changes, "room") == ["a", "b", "c"]
    rule = pushrules.find_rule(ALICE, changes, "room", "b")
    assert rule is not None
    assert rule["enabled"] is False
    assert rule["actions"] == ["notify"]
    changes = pushrules.put_rule(changes, "room", "a", QUIET, after="c")
    assert own_ids(changes, "room") == ["b", "c", "a"]


@pytest.mark.parametrize("other", ["missing", ".m.rule.master", "n"])
def test_a_rule_needs_another_one_of_the_user_to_stand_beside(other: str) -> None:
    for where in ({"before": other}, {"after": other}, {"before": "a", "after": other}):
        with pytest.raises(Rejected, match="before/after rule not found"):
            pushrules.put_rule(with_rooms("a"), "room", "n", QUIET, **where)


@pytest.mark.parametrize("rule_id", [".m.rule.master", ".x", "a/b", "a\\b", "", "x" * 1025])
def test_rule_ids_that_are_not_allowed(rule_id: str) -> None:
    with pytest.raises(Malformed):
        pushrules.put_rule(Changes(), "override", rule_id, QUIET)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("override", {}, "actions"),
        ("override", {"actions": "notify"}, "actions"),
        ("override", {"actions": ["shout"]}, "actions[0]"),
        ("override", {"actions": [7]}, "actions[0]"),
        ("override", {"actions": [{"tweak": "x"}]}, "actions[0]"),
        ("override", {"actions": [{"set_tweak": 1}]}, "actions[0]"),
        ("override", {"actions": ["notify"] * 101}, "actions"),
        ("override", {"actions": [], "conditions": {}}, "conditions"),
        ("underride", {"actions": [], "conditions": ["x"]}, "conditions[0]"),
        ("underride", {"actions": [], "conditions": [{}]}, "conditions[0].kind"),
        (
            "underride",
            {"actions": [], "conditions": [{"kind": "event_match", "key": 1}]},
            "conditions[0].key",
        ),
        (
            "override",
            {"actions": [], "conditions": [{"kind": "event_property_is", "value": []}]},
            "conditions[0].value",
        ),
        ("content", {"actions": []}, "pattern"),
        ("content", {"actions": [], "pattern": 1}, "pattern"),
        ("content", {"actions": [], "pattern": ""}, "pattern"),
    ],
)
def test_malformed_rules_are_refused_naming_the_field(
    kind: Kind, body: dict[str, Any], field: str
) -> None:
    with pytest.raises(Malformed) as caught:
        pushrules.put_rule(Changes(), kind, "r", body)
    assert str(caught.value).startswith(field + " ")


def test_historical_actions_are_dropped() -> None:
    body = {"actions": ["dont_notify", "coalesce", {"set_tweak": "highlight"}]}
    changes = pushrules.put_rule(Changes(), "sender", ALICE, body)
    rule = pushrules.find_rule(ALICE, changes, "sender", ALICE)
    assert rule is not None
    assert rule["actions"] == [{"set_tweak": "highlight"}]


def test_rules_are_unique_within_their_kind_only() -> None:
    changes = pushrules.put_rule(Changes(), "room", "x", QUIET)
    changes = pushrules.put_rule(changes, "sender", "x", QUIET)
    deleted = pushrules.delete_rule(changes, "room", "x")
    assert deleted is not None
    assert own_ids(deleted, "room") == []
    assert own_ids(deleted, "sender") == ["x"]
    assert own_ids(changes, "room") == ["x"]


def test_what_does_not_exist_cannot_be_deleted_or_changed() -> None:
    assert pushrules.delete_rule(Changes(), "room", "x") is None
    assert pushrules.delete_rule(Changes(), "override", ".m.rule.master") is None
    assert pushrules.set_enabled(Changes(), "room", "x", True) is None
    assert pushrules.set_enabled(Changes(), "underride", ".m.rule.master", True) is None
    assert pushrules.set_actions(Changes(), "override", ".m.rule.gone", []) is None
    assert pushrules.find_rule(ALICE, Changes(), "room", "x") is None


def test_default_rules_can_be_switched_and_get_other_actions() -> None:
    changes = pushrules.set_enabled(Changes(), "override", ".m.rule.master", True)
    assert changes is not None
    changes = pushrules.set_actions(changes, "underride", ".m.rule.message", ["dont_notify"])
    assert changes is not None
    changes = pushrules.set_enabled(changes, "underride", ".m.rule.message", False)
    assert changes is not None
    master = pushrules.find_rule(ALICE, changes, "override", ".m.rule.master")
    message = pushrules.find_rule(ALICE, changes, "underride", ".m.rule.message")
    assert master is not None
    assert message is not None
    assert master["enabled"] is True
    assert master["default"] is True
    assert message["enabled"] is False
    assert message["actions"] == []
    assert message["conditions"] != []


def test_actions_of_an_own_rule_can_be_replaced() -> None:
    changes = pushrules.set_actions(with_rooms("a"), "room", "a", ["notify"])
    assert changes is not None
    rule = pushrules.find_rule(ALICE, changes, "room", "a")
    assert rule is not None
    assert rule["actions"] == ["notify"]
    with pytest.raises(Malformed):
        pushrules.set_actions(changes, "room", "a", None)


def test_kinds() -> None:
    assert pushrules.kind_of("override") == "override"
    with pytest.raises(Malformed):
        pushrules.kind_of("device")


def test_changes_survive_being_stored() -> None:
    changes = with_rooms("a", "b")
    changes = pushrules.put_rule(
        changes, "content", "c", {"actions": ["notify"], "pattern": "x"}, before=None
    )
    master = pushrules.set_enabled(changes, "override", ".m.rule.master", True)
    assert master is not None
    assert Changes.decode(master.encode()) == master
    assert Changes.decode(b"{}") == Changes()


def test_the_number_of_rules_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushrules, "MAX_RULES", 2)
    changes = with_rooms("a", "b")
    with pytest.raises(Rejected):
        pushrules.put_rule(changes, "sender", "c", QUIET)
    assert own_ids(pushrules.put_rule(changes, "room", "a", QUIET, after="b"), "room") == [
        "b",
        "a",
    ]

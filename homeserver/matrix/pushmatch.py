"""Matching push rules against an event.

Owns the meaning of conditions: which rule of a ruleset is the first that an event meets, and what
its actions say. Invariant: time is bounded by the sizes of event and ruleset, also where pattern
and text are hostile. A condition of a kind that nobody knows is never met, nor is the deprecated
`contains_display_name`. What the rules are stands in `pushrules`.
spec: client-server-api#push-rules
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.pushrules import KINDS, Actions

_MOST_SEARCHED = 8_192
_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,15})")
_MISSING = object()


class Outcome(NamedTuple):
    """What one user is to hear of an event, and whether it is shown as a highlight."""

    notify: bool
    highlight: bool


SILENT = Outcome(notify=False, highlight=False)


class Facts(NamedTuple):
    """An event in its room.

    `event` has `type`, `sender`, `room_id`, `content` and, for state, `state_key`. `members` is the
    number of joined members; `may_ping` whether its sender may notify the whole room.
    """

    event: JsonObject
    members: int
    may_ping: bool


def actions_for(ruleset: JsonObject, facts: Facts) -> Actions | None:
    """The actions of the first enabled rule of the ruleset that the event meets, None without one.

    `ruleset` is what `pushrules.ruleset` gives.
    """
    for kind in KINDS:
        for rule in ruleset[kind]:
            if rule["enabled"] and _meets(kind, rule, facts):
                actions: Actions = rule["actions"]
                return actions
    return None


def outcome_of(actions: Actions | None) -> Outcome:
    """What actions mean for counts; a highlight without a notification is none."""
    if not actions or "notify" not in actions:
        return SILENT
    return Outcome(notify=True, highlight=bool(tweaks_of(actions).get("highlight", False)))


def tweaks_of(actions: Actions) -> JsonObject:
    """The tweaks that actions set; `highlight` without a value is true, others then say nothing."""
    tweaks: JsonObject = {}
    for action in actions:
        if isinstance(action, dict):
            name = action["set_tweak"]
            value = action.get("value", True if name == "highlight" else None)
            if value is not None:
                tweaks[name] = value
    return tweaks


def _meets(kind: str, rule: JsonObject, facts: Facts) -> bool:
    if kind == "room":
        return bool(rule["rule_id"] == facts.event["room_id"])
    if kind == "sender":
        return bool(rule["rule_id"] == facts.event["sender"])
    if kind == "content" and "pattern" in rule:
        return _matches("content.body", rule["pattern"], facts.event)
    return all(_holds(condition, facts) for condition in rule.get("conditions", ()))


def _holds(condition: JsonObject, facts: Facts) -> bool:
    kind, key = condition.get("kind"), condition.get("key")
    if kind == "room_member_count":
        return _counts(condition.get("is"), facts.members)
    if not isinstance(key, str):
        return False
    if kind == "event_match":
        pattern = condition.get("pattern")
        return isinstance(pattern, str) and _matches(key, pattern, facts.event)
    if kind == "event_property_is":
        return "value" in condition and _same(_value(facts.event, key), condition["value"])
    if kind == "event_property_contains":
        found = _value(facts.event, key)
        return (
            isinstance(found, list)
            and "value" in condition
            and any(_same(item, condition["value"]) for item in found)
        )
    return kind == "sender_notification_permission" and key == "room" and facts.may_ping


def _same(left: Any, right: Any) -> bool:
    """Equality as JSON has it: `true` is not 1; compound values equal nothing."""
    return not isinstance(left, dict | list) and type(left) is type(right) and bool(left == right)


def _counts(text: object, members: int) -> bool:
    match = _COUNT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return False
    bound = int(match[2])
    compared = {"<": members < bound, ">": members > bound, "<=": members <= bound}
    compared[">="] = members >= bound
    return compared.get(match[1] or "==", members == bound)


def _matches(key: str, pattern: str, event: JsonObject) -> bool:
    found = _value(event, key)
    if not isinstance(found, str):
        return False
    if key == "content.body":
        return _words(pattern).search(found[:_MOST_SEARCHED]) is not None
    return _whole(pattern).fullmatch(found[:_MOST_SEARCHED]) is not None


def _value(event: JsonObject, key: str) -> Any:
    """The value at a dotted path, in which a backslash guards dots and backslashes."""
    value: Any = event
    for part in _path(key):
        value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
    return value


@lru_cache(maxsize=4_096)
def _path(key: str) -> tuple[str, ...]:
    parts = re.findall(r"((?:\\.|[^.\\]|\\)*)(?:\.|\Z)", key, re.DOTALL)
    if not key.endswith("."):
        parts = parts[:-1] if len(parts) > 1 and parts[-1] == "" else parts
    return tuple(re.sub(r"\\([.\\])", r"\1", part) for part in parts)


def matches_glob(pattern: str, text: str) -> bool:
    """Whether the whole text fits, in any case; `*` is any text, `?` any character."""
    return _whole(pattern).fullmatch(text) is not None


@lru_cache(maxsize=4_096)
def _whole(pattern: str) -> re.Pattern[str]:
    return re.compile(_glob(pattern), re.IGNORECASE | re.DOTALL)


@lru_cache(maxsize=4_096)
def _words(pattern: str) -> re.Pattern[str]:
    """The glob between characters that belong to no word, or the ends of the text."""
    return re.compile(rf"(?:\A|(?<=\W)){_glob(pattern)}(?=\W|\Z)", re.IGNORECASE | re.DOTALL)


def _glob(pattern: str) -> str:
    """A glob as an expression that gives up each stretch between stars only once."""
    pieces = [re.escape(piece).replace(r"\?", ".") for piece in re.split(r"\*+", pattern)]
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1])
    return f"{pieces[0]}{middle}.*?{pieces[-1]}"

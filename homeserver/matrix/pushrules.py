"""Push rules: the default rules and a user's changes to them.

Owns the server-default ruleset of the specification and the operations on a user's own rules.
Only what a user changed is kept (`Changes`); the full ruleset is derived from it, so a new default
rule reaches everybody. All functions are pure and return new changes. A rule that does not exist
is answered by None. Matching rules against events is done elsewhere.
spec: client-server-api#push-rules
"""

from typing import Any, Literal, get_args

import msgspec

from homeserver.matrix.canonical import JsonObject, decode, encode
from homeserver.matrix.errors import Malformed, Rejected

Kind = Literal["override", "content", "room", "sender", "underride"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Actions = list[Any]

MAX_RULES = 5_000
MAX_RULE_ID = 1_024
MAX_PARTS = 100

# Removed from the specification; to be ignored where they occur.
_HISTORICAL_ACTIONS = ("dont_notify", "coalesce")


class UserRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule that the user made; its kind says which of `conditions` and `pattern` is set."""

    rule_id: str
    actions: Actions
    enabled: bool = True
    conditions: list[JsonObject] | None = None
    pattern: str | None = None


class DefaultChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the user changed of a server-default rule; None leaves the default."""

    enabled: bool | None = None
    actions: Actions | None = None


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a user changed: own rules by kind, most important first; default rules by id."""

    rules: dict[str, list[UserRule]] = {}
    defaults: dict[str, DefaultChange] = {}

    def encode(self) -> bytes:
        """The form in which changes are stored."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "Changes":
        """The inverse of `encode`, for bytes that came from it."""
        return msgspec.json.decode(data, type=cls)


def kind_of(name: str) -> Kind:
    """The kind of that name; Malformed if there is none."""
    if name not in KINDS:
        raise Malformed(f"kind must be one of {', '.join(KINDS)}")
    return name


def ruleset(user_id: str, changes: Changes) -> JsonObject:
    """The user's complete ruleset, `{kind: [rule, ...]}`, most important rules first.

    Under the key `global` it is the reply of `GET /pushrules/`.
    spec: client-server-api#predefined-rules
    """
    defaults = _default_rules(user_id, changes.defaults)
    full: JsonObject = {}
    for kind in KINDS:
        own = [_shown(rule) for rule in changes.rules.get(kind, ())]
        if kind == "override":
            master, *others = defaults[kind]
            full[kind] = [master, *own, *others]
        else:
            full[kind] = own + defaults.get(kind, [])
    return full


def push_rules_content(user_id: str, stored: bytes | None) -> bytes:
    """The content of the user's `m.push_rules` as JSON.

    `stored` are their `Changes` in stored form, None when they never changed anything.
    """
    changes = Changes.decode(stored) if stored is not None else Changes()
    return encode({"global": ruleset(user_id, changes)})


def find_rule(user_id: str, changes: Changes, kind: Kind, rule_id: str) -> JsonObject | None:
    """One rule as clients see it, or None."""
    rules: list[JsonObject] = ruleset(user_id, changes)[kind]
    return next((rule for rule in rules if rule["rule_id"] == rule_id), None)


def put_rule(
    changes: Changes,
    kind: Kind,
    rule_id: str,
    body: JsonObject,
    *,
    before: str | None = None,
    after: str | None = None,
) -> Changes:
    """Add a rule, or update the one of this id, keeping whether it is enabled.

    Without `before` and `after` a new rule becomes the most important of its kind and an updated
    one stays where it is; `before` wins over `after`. Malformed names a bad field; Rejected: there
    is no rule to stand before or after, or there are too many rules.
    spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
    """
    _check_rule_id(rule_id)
    rules = list(changes.rules.get(kind, ()))
    place = next((at for at, rule in enumerate(rules) if rule.rule_id == rule_id), None)
    enabled = True if place is None else rules.pop(place).enabled
    if place is None and sum(map(len, changes.rules.values())) >= MAX_RULES:
        raise Rejected(f"You cannot have more than {MAX_RULES} push rules")
    below = _place(rules, after) + 1 if after is not None else place or 0
    at = _place(rules, before) if before is not None else below
    rules.insert(at, _parse_rule(kind, rule_id, body, enabled))
    return _with_rules(changes, kind, rules)


def delete_rule(changes: Changes, kind: Kind, rule_id: str) -> Changes | None:
    """Without the user's rule; None when there is none (default rules cannot be deleted)."""
    rules = changes.rules.get(kind, [])
    left = [rule for rule in rules if rule.rule_id != rule_id]
    return None if len(left) == len(rules) else _with_rules(changes, kind, left)


def set_enabled(changes: Changes, kind: Kind, rule_id: str, enabled: bool) -> Changes | None:
    """With a rule, the user's or a default one, switched on or off; None when it does not exist."""
    return _change_rule(changes, kind, rule_id, enabled=enabled)


def set_actions(changes: Changes, kind: Kind, rule_id: str, actions: object) -> Changes | None:
    """With other actions for a rule, the user's or a default one; None when it does not exist.

    Malformed when `actions` is not a list of actions.
    """
    return _change_rule(changes, kind, rule_id, actions=parse_actions(actions))


def parse_actions(value: object) -> Actions:
    """A rule's actions, without those that are to be ignored; Malformed otherwise.

    spec: client-server-api#actions
    """
    if not isinstance(value, list):
        raise Malformed("actions must be a list")
    if len(value) > MAX_PARTS:
        raise Malformed(f"actions has more than {MAX_PARTS} entries")
    for index, action in enumerate(value):
        if isinstance(action, dict):
            if not isinstance(action.get("set_tweak"), str):
                raise Malformed(f"actions[{index}] must name a tweak in set_tweak")
        elif action != "notify" and action not in _HISTORICAL_ACTIONS:
            raise Malformed(f"actions[{index}] is not a known action")
    return [action for action in value if action not in _HISTORICAL_ACTIONS]


def _change_rule(
    changes: Changes,
    kind: Kind,
    rule_id: str,
    *,
    enabled: bool | None = None,
    actions: Actions | None = None,
) -> Changes | None:
    wanted = {"enabled": enabled, "actions": actions}
    changed = {name: value for name, value in wanted.items() if value is not None}
    if rule_id in _DEFAULT_IDS.get(kind, ()):
        old = changes.defaults.get(rule_id, DefaultChange())
        new = msgspec.structs.replace(old, **changed)
        return Changes(changes.rules, {**changes.defaults, rule_id: new})
    rules = list(changes.rules.get(kind, ()))
    for at, rule in enumerate(rules):
        if rule.rule_id == rule_id:
            rules[at] = msgspec.structs.replace(rule, **changed)
            return _with_rules(changes, kind, rules)
    return None


def _with_rules(changes: Changes, kind: Kind, rules: list[UserRule]) -> Changes:
    return Changes({**changes.rules, kind: rules}, changes.defaults)


def _place(rules: list[UserRule], rule_id: str) -> int:
    for at, rule in enumerate(rules):
        if rule.rule_id == rule_id:
            return at
    raise Rejected(f"before/after rule not found: {rule_id}")


def _check_rule_id(rule_id: str) -> None:
    if rule_id.startswith("."):
        raise Malformed("rule ids that start with a dot are reserved for the server's rules")
    if "/" in rule_id or "\\" in rule_id:
        raise Malformed("rule ids hold no slashes or backslashes")
    if not rule_id or len(rule_id) > MAX_RULE_ID:
        raise Malformed(f"rule ids have 1 to {MAX_RULE_ID} characters")


def _parse_rule(kind: Kind, rule_id: str, body: JsonObject, enabled: bool) -> UserRule:
    actions = parse_actions(body.get("actions"))
    if kind == "content":
        pattern = body.get("pattern")
        if not isinstance(pattern, str) or not pattern:
            raise Malformed("pattern must be a string that is not empty")
        return UserRule(rule_id, actions, enabled, pattern=pattern)
    if kind in ("override", "underride"):
        conditions = _parse_conditions(body.get("conditions"))
        return UserRule(rule_id, actions, enabled, conditions=conditions)
    return UserRule(rule_id, actions, enabled)


def _parse_conditions(value: object) -> list[JsonObject]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Malformed("conditions must be a list")
    if len(value) > MAX_PARTS:
        raise Malformed(f"conditions has more than {MAX_PARTS} entries")
    for index, condition in enumerate(value):
        if not isinstance(condition, dict):
            raise Malformed(f"conditions[{index}] must be an object")
        if not isinstance(condition.get("kind"), str):
            raise Malformed(f"conditions[{index}].kind must be a string")
        for key in ("key", "pattern", "is"):
            if not isinstance(condition.get(key, ""), str):
                raise Malformed(f"conditions[{index}].{key} must be a string")
        if isinstance(condition.get("value"), dict | list | float):
            raise Malformed(f"conditions[{index}].value must not be compound")
    return value


def _shown(rule: UserRule) -> JsonObject:
    shown: JsonObject = {
        "rule_id": rule.rule_id,
        "default": False,
        "enabled": rule.enabled,
        "actions": rule.actions,
    }
    if rule.conditions is not None:
        shown["conditions"] = rule.conditions
    if rule.pattern is not None:
        shown["pattern"] = rule.pattern
    return shown


def _default_rules(user_id: str, changes: dict[str, DefaultChange]) -> dict[str, list[JsonObject]]:
    # To read them is a tenth of what it costs to copy them.
    defaults: dict[str, list[JsonObject]] = decode(_DEFAULTS_JSON)
    for rules in defaults.values():
        for rule in rules:
            for condition in rule["conditions"]:
                for key in ("pattern", "value"):
                    if condition.get(key) == _OWN_USER_ID:
                        condition[key] = user_id
            change = changes.get(rule["rule_id"])
            if change is not None and change.enabled is not None:
                rule["enabled"] = change.enabled
            if change is not None and change.actions is not None:
                rule["actions"] = change.actions
    return defaults


def _rule(
    rule_id: str, conditions: list[JsonObject], *actions: Any, enabled: bool = True
) -> JsonObject:
    return {
        "rule_id": f".m.rule.{rule_id}",
        "default": True,
        "enabled": enabled,
        "conditions": conditions,
        "actions": list(actions),
    }


def _match(key: str, pattern: str) -> JsonObject:
    return {"kind": "event_match", "key": key, "pattern": pattern}


_OWN_USER_ID = "\0own user id"
_SOUND: JsonObject = {"set_tweak": "sound", "value": "default"}
_HIGHLIGHT: JsonObject = {"set_tweak": "highlight"}
_TWO_MEMBERS: JsonObject = {"kind": "room_member_count", "is": "2"}

# spec: client-server-api#default-override-rules and client-server-api#default-underride-rules
_DEFAULTS: dict[str, list[JsonObject]] = {
    "override": [
        _rule("master", [], enabled=False),
        _rule("suppress_notices", [_match("content.msgtype", "m.notice")]),
        _rule(
            "invite_for_me",
            [
                _match("type", "m.room.member"),
                _match("content.membership", "invite"),
                _match("state_key", _OWN_USER_ID),
            ],
            "notify",
            _SOUND,
        ),
        _rule("member_event", [_match("type", "m.room.member")]),
        _rule(
            "is_user_mention",
            [
                {
                    "kind": "event_property_contains",
                    "key": r"content.m\.mentions.user_ids",
                    "value": _OWN_USER_ID,
                }
            ],
            "notify",
            _SOUND,
            _HIGHLIGHT,
        ),
        _rule(
            "is_room_mention",
            [
                {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ],
            "notify",
            _HIGHLIGHT,
        ),
        _rule(
            "tombstone",
            [_match("type", "m.room.tombstone"), _match("state_key", "")],
            "notify",
            _HIGHLIGHT,
        ),
        _rule("reaction", [_match("type", "m.reaction")]),
        _rule("room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")]),
        _rule(
            "suppress_edits",
            [
                {
                    "kind": "event_property_is",
                    "key": r"content.m\.relates_to.rel_type",
                    "value": "m.replace",
                }
            ],
        ),
    ],
    "underride": [
        _rule(
            "call",
            [_match("type", "m.call.invite")],
            "notify",
            {"set_tweak": "sound", "value": "ring"},
        ),
        _rule(
            "encrypted_room_one_to_one",
            [_TWO_MEMBERS, _match("type", "m.room.encrypted")],
            "notify",
            _SOUND,
        ),
        _rule(
            "room_one_to_one",
            [_TWO_MEMBERS, _match("type", "m.room.message")],
            "notify",
            _SOUND,
        ),
        _rule("message", [_match("type", "m.room.message")], "notify"),
        _rule("encrypted", [_match("type", "m.room.encrypted")], "notify"),
    ],
}
_DEFAULTS_JSON = encode(_DEFAULTS)
_DEFAULT_IDS = {kind: {rule["rule_id"] for rule in rules} for kind, rules in _DEFAULTS.items()}

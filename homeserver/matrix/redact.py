"""What remains of an event when it is redacted, by room version.

Owns the lists of keys that survive. The same function serves display, signatures and event ids, so
what it keeps decides both who can read and what is signed. Whether a redaction may be applied is
decided elsewhere.
spec: client-server-api#redactions
"""

from functools import cache

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.versions import RoomRules

_TOP_LEVEL = (
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
)
_TOP_LEVEL_BEFORE_V11 = (*_TOP_LEVEL, "prev_state", "origin", "membership")

_POWER_LEVELS = (
    "ban",
    "events",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
)


def redact(pdu: JsonObject, rules: RoomRules) -> JsonObject:
    """A new PDU with only what the room version protects; `unsigned` is not part of that.

    Shares the values that it keeps with `pdu`, which stays as it is. Never raises on a JSON
    object: a `content` that is no object becomes an empty one.
    spec: rooms#feature-matrix
    """
    kept = {key: pdu[key] for key in _top_level(rules) if key in pdu}
    kept["content"] = redact_content(pdu.get("type"), pdu.get("content"), rules)
    return kept


def redact_content(event_type: object, content: object, rules: RoomRules) -> JsonObject:
    """What remains of the content of an event of this type, as a new object."""
    if not isinstance(content, dict) or not isinstance(event_type, str):
        return {}
    if event_type == "m.room.create" and rules.redaction_v11:
        return dict(content)
    protected = _content_keys(rules).get(event_type)
    if protected is None:
        return {}
    kept = {key: content[key] for key in protected if key in content}
    if event_type == "m.room.member" and rules.redaction_v11:
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):
            # The object stays, also when nothing is left of it: other servers hash it so.
            kept["third_party_invite"] = {key: invite[key] for key in ("signed",) if key in invite}
    return kept


def _top_level(rules: RoomRules) -> tuple[str, ...]:
    return _TOP_LEVEL if rules.redaction_v11 else _TOP_LEVEL_BEFORE_V11


@cache
def _content_keys(rules: RoomRules) -> dict[str, tuple[str, ...]]:
    """By event type, the keys of its content that survive."""
    keys: dict[str, tuple[str, ...]] = {
        "m.room.member": ("membership",),
        "m.room.create": ("creator",),
        "m.room.join_rules": ("join_rule",),
        "m.room.power_levels": _POWER_LEVELS,
        "m.room.history_visibility": ("history_visibility",),
    }
    if rules.aliases_by_domain:
        keys["m.room.aliases"] = ("aliases",)
    if rules.restricted_joins:
        keys["m.room.join_rules"] = ("join_rule", "allow")
    if rules.keep_join_authorised:
        keys["m.room.member"] = ("membership", "join_authorised_via_users_server")
    if rules.redaction_v11:
        keys["m.room.power_levels"] = (*_POWER_LEVELS, "invite")
        keys["m.room.redaction"] = ("redacts",)
    return keys

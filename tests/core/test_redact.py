"""Redaction: what survives, in which room version."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.redact import redact
from homeserver.matrix.versions import ROOM_VERSIONS

ALWAYS = {
    "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures",
    "depth", "prev_events", "auth_events", "origin_server_ts",
}  # fmt: skip
BEFORE_V11 = {"prev_state", "origin", "membership"}
LOST = {"unsigned", "redacts", "age_ts", "org.example.extra"}
LEVELS = {
    "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default",
}  # fmt: skip
CONTENT_KEYS = sorted(
    LEVELS
    | {"membership", "join_authorised_via_users_server", "creator", "room_version", "join_rule"}
    | {"allow", "invite", "notifications", "aliases", "history_visibility", "redacts", "body"}
)

each_version = pytest.mark.parametrize("number", range(1, 13))


def surviving(number: int, event_type: str) -> set[str]:
    """Of a content with every known key, the keys that redaction leaves."""
    pdu = {"type": event_type, "content": dict.fromkeys(CONTENT_KEYS, 1)}
    return set(redact(pdu, ROOM_VERSIONS[str(number)])["content"])


@each_version
def test_top_level_keys(number: int) -> None:
    pdu = {**dict.fromkeys(ALWAYS | BEFORE_V11 | LOST, "x"), "content": {}}
    expected = ALWAYS | BEFORE_V11 if number < 11 else ALWAYS
    assert set(redact(pdu, ROOM_VERSIONS[str(number)])) == expected


@each_version
def test_content_keys(number: int) -> None:
    assert surviving(number, "m.room.member") == {"membership"} | (
        {"join_authorised_via_users_server"} if number >= 9 else set()
    )
    assert surviving(number, "m.room.create") == ({"creator"} if number < 11 else set(CONTENT_KEYS))
    assert surviving(number, "m.room.join_rules") == {"join_rule"} | (
        {"allow"} if number >= 8 else set()
    )
    assert surviving(number, "m.room.power_levels") == LEVELS | (
        {"invite"} if number >= 11 else set()
    )
    assert surviving(number, "m.room.aliases") == ({"aliases"} if number <= 5 else set())
    assert surviving(number, "m.room.history_visibility") == {"history_visibility"}
    assert surviving(number, "m.room.redaction") == ({"redacts"} if number >= 11 else set())
    assert surviving(number, "m.room.message") == set()
    assert surviving(number, "m.room.name") == set()


@each_version
@pytest.mark.parametrize(
    ("invite", "kept"),
    [
        ({"signed": {"token": "t"}, "display_name": "Bob"}, {"signed": {"token": "t"}}),
        ({"display_name": "Bob"}, {}),
        ("not an object", None),
    ],
)
def test_a_third_party_invite_keeps_what_was_signed_from_11_on(
    number: int, invite: object, kept: object
) -> None:
    content = {"membership": "invite", "third_party_invite": invite}
    redacted = redact({"type": "m.room.member", "content": content}, ROOM_VERSIONS[str(number)])
    if number < 11 or kept is None:
        assert redacted["content"] == {"membership": "invite"}
    else:
        assert redacted["content"] == {"membership": "invite", "third_party_invite": kept}


@pytest.mark.parametrize("content", [None, [], "text", 1])
def test_a_content_that_is_no_object_becomes_an_empty_one(content: object) -> None:
    assert redact({"type": "m.room.create", "content": content}, ROOM_VERSIONS["12"]) == {
        "type": "m.room.create",
        "content": {},
    }


EVENT_TYPES = [
    "m.room.member",
    "m.room.create",
    "m.room.join_rules",
    "m.room.power_levels",
    "m.room.aliases",
    "m.room.history_visibility",
    "m.room.redaction",
    "m.room.message",
]
values = st.none() | st.integers(0, 9) | st.just({"signed": 1, "b": 2})
events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(EVENT_TYPES),
        "content": st.dictionaries(st.sampled_from([*CONTENT_KEYS, "third_party_invite"]), values),
    },
    optional=dict.fromkeys(["state_key", "origin", "unsigned", "signatures"], values),
)


@given(events, st.sampled_from(sorted(ROOM_VERSIONS)))
def test_redaction_is_idempotent_and_changes_nothing_in_place(
    pdu: dict[str, Any], version: str
) -> None:
    before: JsonObject = {**pdu, "content": dict(pdu["content"])}
    once = redact(pdu, ROOM_VERSIONS[version])
    assert pdu == before
    assert redact(once, ROOM_VERSIONS[version]) == once
    assert once["content"] is not pdu["content"]

"""Events: the format that each room version demands, and what we build ourselves."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical import MAX_INT, JsonObject, decode, decode_object, encode
from homeserver.matrix.errors import Malformed, TooLarge
from homeserver.matrix.event import MAX_PDU_BYTES, Event, build
from homeserver.matrix.redact import redact
from homeserver.matrix.sign import (
    SigningKey,
    content_hash_fits,
    reference_hash,
    required_signers,
    verify_event,
)
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from tests.core.real_events import EVENTS, VERIFY_KEYS, RealEvent

KEY = SigningKey("one", b"1" * 32)
ID = "$" + "b" * 43

each_version = pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=ROOM_VERSIONS.keys())
lenient = [rules for rules in ROOM_VERSIONS.values() if not rules.strict_json]
strict = [rules for rules in ROOM_VERSIONS.values() if rules.strict_json]
each_lenient = pytest.mark.parametrize("rules", lenient, ids=lambda rules: rules.version)
each_strict = pytest.mark.parametrize("rules", strict, ids=lambda rules: rules.version)


def room_id_of(rules: RoomRules) -> str:
    return "!" + "r" * 43 if rules.room_id_is_hash else "!room:example.org"


def event_id_of(rules: RoomRules, letter: str) -> str:
    return f"${letter}:example.org" if rules.event_ids == "sender" else "$" + letter * 43


def make(rules: RoomRules, **changes: Any) -> tuple[Event, bytes]:
    """Build a message with the given arguments of `build` changed."""
    arguments: dict[str, Any] = {
        "room_id": room_id_of(rules),
        "sender": "@alice:example.org",
        "type": "m.room.message",
        "content": {"msgtype": "m.text", "body": "Grüße"},
        "state_key": None,
        "prev_event_ids": [event_id_of(rules, "p")],
        "auth_event_ids": [event_id_of(rules, "a"), event_id_of(rules, "b")],
        "depth": 7,
        "origin_server_ts": 1_700_000_000_000,
        "sign": KEY,
        "server_name": "example.org",
    }
    return build(rules, **(arguments | changes))


def received(rules: RoomRules, **changes: Any) -> JsonObject:
    """A PDU like that of `make` with fields changed, or removed by `...`."""
    pdu = {**make(rules)[0].pdu, **changes}
    return {key: value for key, value in pdu.items() if value is not ...}


# Building


def assert_sound(event: Event, data: bytes) -> None:
    """What we built is what every receiver makes of its bytes."""
    assert data == encode(event.pdu)
    parsed = Event.parse(decode(data), event.rules)
    for name in Event.__slots__:
        assert getattr(parsed, name) == getattr(event, name), name
    assert content_hash_fits(event.pdu)
    assert required_signers(event) == {"example.org"}
    assert verify_event(event, "example.org", {KEY.key_id: KEY.public_key})


@each_version
def test_what_we_build_parses_to_the_same_event(rules: RoomRules) -> None:
    event, data = make(rules)
    assert_sound(event, data)
    assert event.room_id == room_id_of(rules)
    assert event.prev_event_ids == [event_id_of(rules, "p")]
    assert event.auth_event_ids == [event_id_of(rules, "a"), event_id_of(rules, "b")]
    assert not event.is_state


@each_version
def test_a_sticky_event_that_we_build_parses_to_the_same_event(rules: RoomRules) -> None:
    event, data = make(rules, sticky={"msc4354_sticky": {"duration_ms": 1}})
    assert_sound(event, data)
    assert event.pdu["msc4354_sticky"] == {"duration_ms": 1}
    assert "msc4354_sticky" not in redact(event.pdu, rules)


@each_version
@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        ("m.room.member", {"membership": "join", "displayname": "A"}),
        ("m.room.power_levels", {"users": {"@alice:example.org": 100}, "invite": 0, "x": 1}),
        ("m.room.join_rules", {"join_rule": "restricted", "allow": []}),
        ("m.room.aliases", {"aliases": ["#a:example.org"]}),
        ("m.room.topic", {"topic": "of the day"}),
    ],
)
def test_state_that_we_build_parses_to_the_same_event(
    rules: RoomRules, event_type: str, content: JsonObject
) -> None:
    event, data = make(rules, type=event_type, content=content, state_key="")
    assert_sound(event, data)
    assert event.is_state
    assert event.key == (event_type, "")


@each_version
def test_the_create_event_names_its_room_before_version_12_and_is_its_name_from_12_on(
    rules: RoomRules,
) -> None:
    event, data = make(
        rules,
        room_id=None if rules.room_id_is_hash else "!room:example.org",
        type="m.room.create",
        state_key="",
        content={"room_version": rules.version, "creator": "@alice:example.org"},
        prev_event_ids=[],
        auth_event_ids=[],
        depth=1,
    )
    assert_sound(event, data)
    if rules.room_id_is_hash:
        assert "room_id" not in event.pdu
        assert event.room_id == "!" + event.event_id[1:]
    else:
        assert event.room_id == "!room:example.org"


@each_version
def test_redacts_stands_where_the_version_has_it(rules: RoomRules) -> None:
    content = {"reason": "spam"}
    event, data = make(rules, type="m.room.redaction", content=content, redacts=ID)
    assert_sound(event, data)
    assert event.redacts == ID
    assert ("redacts" in event.pdu) is (int(rules.version) < 11)
    assert ("redacts" in event.content) is (int(rules.version) >= 11)
    assert content == {"reason": "spam"}


@each_version
def test_redacts_means_nothing_on_other_types(rules: RoomRules) -> None:
    assert Event.parse(received(rules, redacts=ID), rules).redacts is None


@pytest.mark.parametrize("version", ["1", "2"])
def test_versions_1_and_2_have_ids_of_our_choice_and_pairs_of_ids_and_hashes(version: str) -> None:
    rules = ROOM_VERSIONS[version]
    hashes = {"$a:example.org": "hash"}
    event, _ = make(rules, event_id_domain="example.org:8448", reference_hashes=hashes)
    assert event.event_id == event.pdu["event_id"]
    assert event.event_id.endswith(":example.org:8448")
    assert event.pdu["auth_events"] == [
        ["$a:example.org", {"sha256": "hash"}],
        ["$b:example.org", {}],
    ]
    assert event.event_id != make(rules, depth=8)[0].event_id


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INT, MAX_INT)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc$é.", max_size=3), inner)
    ),
    max_leaves=8,
)
contents = st.dictionaries(st.sampled_from(["membership", "body", "redacts", "é"]), json_values)


@given(
    st.sampled_from(list(ROOM_VERSIONS.values())),
    contents,
    st.sampled_from(["m.room.member", "m.room.redaction", "m.room.create", "org.example.x"]),
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
    st.integers(0, MAX_INT),
)
def test_whatever_we_build_parses_to_the_same_event(
    rules: RoomRules, content: JsonObject, event_type: str, state_key: str | None, depth: int
) -> None:
    assert_sound(*make(rules, content=content, type=event_type, state_key=state_key, depth=depth))


@each_lenient
@pytest.mark.parametrize("number", [1.5, 1e22, 1e-7, -0.0, 1e10, 2**60, -(2**70)])
def test_floats_and_big_integers_are_events_before_version_6(
    rules: RoomRules, number: float
) -> None:
    event, data = make(rules, content={"number": number})
    assert_sound(event, data)
    assert decode(data)["content"]["number"] == number


@each_lenient
def test_the_hashes_of_floats_do_not_depend_on_who_decoded_them(rules: RoomRules) -> None:
    data = encode(received(rules, content={"creator": 1e22}, type="m.room.create"))
    ours, plain = Event.parse(decode(data), rules), Event.parse(json.loads(data), rules)
    assert reference_hash(ours.pdu, rules) == reference_hash(plain.pdu, rules)


@each_strict
@pytest.mark.parametrize("number", [1.5, 1e22, 1e10, 1.0, 2**53, -(2**53)])
def test_floats_and_big_integers_are_malformed_from_version_6_on(
    rules: RoomRules, number: float
) -> None:
    with pytest.raises(Malformed):
        make(rules, content={"number": number})
    with pytest.raises(Malformed):
        Event.parse(received(rules, content={"number": number}), rules)


@each_version
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1: 2}, b"", (1,)])
def test_what_is_not_json_is_never_an_event(rules: RoomRules, value: object) -> None:
    with pytest.raises(Malformed):
        make(rules, content={"a": value})
    with pytest.raises(Malformed):
        Event.parse(received(rules, content={"a": value}), rules)


@each_version
def test_depth_stays_at_the_limit(rules: RoomRules) -> None:
    limit = MAX_INT if rules.strict_json else 2**63 - 1
    event, data = make(rules, depth=limit + 1)
    assert event.depth == limit
    assert_sound(event, data)
    with pytest.raises(Malformed):
        Event.parse(received(rules, depth=limit + 1), rules)


# Sizes


@each_version
def test_an_event_has_at_most_65536_bytes(rules: RoomRules) -> None:
    _, data = make(rules, content={"body": ""})
    body = "x" * (MAX_PDU_BYTES - len(data))
    largest, data = make(rules, content={"body": body})
    assert len(data) == MAX_PDU_BYTES
    assert_sound(largest, data)
    with pytest.raises(TooLarge):
        make(rules, content={"body": body + "x"})
    with pytest.raises(TooLarge):
        Event.parse({**largest.pdu, "content": {"body": body + "x"}}, rules)


@each_version
@pytest.mark.parametrize("field", ["type", "state_key"])
def test_type_and_state_key_have_at_most_255_bytes(rules: RoomRules, field: str) -> None:
    for longest in ("x" * 255, "é" * 127):
        assert_sound(*make(rules, **{"state_key": "", field: longest}))
        with pytest.raises(TooLarge):
            make(rules, **{field: longest + "é"})
        with pytest.raises(TooLarge):
            Event.parse(received(rules, **{field: longest + "é"}), rules)


@each_version
def test_ids_have_at_most_255_bytes(rules: RoomRules) -> None:
    with pytest.raises(Malformed):
        make(rules, sender="@" + "é" * 127 + ":a")
    with pytest.raises(Malformed):
        make(rules, room_id="!" + "é" * 127 + ":a")
    with pytest.raises(Malformed):
        make(rules, prev_event_ids=["$" + "é" * 128])


# What is received


@each_version
def test_unsigned_is_dropped_and_the_input_left_alone(rules: RoomRules) -> None:
    pdu = received(rules, unsigned={"age": 1.5, "x": "\ud800"})
    before = copy.deepcopy(pdu)
    event = Event.parse(pdu, rules)
    assert "unsigned" not in event.pdu
    assert pdu == before


@each_version
@pytest.mark.parametrize(
    "field",
    [
        "type",
        "sender",
        "content",
        "depth",
        "origin_server_ts",
        "hashes",
        "signatures",
        "room_id",
        "auth_events",
        "prev_events",
    ],
)
def test_required_fields(rules: RoomRules, field: str) -> None:
    with pytest.raises(Malformed):
        Event.parse(received(rules, **{field: ...}), rules)
    with pytest.raises(Malformed):
        Event.parse(received(rules, **{field: None}), rules)


@each_version
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", 1),
        ("type", "a\0b"),
        ("sender", "alice"),
        ("sender", "@alice"),
        ("sender", "@alice:not a server"),
        ("state_key", None),
        ("state_key", 0),
        ("state_key", "\0"),
        ("content", []),
        ("depth", -1),
        ("depth", True),
        ("depth", "1"),
        ("depth", 1.0),
        ("origin_server_ts", "1"),
        ("origin_server_ts", True),
        ("origin_server_ts", 2**63),
        ("hashes", {}),
        ("hashes", {"sha256": 1}),
        ("hashes", "x"),
        ("signatures", {"a": "b"}),
        ("signatures", {"a": {"ed25519:1": 1}}),
        ("room_id", "room"),
        ("room_id", "!"),
        ("room_id", ["!a:b"]),
        ("prev_events", {}),
        ("prev_events", [1]),
        ("prev_events", ["x"]),
        ("prev_events", [["$x:y"]]),
        ("prev_events", [["$x:y", "hash"]]),
        ("prev_events", [[1, {}]]),
        ("auth_events", [None]),
        ("auth_events", "$x"),
    ],
)
def test_fields_of_the_wrong_form(rules: RoomRules, field: str, value: object) -> None:
    with pytest.raises(Malformed):
        Event.parse(received(rules, **{field: value}), rules)


@each_version
@pytest.mark.parametrize(("field", "most"), [("auth_events", 10), ("prev_events", 20)])
def test_events_name_a_bounded_number_of_others(rules: RoomRules, field: str, most: int) -> None:
    entry = make(rules)[0].pdu[field][:1]
    Event.parse(received(rules, **{field: entry * most}), rules)
    with pytest.raises(Malformed):
        Event.parse(received(rules, **{field: entry * (most + 1)}), rules)


@each_version
def test_a_room_id_has_a_domain_before_version_12_and_none_from_12_on(rules: RoomRules) -> None:
    other = "!room:example.org" if rules.room_id_is_hash else "!" + "r" * 43
    with pytest.raises(Malformed):
        Event.parse(received(rules, room_id=other), rules)


def test_a_create_event_of_version_12_that_names_a_room_is_left_to_the_authorisation_rules() -> (
    None
):
    rules = ROOM_VERSIONS["12"]
    event = Event.parse(received(rules, type="m.room.create", state_key=""), rules)
    assert event.room_id == room_id_of(rules)
    assert "room_id" in event.pdu


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("event_id", [..., None, 1, "", "$x", "x:y", "$:y", "$x:", "$\0:y"])
def test_the_id_of_an_event_in_versions_1_and_2_names_a_server(
    version: str, event_id: object
) -> None:
    with pytest.raises(Malformed):
        Event.parse(received(ROOM_VERSIONS[version], event_id=event_id), ROOM_VERSIONS[version])


@each_version
@pytest.mark.parametrize("redacts", [1, None, "\0"])
def test_redacts_is_a_string_while_it_is_a_field_of_the_event(
    rules: RoomRules, redacts: object
) -> None:
    pdu = received(rules, type="m.room.redaction", redacts=redacts, content={"redacts": redacts})
    if rules.redacts_in_content:
        assert Event.parse(pdu, rules).redacts == (redacts if redacts == "\0" else None)
    else:
        with pytest.raises(Malformed):
            Event.parse(pdu, rules)


@each_version
def test_historical_senders_are_accepted(rules: RoomRules) -> None:
    for sender in ("@:example.org", "@Ä \n!:example.org"):
        assert Event.parse(received(rules, sender=sender), rules).sender == sender


def test_unknown_fields_are_kept_and_hashed() -> None:
    event = Event.parse(received(ROOM_VERSIONS["12"], origin="x", extra=[1]), ROOM_VERSIONS["12"])
    assert (event.pdu["origin"], event.pdu["extra"]) == ("x", [1])
    assert not content_hash_fits(event.pdu)


@each_version
def test_a_stored_event_equals_the_parsed_one(rules: RoomRules) -> None:
    event, data = make(rules, type="m.room.topic", state_key="")
    stored = Event.stored(decode_object(data), rules, event.event_id)
    for name in Event.__slots__:
        assert getattr(stored, name) == getattr(event, name)


# Anything at all

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ["m.room.member", "m.room.create", "join", "@a:b", "$a:b", "!a:b", ID, 10**4000]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(["sha256", "redacts", "x"]), inner)
    ),
    max_leaves=6,
)


def mutate(data: st.DataObject, value: Any) -> Any:
    """The value with something in it replaced, removed or added, somewhere."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value)))
        match data.draw(st.sampled_from(["descend", "descend", "remove", "add"])):
            case "remove":
                return {name: item for name, item in value.items() if name != key}
            case "add":
                return {**value, data.draw(st.text(max_size=5)): data.draw(anything)}
            case _:
                return {**value, key: mutate(data, value[key])}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        index = data.draw(st.integers(0, len(value) - 1))
        return [*value[:index], mutate(data, value[index]), *value[index + 1 :]]
    return data.draw(anything)


@given(st.sampled_from(EVENTS), st.sampled_from(list(ROOM_VERSIONS.values())), st.data())
def test_mutated_events_parse_or_are_malformed_and_what_parses_makes_no_trouble(
    real: RealEvent, other: RoomRules, data: st.DataObject
) -> None:
    rules = data.draw(st.sampled_from([real.rules, real.rules, other]))
    pdu = mutate(data, mutate(data, real.pdu))
    try:
        event = Event.parse(pdu, rules)
    except Malformed:
        return
    assert len(event.event_id.encode()) <= 255
    for server in required_signers(event) | set(VERIFY_KEYS):
        verify_event(event, server, VERIFY_KEYS.get(server, {}))
    content_hash_fits(event.pdu)
    redacted = redact(event.pdu, rules)
    assert redact(redacted, rules) == redacted
    assert reference_hash(redacted, rules) == reference_hash(event.pdu, rules)
    assert Event.parse(decode(encode(event.pdu)), rules).event_id == event.event_id
    assert Event.parse(redacted, rules).event_id == event.event_id


@given(anything)
def test_arbitrary_json_is_malformed(value: Any) -> None:
    for rules in (ROOM_VERSIONS["1"], ROOM_VERSIONS["12"]):
        with pytest.raises(Malformed):
            Event.parse(value, rules)

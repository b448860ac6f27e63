"""Signatures: who signs what, which count, and the key file."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signedjson.key import get_verify_key, read_signing_keys, write_signing_keys
from signedjson.sign import verify_signed_json

from homeserver.matrix.canonical import encode_unpadded
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.matrix.sign import (
    SigningKey,
    content_hash_fits,
    hash_and_sign,
    required_signers,
    sign_event,
    sign_json,
    verify_bytes,
    verify_event,
    verify_json,
)
from homeserver.matrix.versions import ROOM_VERSIONS

KEY = SigningKey("one", b"1" * 32)
OTHER = SigningKey("two", b"2" * 32)
KEYS = {key.key_id: key.public_key for key in (KEY, OTHER)}


def member(version: str, event_id: str | None = None, **content: Any) -> Event:
    """A signed membership event of @alice:a."""
    rules = ROOM_VERSIONS[version]
    pdu = {
        "type": "m.room.member",
        "sender": "@alice:a",
        "state_key": "@alice:a",
        "room_id": "!" + "x" * 43 if rules.room_id_is_hash else "!room:a",
        "content": content,
        "depth": 5,
        "origin_server_ts": 1,
        "auth_events": [],
        "prev_events": [],
    }
    if rules.event_ids == "sender":
        pdu["event_id"] = event_id or "$1:a"
    return Event.parse(hash_and_sign(pdu, rules, "a", KEY), rules)


def test_a_key_file_is_that_of_the_signedjson_package() -> None:
    stream = io.StringIO()
    write_signing_keys(stream, read_signing_keys([KEY.serialise(), OTHER.serialise()]))
    text = stream.getvalue()
    assert text == KEY.serialise() + OTHER.serialise()
    assert [key.key_id for key in SigningKey.load_all(text)] == ["ed25519:one", "ed25519:two"]
    assert SigningKey.load("\n" + text).public_key == KEY.public_key


def test_new_keys_differ_and_survive_their_file() -> None:
    first, second = SigningKey.generate(), SigningKey.generate()
    assert first.public_key != second.public_key
    again = SigningKey.load(first.serialise())
    assert (again.key_id, again.sign(b"x")) == (first.key_id, first.sign(b"x"))
    assert encode_unpadded(b"1" * 32) not in repr(KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "ed25519 a",
        "rsa a AAAA",
        "ed25519 a AAAA",
        "ed25519 a !!!",
        f"ed25519 a:b {encode_unpadded(bytes(32))}",
        f"ed25519 a {encode_unpadded(bytes(32))} more",
    ],
)
def test_a_bad_key_file_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        SigningKey.load(text)


json_objects = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.integers(-9, 9) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    max_size=4,
)


@given(json_objects)
def test_the_signedjson_package_verifies_what_we_sign(value: dict[str, Any]) -> None:
    for key in ("signatures", "unsigned"):
        value.pop(key, None)
    signed = sign_json({**value, "unsigned": {"age": 1}}, "example.org", KEY)
    assert signed["unsigned"] == {"age": 1}
    their_key = read_signing_keys([KEY.serialise()])[0]
    verify_signed_json(signed, "example.org", get_verify_key(their_key))
    assert verify_json({**signed, "unsigned": {"age": 2}}, "example.org", KEYS)
    assert not verify_json({**signed, "x" * 6: 1}, "example.org", KEYS)


def test_signatures_are_added_to_those_that_stand() -> None:
    value = sign_json(sign_json(sign_json({"a": 1}, "a", KEY), "a", OTHER), "b", OTHER)
    assert set(value["signatures"]["a"]) == {KEY.key_id, OTHER.key_id}
    assert verify_json(value, "a", KEYS)
    assert verify_json(value, "b", KEYS)
    assert not verify_json(value, "c", KEYS)


def test_signatures_by_unknown_keys_or_algorithms_do_not_count() -> None:
    value = sign_json({"a": 1}, "a", KEY)
    value["signatures"]["a"] |= {"ed25519:policy_server": "AAAA", "rsa:one": "AAAA"}
    assert verify_json(value, "a", {KEY.key_id: KEY.public_key, "rsa:one": OTHER.public_key})
    assert not verify_json(value, "a", {"rsa:one": OTHER.public_key})
    assert not verify_json(value, "a", {})


def test_all_signatures_by_known_keys_must_be_valid() -> None:
    value = sign_json({"a": 1}, "a", KEY)
    value["signatures"]["a"][OTHER.key_id] = encode_unpadded(bytes(64))
    assert verify_json(value, "a", {KEY.key_id: KEY.public_key})
    assert not verify_json(value, "a", KEYS)


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        {"a": None},
        {"a": []},
        {"a": {}},
        {"a": {KEY.key_id: 1}},
        {"a": {KEY.key_id: "!"}},
        {"a": {KEY.key_id: "AAAA"}},
        {"a": {KEY.key_id: encode_unpadded(bytes(64))}},
    ],
)
def test_no_signature_at_all_verifies_as_none(signatures: object) -> None:
    assert not verify_json({"a": 1, "signatures": signatures}, "a", KEYS)


def test_keys_and_signatures_of_impossible_length_fit_nothing() -> None:
    signature = KEY.sign(b"x")
    assert verify_bytes(b"x", signature, KEY.public_key)
    assert not verify_bytes(b"y", signature, KEY.public_key)
    assert not verify_bytes(b"x", signature[:-1], KEY.public_key)
    assert not verify_bytes(b"x", signature, KEY.public_key[:-1])


@pytest.mark.parametrize("hashes", [None, {}, [], {"sha256": 1}, {"sha256": "!"}, {"sha256": ""}])
def test_a_content_hash_that_is_none_does_not_fit(hashes: object) -> None:
    assert not content_hash_fits({"type": "x", "hashes": hashes})


@pytest.mark.parametrize("version", sorted(ROOM_VERSIONS))
def test_a_further_signature_leaves_the_event_as_it_is(version: str) -> None:
    event = member(version, membership="invite", reason="why")
    signed = Event.parse(sign_event(event.pdu, event.rules, "b", OTHER), event.rules)
    assert signed.event_id == event.event_id
    assert content_hash_fits(signed.pdu)
    assert verify_event(signed, "a", KEYS)
    assert verify_event(signed, "b", KEYS)


@pytest.mark.parametrize("version", sorted(ROOM_VERSIONS))
def test_the_senders_server_must_sign(version: str) -> None:
    assert required_signers(member(version, membership="join")) == {"a"}


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_server_of_the_event_id_must_sign_in_versions_1_and_2(version: str) -> None:
    assert required_signers(member(version, "$1:b:80", membership="join")) == {"a", "b:80"}


@pytest.mark.parametrize("version", sorted(ROOM_VERSIONS))
def test_an_invite_from_a_third_party_invite_may_come_through_any_server(version: str) -> None:
    invite = member(version, membership="invite", third_party_invite={"signed": {}})
    assert required_signers(invite) == set()
    join = member(version, membership="join", third_party_invite={"signed": {}})
    assert required_signers(join) == {"a"}


@pytest.mark.parametrize("version", sorted(ROOM_VERSIONS))
def test_who_authorised_a_restricted_join_must_sign_it(version: str) -> None:
    via = {"join_authorised_via_users_server": "@mod:c"}
    restricted = ROOM_VERSIONS[version].restricted_joins
    expected = {"a", "c"} if restricted else {"a"}
    assert required_signers(member(version, membership="join", **via)) == expected
    assert required_signers(member(version, membership="leave", **via)) == {"a"}
    if restricted:
        with pytest.raises(Malformed):
            member(version, membership="join", join_authorised_via_users_server="c")

"""The specification's own vectors, and 156 events that Synapse made in all room versions."""

import pytest

from homeserver.matrix.canonical import (
    JsonObject,
    decode,
    decode_unpadded,
    encode,
    encode_unpadded,
)
from homeserver.matrix.event import Event
from homeserver.matrix.redact import redact
from homeserver.matrix.sign import (
    SigningKey,
    content_hash_fits,
    event_id_of,
    hash_and_sign,
    required_signers,
    sign_json,
    verify_event,
    verify_json,
)
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.core.real_events import EVENTS, SERVER_KEYS, SPEC, VERIFY_KEYS, RealEvent

SIGNING = SPEC["signing"]
KEY = SigningKey("1", decode_unpadded(SIGNING["seed_base64"]))

each_event = pytest.mark.parametrize(
    "real", EVENTS, ids=lambda real: f"v{real.rules.version}-{real.pdu['type']}"
)


@pytest.mark.parametrize("vector", SPEC["canonical_json"], ids=lambda vector: vector["canonical"])
def test_canonical_json_of_the_specification(vector: dict[str, str]) -> None:
    assert encode(decode(vector["input"])).decode() == vector["canonical"]


@pytest.mark.parametrize("vector", SPEC["unpadded_base64"], ids=lambda vector: vector["encoded"])
def test_unpadded_base64_of_the_specification(vector: dict[str, str]) -> None:
    assert encode_unpadded(vector["input"].encode()) == vector["encoded"]
    assert decode_unpadded(vector["encoded"]) == vector["input"].encode()


def test_the_key_of_the_specification() -> None:
    assert KEY.key_id == SIGNING["key_id"]


@pytest.mark.parametrize("vector", SIGNING["json"])
def test_signed_json_of_the_specification(vector: dict[str, JsonObject]) -> None:
    assert sign_json(vector["input"], SIGNING["server_name"], KEY) == vector["signed"]
    assert verify_json(vector["signed"], SIGNING["server_name"], {KEY.key_id: KEY.public_key})


@pytest.mark.parametrize("vector", SIGNING["events"])
def test_signed_events_of_the_specification(vector: dict[str, JsonObject]) -> None:
    signed = hash_and_sign(vector["input"], ROOM_VERSIONS["1"], SIGNING["server_name"], KEY)
    assert signed == vector["signed"]


def test_there_are_thirteen_events_of_each_room_version() -> None:
    versions = [real.rules.version for real in EVENTS]
    assert {version: versions.count(version) for version in ROOM_VERSIONS} == dict.fromkeys(
        ROOM_VERSIONS, 13
    )


@each_event
def test_a_real_event_parses_to_its_id_and_room(real: RealEvent) -> None:
    event = Event.parse(real.pdu, real.rules)
    assert event.event_id == real.event_id
    assert event.room_id == real.room_id
    assert event.pdu == {key: value for key, value in real.pdu.items() if key != "unsigned"}


@each_event
def test_a_real_event_has_the_content_hash_that_it_claims(real: RealEvent) -> None:
    assert content_hash_fits(real.pdu) is not real.redacted


@each_event
def test_a_real_event_is_signed_by_whom_it_must_be(real: RealEvent) -> None:
    event = Event.parse(real.pdu, real.rules)
    signers = required_signers(event)
    assert signers
    for server in signers:
        assert verify_event(event, server, VERIFY_KEYS[server])


@each_event
def test_redaction_keeps_id_and_signatures_of_a_real_event(real: RealEvent) -> None:
    redacted = redact(real.pdu, real.rules)
    assert event_id_of(redacted, real.rules) == real.event_id
    event = Event.parse(redacted, real.rules)
    assert all(verify_event(event, name, VERIFY_KEYS[name]) for name in required_signers(event))


@each_event
def test_a_real_event_with_another_depth_is_signed_by_nobody(real: RealEvent) -> None:
    event = Event.parse({**real.pdu, "depth": real.pdu["depth"] + 1}, real.rules)
    assert not any(verify_event(event, name, VERIFY_KEYS[name]) for name in VERIFY_KEYS)


@each_event
def test_a_real_event_with_another_body_fails_its_content_hash_only(real: RealEvent) -> None:
    changed = {**real.pdu, "content": {**real.pdu["content"], "org.example.added": 1}}
    assert not content_hash_fits(changed)
    keeps_all = real.pdu["type"] == "m.room.create" and real.rules.redaction_v11
    assert (event_id_of(changed, real.rules) == real.event_id) is (
        real.rules.event_ids == "sender" or not keeps_all
    )


@pytest.mark.parametrize("server", SERVER_KEYS)
def test_the_key_responses_of_real_servers_are_signed_by_themselves(server: str) -> None:
    assert verify_json(SERVER_KEYS[server], server, VERIFY_KEYS[server])

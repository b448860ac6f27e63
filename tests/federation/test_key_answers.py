"""Which published keys are believed. spec: server-server-api#publishing-keys"""

from typing import Any

import pytest

from federation.key_answers import LONGEST_LIFE_MS, MAX_KEYS, read_answer
from homeserver.matrix.canonical import JsonObject, encode_unpadded
from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import SigningKey, sign_json
from homeserver.runtime.clock import FakeClock
from tests.federation.internet import DAY, Peer

CLOCK = FakeClock()
NOW = CLOCK.now_ms()


@pytest.fixture
def peer() -> Peer:
    return Peer("a.example", CLOCK)


def test_current_and_old_keys_with_their_ends(peer: Peer) -> None:
    old = peer.rotate()
    answer = read_answer(peer.published(), "a.example", NOW + 5)
    assert answer.keys[peer.key.key_id] == (peer.key.public_key, NOW + DAY, None)
    assert answer.keys[old.key_id] == (old.public_key, NOW, NOW)


def test_no_key_lives_longer_than_a_week(peer: Peer) -> None:
    answer = read_answer(peer.published(valid_until_ts=NOW * 2), "a.example", NOW)
    assert answer.keys[peer.key.key_id].valid_until_ts == NOW + LONGEST_LIFE_MS
    assert answer.valid_until_ts == NOW + LONGEST_LIFE_MS


def test_an_old_key_never_expires_in_the_future(peer: Peer) -> None:
    old = peer.rotate()
    peer.old[old.key_id]["expired_ts"] = NOW + DAY
    assert read_answer(peer.published(), "a.example", NOW).keys[old.key_id].valid_until_ts == NOW


def test_signatures_of_others_are_left_out(peer: Peer) -> None:
    notary = SigningKey.generate()
    answer = read_answer(sign_json(peer.published(), "n.example", notary), "a.example", NOW)
    assert answer == read_answer(peer.published(), "a.example", NOW)


def test_keys_of_other_algorithms_are_left_out(peer: Peer) -> None:
    keys = peer.published()["verify_keys"]
    answer = read_answer(
        peer.published(verify_keys={**keys, "rsa:1": {"key": "AAAA"}, "ed25519:a b": {"key": "A"}}),
        "a.example",
        NOW,
    )
    assert list(answer.keys) == [peer.key.key_id]


def wrong_answers(peer: Peer) -> dict[str, JsonObject]:
    other = Peer("a.example", CLOCK)
    keys = peer.published()["verify_keys"]
    many = {
        f"ed25519:k{n}": {"key": encode_unpadded(bytes([n % 256]) * 32)}
        for n in range(MAX_KEYS + 1)
    }
    return {
        "another server's": peer.published(server_name="b.example"),
        "signed by another key": {
            **peer.published(),
            "signatures": other.published()["signatures"],
        },
        "signed by a key of the same name": sign_json(
            {k: v for k, v in peer.published().items() if k != "signatures"},
            "a.example",
            SigningKey(peer.key.version, b"x" * 32),
        ),
        "changed after signing": {**peer.published(), "valid_until_ts": NOW + 2 * DAY},
        "not signed": {**peer.published(), "signatures": {}},
        "signatures of a wrong kind": {**peer.published(), "signatures": []},
        "signed by an old key only": _signed_by_old(peer),
        "without time": peer.published(valid_until_ts=None),
        "with a text as time": peer.published(valid_until_ts="1"),
        "with a truth as time": peer.published(valid_until_ts=True),
        "with a time before all times": peer.published(valid_until_ts=-1),
        "with a number as keys": peer.published(verify_keys=5),
        "with a text as key": peer.published(verify_keys={peer.key.key_id: "x"}),
        "with a short key": peer.published(verify_keys={**keys, "ed25519:1": {"key": "AAAA"}}),
        "with a key that is no base64": peer.published(
            verify_keys={**keys, "ed25519:1": {"key": "*"}}
        ),
        "with an old key without end": peer.published(
            old_verify_keys={"ed25519:1": keys[peer.key.key_id]}
        ),
        "with too many keys": peer.published(old_verify_keys={}, verify_keys={**many, **keys}),
        "without keys": peer.published(verify_keys={}),
    }


def _signed_by_old(peer: Peer) -> JsonObject:
    unsigned: dict[str, Any] = {
        "server_name": "a.example",
        "valid_until_ts": NOW + DAY,
        "verify_keys": {"ed25519:new": {"key": encode_unpadded(b"y" * 32)}},
        "old_verify_keys": {
            peer.key.key_id: {"key": encode_unpadded(peer.key.public_key), "expired_ts": NOW}
        },
    }
    return sign_json(unsigned, "a.example", peer.key)


@pytest.mark.parametrize("kind", wrong_answers(Peer("a.example", CLOCK)))
def test_answers_that_are_not_believed(peer: Peer, kind: str) -> None:
    with pytest.raises(Malformed):
        read_answer(wrong_answers(peer)[kind], "a.example", NOW)

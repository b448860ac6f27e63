"""How JSON of events is stored: always the same again, never longer, damage is noticed."""

import contextlib
import json
import os
import random

import pytest

from storage.compression import pack_json, unpack_json


def text(length: int) -> bytes:
    return json.dumps({"body": os.urandom(length).hex()}).encode()


@pytest.mark.parametrize("length", [0, 1, 300, 1_400, 1_600, 30_000])
def test_what_was_packed_unpacks_to_the_same(length: int) -> None:
    source = text(length)
    packed = pack_json(source)
    assert unpack_json(packed) == source
    assert len(packed) <= len(source)


def test_every_character_survives() -> None:
    source = "".join(chr(n) for n in range(0x20, 0x3000)).encode()
    assert unpack_json(pack_json(b'{"body":"' + source + b'"}')) == b'{"body":"' + source + b'"}'


def test_a_message_shrinks_by_more_than_a_third() -> None:
    identifier = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_xxyyz"
    message = {
        "auth_events": [f"${identifier}", f"${identifier[::-1]}"],
        "content": {"body": "a reasonable sentence about nothing", "msgtype": "m.text"},
        "depth": 17,
        "hashes": {"sha256": identifier.swapcase()},
        "origin_server_ts": 1_700_000_000_000,
        "prev_events": [f"${identifier[10:]}{identifier[:10]}"],
        "room_id": f"!{identifier[20:]}{identifier[:20]}",
        "sender": "@someone:example.org",
        "signatures": {"example.org": {"ed25519:a_key": os.urandom(32).hex()}},
        "type": "m.room.message",
    }
    source = json.dumps(message, separators=(",", ":")).encode()
    assert len(pack_json(source)) < 0.66 * len(source)


def test_plain_json_can_be_read() -> None:
    assert unpack_json(b'{"a":1}') == b'{"a":1}'


def test_damage_is_noticed() -> None:
    packed = pack_json(text(600))
    assert packed[:1] != b"{"
    for broken in (b"\x7f" + packed[1:], packed[:-5], packed[:1] + b"\xff" + packed[2:]):
        with pytest.raises(ValueError, match="stored"):
            unpack_json(broken)


def test_random_damage_never_raises_anything_else() -> None:
    chance = random.Random(3)
    packed = pack_json(text(200))
    for _ in range(300):
        broken = bytearray(packed)
        broken[chance.randrange(1, len(broken))] ^= 1 << chance.randrange(8)
        with contextlib.suppress(ValueError):
            unpack_json(bytes(broken))

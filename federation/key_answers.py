"""What a server publishes of its keys: the format, and which of it is believed.

Owns the reading of an untrusted answer and the bounds of each key's life. An answer counts only for
the server that it names and only when that server's own keys have signed it. It knows neither
network nor storage.
spec: server-server-api#publishing-keys
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from homeserver.matrix.canonical import JsonObject, check, decode_unpadded, encode
from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import verify_json

LONGEST_LIFE_MS = 7 * 86_400_000
MAX_KEYS = 50
_KEY_ID = re.compile(r"ed25519:[A-Za-z0-9_]{1,64}")


class PublishedKey(NamedTuple):
    """A key of 32 bytes, valid up to `valid_until_ts`; `expired_ts` is set for an old one."""

    public_key: bytes
    valid_until_ts: int
    expired_ts: int | None


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """A checked answer; `json` is as its server signed it, `digest` names it."""

    server: str
    keys: dict[str, PublishedKey]
    valid_until_ts: int
    json: JsonObject
    digest: bytes


def read_answer(json: JsonObject, server: str, now: int) -> KeyAnswer:
    """The keys of `server` as published at `now` (ms).

    Raises Malformed for what is no such answer, is another server's, or is not signed by one of the
    keys that it holds. Keys of other algorithms are left out. No key lives longer than seven days
    from now without being asked for again.
    """
    check(json)
    if json.get("server_name") != server:
        raise Malformed("The keys are those of another server")
    until = min(_time(json, "valid_until_ts"), now + LONGEST_LIFE_MS)
    current = {
        key_id: PublishedKey(_public_key(entry), until, None)
        for key_id, entry in _entries(json, "verify_keys")
    }
    if not verify_json(json, server, {key_id: key.public_key for key_id, key in current.items()}):
        raise Malformed("The keys are not signed by their server")
    old = {}
    for key_id, entry in _entries(json, "old_verify_keys"):
        expired = _time(entry, "expired_ts")
        old[key_id] = PublishedKey(_public_key(entry), min(expired, now), expired)
    signatures = {server: json["signatures"][server]}
    own = {**json, "signatures": signatures}
    return KeyAnswer(server, {**old, **current}, until, own, hashlib.sha256(encode(own)).digest())


def _entries(json: JsonObject, name: str) -> Iterable[tuple[str, JsonObject]]:
    entries = json.get(name, {})
    if not isinstance(entries, dict) or not all(isinstance(one, dict) for one in entries.values()):
        raise Malformed(f"{name} is no table of keys")
    known = [(key_id, one) for key_id, one in entries.items() if _KEY_ID.fullmatch(key_id)]
    if len(known) > MAX_KEYS:
        raise Malformed(f"{name} holds more than {MAX_KEYS} keys")
    return known


def _public_key(entry: JsonObject) -> bytes:
    text = entry.get("key")
    key = decode_unpadded(text) if isinstance(text, str) else b""
    if len(key) != 32:
        raise Malformed("A key is not 32 bytes in unpadded base64")
    return key


def _time(value: JsonObject, name: str) -> int:
    time = value.get(name)
    if not isinstance(time, int) or isinstance(time, bool) or time < 0:
        raise Malformed(f"{name} is no time")
    return time

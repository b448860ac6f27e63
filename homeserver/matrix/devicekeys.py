"""Keys of devices and users, as clients upload them and servers tell each other.

Owns what a well-formed key object is and whose signature it must carry. `Malformed` says what is
wrong with a form; whether a signature is good is answered with a bool. Where keys are kept, and who
may see them, is not known here.
spec: client-server-api#device-keys
"""

from collections.abc import Mapping
from typing import NamedTuple

from homeserver.matrix.canonical import JsonObject, check, decode_unpadded, encode
from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import signed_bytes, verify_json

MAX_KEY_BYTES = 16_384
"""Of one key object as JSON; the largest that is of any use has about a thousand."""
MAX_DEVICE_KEYS_BYTES = 65_536

_SIGNED = "signed_curve25519"
USAGES = ("master", "self_signing", "user_signing")


def check_device_keys(keys: JsonObject, user_id: str, device_id: str) -> None:
    """Raise `Malformed` unless these can be the identity keys of this device.

    spec: client-server-api#device-keys
    """
    if keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        raise Malformed("device_keys: user_id and device_id must be those of the device")
    algorithms = keys.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(one, str) for one in algorithms):
        raise Malformed("device_keys.algorithms must be a list of strings")
    _texts(keys.get("keys"), "device_keys.keys")
    _check_size(keys, "device_keys", MAX_DEVICE_KEYS_BYTES)


def device_key(keys: JsonObject) -> tuple[str, bytes] | None:
    """The key id and the public key with which a device signs, None when it has none."""
    name = f"ed25519:{keys.get('device_id')}"
    text = keys["keys"].get(name) if isinstance(keys.get("keys"), dict) else None
    public = _public_key(text)
    return None if public is None else (name, public)


def signs_itself(keys: JsonObject) -> bool:
    """Whether a device has signed its own identity keys."""
    key = device_key(keys)
    return key is not None and is_signed(keys, str(keys.get("user_id")), dict([key]))


class NamedKey(NamedTuple):
    """A one-time or fallback key as it was uploaded, and its canonical JSON."""

    name: str
    algorithm: str
    key_id: str
    value: str | JsonObject
    json: bytes

    @property
    def needs_signature(self) -> bool:
        """Whether keys of this algorithm carry a signature of their device."""
        return self.algorithm == _SIGNED


def named_keys(keys: JsonObject) -> list[NamedKey]:
    """One-time or fallback keys by their names, in order; `Malformed` when one is none.

    spec: client-server-api#key-algorithms
    """
    check(keys)
    found = []
    for name, key in keys.items():
        algorithm, colon, key_id = name.partition(":")
        if not (algorithm and colon and key_id) or len(name.encode()) > 255:
            raise Malformed(f"{name[:300]}: the name of a key is <algorithm>:<key id>")
        if not isinstance(key, str | dict):
            raise Malformed(f"{name}: a key is a string or an object")
        if algorithm == _SIGNED and not (isinstance(key, dict) and type(key.get("key")) is str):
            raise Malformed(f"{name}: a signed key is an object with a key")
        json = encode(key)
        if len(json) > MAX_KEY_BYTES:
            raise Malformed(f"{name}: more than {MAX_KEY_BYTES} bytes")
        found.append(NamedKey(name, algorithm, key_id, key, json))
    return found


def is_signed(value: JsonObject, user_id: str, keys: Mapping[str, bytes]) -> bool:
    """Whether the object carries a good signature by one of the keys, and no bad one."""
    try:
        return verify_json(value, user_id, keys)
    except Malformed:
        return False


def check_signing_key(key: JsonObject, user_id: str, usage: str) -> tuple[str, bytes]:
    """The key id and the public key of a cross-signing key; `Malformed` when it is none.

    spec: client-server-api#cross-signing
    """
    field = f"{usage}_key"
    if key.get("user_id") != user_id:
        raise Malformed(f"{field}: user_id must be {user_id}")
    usages = key.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise Malformed(f"{field}: usage must contain {usage}")
    named = _texts(key.get("keys"), f"{field}.keys")
    if len(named) != 1:
        raise Malformed(f"{field}.keys must hold one key")
    ((name, text),) = named.items()
    public = _public_key(text)
    if public is None or name != f"ed25519:{text}":
        raise Malformed(f"{field}.keys must hold an ed25519 key under its own name")
    _check_size(key, field, MAX_KEY_BYTES)
    return name, public


def signing_key(key: JsonObject) -> tuple[str, bytes]:
    """The key id and the public key of a cross-signing key that was checked."""
    ((name, text),) = key["keys"].items()
    return name, decode_unpadded(text)


def same_key(one: JsonObject, other: JsonObject) -> bool:
    """Whether two objects are the same but for their signatures and what is unsigned."""
    return signed_bytes(one) == signed_bytes(other)


def signatures_of(value: JsonObject) -> dict[str, dict[str, str]]:
    """The signatures of an object by user and key id; what is no signature is left out."""
    found: dict[str, dict[str, str]] = {}
    signatures = value.get("signatures")
    for user_id, by_key in signatures.items() if isinstance(signatures, dict) else ():
        if isinstance(by_key, dict):
            found[user_id] = {
                key_id: text for key_id, text in by_key.items() if isinstance(text, str)
            }
    return found


def with_signatures(value: JsonObject, signatures: Mapping[str, Mapping[str, str]]) -> JsonObject:
    """A copy of the object with these signatures added."""
    merged: dict[str, dict[str, str]] = signatures_of(value)
    for user_id, by_key in signatures.items():
        merged[user_id] = {**merged.get(user_id, {}), **by_key}
    return {**value, "signatures": merged}


def _public_key(text: object) -> bytes | None:
    try:
        public = decode_unpadded(text) if isinstance(text, str) else b""
    except Malformed:
        return None
    return public if len(public) == 32 else None


def _texts(value: object, field: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise Malformed(f"{field} must be an object of strings")
    return value


def _check_size(value: object, field: str, most: int) -> None:
    check(value)
    if len(encode(value)) > most:
        raise Malformed(f"{field}: more than {most} bytes")

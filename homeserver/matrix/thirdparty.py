"""The signatures of a third-party invite: who may turn a token into an invite.

An identity server signs {mxid, token, sender, ...}; the room's `m.room.third_party_invite` event
holds the keys that count. Both come from strangers: nothing that they hold raises.
spec: client-server-api#third-party-invites
"""

import base64
from collections.abc import Iterator

from homeserver.matrix.canonical import JsonObject, check
from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import signed_bytes, verify_bytes

_MOST_CHECKS = 200
"""Signatures times keys that are tried, or one event could cost seconds."""


def verify_invite(signed: JsonObject, content: JsonObject) -> bool:
    """Whether any Ed25519 signature of `signed` fits any public key of the invite's `content`."""
    try:
        check(signed, strict=False)
    except Malformed:
        return False
    message = signed_bytes(signed)
    keys = list(_public_keys(content))
    checks = 0
    for signature in _signatures(signed):
        for key in keys:
            checks += 1
            if checks > _MOST_CHECKS:
                return False
            if verify_bytes(message, signature, key):
                return True
    return False


def _public_keys(content: JsonObject) -> Iterator[bytes]:
    listed = content.get("public_keys")
    entries = listed if isinstance(listed, list) else []
    texts = [content.get("public_key")]
    texts += [entry.get("public_key") for entry in entries if isinstance(entry, dict)]
    for key in dict.fromkeys(map(_decoded, texts)):
        if key:
            yield key


def _signatures(signed: JsonObject) -> Iterator[bytes]:
    servers = signed.get("signatures")
    for keys in servers.values() if isinstance(servers, dict) else ():
        for key_id, text in keys.items() if isinstance(keys, dict) else ():
            signature = _decoded(text) if key_id.startswith("ed25519:") else b""
            if signature:
                yield signature


def _decoded(text: object) -> bytes:
    """Base64 in either alphabet, padded or not; nothing if it is neither."""
    if not isinstance(text, str):
        return b""
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return b""

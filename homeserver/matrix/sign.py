"""Hashes and Ed25519 signatures: of events, of JSON objects, and the server's own key.

Owns what is hashed and what is signed, and whose signatures an event must carry. Which keys count
for a server at a time is the caller's matter: it passes key ids with public keys. Inputs are
trusted to be JSON (`canonical.check`); signatures may be anything and never raise.
spec: server-server-api#signing-events, appendices#signing-json
"""

import hashlib
import secrets
import string
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from homeserver.matrix.canonical import (
    JsonObject,
    decode_unpadded,
    encode,
    encode_unpadded,
    encode_unpadded_urlsafe,
)
from homeserver.matrix.errors import Malformed
from homeserver.matrix.ids import server_of
from homeserver.matrix.redact import redact
from homeserver.matrix.versions import RoomRules

if TYPE_CHECKING:
    from homeserver.matrix.event import Event

_ALGORITHM = "ed25519"
POLICY_KEY_ID = f"{_ALGORITHM}:policy_server"
"""The key of every policy server, whatever it is; it is published in rooms only."""
_SIGNATURE_BYTES = 64
_KEY_BYTES = 32


class SigningKey:
    """An Ed25519 key with the version that tells it from a server's other keys.

    Its file format is that of the signedjson package: a line `ed25519 <version> <seed>` for each
    key, the seed in unpadded base64.
    """

    __slots__ = ("_secret", "_seed", "key_id", "public_key", "version")

    def __init__(self, version: str, seed: bytes) -> None:
        if len(seed) != _KEY_BYTES:
            raise Malformed(f"The seed of a signing key has 32 bytes, not {len(seed)}")
        if not version or not _KEY_VERSION.issuperset(version):
            raise Malformed(f"{version!r} cannot be the version of a signing key")
        self._seed = seed
        self.public_key, self._secret = crypto_sign_seed_keypair(seed)
        self.version = version
        self.key_id = f"{_ALGORITHM}:{version}"

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key with a random version."""
        letters = "".join(secrets.choice(string.ascii_letters) for _ in range(4))
        return cls(f"a_{letters}", secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def load_all(cls, text: str) -> list["SigningKey"]:
        """The keys of a key file, the one to sign with first; `Malformed` when it holds none."""
        keys = []
        for line in text.splitlines():
            if not line.strip():
                continue
            parts = line.split()
            if len(parts) != 3 or parts[0] != _ALGORITHM:
                raise Malformed("A line of a signing key file is `ed25519 <version> <seed>`")
            keys.append(cls(parts[1], decode_unpadded(parts[2])))
        if not keys:
            raise Malformed("The signing key file holds no key")
        return keys

    @classmethod
    def load(cls, text: str) -> "SigningKey":
        """The key to sign with of a key file."""
        return cls.load_all(text)[0]

    def serialise(self) -> str:
        """The line of a key file that holds this key, with its end."""
        return f"{_ALGORITHM} {self.version} {encode_unpadded(self._seed)}\n"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return crypto_sign(message, self._secret)[:_SIGNATURE_BYTES]


# What a version may consist of. spec: server-server-api#publishing-keys
_KEY_VERSION = frozenset(string.ascii_letters + string.digits + "_")


def content_hash(pdu: JsonObject) -> bytes:
    """SHA-256 over the whole event without hashes, signatures and unsigned.

    spec: server-server-api#calculating-the-content-hash-for-an-event
    """
    return hashlib.sha256(encode(_without(pdu, "hashes", "signatures", "unsigned"))).digest()


def content_hash_fits(pdu: JsonObject) -> bool:
    """Whether `hashes.sha256` is the event's content hash; if not, it can only be kept redacted.

    spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    hashes = pdu.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(claimed, str):
        return False
    try:
        return decode_unpadded(claimed) == content_hash(pdu)
    except Malformed:
        return False


def reference_hash(pdu: JsonObject, rules: RoomRules) -> bytes:
    """SHA-256 over the redacted event without signatures.

    spec: server-server-api#calculating-the-reference-hash-for-an-event
    """
    return hashlib.sha256(signed_bytes(redact(pdu, rules))).digest()


def event_id_of(pdu: JsonObject, rules: RoomRules) -> str:
    """The event's id: its own word in room versions 1 and 2, its reference hash from 3 on.

    `pdu` must have been checked for `event_id` to be there in versions 1 and 2.
    """
    if rules.event_ids == "sender":
        return str(pdu["event_id"])
    return event_id_from_hash(reference_hash(pdu, rules), rules)


def event_id_from_hash(digest: bytes, rules: RoomRules) -> str:
    """The event id that a reference hash stands for, room version 3 on."""
    if rules.event_ids == "base64":
        return "$" + encode_unpadded(digest)
    return "$" + encode_unpadded_urlsafe(digest)


def hash_and_sign(
    pdu: JsonObject, rules: RoomRules, server_name: str, key: SigningKey
) -> JsonObject:
    """A PDU with its content hash set and our signature added, for templates of other servers.

    spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
    """
    hashes = {"sha256": encode_unpadded(content_hash(pdu))}
    return sign_event({**pdu, "hashes": hashes}, rules, server_name, key)


def sign_event(pdu: JsonObject, rules: RoomRules, server_name: str, key: SigningKey) -> JsonObject:
    """A PDU with our signature added to those it has; its hash must stand already."""
    message = signed_bytes(redact(pdu, rules))
    return _with_signature(pdu, server_name, key, message)


def sign_json(value: JsonObject, entity: str, key: SigningKey) -> JsonObject:
    """A copy of the object with the signature of `entity` added.

    spec: appendices#signing-details
    """
    return _with_signature(value, entity, key, signed_bytes(value))


def verify_json(value: JsonObject, entity: str, keys: Mapping[str, bytes]) -> bool:
    """Whether `entity` has signed the object: by at least one of `keys`, and wrongly by none.

    `keys` maps key ids to public keys of 32 bytes; signatures by other keys don't count.
    spec: appendices#checking-for-a-signature
    """
    return _verify(value, value, entity, keys)


def verify_event(event: "Event", server: str, keys: Mapping[str, bytes]) -> bool:
    """Whether `server` has signed the event, by the rules of `verify_json`.

    spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    return _verify(event.pdu, redact(event.pdu, event.rules), server, keys)


def verify_bytes(message: bytes, signature: bytes, public_key: bytes) -> bool:
    """Whether the signature is this key's over this message; false for impossible lengths."""
    if len(signature) != _SIGNATURE_BYTES or len(public_key) != _KEY_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def required_signers(event: "Event") -> frozenset[str]:
    """The servers that must have signed a received event; none of them may be missing.

    The sender's server, except that an invite made from a third-party invite may come through any;
    the server that its id names (room versions 1 and 2); the server of the user who authorised a
    restricted join.
    spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    content = event.content
    membership = content.get("membership") if event.type == "m.room.member" else None
    sender_server = server_of(event.sender)
    signers = set()
    if not (membership == "invite" and "third_party_invite" in content):
        signers.add(sender_server)
    if event.rules.event_ids == "sender":
        id_server = server_of(event.event_id)
        if id_server != sender_server:
            signers.add(id_server)
    if event.rules.restricted_joins and membership == "join":
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):  # what is no user id, the auth rules reject
            signers.add(server_of(authoriser))
    return frozenset(signers)


def signed_bytes(value: JsonObject) -> bytes:
    """What is signed of an object: canonical JSON without `signatures` and `unsigned`."""
    return encode(_without(value, "signatures", "unsigned"))


def _without(value: JsonObject, *keys: str) -> JsonObject:
    return {key: item for key, item in value.items() if key not in keys}


def _with_signature(value: JsonObject, entity: str, key: SigningKey, message: bytes) -> JsonObject:
    signatures = dict(value.get("signatures", {}))
    signature = encode_unpadded(key.sign(message))
    signatures[entity] = {**signatures.get(entity, {}), key.key_id: signature}
    return {**value, "signatures": signatures}


def _verify(value: JsonObject, signed: JsonObject, entity: str, keys: Mapping[str, bytes]) -> bool:
    signatures = value.get("signatures")
    ours = signatures.get(entity) if isinstance(signatures, dict) else None
    if not isinstance(ours, dict):
        return False
    known = [(keys[key_id], text) for key_id, text in ours.items() if _counts(key_id, keys)]
    if not known:
        return False
    message = signed_bytes(signed)
    return all(_fits(text, message, public_key) for public_key, text in known)


def _counts(key_id: str, keys: Mapping[str, bytes]) -> bool:
    return key_id.startswith(f"{_ALGORITHM}:") and key_id in keys


def _fits(text: object, message: bytes, public_key: bytes) -> bool:
    if not isinstance(text, str):
        return False
    try:
        signature = decode_unpadded(text)
    except Malformed:
        return False
    return verify_bytes(message, signature, public_key)

"""The cryptography of Web Push: encrypted messages and signatures on P-256.

Owns the encryption of a message for one subscription (RFC 8291, in one record of the content
encoding aes128gcm, RFC 8188), and keys and signatures of ES256 (RFC 7518, 3.4), which RFC 8292
uses. Invariant: every message has a key pair and a salt of its own. The library takes memory, so
this module is imported when it is needed first.
"""

import hmac
import os
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RECORD_BYTES: Final = 4_096
"""The length of a record, and of the whole message, that every push service takes."""
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 65
_HEADER_BYTES: Final = _SALT_BYTES + 4 + 1 + _KEY_BYTES
_LAST: Final = b"\x02"
"""What ends the content of the last record."""
_TAG_BYTES: Final = 16
MOST_BYTES: Final = RECORD_BYTES - _HEADER_BYTES - len(_LAST) - _TAG_BYTES
"""How long a message may be before it is encrypted."""
_CURVE: Final = ec.SECP256R1()


def public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    """The key in the uncompressed form; raises ValueError for what is no point of the curve."""
    if len(point) != _KEY_BYTES or point[0] != 4:
        raise ValueError("not an uncompressed point of P-256")
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)


def private_key(number: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of a 32-byte number; raises ValueError for what is none."""
    if len(number) != 32:
        raise ValueError("not a private key of P-256")
    return ec.derive_private_key(int.from_bytes(number, "big"), _CURVE)


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key of a private one, in the uncompressed form."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def new_private_key() -> bytes:
    """The number of a new private key."""
    number = ec.generate_private_key(_CURVE).private_numbers().private_value
    return number.to_bytes(32, "big")


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """The ES256 signature: both numbers, of 32 bytes each."""
    first, second = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return first.to_bytes(32, "big") + second.to_bytes(32, "big")


def sealed(message: bytes, receiver: ec.EllipticCurvePublicKey, secret: bytes) -> bytes:
    """The message as only the receiver can read it, who has the authentication secret too.

    Raises ValueError for one of more than `MOST_BYTES`.
    """
    own = ec.generate_private_key(_CURVE)
    return sealed_with(own, os.urandom(_SALT_BYTES), message, receiver, secret)


def sealed_with(
    own: ec.EllipticCurvePrivateKey,
    salt: bytes,
    message: bytes,
    receiver: ec.EllipticCurvePublicKey,
    secret: bytes,
) -> bytes:
    """As `sealed`, with a key pair and a salt that are used for nothing else. RFC 8291, 3.4"""
    if len(message) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    ours = point_of(own)
    theirs = receiver.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shared = own.exchange(ec.ECDH(), receiver)
    # HKDF of RFC 5869, whose outputs are never longer than one hash here.
    keying = _expanded(_hmac(secret, shared), b"WebPush: info\0" + theirs + ours, 32)
    pseudorandom = _hmac(salt, keying)
    key = _expanded(pseudorandom, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _expanded(pseudorandom, b"Content-Encoding: nonce\0", 12)
    header = salt + RECORD_BYTES.to_bytes(4, "big") + bytes([_KEY_BYTES]) + ours
    return header + AESGCM(key).encrypt(nonce, message + _LAST, None)


def _expanded(pseudorandom: bytes, info: bytes, length: int) -> bytes:
    return _hmac(pseudorandom, info + b"\x01")[:length]


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")

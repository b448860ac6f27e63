"""How push services know this server: VAPID (RFC 8292).

Owns the file of the key pair, made once, and the signed tokens by which requests show that they
come from the server for which an app has asked the push service. Whoever loses the key loses every
subscription, since each is bound to it; so it is never changed. A token is good for one push
service, for half a day, and is used for all requests of some hours.
"""

from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from homeserver.matrix.canonical import decode_unpadded_urlsafe, encode, encode_unpadded_urlsafe
from homeserver.matrix.errors import Malformed
from homeserver.options import ConfigError
from homeserver.push.gateway import GatewayFailed
from homeserver.runtime.clock import Clock
from homeserver.runtime.key_file import write_secret

GOOD_SECONDS = 12 * 3_600
"""For how long a token is good; at most a day. RFC 8292, 2"""
USED_SECONDS = 6 * 3_600
_SERVICES = 1_000
_NAME = "p256"
_HEADER = encode_unpadded_urlsafe(encode({"typ": "JWT", "alg": "ES256"}))


class VapidKey(NamedTuple):
    """A key pair in URL-safe unpadded base64: the point, uncompressed, and the number."""

    public: str
    private: str


def vapid_key(path: Path) -> VapidKey:
    """The key of the file; without a file a new one is made.

    Raises OSError or ConfigError when the file can't be used.
    """
    with suppress(FileNotFoundError):
        return read(path)
    from homeserver.push import sealing

    number = sealing.new_private_key()
    point = sealing.point_of(sealing.private_key(number))
    key = VapidKey(encode_unpadded_urlsafe(point), encode_unpadded_urlsafe(number))
    write_secret(path, f"{_NAME} {key.public} {key.private}\n")
    return key


def read(path: Path) -> VapidKey:
    """The key of a file that is there; raises OSError or ConfigError.

    That both halves belong together is seen when something is signed first.
    """
    try:
        name, public, private = path.read_text(encoding="ascii").split()
        lengths = [len(decode_unpadded_urlsafe(half)) for half in (public, private)]
    except (ValueError, Malformed):
        name, lengths = "", []
    if name != _NAME or lengths != [65, 32]:
        raise ConfigError(f"{path}: it must be one line: {_NAME}, public key, private key")
    return VapidKey(public, private)


class Vapid:
    """See the module; `contact` is where a push service can complain, a mailto: or https: URL."""

    def __init__(self, key: VapidKey, contact: str, clock: Clock) -> None:
        self.public_key = key.public
        self._private = key.private
        self._contact = contact
        self._clock = clock
        self._tokens: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def authorization(self, url: str) -> str:
        """The header `Authorization` of a request to this address; raises `GatewayFailed`."""
        parts = urlsplit(url)
        service = f"{parts.scheme}://{parts.netloc.lower().removesuffix(':443')}"
        now = self._clock.now_ms() / 1_000
        token, until = self._tokens.get(service, ("", 0.0))
        if not now <= until <= now + USED_SECONDS:
            token = self._signed(service, now)
            self._tokens[service] = token, now + USED_SECONDS
            if len(self._tokens) > _SERVICES:
                self._tokens.popitem(last=False)
        return f"vapid t={token}, k={self.public_key}"

    def _signed(self, service: str, now: float) -> str:
        from homeserver.push import sealing

        key = sealing.private_key(decode_unpadded_urlsafe(self._private))
        if encode_unpadded_urlsafe(sealing.point_of(key)) != self.public_key:
            raise GatewayFailed(
                "the public key of the VAPID key file is not that of its private one"
            )
        claims = {"aud": service, "exp": int(now) + GOOD_SECONDS}
        if self._contact:
            claims["sub"] = self._contact
        said = f"{_HEADER}.{encode_unpadded_urlsafe(encode(claims))}"
        return f"{said}.{encode_unpadded_urlsafe(sealing.sign(key, said.encode()))}"

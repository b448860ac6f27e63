"""Web Push: telling an app through the push service of its browser or distributor, encrypted.

Owns what a pusher of the kind `webpush` must say (MSC4174), and the message that it gets: one JSON
object as web apps know it from Sygnal, with what the pusher gave as `default_payload`, the members
of a notification of the Push Gateway API, and `unread` in the place of its counts. Only the app can
read it (`sealing.py`), the push service knows by `vapid.py` from whom it comes. What doesn't fit is
told by its id. A pusher is told nothing before its app has shown that it gets this
(`activation.py`). RFC 8030 says what is requested:

- `TTL`: how long the service keeps it for a device that is away.
- `Urgency`: `high` wakes a device that saves power.
- `Topic`: replaces what is still kept of the same topic: each unread count does so, and each event
  of a room where the pusher says `only_last_per_room`.

An answer of 403, 404 or 410 ends the pusher, as MSC4174 has it.
"""

from hashlib import blake2s
from typing import TYPE_CHECKING, Any, Final

from homeserver.errors import MatrixError
from homeserver.http.outbound import Answer
from homeserver.matrix.canonical import (
    JsonObject,
    decode_unpadded_urlsafe,
    encode,
    encode_unpadded_urlsafe,
)
from homeserver.matrix.errors import Malformed
from homeserver.push.gateway import (
    GatewayFailed,
    Notice,
    Request,
    host_of,
    is_address,
    wants_badge,
)
from homeserver.push.vapid import Vapid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

KINDS: Final = ("webpush", "org.matrix.msc4174.webpush")
KEPT_SECONDS: Final = 3 * 86_400
"""For how long a push service keeps a notification: for a phone that is off for a weekend."""
MOST_DEFAULT_BYTES: Final = 1_024
_SECRET_BYTES: Final = 16
_UNREAD_TOPIC: Final = "unread"
_ENDED: Final = (403, 404, 410)
_OFF: Final = "Web Push is switched off on this server (push.web_push)"


def check(pushkey: str, data: JsonObject) -> None:
    """Raise `MatrixError` M_MISSING_PARAM or M_INVALID_PARAM for what is no subscription.

    The key is the app's public key, `data.url` its push resource, `data.auth` the secret. RFC 8291
    """
    from homeserver.push import sealing

    url, secret = _url(data), data.get("auth")
    for name, value in (("url", url), ("auth", secret)):
        if not isinstance(value, str):
            raise MatrixError.missing_param(f"data.{name} is missing")
    if not is_address(str(url), "https"):
        raise MatrixError.invalid_param("data.url must be an HTTPS URL")
    if len(_decoded(str(secret)) or b"") != _SECRET_BYTES:
        raise MatrixError.invalid_param(f"data.auth must be {_SECRET_BYTES} bytes in base64url")
    try:
        sealing.public_key(_decoded(pushkey) or b"")
    except ValueError:
        raise MatrixError.invalid_param(
            "pushkey must be a public key of P-256, uncompressed, in base64url"
        ) from None
    given = data.get("default_payload", {})
    if not isinstance(given, dict) or len(encode(given)) > MOST_DEFAULT_BYTES:
        raise MatrixError.invalid_param(
            f"data.default_payload must be an object of at most {MOST_DEFAULT_BYTES} bytes"
        )


def same(one: JsonObject, other: JsonObject) -> bool:
    """Whether two pushers of one key lead to the same app, by their `data`."""
    return (_url(one), one.get("auth")) == (_url(other), other.get("auth"))


class Subscription:
    """The way to an app by its push service; without `vapid` there is none."""

    __slots__ = (
        "_counts",
        "_given",
        "_last_per_room",
        "_pushkey",
        "_receiver",
        "_secret",
        "_url",
        "_vapid",
        "host",
        "ids_only",
        "wants_badge",
    )

    direct = True

    def __init__(self, pushkey: str, data: JsonObject, vapid: Vapid | None) -> None:
        self._url: str = _url(data)
        self._pushkey = pushkey
        self._receiver: EllipticCurvePublicKey | None = None
        self._secret = decode_unpadded_urlsafe(data["auth"])
        self._vapid = vapid
        self._given: JsonObject = data.get("default_payload", {})
        self._last_per_room = data.get("only_last_per_room") is True
        self._counts = wants_badge(data)
        self.host = host_of(self._url)
        self.ids_only = data.get("format") == "event_id_only"
        self.wants_badge = self._counts and data.get("events_only") is not True

    def request(self, notice: Notice | None, unread: int, *, ids_only: bool) -> Request:
        """See `Way`; raises `GatewayFailed` where there is no Web Push (any more)."""
        from homeserver.push import sealing

        counts: JsonObject = {"unread": unread} if self._counts else {}
        if notice is None:
            return self.sealed({**self._given, **counts}, topic=_UNREAD_TOPIC)
        message = {**self._given, **notice.id_members, **counts}
        if not ids_only:
            whole = {**message, **notice.full}
            if len(encode(whole)) <= sealing.MOST_BYTES:
                message = whole
        topic = _topic(notice.room_id) if self._last_per_room else None
        return self.sealed(message, topic=topic, urgent=notice.urgent)

    def sealed(
        self,
        message: JsonObject,
        *,
        topic: str | None = None,
        urgent: bool = False,
        kept_seconds: int = KEPT_SECONDS,
    ) -> Request:
        """The request that brings a message; raises `GatewayFailed` as `request` does."""
        from homeserver.push import sealing

        if self._vapid is None:
            raise GatewayFailed(_OFF)
        if self._receiver is None:
            self._receiver = sealing.public_key(decode_unpadded_urlsafe(self._pushkey))
        headers = {
            "Authorization": self._vapid.authorization(self._url),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(kept_seconds),
            "Urgency": "high" if urgent else "normal",
        }
        if topic is not None:
            headers["Topic"] = topic
        body = sealing.sealed(encode(message), self._receiver, self._secret)
        return Request(self._url, headers, body)

    def took(self, answer: Answer) -> bool:
        """See `Way`."""
        if answer.status in _ENDED:
            return False
        if answer.status // 100 != 2:
            raise GatewayFailed(f"the push service answered with status {answer.status}")
        return True


def _url(data: JsonObject) -> Any:
    """The push resource, which was `endpoint` in earlier drafts and is so in some apps."""
    return data.get("url", data.get("endpoint"))


def _topic(room_id: str) -> str:
    """A room as a topic, which has at most 32 characters. RFC 8030, 5.4"""
    return encode_unpadded_urlsafe(blake2s(room_id.encode(), digest_size=22).digest())


def _decoded(text: str) -> bytes | None:
    try:
        return decode_unpadded_urlsafe(text)
    except Malformed:
        return None

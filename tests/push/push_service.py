"""A push service and the apps that subscribe to it: it takes what RFC 8030 and RFC 8292 allow, and
the apps really decrypt what they are sent.

The decryption is that of `http_ece`, so what this project encrypts is read by something else.
"""

import base64
import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import http_ece
import trustme
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DAY = 86_400


def decoded(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(authorization: str) -> tuple[dict[str, Any], str]:
    """What a request of a server says of it, and its key; ValueError if it is not signed by it."""
    scheme, _, rest = authorization.partition(" ")
    given = dict(part.strip().split("=", 1) for part in rest.split(","))
    if scheme != "vapid" or given.keys() != {"t", "k"}:
        raise ValueError("not the vapid scheme")
    said, _, signature = given["t"].rpartition(".")
    header, payload = (json.loads(decoded(part)) for part in said.split("."))
    if header["alg"] != "ES256":
        raise ValueError("another algorithm")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decoded(given["k"]))
    numbers = decoded(signature)
    first, second = (int.from_bytes(half, "big") for half in (numbers[:32], numbers[32:]))
    try:
        key.verify(encode_dss_signature(first, second), said.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise ValueError("a wrong signature") from None
    return payload, given["k"]


class App:
    """An app with a subscription: its keys, and the push resource at which it is told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._secret = os.urandom(16)
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.p256dh, self.auth = encoded(point), encoded(self._secret)

    @property
    def data(self) -> dict[str, Any]:
        """What its pusher says in `data`."""
        return {"url": self.url, "auth": self.auth}

    def decrypt(self, body: bytes) -> Any:
        """The message, from JSON."""
        plain = http_ece.decrypt(body, private_key=self._key, auth_secret=self._secret)
        return json.loads(plain)


@dataclass
class Pushed:
    """One message, decrypted, with the headers and the length that it came with."""

    app: App
    message: dict[str, Any]
    headers: Any
    length: int


@dataclass
class PushService:
    """`status` is what it answers with, `answers` what it does so for single resources.

    `vapid` is the key of the server that may send, as the apps have said; `now` is the time.
    """

    url: str = ""
    now: float = 0.0
    vapid: str = ""
    status: int = 201
    answers: dict[str, int] = field(default_factory=dict)
    location: str = ""
    most: int = 4_096
    tries: int = 0
    faults: list[str] = field(default_factory=list)
    apps: dict[str, App] = field(default_factory=dict)
    pushed: list[Pushed] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    def subscribe(self, name: str = "app") -> App:
        """A new subscription at the resource of this name."""
        self.apps[name] = app = App(f"{self.url}/{name}")
        return app

    @property
    def tokens(self) -> list[str]:
        return [one.message["ack_token"] for one in self.pushed if "ack_token" in one.message]

    @property
    def told(self) -> list[Pushed]:
        """What came beside the tokens of activation."""
        return [one for one in self.pushed if "ack_token" not in one.message]

    @property
    def events(self) -> list[str]:
        return [one.message["event_id"] for one in self.told if "event_id" in one.message]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.tries += 1
        name = request.path.strip("/")
        body = await request.read()
        status = self.answers.get(name, self.status)
        if name not in self.apps:
            return web.Response(status=404)
        if len(body) > self.most:
            return web.Response(status=413)
        if status // 100 == 2:
            try:
                self.pushed.append(self._checked(self.apps[name], request, body))
            except Exception as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                return web.Response(status=400)
        headers = {"Location": self.location} if self.location else {}
        return web.Response(status=status, headers=headers)

    def _checked(self, app: App, request: web.BaseRequest, body: bytes) -> Pushed:
        headers = request.headers
        assert request.method == "POST"
        assert headers["Content-Encoding"] == "aes128gcm"
        assert int(headers["TTL"]) >= 0
        assert headers["Urgency"] in ("very-low", "low", "normal", "high")
        topic = headers.get("Topic", "x")
        assert 0 < len(topic) <= 32
        assert set(topic) <= set(encoded(bytes(range(256))) + "-_")
        said, key = claims(headers["Authorization"])
        assert said["aud"] == self.url
        assert self.now <= said["exp"] <= self.now + DAY
        assert said.get("sub", "mailto:").startswith(("mailto:", "https://"))
        assert key == self.vapid
        self.authorizations.append(headers["Authorization"])
        return Pushed(app, app.decrypt(body), headers, len(body))


@asynccontextmanager
async def push_service(
    authority: trustme.CA, address: str = "127.0.0.1"
) -> AsyncIterator[PushService]:
    """One that listens while it is needed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(address).configure_cert(context)
    made = PushService()
    runner = web.ServerRunner(web.Server(made.handle))
    await runner.setup()
    await web.TCPSite(runner, address, 0, ssl_context=context).start()
    made.url = f"https://{address}:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()
    assert made.faults == []


def trusting(authority: trustme.CA, folder: Path) -> dict[str, Any]:
    """The section `federation` of a server that believes the certificates of this authority."""
    file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return {"ca_file": str(file), "allow_networks": ["127.0.0.1/32"]}

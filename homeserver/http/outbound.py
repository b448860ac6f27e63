"""The one HTTP client, for everything that a stranger can make this server fetch.

Owns connections to the outside and their bounds: where they may go, how long anything takes, how
many bytes come back, compressed or not, and how often an answer may redirect. Invariant: the rules
judge the very address that a socket is opened to, at that moment, so neither redirects nor a name
that changes its address get around them. No proxies, cookies or credentials of the environment are
used. It knows nothing of Matrix, and tries nothing twice.
"""

import asyncio
import errno
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from homeserver.http.addresses import AddressRules

CONNECTIONS_PER_HOST = 16
IDLE_SECONDS = 30.0
"""How long an unused connection is kept, and the longest silence inside of an answer."""
_PIECE = 65_536
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class OutboundFailed(Exception):
    """There is no answer that could be used; the text says why, without naming the host."""


class ConnectFailed(OutboundFailed):
    """No connection came about, so nothing was sent: another address may be tried."""


class TooLong(OutboundFailed):
    """The answer has more bytes than the caller takes."""


class AddressBook(Protocol):
    """Finds the addresses of hosts."""

    async def addresses(self, host: str) -> list[str]:
        """The literal addresses of a host, best first; OSError with a reason when there is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `headers` ignore case, `url` is where the last redirect led."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Streamed:
    """An answer whose body is still coming."""

    __slots__ = ("_answer", "_max_bytes", "headers", "status", "url")

    def __init__(self, answer: aiohttp.ClientResponse, max_bytes: int) -> None:
        self._answer = answer
        self._max_bytes = max_bytes
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self.url = str(answer.url)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, decompressed, in pieces of at most 64 KiB; raises OutboundFailed."""
        length = self._answer.content_length
        if length is not None and length > self._max_bytes:
            raise TooLong(f"the answer has {length} bytes, more than {self._max_bytes}")
        coding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in {"identity", "gzip", ""}:
            raise OutboundFailed("the answer is in an encoding that nobody asked for")
        inflating = zlib.decompressobj(wbits=31) if coding == "gzip" else None
        received = given = 0
        try:
            async for chunk in self._answer.content.iter_any():
                received += len(chunk)
                for piece in _pieces(inflating, chunk):
                    given += len(piece)
                    if max(received, given) > self._max_bytes:
                        raise TooLong(f"the answer has more than {self._max_bytes} bytes")
                    yield piece
        except zlib.error:
            raise OutboundFailed("the answer is not compressed as it says") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure(error) from None
        if inflating is not None and received and not inflating.eof:
            raise OutboundFailed("the answer ended too early")


class Outbound:
    """The client; built on a running loop, and closed with `close`."""

    def __init__(
        self,
        book: AddressBook,
        rules: AddressRules,
        tls: ssl.SSLContext,
        connect_seconds: float = 10.0,
        per_host: int = CONNECTIONS_PER_HOST,
    ) -> None:
        self._book = book
        self._rules = rules
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(book),
                use_dns_cache=False,
                ssl=tls,
                limit=0,
                limit_per_host=per_host,
                keepalive_timeout=IDLE_SECONDS,
                socket_factory=self._socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent",),
        )

    def alike(self, per_host: int) -> "Outbound":
        """Another client, to be closed on its own, with this many connections to each host."""
        return Outbound(self._book, self._rules, self._tls, self._connect_seconds, per_host)

    async def close(self) -> None:
        """Drop every connection."""
        await self._session.close()

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        tls_name: str | None = None,
        seconds: float = 30.0,
        max_bytes: int = 1_048_576,
        redirects: int = 0,
    ) -> Answer:
        """Send a request and read its whole answer, whatever its status.

        `url` is sent as it is written. `tls_name` is whose certificate is expected when it is not
        the host of `url`. Of `redirects` up to so many are followed, to https only. Raises
        `OutboundFailed`: `ConnectFailed`, `TooLong`, or another; `seconds` bounds all of it.
        """
        try:
            async with (
                asyncio.timeout(seconds),
                self.follow(
                    method,
                    url,
                    headers=headers,
                    body=body,
                    tls_name=tls_name,
                    seconds=seconds,
                    max_bytes=max_bytes,
                    redirects=redirects,
                ) as answer,
            ):
                content = b"".join([piece async for piece in answer.chunks()])
                return Answer(answer.status, answer.headers, content, answer.url)
        except TimeoutError:
            raise OutboundFailed(f"no answer within {seconds:g} s") from None

    @asynccontextmanager
    async def follow(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        tls_name: str | None = None,
        seconds: float = 30.0,
        max_bytes: int = 1_048_576,
        redirects: int = 0,
        schemes: Collection[str] = ("https",),
    ) -> AsyncIterator[Streamed]:
        """Send a request as `open` does; up to so many `redirects` are followed, to `schemes` only.

        `seconds` bounds each request of its own: the caller bounds them together.
        """
        while True:
            async with self.open(
                method,
                url,
                headers=headers,
                body=body,
                tls_name=tls_name,
                seconds=seconds,
                max_bytes=max_bytes,
            ) as answer:
                location = answer.headers.get("Location")
                if answer.status not in _REDIRECTS or not redirects or not location:
                    yield answer
                    return
            redirects -= 1
            url, tls_name = _redirected(url, location, schemes), None

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        tls_name: str | None = None,
        seconds: float = 30.0,
        max_bytes: int = 1_048_576,
    ) -> AsyncIterator[Streamed]:
        """Send a request; its answer is there when the head has come. No redirect is followed."""
        timeout = aiohttp.ClientTimeout(
            total=seconds, sock_connect=self._connect_seconds, sock_read=IDLE_SECONDS
        )
        if self._session.closed:
            raise OutboundFailed("the server is stopping")
        try:
            answer = await self._session.request(
                method,
                URL(url, encoded=True),
                headers={"Accept-Encoding": "gzip", **(headers or {})},
                data=body,
                timeout=timeout,
                server_hostname=tls_name,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _failure(error) from None
        try:
            yield Streamed(answer, max_bytes)
        finally:
            # A connection whose answer was not read to its end is not used again.
            answer.close()

    def _socket(self, address: Any) -> socket.socket:
        """A socket for one address to be connected to, if that is allowed."""
        family, kind, protocol, _, place = address
        if not self._rules.allows(place[0]):
            raise OSError(errno.EACCES, f"connections to {place[0]} are not allowed")
        return socket.socket(family, kind, protocol)


class _Resolver(AbstractResolver):
    """The library's view of an address book."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._book.addresses(host)
        ]

    async def close(self) -> None:
        """Nothing is held."""


def tls_context(verify: bool = True, ca_file: Path | None = None) -> ssl.SSLContext:
    """What certificates are checked against: the system's authorities and those of `ca_file`.

    Raises OSError when the file can't be read or holds no certificate.
    """
    content = ca_file.read_bytes() if ca_file is not None else b""
    try:
        return _context(verify, ca_file, content)
    except ssl.SSLError as error:
        reason = f"it holds no certificates ({error.reason})"
        raise OSError(errno.EINVAL, reason, str(ca_file)) from None


@lru_cache(maxsize=8)
def _context(verify: bool, ca_file: Path | None, _content: bytes) -> ssl.SSLContext:
    """Shared by whoever wants the same, since reading the system's authorities takes long."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _pieces(inflating: "zlib._Decompress | None", chunk: bytes) -> Iterator[bytes]:
    """What comes out of a chunk, bit by bit: a bomb is never whole in memory."""
    if inflating is None:
        for start in range(0, len(chunk), _PIECE):
            yield chunk[start : start + _PIECE]
        return
    while chunk:
        if inflating.eof:
            raise zlib.error("bytes after the end")
        piece = inflating.decompress(chunk, _PIECE)
        chunk = inflating.unconsumed_tail or inflating.unused_data
        if piece:
            yield piece


def _redirected(url: str, location: str, schemes: Collection[str]) -> str:
    target = urljoin(url, location)
    parts = urlsplit(target)
    if parts.scheme not in schemes or not parts.hostname or "@" in parts.netloc:
        allowed = " or ".join(sorted(schemes))
        raise OutboundFailed(f"the answer redirects to something else than an {allowed} address")
    return target


def _failure(error: Exception) -> OutboundFailed:
    """The library's exception in our words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", None) or "it is not valid"
        return ConnectFailed(f"its certificate was refused: {reason}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectFailed("no connection in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        return ConnectFailed(f"no connection: {inner.strerror or inner}")
    if isinstance(error, TimeoutError):
        return OutboundFailed("no answer in time")
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return OutboundFailed("the address is malformed")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return OutboundFailed("the connection was closed without an answer")
    return OutboundFailed(f"the answer broke off: {str(error) or type(error).__name__}")

"""The one HTTP client, for everything that a stranger can make this server fetch.

Owns what is asked and what an answer may be: how long anything takes, how many bytes come back,
compressed or not, and how often an answer may redirect. Invariant: each connection, also after a
redirect, is the pool's, whose rules say where it may go. No proxies or credentials of the
environment are used, and no cookie outlives the request to which it was set. It knows nothing of
Matrix. Nothing is sent twice, except where a connection that was kept turns out to be closed and
the request is one that may come twice. spec: RFC 9110
"""

import asyncio
import errno
import re
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from homeserver.http.addresses import AddressRules
from homeserver.http.outbound_connection import Connection, OutboundFailed, Reply, Unanswered
from homeserver.http.outbound_cookies import Cookies
from homeserver.http.outbound_pool import AddressBook, AddressDenied, ConnectFailed, Place, Pool

__all__ = [
    "AddressDenied",
    "Answer",
    "ConnectFailed",
    "Outbound",
    "OutboundFailed",
    "Streamed",
    "TooLong",
    "tls_context",
]

CONNECTIONS_PER_HOST = 16
_PIECE = 65_536
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAY_COME_TWICE = frozenset({"GET", "PUT", "DELETE"})
_HTTPS = ("https",)
_NEED_NOT_BE_ENCODED = "%:/?#[]@!$&'()*+,;=|^`{}"
_URL = re.compile(
    r"(https?)://([a-z0-9_-][a-z0-9._-]*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?([/?][^\x00-\x20\x7f#]*)?",
    re.IGNORECASE,
)


class TooLong(OutboundFailed):
    """The answer has more bytes than the caller takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `headers` ignore case, `url` is where the last redirect led."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Streamed:
    """An answer whose body is still coming, until it is left."""

    __slots__ = (
        "_connection",
        "_max_bytes",
        "_place",
        "_pool",
        "_reply",
        "headers",
        "status",
        "url",
    )

    def __init__(
        self,
        pool: Pool,
        place: Place,
        connection: Connection,
        reply: Reply,
        url: str,
        max_bytes: int,
    ) -> None:
        self._pool = pool
        self._place = place
        self._connection = connection
        self._reply = reply
        self._max_bytes = max_bytes
        self.status = reply.status
        self.headers: Mapping[str, str] = reply.headers
        self.url = url

    async def whole(self) -> bytes:
        """The body, decompressed; raises OutboundFailed."""
        if self._is_compressed():
            return b"".join([piece async for piece in self.chunks()])
        parts, size = [], 0
        while self._reply.size or not self._reply.is_whole:
            part = await self._reply.more()
            size += len(part)
            self._check(size)
            parts.append(part)
        return b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, decompressed, in pieces of at most 64 KiB; raises OutboundFailed."""
        inflating = zlib.decompressobj(wbits=31) if self._is_compressed() else None
        received = given = 0
        try:
            while chunk := await self._reply.more():
                received += len(chunk)
                for piece in _pieces(inflating, chunk):
                    given += len(piece)
                    self._check(max(received, given))
                    yield piece
        except zlib.error:
            raise OutboundFailed("the answer is not compressed as it says") from None
        if inflating is not None and received and not inflating.eof:
            raise OutboundFailed("the answer ended too early")

    def leave(self) -> None:
        """Give the connection back, which is used again only if the answer was read to its end."""
        self._pool.give(self._place, self._connection)

    def _is_compressed(self) -> bool:
        """Whether what comes is; raises OutboundFailed if it is not to be read at all."""
        length, coding = self._reply.length, self._reply.coding
        if length is not None and length > self._max_bytes:
            raise TooLong(f"the answer has {length} bytes, more than {self._max_bytes}")
        if coding not in (b"gzip", b"identity", b""):
            raise OutboundFailed("the answer is in an encoding that nobody asked for")
        return coding == b"gzip"

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLong(f"the answer has more than {self._max_bytes} bytes")


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
        self._made_of = book, rules, tls, connect_seconds
        self._pool = Pool(book, rules, tls, connect_seconds, per_host)

    def alike(self, per_host: int) -> "Outbound":
        """Another client, to be closed on its own, with this many connections to each host."""
        return Outbound(*self._made_of, per_host)

    async def close(self) -> None:
        """Drop every connection."""
        await self._pool.close()

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
        """The whole answer to a request as `open` sends it."""
        answer = await self._answered(
            method, url, headers, body, tls_name, seconds, max_bytes, redirects, _HTTPS
        )
        try:
            return Answer(answer.status, answer.headers, await answer.whole(), answer.url)
        finally:
            answer.leave()

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
        redirects: int = 0,
        schemes: Collection[str] = _HTTPS,
        cookies: bool = False,
    ) -> AsyncIterator[Streamed]:
        """Send a request; its answer, whatever its status, is there when the head has come.

        `url` is sent as it is written. `tls_name` is whose certificate is expected when it is not
        the host of `url`. Up to so many `redirects` are followed, to `schemes` only; with
        `cookies` a host that redirects hears again what it has set with that. Raises
        `OutboundFailed`: `ConnectFailed`, `TooLong`, or another; `seconds` bounds all of it, the
        reading of the body included.
        """
        jar = Cookies() if cookies else None
        answer = await self._answered(
            method, url, headers, body, tls_name, seconds, max_bytes, redirects, schemes, jar
        )
        try:
            yield answer
        finally:
            answer.leave()

    async def _answered(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        tls_name: str | None,
        seconds: float,
        max_bytes: int,
        redirects: int,
        schemes: Collection[str],
        jar: Cookies | None = None,
    ) -> Streamed:
        """The answer that `open` gives, to be left."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            place, host, target = _parsed(url, tls_name)
            said = jar.added(place, headers) if jar is not None else headers
            request = _request(method, host, target, said, body)
            connection, reply = await self._asked(place, request, deadline, method)
            if jar is not None:
                jar.set(place, reply.headers)
            answer = Streamed(self._pool, place, connection, reply, url, max_bytes)
            if not redirects or reply.status not in _REDIRECTS:
                return answer
            location = reply.headers.get("Location")
            if not location:
                return answer
            answer.leave()
            redirects -= 1
            url, tls_name = _redirected(url, location, schemes), None

    async def _asked(
        self, place: Place, request: bytes, deadline: float, method: str
    ) -> tuple[Connection, Reply]:
        """Send a request and wait for the head of its answer, on a connection to be given back."""
        connection = await self._pool.take(place, deadline)
        while True:
            reply = connection.ask(request, deadline)
            try:
                await reply.begun()
            except BaseException as error:
                self._pool.give(place, connection)
                closed_before = isinstance(error, Unanswered) and connection.asked > 1
                if not closed_before or method not in _MAY_COME_TWICE:
                    raise
            else:
                return connection, reply
            connection = await self._pool.take(place, deadline, new=True)


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


@lru_cache(maxsize=1_000)
def _parsed(url: str, tls_name: str | None) -> tuple[Place, str, str]:
    """Where a request goes, and its Host and target; raises OutboundFailed."""
    found = _URL.fullmatch(url)
    if found is None or int(found[3] or 1) not in range(1, 65_536):
        raise OutboundFailed("the address is malformed")
    usual = 443 if found[1].lower() == "https" else 80
    port, name = int(found[3] or usual), found[2].lower()
    host = name if port == usual else f"{name}:{port}"
    name = name.strip("[]")
    expected = (tls_name or name).rstrip(".") if usual == 443 else None
    target = found[4] or "/"
    return Place(name, port, expected), host, target if target[0] == "/" else f"/{target}"


def _request(
    method: str, host: str, target: str, headers: Mapping[str, str] | None, body: bytes | None
) -> bytes:
    """A request as it is sent; raises OutboundFailed for what would be read as another one."""
    lines = {"Host": host, "Accept": "*/*", "Accept-Encoding": "gzip", **(headers or {})}
    if body is not None or method != "GET":
        lines["Content-Length"] = str(len(body or b""))
    fields = "".join([f"{name}: {value}\r\n" for name, value in lines.items()])
    head = f"{method} {target} HTTP/1.1\r\n{fields}"
    breaks = len(lines) + 1
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise OutboundFailed("the request has a header that can't be sent")
    try:
        return b"%s\r\n%s" % (head.encode(), body or b"")
    except UnicodeEncodeError:
        raise OutboundFailed("the address is malformed") from None


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
    # As browsers do: what should have been encoded is.
    target = urljoin(url, quote(location, _NEED_NOT_BE_ENCODED, errors="surrogateescape"))
    parts = urlsplit(target)
    if parts.scheme not in schemes or not parts.hostname or "@" in parts.netloc:
        allowed = " or ".join(sorted(schemes))
        raise OutboundFailed(f"the answer redirects to something else than an {allowed} address")
    return target.partition("#")[0]

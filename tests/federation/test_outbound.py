"""What strangers send back is bounded, and where a request goes is judged as it connects."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from homeserver.http.addresses import AddressRules
from homeserver.http.outbound import (
    ConnectFailed,
    Outbound,
    OutboundFailed,
    TooLong,
    tls_context,
)
from tests.federation.internet import TlsServer, answers

CAP = 10_000
Make = Callable[..., Outbound]


class Book:
    """Hosts as a test has them; each look-up takes the next of several answers."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[Sequence[str]]] = {}
        self.asked: list[str] = []

    async def addresses(self, host: str) -> list[str]:
        self.asked.append(host)
        answers = self.hosts.get(host)
        if not answers:
            raise OSError("no such name")
        return list(answers.pop(0) if len(answers) > 1 else answers[0])


@pytest.fixture
def book() -> Book:
    book = Book()
    book.hosts = {name: [["127.0.0.1"]] for name in ("a.example", "b.example")}
    return book


@pytest.fixture
async def make(book: Book, authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Make]:
    made = []
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def build(
        denied: Sequence[str] = (), allowed: Sequence[str] = (), verify: bool = True
    ) -> Outbound:
        tls = tls_context(verify, tmp_path / "ca.pem")
        made.append(Outbound(book, AddressRules(denied, allowed), tls, 2.0))
        return made[-1]

    yield build
    for outbound in made:
        await outbound.close()


@pytest.fixture
async def server(authority: trustme.CA) -> AsyncIterator[TlsServer]:
    started = await TlsServer(authority, "a.example", "b.example").start()
    yield started
    await started.stop()


def url(server: TlsServer, path: str = "/", host: str = "a.example") -> str:
    return f"https://{host}:{server.port}{path}"


class TestSending:
    async def test_the_target_is_sent_as_it_is_written(self, make: Make, server: TlsServer) -> None:
        target = "/_matrix/%21a%3Ab/%2B+c%20d//x/../y?q=%C3%A4%26&r=+%2F"
        await make().fetch("GET", url(server, target))
        assert server.seen[0].target == target

    async def test_nothing_is_told_that_was_not_asked_for(
        self, make: Make, server: TlsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        server.handler = answers({}, headers={"Set-Cookie": "a=b"})
        outbound = make()
        for _ in range(2):
            await outbound.fetch("PUT", url(server), body=b"{}")
        assert set(server.seen[1].headers) <= {
            "Host",
            "Accept",
            "Accept-Encoding",
            "Content-Length",
            "Content-Type",
        }

    async def test_connections_are_used_again(
        self, make: Make, server: TlsServer, book: Book
    ) -> None:
        outbound = make()
        for _ in range(5):
            await outbound.fetch("GET", url(server))
        assert book.asked == ["a.example"]


class TestCertificates:
    async def test_the_expected_name_may_be_another(self, make: Make, server: TlsServer) -> None:
        await make().fetch("GET", url(server, host="127.0.0.1"), tls_name="b.example")
        assert server.seen[0].sni == "b.example"

    async def test_a_wrong_name_is_refused(self, make: Make, server: TlsServer) -> None:
        with pytest.raises(ConnectFailed, match="certificate"):
            await make().fetch("GET", url(server, host="127.0.0.1"), tls_name="c.example")
        assert not server.seen

    async def test_connections_of_one_name_are_not_used_for_another(
        self, make: Make, server: TlsServer
    ) -> None:
        outbound = make()
        await outbound.fetch("GET", url(server, host="127.0.0.1"), tls_name="b.example")
        with pytest.raises(ConnectFailed):
            await outbound.fetch("GET", url(server, host="127.0.0.1"), tls_name="c.example")

    async def test_an_unknown_authority_is_refused(self, make: Make, server: TlsServer) -> None:
        other = await TlsServer(trustme.CA(), "a.example").start()
        with pytest.raises(ConnectFailed, match="certificate"):
            await make().fetch("GET", url(other))
        await other.stop()

    async def test_checks_may_be_off(self, make: Make, book: Book) -> None:
        other = await TlsServer(trustme.CA(), "x.example").start()
        assert (await make(verify=False).fetch("GET", url(other))).status == 404
        await other.stop()

    def test_a_file_without_certificates_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "empty.pem").write_text("nothing")
        with pytest.raises(OSError, match="no certificates"):
            tls_context(True, tmp_path / "empty.pem")
        with pytest.raises(FileNotFoundError):
            tls_context(True, tmp_path / "missing.pem")


class TestWhereTo:
    @pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1"])
    async def test_names_of_denied_addresses_lead_nowhere(
        self, make: Make, server: TlsServer, book: Book, address: str
    ) -> None:
        book.hosts["evil.example"] = [[address]]
        outbound = make(denied=["127.0.0.0/8", "10.0.0.0/8", "::/96"])
        with pytest.raises(ConnectFailed, match="not allowed"):
            await outbound.fetch("GET", url(server, host="evil.example"))
        assert not server.seen

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001"]
    )
    async def test_neither_do_literal_addresses(
        self, make: Make, server: TlsServer, host: str
    ) -> None:
        with pytest.raises(OutboundFailed):
            await make(denied=["127.0.0.0/8", "::/96"]).fetch("GET", url(server, host=host))
        assert not server.seen

    async def test_a_name_that_changes_its_address_gains_nothing(
        self, make: Make, server: TlsServer, book: Book
    ) -> None:
        """The judgement is on the address of the socket, so there is nothing between."""
        book.hosts["evil.example"] = [["8.8.8.8"], ["127.0.0.1"]]
        outbound = make(denied=["127.0.0.0/8"])
        assert await book.addresses("evil.example") == ["8.8.8.8"]
        with pytest.raises(ConnectFailed, match="not allowed"):
            await outbound.fetch("GET", url(server, host="evil.example"))
        assert not server.seen

    async def test_of_several_addresses_the_allowed_ones_are_tried(
        self, make: Make, server: TlsServer, book: Book
    ) -> None:
        book.hosts["a.example"] = [["10.0.0.1", "127.0.0.1"]]
        answer = await make(denied=["10.0.0.0/8"]).fetch("GET", url(server))
        assert answer.status == 404

    async def test_redirects_are_judged_too(
        self, make: Make, server: TlsServer, book: Book
    ) -> None:
        book.hosts["evil.example"] = [["127.0.0.2"]]
        place = url(server, host="evil.example")
        server.handler = answers(b"", 302, {"Location": place})
        with pytest.raises(ConnectFailed, match="not allowed"):
            await make(denied=["127.0.0.2/32"]).fetch("GET", url(server), redirects=5)


class TestRedirects:
    async def test_are_followed_as_often_as_said(self, make: Make, server: TlsServer) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            step = int(request.path.strip("/") or 0)
            if step == 3:
                return web.Response(text="there")
            return web.Response(status=307, headers={"Location": f"/{step + 1}"})

        server.handler = handle
        assert (await make().fetch("GET", url(server), redirects=3)).body == b"there"
        answer = await make().fetch("GET", url(server), redirects=2)
        assert answer.status == 307

    async def test_end(self, make: Make, server: TlsServer) -> None:
        server.handler = answers(b"", 302, {"Location": "/"})
        answer = await make().fetch("GET", url(server), redirects=5)
        assert answer.status == 302
        assert len(server.seen) == 6

    @pytest.mark.parametrize(
        "place",
        [
            "http://a.example/",
            "file:///etc/passwd",
            "https://user:secret@a.example/",
            "gopher://a.example",
        ],
    )
    async def test_lead_to_https_only(self, make: Make, server: TlsServer, place: str) -> None:
        server.handler = answers(b"", 302, {"Location": place})
        with pytest.raises(OutboundFailed, match="redirects"):
            await make().fetch("GET", url(server), redirects=5)


class TestBounds:
    async def test_a_body_may_be_as_long_as_said(self, make: Make, server: TlsServer) -> None:
        server.handler = answers(b"x" * CAP)
        assert (await make().fetch("GET", url(server), max_bytes=CAP)).body == b"x" * CAP

    async def test_a_body_that_announces_more_is_not_read(
        self, make: Make, server: TlsServer
    ) -> None:
        server.handler = answers(b"x" * (CAP + 1))
        with pytest.raises(TooLong):
            await make().fetch("GET", url(server), max_bytes=CAP)

    async def test_an_endless_body_is_cut_off(self, make: Make, server: TlsServer) -> None:
        sent = 0

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal sent
            reply = web.StreamResponse()
            await reply.prepare(request)
            while True:
                await reply.write(b"x" * 1_000)
                sent += 1_000
                await asyncio.sleep(0)  # a write to a client that has gone waits for nothing

        server.handler = handle
        with pytest.raises(TooLong):
            await make().fetch("GET", url(server), max_bytes=CAP)
        assert sent < 100 * 1_048_576

    async def test_compressed_bodies_are_unpacked(self, make: Make, server: TlsServer) -> None:
        packed = gzip.compress(b"y" * CAP)
        server.handler = answers(packed, headers={"Content-Encoding": "gzip"})
        assert (await make().fetch("GET", url(server), max_bytes=CAP)).body == b"y" * CAP

    async def test_what_a_body_unpacks_to_counts(self, make: Make, server: TlsServer) -> None:
        bomb = gzip.compress(b"\0" * 50_000_000)
        assert len(bomb) < 60_000
        server.handler = answers(bomb, headers={"Content-Encoding": "gzip"})
        with pytest.raises(TooLong):
            await make().fetch("GET", url(server), max_bytes=1_000_000)

    @pytest.mark.parametrize(
        ("body", "coding"),
        [
            (b"not compressed", "gzip"),
            (gzip.compress(b"y" * 50_000)[:-20], "gzip"),
            (gzip.compress(b"y") + b"more", "gzip"),
            (zlib.compress(b"y"), "deflate"),
            (b"y", "br"),
            (gzip.compress(gzip.compress(b"y")), "gzip, gzip"),
        ],
        ids=["plain", "cut off", "rest", "deflate", "br", "twice"],
    )
    async def test_broken_compression_is_an_error(
        self, make: Make, server: TlsServer, body: bytes, coding: str
    ) -> None:
        server.handler = answers(body, headers={"Content-Encoding": coding})
        with pytest.raises(OutboundFailed):
            await make().fetch("GET", url(server), max_bytes=CAP)


class Raw:
    """A TLS server that sends bytes as a test says."""

    def __init__(self, authority: trustme.CA) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("a.example").configure_cert(self._tls)
        self.port = 0
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def end(self) -> None:
        """End what is still being said."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.sleep(0)

    async def start(
        self, talk: Callable[[asyncio.StreamWriter], Awaitable[None]], *, tls: bool = True
    ) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving[task] = writer
            try:
                if tls:
                    await reader.readuntil(b"\r\n\r\n")
                await talk(writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self._tls if tls else None)
        self.port = server.sockets[0].getsockname()[1]
        return server


async def fetched(make: Make, raw: Raw, server: asyncio.Server, seconds: float = 10.0) -> bytes:
    async with server:
        try:
            answer = await make().fetch(
                "GET", f"https://a.example:{raw.port}/", seconds=seconds, max_bytes=CAP
            )
        finally:
            await raw.end()
    return answer.body


class TestBadServers:
    async def test_one_that_says_nothing(self, make: Make, authority: trustme.CA) -> None:
        silent, raw = asyncio.Event(), Raw(authority)

        async def talk(writer: asyncio.StreamWriter) -> None:
            await silent.wait()

        with pytest.raises(OutboundFailed):
            await fetched(make, raw, await raw.start(talk), seconds=0.1)
        silent.set()

    async def test_one_that_speaks_byte_by_byte(self, make: Make, authority: trustme.CA) -> None:
        """The time is for the whole answer, so drops of it don't win more."""
        raw = Raw(authority)

        async def talk(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
            for _ in range(5_000):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)

        began = asyncio.get_running_loop().time()
        with pytest.raises(OutboundFailed):
            await fetched(make, raw, await raw.start(talk), seconds=0.2)
        assert asyncio.get_running_loop().time() - began < 5

    async def test_one_that_never_shakes_hands(self, make: Make, authority: trustme.CA) -> None:
        silent, raw = asyncio.Event(), Raw(authority)

        async def talk(writer: asyncio.StreamWriter) -> None:
            await silent.wait()

        with pytest.raises(OutboundFailed):
            await fetched(make, raw, await raw.start(talk, tls=False), seconds=0.2)
        silent.set()

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"garbage\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        ],
        ids=["nothing", "garbage", "short", "negative", "chunks", "header"],
    )
    async def test_one_that_breaks_off_or_talks_nonsense(
        self, make: Make, authority: trustme.CA, sent: bytes
    ) -> None:
        raw = Raw(authority)

        async def talk(writer: asyncio.StreamWriter) -> None:
            writer.write(sent)
            await writer.drain()

        with pytest.raises(OutboundFailed):
            await fetched(make, raw, await raw.start(talk))

    async def test_nothing_is_sent_after_the_end(self, make: Make, server: TlsServer) -> None:
        outbound = make()
        await outbound.close()
        with pytest.raises(OutboundFailed, match="stopping"):
            await outbound.fetch("GET", url(server))

    async def test_nobody_there(self, make: Make) -> None:
        with pytest.raises(ConnectFailed, match="no connection"):
            await make().fetch("GET", "https://a.example:9/")
        with pytest.raises(ConnectFailed, match="no such name"):
            await make().fetch("GET", "https://nowhere.example/")

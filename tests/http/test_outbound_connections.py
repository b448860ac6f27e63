"""What a server may answer, byte for byte, and when a connection to it is used again."""

import asyncio
import gzip
import itertools
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
import trustme

from homeserver.http import outbound_connection as of_connections
from homeserver.http import outbound_pool as of_pools
from homeserver.http.addresses import AddressRules
from homeserver.http.outbound import Answer, ConnectFailed, Outbound, OutboundFailed, tls_context
from homeserver.http.outbound_connection import Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Talk = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


class Peer:
    """A server that answers each request as a test says.

    `seen` has the connection's number, head and body of each request; `ended` the connections that
    the client has closed.
    """

    def __init__(self, talk: Talk) -> None:
        self.seen: list[tuple[int, bytes, bytes]] = []
        self.ended: list[int] = []
        self.takes_bodies = True
        self.port = 0
        self._changed = asyncio.Event()
        self._talk = talk
        self._numbers = itertools.count()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        number = next(self._numbers)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int((head.lower().partition(b"content-length:")[2].split() or [b"0"])[0])
                body = await reader.readexactly(length) if self.takes_bodies else b""
                self.seen.append((number, head, body))
                self._changed.set()
                await self._talk(writer, len(self.seen))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            # The last is uvloop's word for writing to who has gone.
            self.ended.append(number)
            self._changed.set()
        finally:
            writer.close()

    async def until_seen(self, count: int) -> None:
        await self._until(lambda: len(self.seen) >= count)

    async def until_ended(self, count: int) -> None:
        await self._until(lambda: len(self.ended) >= count)

    async def _until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not happened():
                self._changed.clear()
                await self._changed.wait()

    def stop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Book:
    """Every host is here."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._found = addresses

    async def addresses(self, host: str) -> list[str]:
        return list(self._found)


class Asking:
    """A client, and the peer that it asks."""

    def __init__(self, outbound: Outbound, peer: Peer) -> None:
        self.outbound = outbound
        self.peer = peer
        self.url = f"http://peer.example:{peer.port}/"

    async def get(self, **more: object) -> Answer:
        return await self.outbound.fetch("GET", self.url, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def asking(
    talk: Talk, *, per_host: int = 16, addresses: Sequence[str] = ("127.0.0.1",)
) -> AsyncIterator[Asking]:
    peer = Peer(talk)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    outbound = Outbound(Book(addresses), AddressRules(()), tls_context(), 5.0, per_host)
    try:
        yield Asking(outbound, peer)
    finally:
        await outbound.close()
        peer.stop()
        server.close()
        await server.wait_closed()


def says(*answers: bytes, closing: bool = False) -> Talk:
    """The answers to the first requests; the last one stands for all others."""

    async def talk(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(answers[min(number, len(answers)) - 1])
        if closing:
            raise ConnectionError

    return talk


class TestAnswers:
    @pytest.mark.parametrize(
        ("sent", "status", "body"),
        [
            (OK, 200, b"ok"),
            (CHUNKED + b"1\r\no\r\n1;a=b\r\nk\r\n0\r\nX-After: 1\r\n\r\n", 200, b"ok"),
            (b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n" + OK, 200, b"ok"),
            (b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n", 204, b""),
            (b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", 304, b""),
            (b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", 404, b""),
            (b"HTTP/1.1 200 OK\r\nUpgrade: x\r\nConnection: upgrade\r\n" + OK[17:], 200, b"ok"),
        ],
    )
    async def test_are_understood_and_the_connection_is_used_again(
        self, sent: bytes, status: int, body: bytes
    ) -> None:
        async with asking(says(sent)) as made:
            for _ in range(3):
                answer = await made.get()
                assert (answer.status, answer.body) == (status, body)
            assert [number for number, _, _ in made.peer.seen] == [0, 0, 0]

    @pytest.mark.parametrize(
        "sent",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + OK[17:],
            b"HTTP/1.0 200 OK\r\n" + OK[17:],
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            OK + OK,
            OK + b"HTTP/1.1 200",
            OK + b"rubbish",
            CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + OK,
        ],
    )
    async def test_are_understood_but_the_connection_is_not(self, sent: bytes) -> None:
        """What follows an answer answers no other request."""
        async with asking(says(sent)) as made:
            for number in range(3):
                assert (await made.get()).body == b"ok"
                await made.peer.until_ended(number + 1)
            assert [number for number, _, _ in made.peer.seen] == [0, 1, 2]

    async def test_may_end_with_the_connection(self) -> None:
        sent = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000
        async with asking(says(sent, closing=True)) as made:
            assert len((await made.get()).body) == 300_000

    async def test_headers_of_one_name_belong_together(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nCache-Control: private \r\ncache-control: max-age=5\r\n"
        async with asking(says(head + OK[17:])) as made:
            headers = (await made.get()).headers
            assert headers["CACHE-control"] == "private, max-age=5"
            assert list(headers) == ["cache-control", "content-length"]
            assert "X" not in headers

    @pytest.mark.parametrize(
        "sent",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999999\r\n\r\nok",
            CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + CHUNKED[17:] + b"0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : y\r\n" + OK[17:],
            b"HTTP/1.1 200 OK\r\nX: a\0b\r\n" + OK[17:],
            b"HTTP/1.1 000 OK\r\n" + OK[17:],
            b"HTTP/1.1 101 Other\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + OK[17:],
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n" + OK[17:],
            b"220 mail.example ESMTP\r\n",
            CHUNKED + b"-1\r\n",
            CHUNKED + b"2\r\nokk\r\n0\r\n\r\n",
            CHUNKED + b"ffffffffffffffffff\r\n",
        ],
    )
    async def test_that_could_be_read_in_two_ways_are_refused(self, sent: bytes) -> None:
        async with asking(says(sent)) as made:
            with pytest.raises(OutboundFailed, match="understood"):
                await made.get()
            await made.peer.until_ended(1)

    @pytest.mark.parametrize(
        ("start", "more"),
        [
            (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
            (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 6),
            (b"HTTP/1.1 200 OK\r\n", b"y" * 6),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (CHUNKED + b"1;x=", b"y" * 6),
            (CHUNKED + b"0\r\nX: ", b"y" * 6),
            (CHUNKED + b"0\r\n", b"X: y\r\n"),
        ],
    )
    async def test_without_end_are_given_up(self, start: bytes, more: bytes) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(start)
            for _ in range(1_000):
                writer.write(more * 1_000)
                await writer.drain()
                await asyncio.sleep(0)

        async with asking(talk) as made:
            with pytest.raises(OutboundFailed, match="understood"):
                await made.get()
            await made.peer.until_ended(1)

    @pytest.mark.parametrize("sent", [OK, CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"])
    async def test_that_end_too_early_are_none_wherever_it_is(self, sent: bytes) -> None:
        for length in range(len(sent)):
            async with asking(says(sent[:length], closing=True)) as made:
                with pytest.raises(OutboundFailed, match=r"broke off|without an answer"):
                    await made.get()

    async def test_may_be_cut_anywhere(self) -> None:
        sent = b"HTTP/1.1 100 Go on\r\n\r\n" + CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            for byte in sent:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)

        async with asking(talk) as made:
            for _ in range(2):
                assert (await made.get()).body == b"ok"
            assert [number for number, _, _ in made.peer.seen] == [0, 0]

    async def test_what_comes_unasked_ends_a_connection(self) -> None:
        late = asyncio.Event()

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(OK)
            if number == 1:
                await late.wait()
                writer.write(OK.replace(b"ok", b"no"))

        async with asking(talk) as made:
            assert (await made.get()).body == b"ok"
            late.set()
            await made.peer.until_ended(1)
            assert (await made.get()).body == b"ok"
            assert [number for number, _, _ in made.peer.seen] == [0, 1]

    async def test_compression_ends_where_the_bound_is(self) -> None:
        bomb = gzip.compress(b"\0" * 100_000_000, 1)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        async with asking(says(head % len(bomb) + bomb)) as made:
            async with made.outbound.open("GET", made.url, max_bytes=10_000_000) as answer:
                sizes: list[int] = []

                async def read() -> None:
                    async for piece in answer.chunks():
                        sizes.append(len(piece))  # noqa: PERF401  # until it fails

                with pytest.raises(OutboundFailed, match="more than"):
                    await read()
            assert max(sizes) <= 65_536
            assert sum(sizes) <= 10_000_000


class TestTime:
    async def test_drops_do_not_win_more(self) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.001)

        async with asking(talk) as made:
            with pytest.raises(OutboundFailed, match="in time"):
                await made.get(seconds=0.1)
            await made.peer.until_ended(1)

    @pytest.mark.parametrize("first", [0.1, 30.0])
    async def test_a_connection_that_is_used_again_has_the_time_of_each_request(
        self, first: float
    ) -> None:
        """What is asked before has had less of it, or more."""
        go_on = asyncio.Event()

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            if number == 2:
                await go_on.wait()
            if number < 3:
                writer.write(OK)

        async with asking(talk) as made:
            await made.get(seconds=first)
            second = asyncio.create_task(made.get(seconds=30.0))
            await made.peer.until_seen(2)
            await asyncio.sleep(0.2)
            go_on.set()
            assert (await second).body == b"ok"
            with pytest.raises(OutboundFailed, match="in time"):
                await made.get(seconds=0.1)
            assert [number for number, _, _ in made.peer.seen] == [0, 0, 0]

    async def test_an_answer_that_stops_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(of_connections, "SILENT_SECONDS", 0.02)
        async with asking(says(OK[:-1])) as made:
            with pytest.raises(OutboundFailed, match="nothing more comes"):
                await made.get()

    async def test_silence_is_not_held_against_who_was_not_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(of_connections, "SILENT_SECONDS", 0.01)
        go_on = asyncio.Event()

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 70001\r\n\r\n" + b"x" * 70_000)
            await go_on.wait()
            writer.write(b"x")

        async with asking(talk) as made, made.outbound.open("GET", made.url) as answer:
            await asyncio.sleep(0.05)
            monkeypatch.setattr(of_connections, "SILENT_SECONDS", 1_000.0)
            pieces = answer.chunks()
            read = len(await anext(pieces))
            await asyncio.sleep(0.05)
            go_on.set()
            assert read + sum([len(piece) async for piece in pieces]) == 70_001

    async def test_it_may_take_longer_to_begin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(of_connections, "SILENT_SECONDS", 0.01)

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            await asyncio.sleep(0.1)
            writer.write(OK)

        async with asking(talk) as made:
            assert (await made.get()).body == b"ok"

    async def test_who_waits_no_longer_ends_the_connection(self) -> None:
        asked = asyncio.Event()

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            asked.set()

        async with asking(talk) as made:
            waiting = asyncio.create_task(made.get())
            await asked.wait()
            waiting.cancel()
            await made.peer.until_ended(1)
            with pytest.raises(asyncio.CancelledError):
                await waiting

    async def test_what_nobody_reads_is_not_taken_in(self) -> None:
        piece, count, sent = b"x" * 65_536, 1_000, 0

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            nonlocal sent
            length = len(piece) * count
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
            for _ in range(count):
                writer.write(piece)
                await writer.drain()
                sent += 1

        async with (
            asking(talk) as made,
            made.outbound.open("GET", made.url, max_bytes=1 << 30) as answer,
        ):
            for _ in range(5_000):
                await asyncio.sleep(0)
            assert sent < count // 2
            async with aclosing(answer.chunks()) as pieces:
                assert sum([len(one) async for one in pieces]) == len(piece) * count


class TestOneMoreTry:
    """A connection that was kept may be closed at the moment when a request is sent."""

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    async def test_is_for_what_may_come_twice(self, method: str) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            if number == 2:
                raise ConnectionError
            writer.write(OK)

        async with asking(talk) as made:
            for _ in range(2):
                answer = await made.outbound.fetch(method, made.url)
                assert answer.body == b"ok"
            assert [number for number, _, _ in made.peer.seen] == [0, 0, 1]

    async def test_is_not_for_what_may_not(self) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            if number == 2:
                raise ConnectionError
            writer.write(OK)

        async with asking(talk) as made:
            await made.outbound.fetch("POST", made.url, body=b"1")
            with pytest.raises(OutboundFailed, match="without an answer"):
                await made.outbound.fetch("POST", made.url, body=b"2")
            assert [body for _, _, body in made.peer.seen] == [b"1", b"2"]

    async def test_is_one(self) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            if number > 1:
                raise ConnectionError
            writer.write(OK)

        async with asking(talk) as made:
            await made.get()
            with pytest.raises(OutboundFailed, match="without an answer"):
                await made.get()
            assert len(made.peer.seen) == 3

    async def test_goes_over_a_new_connection(self) -> None:
        """Others that were kept are as likely to be closed."""
        both = asyncio.Event()

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            if number > 2 and made.peer.seen[-1][0] < 2:
                raise ConnectionError
            if number == 2:
                both.set()
            await both.wait()
            writer.write(OK)

        async with asking(talk) as made:
            await asyncio.gather(made.get(), made.get())
            assert (await made.get()).body == b"ok"
            assert [number for number, _, _ in made.peer.seen][3:] == [2]

    async def test_is_not_for_an_answer_that_has_begun(self) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(OK if number == 1 else b"H")
            if number == 2:
                raise ConnectionError

        async with asking(talk) as made:
            await made.get()
            with pytest.raises(OutboundFailed, match="broke off"):
                await made.get()
            assert len(made.peer.seen) == 2


class TestRequests:
    async def test_go_out_whole(self) -> None:
        async with asking(says(OK)) as made:
            headers = {"Content-Type": "application/json"}
            await made.outbound.fetch("POST", f"{made.url}a?b", headers=headers, body=b"{}")
            await made.outbound.fetch("PUT", made.url)
            await made.get(headers={"Host": "other.example"})
            host = b"Host: peer.example:%d\r\n" % made.peer.port
            usual = b"Accept: */*\r\nAccept-Encoding: gzip\r\n"
            assert [(head, body) for _, head, body in made.peer.seen] == [
                (
                    b"POST /a?b HTTP/1.1\r\n"
                    + host
                    + usual
                    + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n",
                    b"{}",
                ),
                (b"PUT / HTTP/1.1\r\n" + host + usual + b"Content-Length: 0\r\n\r\n", b""),
                (b"GET / HTTP/1.1\r\nHost: other.example\r\n" + usual + b"\r\n", b""),
            ]

    @pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\0b"])
    async def test_are_never_two(self, value: str) -> None:
        async with asking(says(OK)) as made:
            with pytest.raises(OutboundFailed, match="can't be sent"):
                await made.get(headers={"Authorization": value})
            assert not made.peer.seen

    @pytest.mark.parametrize(
        "url",
        [
            "http://peer.example/a b",
            "http://peer.example/\r\nX: y",
            "http://peer.example/#part",
            "http://user:word@peer.example/",
            "http://peer.example:0/",
            "http://peer.example:65536/",
            "http://peer.example:x/",
            "http:///path",
            "http://[::1/",
            "http://pe er/",
            "ftp://peer.example/",
            "/path",
            "http://peer.example/\udcff",
            "https://.peer.example/",
        ],
    )
    async def test_go_to_proper_addresses(self, url: str) -> None:
        async with asking(says(OK)) as made:
            with pytest.raises(OutboundFailed, match="malformed"):
                await made.outbound.fetch("GET", url)

    async def test_are_taken_whole_before_the_next(self) -> None:
        """An answer that comes before leaves the rest of a body on the connection."""
        answered = asyncio.Event()

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            writer.write(OK)
            if number == 1:
                await answered.wait()

        async with asking(talk) as made:
            made.peer.takes_bodies = False
            assert (await made.outbound.fetch("PUT", made.url, body=b"x" * 30_000_000)).status
            assert (await made.get(seconds=5)).body == b"ok"
            assert [number for number, _, _ in made.peer.seen] == [0, 1]
            answered.set()


class TestPool:
    async def test_a_host_has_no_more_connections_than_said(self) -> None:
        turn = asyncio.Semaphore(0)

        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            await turn.acquire()
            writer.write(OK)

        async with asking(talk, per_host=2) as made:
            waiting = [asyncio.create_task(made.get()) for _ in range(8)]
            await made.peer.until_seen(2)
            for number in (3, 6):
                waiting[number].cancel()
            for _ in range(6):
                turn.release()
            done = await asyncio.gather(*waiting, return_exceptions=True)
            assert sum(isinstance(one, Answer) for one in done) == 6
            assert {number for number, _, _ in made.peer.seen} == {0, 1}

    async def test_the_wait_for_one_counts(self) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            if number > 1:
                writer.write(OK)

        async with asking(talk, per_host=1) as made:
            first = asyncio.create_task(made.get())
            await made.peer.until_seen(1)
            with pytest.raises(OutboundFailed, match="free in time"):
                await made.get(seconds=0.05)
            first.cancel()
            assert (await made.get()).body == b"ok"

    async def test_unused_connections_are_kept_for_a_while(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(of_pools, "KEPT_SECONDS", 0.0)
        monkeypatch.setattr(of_pools, "SWEEP_SECONDS", 0.01)
        async with asking(says(OK)) as made:
            await made.get()
            await made.peer.until_ended(1)
            await made.get()

    async def test_so_many_of_all_hosts_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(of_pools, "KEPT_IN_ALL", 1)
        async with asking(says(OK)) as made:
            await made.get()
            await made.outbound.fetch("GET", made.url.replace("peer", "other"))
            await made.peer.until_ended(1)
            await made.outbound.fetch("GET", made.url.replace("peer", "other"))
            assert [number for number, _, _ in made.peer.seen] == [0, 1, 1]

    async def test_the_end_is_told_to_who_waits(self) -> None:
        async def talk(writer: asyncio.StreamWriter, number: int) -> None:
            pass

        async with asking(talk) as made:
            waiting = asyncio.create_task(made.get())
            await made.peer.until_seen(1)
            await made.outbound.close()
            with pytest.raises(OutboundFailed, match="stopping"):
                await waiting

    async def test_of_several_addresses_a_dead_one_costs_nothing(self) -> None:
        async with asking(says(OK), addresses=["127.0.0.9", "127.0.0.1"]) as made:
            assert (await made.get()).body == b"ok"

    async def test_a_silent_address_does_not_hold_up_the_next(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(of_pools, "NEXT_SECONDS", 0.01)
        authority = trustme.CA()
        context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("peer.example").configure_cert(context)
        authority.configure_trust(trusting)
        peer, silent = Peer(says(OK)), Peer(says(OK))
        good = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context)
        port = good.sockets[0].getsockname()[1]
        bad = await asyncio.start_server(silent.serve, "127.0.0.2", port)
        book = Book(["127.0.0.2", "127.0.0.1"])
        outbound = Outbound(book, AddressRules(()), trusting, 30.0)
        answer = await outbound.fetch("GET", f"https://peer.example:{port}/")
        assert answer.body == b"ok"
        await silent.until_ended(1)
        await outbound.close()
        await peer.until_ended(1)
        for server in (good, bad):
            server.close()
            await server.wait_closed()

    async def test_who_waits_no_longer_just_when_a_handshake_is_over_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not a socket whose number is another's while the old connection still listens to it."""
        authority = trustme.CA()
        context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("peer.example").configure_cert(context)
        authority.configure_trust(trusting)
        peer = Peer(says(OK))
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        outbound = Outbound(Book(["127.0.0.1"]), AddressRules(()), trusting, 30.0)
        made = Connection.connection_made

        def given_up(connection: Connection, transport: asyncio.BaseTransport) -> None:
            made(connection, transport)
            fetching.cancel()

        monkeypatch.setattr(Connection, "connection_made", given_up)
        fetching = asyncio.create_task(outbound.fetch("GET", f"https://peer.example:{port}/"))
        with pytest.raises(asyncio.CancelledError):
            await fetching
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(4)]
        for one, other in pairs:
            for end in (one, other):
                end.setblocking(False)
            await loop.sock_sendall(one, b"there")
            assert await loop.sock_recv(other, 5) == b"there"
        await peer.until_ended(1)
        for end in itertools.chain(*pairs):
            end.close()
        await outbound.close()
        server.close()
        await server.wait_closed()

    async def test_none_of_the_addresses_answers(self) -> None:
        async with asking(says(OK), addresses=["127.0.0.8", "127.0.0.9"]) as made:
            with pytest.raises(ConnectFailed, match="no connection"):
                await made.get()

"""Requests to other servers, signed; and who has signed those that come.

spec: server-server-api#request-authentication
"""

import asyncio
from typing import Any

import pytest
import trustme
from aiohttp import web

from federation.authorization import Authorization, authorise, signed_object
from federation.client import PER_SERVER
from federation.requests import Inbound, Requests, path_of, target_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject, decode_object, encode, encode_unpadded
from homeserver.matrix.sign import SigningKey, verify_json
from tests.federation.internet import OURS, Internet, Peer, Seen, TlsServer, answers

TARGET = "/_matrix/federation/v1/send/1?a=%20b"
BODY: JsonObject = {"pdus": [], "origin": "ü", "float": 1.5}


def test_paths_and_queries_are_encoded_once() -> None:
    path = path_of("federation/v1/make_join", "!a/b:c", "@ü+%:d")
    assert path == "/_matrix/federation/v1/make_join/%21a%2Fb%3Ac/%40%C3%BC%2B%25%3Ad"
    assert target_of(path) == path
    assert target_of("/x", {"ver": ["1", "12"], "limit": 5, "q": "a b&"}) == (
        "/x?ver=1&ver=12&limit=5&q=a%20b%26"
    )


async def peer(net: Internet) -> tuple[str, TlsServer, Requests]:
    server = await net.server("a.example")
    net.host("a.example")
    return f"a.example:{server.port}", server, (await net.federation()).requests


def is_signed(net: Internet, seen: Seen, destination: str) -> bool:
    given = Authorization.parse(seen.headers["Authorization"])
    assert (given.origin, given.destination) == (OURS, destination)
    content = decode_object(seen.body) if seen.body else None
    signed = signed_object(seen.method, seen.target, OURS, destination, content)
    signed["signatures"] = {OURS: {given.key_id: given.signature}}
    keys = net.parts[0].own_keys.valid([given.key_id], 0)
    return verify_json(signed, OURS, keys)


class TestOutgoing:
    async def test_what_is_signed_is_what_is_sent(self, net: Internet) -> None:
        name, server, requests = await peer(net)
        server.handler = answers({"ok": True})
        path = path_of("federation/v1/backfill", "!a/b+%:c d")
        assert await requests.request(name, "GET", path, query={"v": "$ä/+"}) == {"ok": True}
        body = {"b": "ü", "a": 1}
        assert await requests.request(name, "PUT", path, body=body) == {"ok": True}
        assert await requests.request(name, "POST", path, body={}) == {"ok": True}
        assert server.seen[0].target == path + "?v=%24%C3%A4%2F%2B"
        assert server.seen[1].headers["Content-Type"] == "application/json"
        assert decode_object(server.seen[1].body) == body
        assert all(is_signed(net, seen, name) for seen in server.seen)

    @pytest.mark.parametrize(
        ("status", "body", "errcode"),
        [
            (403, {"errcode": "M_FORBIDDEN", "error": "no"}, "M_FORBIDDEN"),
            (404, {}, ""),
            (404, b"<html>", ""),
            (500, {"errcode": 5, "error": []}, ""),
            (200, b"[]", ""),
            (200, b"", ""),
            (200, b"[" * 100_000, ""),
            (302, {}, ""),
            (502, {"errcode": "M_UNKNOWN", "error": "x"}, "M_UNKNOWN"),
        ],
    )
    async def test_answers_that_are_none(
        self, net: Internet, status: int, body: Any, errcode: str
    ) -> None:
        name, server, requests = await peer(net)
        server.handler = answers(body, status)
        with pytest.raises(RemoteError) as caught:
            await requests.request(name, "GET", "/_matrix/x")
        assert (caught.value.status, caught.value.errcode) == (status, errcode)

    @pytest.mark.parametrize(
        ("body", "headers", "wait"),
        [
            ({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1500}, {}, 1_500),
            ({"errcode": "M_LIMIT_EXCEEDED"}, {"Retry-After": "3"}, 3_000),
            ({"errcode": "M_LIMIT_EXCEEDED"}, {"Retry-After": "soon"}, None),
        ],
    )
    async def test_how_long_to_wait_is_told(
        self, net: Internet, body: Any, headers: dict[str, str], wait: int | None
    ) -> None:
        name, server, requests = await peer(net)
        server.handler = answers(body, 429, headers)
        with pytest.raises(RemoteError) as caught:
            await requests.request(name, "GET", "/_matrix/x")
        assert caught.value.retry_after_ms == wait

    async def test_answers_beyond_the_limit_are_none_at_all(self, net: Internet) -> None:
        name, server, requests = await peer(net)
        server.handler = answers({"a": "x" * 10_000})
        with pytest.raises(Unreachable, match="more than 5000"):
            await requests.request(name, "GET", "/_matrix/x", max_bytes=5_000)

    @pytest.mark.parametrize("status", [502, 503, 504])
    async def test_a_proxy_without_its_server_is_an_outage(
        self, net: Internet, status: int
    ) -> None:
        name, server, requests = await peer(net)
        server.handler = answers(b"<html>Bad Gateway</html>", status)
        with pytest.raises(Unreachable, match=f"proxy answers {status}"):
            await requests.request(name, "GET", "/_matrix/x")

    async def test_nobody_waits_longer_than_said(self, net: Internet) -> None:
        name, server, requests = await peer(net)
        never = asyncio.Event()

        async def wait(request: web.BaseRequest) -> web.StreamResponse:
            await never.wait()
            return web.Response()

        server.handler = wait
        with pytest.raises(Unreachable, match="no answer"):
            await requests.request(name, "GET", "/_matrix/x", timeout=0.1)
        never.set()

    async def test_few_requests_at_a_time_go_to_one_server(self, net: Internet) -> None:
        name, server, requests = await peer(net)
        other = await net.server("b.example")
        net.host("b.example")
        other.handler = answers({})
        under_way, most, go_on = 0, 0, asyncio.Event()

        async def count(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == PER_SERVER:
                # While all of its places are taken, another server is asked as ever.
                await requests.request(f"b.example:{other.port}", "GET", "/_matrix/x")
                go_on.set()
            await go_on.wait()
            under_way -= 1
            return web.json_response({})

        server.handler = count
        await asyncio.gather(
            *(requests.request(name, "GET", "/_matrix/x") for _ in range(4 * PER_SERVER))
        )
        assert most == PER_SERVER

    async def test_who_waits_for_a_place_does_not_ask_a_server_that_fails_meanwhile(
        self, net: Internet
    ) -> None:
        name, server, requests = await peer(net)
        asked, all_there, fails = 0, asyncio.Event(), asyncio.Event()

        async def hold(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal asked
            asked += 1
            if asked == PER_SERVER:
                all_there.set()
            await fails.wait()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        server.handler = hold
        asking = [
            asyncio.create_task(requests.request(name, "GET", "/_matrix/x"))
            for _ in range(2 * PER_SERVER)
        ]
        await all_there.wait()
        fails.set()
        for failed in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(failed, Unreachable)
        assert asked == PER_SERVER

    async def test_this_server_does_not_ask_itself(self, net: Internet) -> None:
        _, _, requests = await peer(net)
        with pytest.raises(Unreachable):
            await requests.request(OURS, "GET", "/_matrix/x")

    async def test_an_island_asks_nobody(self, net: Internet) -> None:
        requests = (await net.federation(enabled=False)).requests
        with pytest.raises(Unreachable, match="switched off"):
            await requests.request("a.example", "GET", "/_matrix/x")


class TestPauses:
    async def test_a_server_that_fails_is_left_alone_for_a_moment(self, net: Internet) -> None:
        name, server, requests = await peer(net)
        server.handler = answers(b"", 502)
        with pytest.raises(Unreachable):
            await requests.request(name, "GET", "/_matrix/x")
        with pytest.raises(Unreachable, match="waits") as caught:
            await requests.request(name, "GET", "/_matrix/x")
        assert len(server.seen) == 1
        assert caught.value.retry_ts is not None
        await net.clock.advance((caught.value.retry_ts - net.clock.now_ms()) / 1000)
        server.handler = answers({})
        assert await requests.request(name, "GET", "/_matrix/x") == {}

    async def test_a_caller_may_insist(self, net: Internet) -> None:
        name, server, requests = await peer(net)
        server.handler = answers(b"", 502)
        with pytest.raises(Unreachable):
            await requests.request(name, "GET", "/_matrix/x")
        server.handler = answers({})
        assert await requests.request(name, "GET", "/_matrix/x", despite_pause=True) == {}
        assert await requests.request(name, "GET", "/_matrix/x") == {}

    async def test_a_server_that_has_moved_is_tried_at_once(self, net: Internet) -> None:
        old, new = await net.server("a.example"), await net.server("a.example")
        old.handler, new.handler = answers(b"", 502), answers({})
        net.host("a.example")
        net.names.put("_matrix-fed._tcp.a.example", "SRV", f"1 1 {old.port} a.example.", ttl=30)
        federation = await net.federation()
        back: list[str] = []
        federation.destinations.on_alive(back.append)
        request = federation.requests.request
        retry = 0
        while retry < net.clock.now_ms() + 600_000:
            await net.clock.advance(600)
            with pytest.raises(Unreachable):
                await request("a.example", "GET", "/_matrix/x")
            retry = (await federation.destinations.state("a.example")).retry_ts
        assert not await federation.client.look_again("a.example")
        net.names.put("_matrix-fed._tcp.a.example", "SRV", f"1 1 {new.port} a.example.", ttl=30)
        await net.clock.advance(30)
        assert await federation.client.look_again("a.example")
        assert back == ["a.example"]
        assert await request("a.example", "GET", "/_matrix/x") == {}

    async def test_whoever_wants_something_has_it_looked_up(self, net: Internet) -> None:
        new = await net.server("a.example")
        new.handler = answers({})
        net.host("a.example")
        net.names.put("_matrix-fed._tcp.a.example", "SRV", "1 1 9 a.example.", ttl=30)
        federation = await net.federation()
        request = federation.requests.request
        retry = 0
        while retry < net.clock.now_ms() + 600_000:
            await net.clock.advance(600)
            with pytest.raises(Unreachable):
                await request("a.example", "GET", "/_matrix/x")
            retry = (await federation.destinations.state("a.example")).retry_ts
        moved = asyncio.Event()
        federation.destinations.on_alive(lambda server: moved.set())
        net.names.put("_matrix-fed._tcp.a.example", "SRV", f"1 1 {new.port} a.example.", ttl=30)
        await net.clock.advance(60)
        with pytest.raises(Unreachable, match="waits"):
            await request("a.example", "GET", "/_matrix/x")
        async with asyncio.timeout(10):
            await moved.wait()
        assert net.clock.now_ms() < retry
        assert await request("a.example", "GET", "/_matrix/x") == {}

    async def test_errors_are_answers(self, net: Internet) -> None:
        name, server, requests = await peer(net)
        server.handler = answers({"errcode": "M_UNKNOWN"}, 500)
        for _ in range(2):
            with pytest.raises(RemoteError):
                await requests.request(name, "GET", "/_matrix/x")


async def asking(net: Internet) -> tuple[Peer, Inbound]:
    """A peer that publishes its keys, and the judgement of this server."""
    server = await net.server("a.example")
    net.host("a.example")
    made = Peer(f"a.example:{server.port}", net.clock)
    server.handler = made.serve
    return made, (await net.federation()).inbound


def header(
    peer: Peer,
    *,
    target: str = TARGET,
    destination: str = OURS,
    content: Any = BODY,
    key: SigningKey | None = None,
    method: str = "PUT",
) -> str:
    signed = authorise(method, target, peer.name, destination, content, key or peer.key)
    return str(signed)


async def refused(inbound: Inbound, *headers: str, body: bytes = encode(BODY)) -> str:
    with pytest.raises(MatrixError) as caught:
        await inbound.authenticate("PUT", TARGET, headers, body)
    assert caught.value.errcode == "M_UNAUTHORIZED"
    assert caught.value.status == 401
    return caught.value.message


class TestIncoming:
    async def test_the_signer_is_named(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        raw = b'{ "origin":"\\u00fc", "pdus" : [], "float": 1.5 }'
        assert await inbound.authenticate("PUT", TARGET, [header(peer)], raw) == peer.name

    async def test_without_a_body(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        signed = header(peer, content=None, method="GET")
        assert await inbound.authenticate("GET", TARGET, [signed], b"") == peer.name

    async def test_without_a_destination(self, net: Internet) -> None:
        """Older servers neither send nor sign it."""
        peer, inbound = await asking(net)
        message = encode(signed_object("PUT", TARGET, peer.name, None, BODY))
        signature = encode_unpadded(peer.key.sign(message))
        old = Authorization(peer.name, None, peer.key.key_id, signature)
        assert await inbound.authenticate("PUT", TARGET, [str(old)], encode(BODY)) == peer.name

    async def test_a_key_that_is_not_known_beside_one_that_is(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        signed = [header(peer), header(peer, key=SigningKey.generate())]
        assert await inbound.authenticate("PUT", TARGET, signed, encode(BODY)) == peer.name

    async def test_long_bodies(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        body = {"x": "y" * 1_000_000}
        signed = [header(peer, content=body)]
        assert await inbound.authenticate("PUT", TARGET, signed, encode(body)) == peer.name
        await refused(inbound, *signed, body=encode({"x": "z" * 1_000_000}))

    async def test_what_is_not_signed(self, net: Internet) -> None:
        _, inbound = await asking(net)
        assert "not signed" in await refused(inbound)
        assert "not signed" in await refused(inbound, "Bearer abc")
        await refused(inbound, "X-Matrix nonsense")

    async def test_a_request_for_another_server(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        assert "another server" in await refused(inbound, header(peer, destination="b.example"))

    async def test_a_destination_that_was_changed(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        stolen = header(peer, destination="b.example").replace("b.example", OURS)
        assert "signature" in await refused(inbound, stolen)

    @pytest.mark.parametrize(
        "changed",
        [
            {"target": "/_matrix/federation/v1/send/2?a=%20b"},
            {"target": "/_matrix/federation/v1/send/1?a=+b"},
            {"target": "/_matrix/federation/v1/send/1"},
            {"method": "POST"},
            {"content": {**BODY, "origin": "u"}},
            {"content": None},
            {"key": SigningKey.generate()},
        ],
        ids=["path", "spelling", "query", "method", "body", "no body", "key"],
    )
    async def test_a_request_that_is_not_the_one_that_was_signed(
        self, net: Internet, changed: dict[str, Any]
    ) -> None:
        peer, inbound = await asking(net)
        await refused(inbound, header(peer, **changed))

    async def test_another_key_under_the_same_name(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        await refused(inbound, header(peer, key=SigningKey(peer.key.version, b"q" * 32)))

    async def test_a_server_whose_keys_are_not_to_be_had(self, net: Internet) -> None:
        _, inbound = await asking(net)
        gone = Peer("gone.example", net.clock)
        assert "key" in await refused(inbound, header(gone))

    async def test_one_that_claims_to_be_us(self, net: Internet) -> None:
        _, inbound = await asking(net)
        await refused(inbound, header(Peer(OURS, net.clock)))

    async def test_one_wrong_signature_spoils_all(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        old_key, _ = peer.key, peer.rotate()
        wrong = Authorization(peer.name, OURS, peer.key.key_id, "A" * 86)
        await refused(inbound, str(wrong), header(peer, key=old_key))

    async def test_a_body_that_is_no_json(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        with pytest.raises(MatrixError) as caught:
            await inbound.authenticate("PUT", TARGET, [header(peer)], b"{")
        assert caught.value.errcode == "M_NOT_JSON"

    async def test_whoever_signs_is_no_longer_left_alone(self, net: Internet) -> None:
        peer, inbound = await asking(net)
        federation = net.parts[0]
        back: list[str] = []
        federation.destinations.on_alive(back.append)
        await federation.destinations.failed(peer.name, "no answer", net.clock.now_ms())
        with pytest.raises(Unreachable):
            await federation.destinations.check(peer.name)
        await inbound.authenticate("PUT", TARGET, [header(peer)], encode(BODY))
        await federation.destinations.check(peer.name)
        assert back == [peer.name]


class TestClosedNetworks:
    """What an operator of a private network or a test suite says of [federation] is what counts."""

    @pytest.mark.parametrize(
        ("options", "reached"),
        [
            ({"verify_certificates": False, "deny_networks": [], "allow_networks": []}, True),
            ({"verify_certificates": False, "allow_networks": []}, False),
            ({"deny_networks": [], "allow_networks": []}, False),
        ],
        ids=["all open", "addresses denied", "certificates checked"],
    )
    async def test_certificates_and_addresses(
        self, net: Internet, options: JsonObject, reached: bool
    ) -> None:
        """A server at an address of this machine, with a certificate of nobody's authority."""
        server = await TlsServer(trustme.CA(), "a.example").start()
        net.servers.append(server)
        net.host("a.example")
        server.handler = answers({"ok": True})
        requests = (await net.federation(**options)).requests
        path = path_of("federation/v1/version")
        if reached:
            name = f"a.example:{server.port}"
            assert await requests.request(name, "GET", path) == {"ok": True}
        else:
            with pytest.raises(Unreachable):
                await requests.request(f"a.example:{server.port}", "GET", path)
            assert not server.seen

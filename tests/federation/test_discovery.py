"""Resolving server names: each step, by real DNS and real TLS.

Each test says which Host header the server saw, which name the TLS handshake asked for, and that
the certificate was that name's: with another one no connection comes about.
spec: server-server-api#resolving-server-names
"""

from typing import Any

import pytest
from aiohttp import web

from federation.discovery import in_order, split_name
from federation.dns import Service
from homeserver.errors import Unreachable
from homeserver.matrix.canonical import JsonObject
from tests.federation.internet import Handler, Internet, TlsServer, answers

VERSION: JsonObject = {"server": {"name": "peer", "version": "1"}}
PATH = "/_matrix/federation/v1/version"


async def ask(net: Internet, server: str, **options: Any) -> JsonObject:
    federation = net.parts[-1] if net.parts and not options else await net.federation(**options)
    return await federation.requests.request(server, "GET", PATH, despite_pause=True)


def delegating(to: str) -> Handler:
    return answers({"m.server": to})


def saw(server: TlsServer, host: str, sni: str | None) -> None:
    """The last request came with this Host header and asked TLS for this name."""
    assert (server.seen[-1].host, server.seen[-1].sni) == (host, sni)


async def peer(net: Internet, *names: str, default_port: bool = False) -> TlsServer:
    server = await (net.matrix if default_port else net.server)(*names)
    server.handler = answers(VERSION)
    return server


class TestAddresses:
    """Step 1: the server name is an IP literal."""

    async def test_with_a_port_it_is_where_to_go(self, net: Internet) -> None:
        server = await peer(net, "127.0.0.1")
        assert await ask(net, f"127.0.0.1:{server.port}") == VERSION
        saw(server, f"127.0.0.1:{server.port}", None)

    async def test_without_a_port_it_is_8448(self, net: Internet) -> None:
        server = await peer(net, "127.0.0.1", default_port=True)
        assert await ask(net, "127.0.0.1") == VERSION
        saw(server, "127.0.0.1", None)

    async def test_the_certificate_must_be_for_the_address(self, net: Internet) -> None:
        server = await peer(net, "localhost")
        with pytest.raises(Unreachable, match="certificate"):
            await ask(net, f"127.0.0.1:{server.port}")

    async def test_nobody_looks_anything_up(self, net: Internet) -> None:
        server = await peer(net, "127.0.0.1")
        await ask(net, f"127.0.0.1:{server.port}")
        assert not net.names.asked


class TestExplicitPort:
    """Step 2: a host name with a port."""

    async def test_the_host_is_looked_up(self, net: Internet) -> None:
        server = await peer(net, "a.example")
        net.host("a.example")
        assert await ask(net, f"a.example:{server.port}") == VERSION
        saw(server, f"a.example:{server.port}", "a.example")

    async def test_aliases_are_followed(self, net: Internet) -> None:
        server = await peer(net, "a.example")
        net.names.put("a.example", "CNAME", "b.example.")
        net.host("b.example")
        assert await ask(net, f"a.example:{server.port}") == VERSION

    async def test_neither_well_known_nor_services_count(self, net: Internet) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "a.example")
        net.host("a.example")
        net.names.put("_matrix-fed._tcp.a.example", "SRV", "1 1 9 elsewhere.example.")
        assert await ask(net, f"a.example:{server.port}") == VERSION
        assert not web_server.seen
        assert not net.names.asked["_matrix-fed._tcp.a.example", "SRV"]

    async def test_the_certificate_must_be_for_the_host(self, net: Internet) -> None:
        server = await peer(net, "b.example")
        net.host("a.example")
        with pytest.raises(Unreachable, match="certificate"):
            await ask(net, f"a.example:{server.port}")


class TestWellKnown:
    """Step 3: /.well-known/matrix/server delegates."""

    async def test_to_an_address_with_a_port(self, net: Internet) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "127.0.0.1")
        net.host("a.example")
        web_server.handler = delegating(f"127.0.0.1:{server.port}")
        assert await ask(net, "a.example") == VERSION
        saw(server, f"127.0.0.1:{server.port}", None)

    async def test_to_an_address_without_a_port(self, net: Internet) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "127.0.0.1", default_port=True)
        net.host("a.example")
        web_server.handler = delegating("127.0.0.1")
        assert await ask(net, "a.example") == VERSION
        saw(server, "127.0.0.1", None)

    async def test_to_a_host_with_a_port(self, net: Internet) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "m.a.example")
        net.host("a.example", "m.a.example")
        web_server.handler = delegating(f"m.a.example:{server.port}")
        assert await ask(net, "a.example") == VERSION
        saw(server, f"m.a.example:{server.port}", "m.a.example")
        assert not net.names.asked["_matrix-fed._tcp.m.a.example", "SRV"]

    @pytest.mark.parametrize("service", ["_matrix-fed._tcp", "_matrix._tcp"])
    async def test_to_a_host_with_a_service(self, net: Internet, service: str) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "m.a.example")
        net.host("a.example", "target.example")
        web_server.handler = delegating("m.a.example")
        net.names.put(f"{service}.m.a.example", "SRV", f"1 1 {server.port} target.example.")
        assert await ask(net, "a.example") == VERSION
        saw(server, "m.a.example", "m.a.example")

    async def test_to_a_host_alone(self, net: Internet) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "m.a.example", default_port=True)
        net.host("a.example", "m.a.example")
        web_server.handler = delegating("m.a.example")
        assert await ask(net, "a.example") == VERSION
        saw(server, "m.a.example", "m.a.example")

    async def test_the_certificate_must_be_the_delegates(self, net: Internet) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "a.example")
        net.host("a.example", "m.a.example")
        web_server.handler = delegating(f"m.a.example:{server.port}")
        with pytest.raises(Unreachable, match="certificate"):
            await ask(net, "a.example")

    async def test_redirects_are_followed(self, net: Internet) -> None:
        web_server = await net.web("a.example", "www.example")
        server = await peer(net, "m.a.example")
        net.host("a.example", "www.example", "m.a.example")

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if request.host.startswith("a.example"):
                place = f"https://www.example:{net.web_port}/matrix"
                return web.Response(status=301, headers={"Location": place})
            return await delegating(f"m.a.example:{server.port}")(request)

        web_server.handler = handle
        assert await ask(net, "a.example") == VERSION

    async def test_what_it_says_is_json_whatever_it_is_called(self, net: Internet) -> None:
        web_server = await net.web("a.example")
        server = await peer(net, "m.a.example")
        net.host("a.example", "m.a.example")
        text = b'{"m.server": "m.a.example:%d"}' % server.port
        web_server.handler = answers(text, headers={"Content-Type": "text/plain"})
        assert await ask(net, "a.example") == VERSION


class TestWithoutWellKnown:
    """Steps 4 to 6: the well-known file is of no use."""

    @pytest.mark.parametrize("service", ["_matrix-fed._tcp", "_matrix._tcp"])
    async def test_services_count(self, net: Internet, service: str) -> None:
        server = await peer(net, "a.example")
        net.host("a.example", "target.example")
        net.names.put(f"{service}.a.example", "SRV", f"1 1 {server.port} target.example.")
        assert await ask(net, "a.example") == VERSION
        saw(server, "a.example", "a.example")

    async def test_the_registered_service_comes_first(self, net: Internet) -> None:
        server = await peer(net, "a.example")
        net.host("a.example", "target.example")
        net.names.put("_matrix-fed._tcp.a.example", "SRV", f"1 1 {server.port} target.example.")
        net.names.put("_matrix._tcp.a.example", "SRV", "1 1 9 target.example.")
        assert await ask(net, "a.example") == VERSION
        assert not net.names.asked["_matrix._tcp.a.example", "SRV"]

    async def test_the_host_itself_is_the_last_resort(self, net: Internet) -> None:
        server = await peer(net, "a.example", default_port=True)
        net.host("a.example")
        assert await ask(net, "a.example") == VERSION
        saw(server, "a.example", "a.example")

    async def test_the_target_of_a_service_must_show_the_hosts_certificate(
        self, net: Internet
    ) -> None:
        server = await peer(net, "target.example")
        net.host("a.example", "target.example")
        net.names.put("_matrix-fed._tcp.a.example", "SRV", f"1 1 {server.port} target.example.")
        with pytest.raises(Unreachable, match="certificate"):
            await ask(net, "a.example")

    async def test_a_service_may_be_decidedly_not_offered(self, net: Internet) -> None:
        await peer(net, "a.example", default_port=True)
        net.host("a.example")
        net.names.put("_matrix-fed._tcp.a.example", "SRV", "0 0 0 .")
        with pytest.raises(Unreachable, match="there is no _matrix-fed"):
            await ask(net, "a.example")

    @pytest.mark.parametrize(
        "useless",
        [
            answers(b"no json"),
            answers(b"[]"),
            answers({}),
            answers({"m.server": 5}),
            answers({"m.server": "not a name"}),
            answers({"m.server": "m.a.example:9"}, 404),
            answers({"m.server": "m.a.example:9"}, 500),
            answers(b" " * 60_000 + b'{"m.server": "m.a.example:9"}'),
        ],
        ids=["text", "list", "empty", "number", "name", "404", "500", "too long"],
    )
    async def test_a_useless_well_known_file_is_as_none(self, net: Internet, useless: Any) -> None:
        web_server = await net.web("a.example")
        web_server.handler = useless
        server = await peer(net, "a.example", default_port=True)
        net.host("a.example")
        assert await ask(net, "a.example") == VERSION
        assert web_server.seen
        saw(server, "a.example", "a.example")

    async def test_a_web_server_with_another_certificate_is_not_believed(
        self, net: Internet
    ) -> None:
        web_server = await net.web("b.example")
        web_server.handler = delegating("m.a.example:9")
        await peer(net, "a.example", default_port=True)
        net.host("a.example")
        assert await ask(net, "a.example") == VERSION
        assert not web_server.seen


class TestSeveralTargets:
    async def test_those_that_refuse_are_passed_over_by_priority(self, net: Internet) -> None:
        server = await peer(net, "a.example")
        net.host("a.example", "t1.example", "t2.example")
        net.names.put(
            "_matrix-fed._tcp.a.example",
            "SRV",
            "1 9 9 t1.example.",
            "2 0 9 t2.example.",
            f"3 0 {server.port} t2.example.",
        )
        assert await ask(net, "a.example") == VERSION

    async def test_targets_without_an_address_are_passed_over(self, net: Internet) -> None:
        server = await peer(net, "a.example")
        net.host("a.example", "t2.example")
        net.names.put(
            "_matrix-fed._tcp.a.example",
            "SRV",
            "1 9 9 t1.example.",
            f"2 0 {server.port} t2.example.",
        )
        assert await ask(net, "a.example") == VERSION

    def test_lower_priorities_come_first_and_weights_share_the_rest(self) -> None:
        services = [
            Service(2, 0, 1, "last"),
            Service(1, 90, 1, "often"),
            Service(1, 10, 1, "seldom"),
        ]
        first = [in_order(services)[0].target for _ in range(400)]
        assert all(in_order(services)[2].target == "last" for _ in range(20))
        assert 300 < first.count("often") < 400


class TestNames:
    @pytest.mark.parametrize(
        ("server", "host", "port"),
        [
            ("a.example", "a.example", None),
            ("a.example:8448", "a.example", 8448),
            ("1.2.3.4:1", "1.2.3.4", 1),
            ("[::1]", "::1", None),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
        ],
    )
    def test_are_split(self, server: str, host: str, port: int | None) -> None:
        assert split_name(server) == (host, port)

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "a@b", "a:b", "[::1", "user@a:1", "a#b"])
    async def test_what_is_no_server_name_is_not_asked(self, net: Internet, name: str) -> None:
        with pytest.raises(Unreachable, match="no server name"):
            await ask(net, name)

    async def test_names_of_the_machine_itself_need_no_name_server(self, net: Internet) -> None:
        server = await peer(net, "localhost")
        assert await ask(net, f"localhost:{server.port}") == VERSION
        assert not net.names.asked

"""Nobody makes this server connect to its own machine or network by what names lead to.

The trap is a listener on an address that is not allowed; where it is, every way leads into it.
spec: server-server-api#resolving-server-names
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from homeserver.errors import Unreachable
from tests.federation.internet import Internet, answers

PRIVATE = "127.0.0.2"


@dataclass
class Trap:
    """How often somebody has connected to `port` of the private address."""

    port: int
    caught: int = 0


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    made = Trap(0)

    async def catch(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.caught += 1
        writer.close()

    async with await asyncio.start_server(catch, PRIVATE, 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


async def lead(net: Internet, trap: Trap, way: str) -> str:
    """A server name that leads to the trap."""
    net.names.put("inner.example", "A", PRIVATE)
    if way == "its address":
        return f"{PRIVATE}:{trap.port}"
    if way == "a name":
        return f"inner.example:{trap.port}"
    net.host("evil.example")
    web = await net.web("evil.example")
    if way == "a service":
        place = f"0 0 {trap.port} inner.example."
        net.names.put("_matrix-fed._tcp.evil.example", "SRV", place)
    elif way == "delegation to an address":
        web.handler = answers({"m.server": f"{PRIVATE}:{trap.port}"})
    elif way == "delegation to a name":
        web.handler = answers({"m.server": f"inner.example:{trap.port}"})
    else:
        host = PRIVATE if way == "a redirect to an address" else "inner.example"
        place = f"https://{host}:{trap.port}/.well-known/matrix/server"
        web.handler = answers(b"", 302, {"Location": place})
    return "evil.example"


@pytest.mark.parametrize(
    "way",
    [
        "its address",
        "a name",
        "a service",
        "delegation to an address",
        "delegation to a name",
        "a redirect to an address",
        "a redirect to a name",
    ],
)
async def test_no_way_leads_into_a_private_network(net: Internet, trap: Trap, way: str) -> None:
    name = await lead(net, trap, way)
    for allowed, caught in (("127.0.0.1/32", False), ("127.0.0.0/8", True)):
        federation = await net.federation(allow_networks=[allowed])
        with pytest.raises(Unreachable):
            await federation.requests.request(
                name, "GET", "/_matrix/federation/v1/version", despite_pause=True
            )
        assert bool(trap.caught) == caught
        await net.clock.advance(2 * 86_400)

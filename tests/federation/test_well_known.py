"""How long a .well-known file is believed. spec: server-server-api#resolving-server-names"""

import pytest

from federation.wellknown import lifetime
from tests.federation.internet import Internet, TlsServer, answers

NOW = 1_700_000_000.0
DAY = 86_400.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, DAY),
        ({"Cache-Control": "max-age=600"}, 600),
        ({"Cache-Control": "public, Max-Age = 600"}, 600),
        ({"Cache-Control": 'max-age="600"'}, 600),
        ({"Cache-Control": "no-store"}, 0),
        ({"Cache-Control": "max-age=600, no-cache"}, 0),
        ({"Cache-Control": "max-age=nonsense"}, 0),
        ({"Cache-Control": "public"}, DAY),
        ({"Expires": "Tue, 14 Nov 2023 23:13:20 GMT"}, 3_600),
        ({"Expires": "Tue, 14 Nov 2022 23:13:20 GMT"}, 0),
        ({"Expires": "0"}, 0),
        ({"Cache-Control": "max-age=5", "Expires": "Tue, 14 Nov 2023 23:13:20 GMT"}, 5),
    ],
)
def test_the_headers_say_for_how_long(headers: dict[str, str], seconds: float) -> None:
    assert lifetime(headers, NOW) == seconds


async def delegation(net: Internet, server: TlsServer, headers: dict[str, str]) -> None:
    server.handler = answers({"m.server": "m.example:1"}, headers=headers)
    net.host("a.example")


async def sources(net: Internet) -> str:
    return (await net.parts[0].discovery.route("a.example")).source


@pytest.mark.parametrize(
    ("control", "hours"),
    [("max-age=7200", 2), ("max-age=31536000", 48), ("public", 24)],
)
async def test_the_answer_is_kept_so_long_and_48_hours_at_most(
    net: Internet, control: str, hours: int
) -> None:
    server = await net.web("a.example")
    await net.federation()
    await delegation(net, server, {"Cache-Control": control})
    assert await sources(net) == ".well-known"
    await net.clock.advance(hours * 3_600 * 0.9 - 60)
    await sources(net)
    assert len(server.seen) == 1
    await net.clock.advance(hours * 3_600 * 0.1 + 60)
    await sources(net)
    assert len(server.seen) == 2


async def test_that_there_is_none_is_kept_for_an_hour(net: Internet) -> None:
    server = await net.web("a.example")
    await net.federation()
    net.host("a.example")
    assert await sources(net) == "the host itself"
    await net.clock.advance(3_000)
    await sources(net)
    assert len(server.seen) == 1
    await delegation(net, server, {})
    await net.clock.advance(600)
    assert await sources(net) == ".well-known"


async def test_an_outage_of_the_web_server_changes_nothing_for_a_week(net: Internet) -> None:
    server = await net.web("a.example")
    await net.federation()
    await delegation(net, server, {})
    await sources(net)
    server.handler = answers({}, 503)
    for _ in range(6):
        await net.clock.advance(DAY)
        assert await sources(net) == ".well-known"
    await net.clock.advance(2 * DAY)
    assert await sources(net) == "the host itself"


async def test_a_server_that_has_moved_is_taken_for_one_that_has_come_back(net: Internet) -> None:
    """Whoever wants to know is told: what it said of its users' devices may be old."""
    server = await net.web("a.example")
    federation = await net.federation()
    back: list[str] = []
    federation.destinations.on_alive(back.append)
    await delegation(net, server, {})
    for _ in range(2):
        await sources(net)
        await net.clock.advance(DAY)
    assert back == []
    server.handler = answers({}, 500)
    await sources(net)
    assert back == []
    server.handler = answers({"m.server": "elsewhere.example:1"})
    await net.clock.advance(3_600)
    await sources(net)
    assert back == ["a.example"]


async def test_taking_it_away_counts(net: Internet) -> None:
    server = await net.web("a.example")
    await net.federation()
    await delegation(net, server, {})
    await sources(net)
    server.handler = answers({}, 404)
    await net.clock.advance(DAY)
    assert await sources(net) == "the host itself"


async def test_a_failing_web_server_is_asked_with_growing_pauses(net: Internet) -> None:
    server = await net.web("a.example")
    server.handler = answers({}, 500)
    net.host("a.example")
    await net.federation()
    for _ in range(60):
        await sources(net)
        await net.clock.advance(60)
    assert 5 <= len(server.seen) <= 8

"""Our resolver against a real name server: what it asks, how often, what failures do."""

import asyncio
from pathlib import Path

import pytest

from federation.dns import NameServers, Service
from federation.lookups import LookupFailed, Lookups
from tests.federation.internet import Internet
from tests.federation.name_server import NEGATIVE_TTL


@pytest.fixture
def names(net: Internet) -> NameServers:
    lookups = Lookups(net.database, net.commits, net.clock)
    return NameServers(lookups, [net.names.address], net.folder / "hosts")


async def test_addresses_of_both_families(net: Internet, names: NameServers) -> None:
    net.names.put("a.example", "A", "192.0.2.1", "192.0.2.2")
    net.names.put("a.example", "AAAA", "2001:db8::1")
    found = await names.addresses("A.Example.")
    assert found[0] == "2001:db8::1"
    assert sorted(found[1:]) == ["192.0.2.1", "192.0.2.2"]


async def test_each_name_is_asked_once_in_its_time_to_live(
    net: Internet, names: NameServers
) -> None:
    net.names.put("a.example", "A", "192.0.2.1", ttl=600)
    await asyncio.gather(*(names.addresses("a.example") for _ in range(20)))
    await net.clock.advance(NEGATIVE_TTL * 0.9 - 1)  # that there is no AAAA ends before the A
    await names.addresses("a.example")
    assert net.names.asked["a.example", "A"] == 1
    await net.clock.advance(NEGATIVE_TTL * 0.1 + 1)
    await names.addresses("a.example")
    assert net.names.asked["a.example", "A"] == 2


async def test_a_name_that_does_not_exist_is_remembered_as_its_zone_says(
    net: Internet, names: NameServers
) -> None:
    for _ in range(5):
        with pytest.raises(OSError, match=r"no\.example has no address"):
            await names.addresses("no.example")
    assert net.names.asked["no.example", "A"] == 1
    net.names.put("no.example", "A", "192.0.2.1")
    await net.clock.advance(NEGATIVE_TTL)
    assert await names.addresses("no.example") == ["192.0.2.1"]


async def test_a_failing_name_server_is_asked_again_within_seconds(
    net: Internet, names: NameServers
) -> None:
    net.names.put("a.example", "A", "192.0.2.1")
    net.names.fail("a.example", "servfail")
    with pytest.raises(OSError, match="report a failure"):
        await names.addresses("a.example")
    net.names.fail("a.example", None)
    await net.clock.advance(5)
    assert await names.addresses("a.example") == ["192.0.2.1"]


async def test_long_answers_come_over_tcp(net: Internet, names: NameServers) -> None:
    net.names.put("a.example", "A", "192.0.2.1")
    net.names.fail("a.example", "truncated")
    assert await names.addresses("a.example") == ["192.0.2.1"]


async def test_services_with_their_targets(net: Internet, names: NameServers) -> None:
    net.names.put("_matrix-fed._tcp.a.example", "SRV", "20 1 2 b.example.", "10 5 1 C.example.")
    assert await names.services("_matrix-fed._tcp.a.example") == [
        Service(10, 5, 1, "C.example"),
        Service(20, 1, 2, "b.example"),
    ]
    assert await names.services("_matrix._tcp.a.example") == []
    net.names.fail("_matrix._tcp.b.example", "servfail")
    with pytest.raises(LookupFailed):
        await names.services("_matrix._tcp.b.example")


async def test_the_machines_table_of_hosts_comes_first(net: Internet, names: NameServers) -> None:
    (net.folder / "hosts").write_text(
        "# a comment\n192.0.2.7 a.example A2.example # b.example\n::1 a.example\nnonsense c\n\n"
    )
    assert await names.addresses("a.example") == ["192.0.2.7", "::1"]
    assert await names.addresses("a2.example") == ["192.0.2.7"]
    assert await names.addresses("localhost") == ["127.0.0.1", "::1"]
    assert not net.names.asked
    with pytest.raises(OSError):
        await names.addresses("b.example")


async def test_a_name_with_impossible_labels_has_no_address(names: NameServers) -> None:
    for name in ("a" * 64 + ".example", "a..example", "." * 5 + "a"):
        with pytest.raises(OSError):
            await names.addresses(name)


@pytest.mark.parametrize("place", ["nonsense", "1.2.3.4:x", "[::1", "1.2.3"])
def test_name_servers_are_given_by_address(net: Internet, place: str) -> None:
    with pytest.raises(ValueError):
        NameServers(Lookups(net.database, net.commits, net.clock), [place], Path("/nowhere"))

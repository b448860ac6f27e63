"""Which addresses a stranger can make this server connect to."""

import pytest

from homeserver.config import DENIED_NETWORKS
from homeserver.http.addresses import AddressRules

RULES = AddressRules(DENIED_NETWORKS)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:7f00:1",
        "0:0:0:0:0:ffff:a9fe:a9fe",
        "64:ff9b::10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_the_machine_and_its_neighbours_are_denied(address: str) -> None:
    assert not RULES.allows(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "172.32.0.1",
        "192.169.0.1",
        "8.8.8.8",
        "2606:4700:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
def test_the_public_internet_is_allowed(address: str) -> None:
    assert RULES.allows(address)


@pytest.mark.parametrize(
    "text", ["", "localhost", "2130706433", "127.1", "0x7f.1", "0177.0.0.1", "1.1.1.1 ", "[::1]"]
)
def test_what_is_no_literal_address_is_denied(text: str) -> None:
    assert not RULES.allows(text)


def test_exceptions_are_allowed_also_inside_of_ipv6() -> None:
    rules = AddressRules(DENIED_NETWORKS, ["10.1.0.0/16", "::1/128"])
    assert rules.allows("10.1.2.3")
    assert rules.allows("::ffff:10.1.2.3")
    assert rules.allows("::1")
    assert not rules.allows("10.2.0.1")
    assert not rules.allows("127.0.0.1")


def test_an_empty_list_denies_nothing() -> None:
    assert AddressRules(()).allows("127.0.0.1")

"""Which addresses of the network this server may connect to.

Owns the judgement on one address: a stranger who names a host must not make the server talk to its
own machine or its neighbours. An IPv6 address that carries an IPv4 address is judged by that one.
It neither resolves nor connects.
"""

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The well-known prefix of NAT64: behind it stands any IPv4 address. RFC 6052
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressRules:
    """Networks that are denied, and exceptions that are allowed again.

    Raises ValueError for what is no network.
    """

    def __init__(self, denied: Iterable[str], allowed: Iterable[str] = ()) -> None:
        self._denied = _networks(denied)
        self._allowed = _networks(allowed)

    def allows(self, text: str) -> bool:
        """Whether a connection to this literal address is allowed; false for what is none."""
        try:
            address = _meant(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        return _in(address, self._allowed) or not _in(address, self._denied)


def _meant(address: Address) -> Address:
    """The IPv4 address inside of an IPv6 address, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)

"""Whose word about the client's address is believed.

Owns the list of trusted proxies. X-Forwarded-For is read from the right: the first address that
is no trusted proxy is the client. From others the header is ignored: everybody can send it.
"""

import ipaddress
from collections.abc import Iterable

from homeserver.http.connection import RawRequest

UNIX = "unix"
"""Stands in the list for whoever connects by a unix socket."""


class Proxies:
    """Trusted proxies: addresses or networks such as `10.0.0.0/8`, and `unix`."""

    def __init__(self, trusted: Iterable[str]) -> None:
        names = list(trusted)
        self._unix = UNIX in names
        self._networks = [ipaddress.ip_network(name) for name in names if name != UNIX]

    def remote_of(self, raw: RawRequest) -> str:
        """The address of the client, "unix" when it came by a socket without a believed header."""
        peer = raw.remote or UNIX
        if not self._networks and not self._unix:
            return peer
        client = peer
        forwarded = ",".join(raw.headers("x-forwarded-for"))
        for address in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
            if not self._trusts(client):
                break
            parsed = _address(address)
            if parsed is None:
                break
            client = str(parsed)
        return client

    def _trusts(self, peer: str) -> bool:
        if peer == UNIX:
            return self._unix
        address = _address(peer)
        return address is not None and any(
            address in network for network in self._networks if network.version == address.version
        )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as proxies write it: perhaps with a port, in brackets, or IPv4 mapped to IPv6."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address

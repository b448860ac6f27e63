"""From a server name to where it is and whose certificate it must show.

Owns the steps of resolving a server name, in the order of the specification, and the choice among
several servers of one service. Looking things up and remembering them is done by `wellknown` and
`dns`. Host names are resolved to addresses when a connection is made.
spec: server-server-api#resolving-server-names
"""

import ipaddress
import random
from collections.abc import Sequence
from dataclasses import dataclass

from federation.dns import ADDRESS, SRV, NameServers, Service
from federation.lookups import LookupFailed, Lookups
from federation.wellknown import WELL_KNOWN, WellKnown
from homeserver.errors import Unreachable
from homeserver.matrix.ids import is_server_name

DEFAULT_PORT = 8448
SERVICES = ("_matrix-fed._tcp", "_matrix._tcp")


@dataclass(frozen=True, slots=True)
class Target:
    """A host (name or literal address, IPv6 without brackets) and port to connect to."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The beginning of URLs there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """Where to reach a server: targets in the order of trying, and what to say and expect there.

    `host` is the `Host` header, `tls_name` the name or address of the certificate, `source` in
    words how it was found.
    """

    targets: tuple[Target, ...]
    host: str
    tls_name: str
    source: str


class Discovery:
    """Finds servers; `default_port` is another than 8448 in tests only."""

    def __init__(
        self,
        lookups: Lookups,
        names: NameServers,
        well_known: WellKnown,
        default_port: int = DEFAULT_PORT,
    ) -> None:
        self._lookups = lookups
        self._names = names
        self._well_known = well_known
        self._default_port = default_port

    async def route(self, server: str) -> Route:
        """Where the server is; raises Unreachable when that can't be found out."""
        if not is_server_name(server):
            raise Unreachable(server, "this is no server name")
        host, port = split_name(server)
        if _is_address(host) or port is not None:
            return self._direct(server, "the name itself")
        delegate = await self._well_known.delegate(host)
        if delegate is None:
            return await self._by_service(server, host, "")
        host, port = split_name(delegate)
        if _is_address(host) or port is not None:
            return self._direct(delegate, ".well-known")
        return await self._by_service(server, host, ".well-known, ")

    async def places(self, server: str) -> frozenset[tuple[str, int]]:
        """The addresses and ports that the server has now; empty when that is not known."""
        found = set()
        try:
            for target in (await self.route(server)).targets:
                host = target.host
                for address in [host] if _is_address(host) else await self._names.addresses(host):
                    found.add((address, target.port))
        except (Unreachable, OSError):
            return frozenset()
        return frozenset(found)

    def doubt(self, server: str, route: Route) -> None:
        """The route has led nowhere: look again at what it was made from."""
        host, _ = split_name(server)
        self._lookups.doubt(WELL_KNOWN, host.lower())
        for service in SERVICES:
            self._lookups.doubt(SRV, f"{service}.{route.tls_name}".lower())
        for target in route.targets:
            self._lookups.doubt(ADDRESS, target.host.lower())

    def _direct(self, name: str, source: str) -> Route:
        """Steps 1, 2, 3.1 and 3.2: an address, or a host with its port."""
        host, port = split_name(name)
        if port is None:
            port = self._default_port
        return Route((Target(host, port),), name, host, source)

    async def _by_service(self, server: str, host: str, source: str) -> Route:
        """Steps 3.3 to 3.5 and 4 to 6: SRV records of a host, or the host at the usual port."""
        for service in SERVICES:
            name = f"{service}.{host}"
            try:
                found = await self._names.services(name)
            except LookupFailed:
                # The host itself is as good: it must show the same certificate.
                continue
            if found:
                offered = [one for one in found if one.target]
                if not offered:
                    raise Unreachable(server, f"its DNS says that there is no {name}")
                targets = tuple(Target(one.target, one.port) for one in in_order(offered))
                return Route(targets, host, host, f"{source}SRV record of {service}")
        return Route((Target(host, self._default_port),), host, host, f"{source}the host itself")


def split_name(server: str) -> tuple[str, int | None]:
    """Host (IPv6 without brackets) and port of a valid server name."""
    host, colon, digits = server.rpartition(":")
    if not colon or server.endswith("]"):
        host, digits = server, ""
    return host.removeprefix("[").removesuffix("]"), int(digits) if digits else None


def in_order(services: Sequence[Service]) -> list[Service]:
    """Services in an order of trying: by priority, and by chance and weight among equals.

    RFC 2782
    """
    left = sorted(services, key=lambda one: (one.priority, one.weight))
    ordered = []
    while left:
        equals = [one for one in left if one.priority == left[0].priority]
        # A weight of 0 has a small chance too.
        chosen = random.choices(equals, [one.weight + 0.1 for one in equals])[0]
        left.remove(chosen)
        ordered.append(chosen)
    return ordered


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

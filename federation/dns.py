"""Names to addresses and services, by a resolver of our own.

Owns the questions of the server about names: A with AAAA, and SRV. Answers and their times to live
go through `Lookups`; that a name does not exist is an answer too. `/etc/hosts` and `localhost` come
first, as everywhere else on the machine. It does not choose among the servers of a service.
"""

import asyncio
import ipaddress
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from federation.lookups import Found, Kind, LookupFailed, Lookups

if TYPE_CHECKING:
    from federation.resolver import Resolver

ADDRESS = "address"
SRV = "srv"

MAX_ANSWERS = 32
"""Addresses of a host, or servers of a service, that are looked at."""
HOSTS = Path("/etc/hosts")
HOSTS_SECONDS = 5.0
LOCALHOST = ["127.0.0.1", "::1"]


class Service(NamedTuple):
    """One SRV record; the target is a host name without the last dot."""

    priority: int
    weight: int
    port: int
    target: str


class NameServers:
    """The resolver. `servers` as addresses, with `:port` where it is not 53; empty: the system's.

    Raises ValueError for what is no address.
    """

    def __init__(self, lookups: Lookups, servers: Sequence[str] = (), hosts: Path = HOSTS) -> None:
        self._lookups = lookups
        for server in servers:
            place_of(server)
        self._servers = servers
        self._resolver: Resolver | None = None
        self._hosts = _Hosts(hosts)
        for name, ask in ((ADDRESS, self._ask_addresses), (SRV, self._ask_services)):
            lookups.handle(name, Kind(ask, 30.0, 86_400.0, 5.0, 60.0))

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a host, IPv6 first; OSError with a reason when there is none."""
        host = host.rstrip(".").lower()
        known = self._hosts.addresses(host)
        if known:
            return known
        try:
            found: list[str] = await self._lookups.get(ADDRESS, host)
        except LookupFailed as error:
            raise OSError(str(error)) from None
        if not found:
            raise OSError(f"the name {host} has no address")
        return found

    async def services(self, name: str) -> list[Service]:
        """The SRV records of a name such as `_matrix-fed._tcp.example.org`; empty without any.

        A target of "" says that the service is decidedly not offered. Raises LookupFailed.
        """
        return [Service(*record) for record in await self._lookups.get(SRV, name.lower())]

    async def _ask_addresses(self, host: str) -> Found:
        outcomes = await asyncio.gather(
            self._query(host, "AAAA"),
            self._query(host, "A"),
            return_exceptions=True,
        )
        addresses: list[str] = []
        seconds = float("inf")
        failure = None
        for outcome in outcomes:
            if isinstance(outcome, LookupFailed):
                failure = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                records, lifetime = outcome
                addresses += [record.address for record in records]
                seconds = min(seconds, lifetime)
        if failure is not None:
            if not addresses:
                raise failure
            seconds = 0.0  # half an answer: for the shortest time that is allowed
        return Found(addresses[:MAX_ANSWERS], seconds)

    async def _ask_services(self, name: str) -> Found:
        records, seconds = await self._query(name, "SRV")
        services = sorted(
            Service(one.priority, one.weight, one.port, str(one.target).rstrip("."))
            for one in records
        )
        return Found([list(service) for service in services[:MAX_ANSWERS]], seconds)

    async def _query(self, name: str, kind: str) -> tuple[list[Any], float]:
        if self._resolver is None:
            # The library takes a while, which nobody else has to wait for.
            await asyncio.to_thread(import_module, "federation.resolver")
            from federation.resolver import Resolver

            self._resolver = Resolver([place_of(server) for server in self._servers])
        return await self._resolver.query(name, kind)


def place_of(text: str) -> tuple[str, int]:
    """Address and port of a name server; raises ValueError for what is none."""
    address, port = text, "53"
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"{text!r} lacks a bracket")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    return str(ipaddress.ip_address(address)), int(port)


class _Hosts:
    """The machine's own table of hosts, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = -HOSTS_SECONDS
        self._changed = 0.0
        self._table: dict[str, list[str]] = {}

    def addresses(self, host: str) -> list[str]:
        now = time.monotonic()
        if now - self._looked >= HOSTS_SECONDS:
            self._looked = now
            self._read()
        found = self._table.get(host, [])
        if not found and (host == "localhost" or host.endswith(".localhost")):
            return LOCALHOST
        return found

    def _read(self) -> None:
        try:
            changed = self._path.stat().st_mtime
            if changed == self._changed:
                return
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            self._table = {}
            return
        self._changed = changed
        table: dict[str, list[str]] = {}
        for line in text.splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            try:
                address = str(ipaddress.ip_address(address))
            except ValueError:
                continue
            for name in names:
                table.setdefault(name.lower(), []).append(address)
        self._table = table

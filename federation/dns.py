"""Names to addresses and services, by a resolver of our own.

Owns the questions to name servers: A with AAAA, and SRV. Answers and their times to live go through
`Lookups`; that a name does not exist is an answer too. `/etc/hosts` and `localhost` come first, as
everywhere else on the machine. It does not choose among the servers of a service.
"""

import asyncio
import ipaddress
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from federation.lookups import Found, Kind, LookupFailed, Lookups

ADDRESS = "address"
SRV = "srv"

LIFETIME = 6.0
TRY_SECONDS = 2.0
NEGATIVE_SECONDS = 300.0
MAX_NEGATIVE_SECONDS = 900.0
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
        self._resolver = _resolver(servers)
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
            self._query(host, dns.rdatatype.AAAA),
            self._query(host, dns.rdatatype.A),
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
        records, seconds = await self._query(name, dns.rdatatype.SRV)
        services = sorted(
            Service(one.priority, one.weight, one.port, str(one.target).rstrip("."))
            for one in records
        )
        return Found([list(service) for service in services[:MAX_ANSWERS]], seconds)

    async def _query(self, name: str, kind: dns.rdatatype.RdataType) -> tuple[list[Any], float]:
        """The records and for how long they are good; none when name or kind do not exist."""
        try:
            answer = await self._resolver.resolve(
                dns.name.from_text(name + "."), kind, raise_on_no_answer=False, search=False
            )
        except dns.resolver.NXDOMAIN as error:
            return [], _negative(error)
        except dns.exception.DNSException as error:
            raise LookupFailed(f"name servers don't answer for {name}: {_reason(error)}") from None
        except OSError as error:
            raise LookupFailed(f"no name server can be reached: {error.strerror}") from None
        seconds = answer.expiration - time.time()
        if answer.rrset is None:
            return [], min(seconds, MAX_NEGATIVE_SECONDS)
        return list(answer.rrset), seconds


def _resolver(servers: Sequence[str]) -> dns.asyncresolver.Resolver:
    try:
        resolver = dns.asyncresolver.Resolver(configure=not servers)
    except dns.resolver.NoResolverConfiguration:
        resolver = dns.asyncresolver.Resolver(configure=False)
        servers = ("127.0.0.1",)
    if servers:
        resolver.nameservers = [_name_server(server) for server in servers]
    resolver.lifetime = LIFETIME
    resolver.timeout = TRY_SECONDS
    resolver.use_edns(0, 0, 1232)
    return resolver


def _name_server(text: str) -> dns.nameserver.Nameserver:
    address, port = text, 53
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"{text!r} lacks a bracket")
        port = int(rest.removeprefix(":") or 53)
    elif text.count(":") == 1:
        address, _, digits = text.partition(":")
        port = int(digits)
    return dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(address)), port)


def _negative(error: dns.resolver.NXDOMAIN) -> float:
    """For how long a name does not exist, by the zone's own word."""
    responses: dict[dns.name.Name, dns.message.QueryMessage] = error.kwargs.get("responses", {})
    for response in responses.values():
        try:
            return min(float(response.resolve_chaining().minimum_ttl), MAX_NEGATIVE_SECONDS)
        except dns.exception.DNSException:
            break
    return NEGATIVE_SECONDS


def _reason(error: dns.exception.DNSException) -> str:
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no answer in time"
    if isinstance(error, dns.resolver.NoNameservers):
        return "they report a failure"
    return str(error) or type(error).__name__


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

"""Questions to name servers, by dnspython.

Owns the wire side of DNS: UDP, TCP when an answer is long, several servers, time-outs; and what
counts as "there is no such thing" against "nobody knows". Imported only when the first question is
asked, because the library takes a while. It remembers nothing.
"""

import time
from collections.abc import Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.resolver

from federation.lookups import LookupFailed

LIFETIME = 6.0
TRY_SECONDS = 2.0
NEGATIVE_SECONDS = 300.0
MAX_NEGATIVE_SECONDS = 900.0


class Resolver:
    """Asks `servers` (address and port); those of the system when there are none."""

    def __init__(self, servers: Sequence[tuple[str, int]]) -> None:
        self._resolver = _resolver(servers)

    async def query(self, name: str, kind: str) -> tuple[list[Any], float]:
        """The records of a type and for how many seconds they are good.

        No records when name or type do not exist; raises LookupFailed when nobody knows.
        """
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


def _resolver(servers: Sequence[tuple[str, int]]) -> dns.asyncresolver.Resolver:
    try:
        resolver = dns.asyncresolver.Resolver(configure=not servers)
    except dns.resolver.NoResolverConfiguration:
        resolver = dns.asyncresolver.Resolver(configure=False)
        servers = [("127.0.0.1", 53)]
    if servers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*place) for place in servers]
    resolver.lifetime = LIFETIME
    resolver.timeout = TRY_SECONDS
    resolver.use_edns(0, 0, 1232)
    return resolver


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

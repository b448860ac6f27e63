"""Rate limits: token buckets that let bursts pass and stop floods.

Owns the classes of requests, whom each counts (a user, a device, an address, an account, another
server), the buckets, and the log of refusals. Invariants: memory is bounded however many callers
there are; who was not heard of for as long as a bucket takes to fill has a full one; administrators
and application services are never refused. Rates come from the configuration. What a request does
is not known here.
spec: client-server-api#rate-limiting
"""

import ipaddress
import logging
import math
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from homeserver.errors import MatrixError
from homeserver.options import Rate
from homeserver.runtime.clock import Clock

if TYPE_CHECKING:
    from homeserver.users.sessions import Session

log = logging.getLogger(__name__)

LimitName = Literal[
    "send",
    "join",
    "invite",
    "create_room",
    "signal",
    "write",
    "read",
    "read_heavy",
    "initial_sync",
    "open",
    "registration",
    "login_address",
    "login_account",
    "mail",
    "push",
    "unknown_token",
    "server_send",
    "server_join",
    "server_read",
    "server_read_heavy",
]
"""The classes of requests; the configuration has a rate for each by the same name."""

NAMES: tuple[LimitName, ...] = get_args(LimitName)
_BY_DEVICE: frozenset[LimitName] = frozenset({"signal", "read", "read_heavy"})
_BY_ADDRESS: frozenset[LimitName] = frozenset(
    {"open", "registration", "login_address", "mail", "unknown_token"}
)
_BY_SERVER: frozenset[LimitName] = frozenset(
    {"server_send", "server_join", "server_read", "server_read_heavy"}
)
MAX_KEYS = 32_768
"""Callers whose buckets one limiter keeps; those unheard of for longest get full ones."""
LOG_SECONDS = 10.0
"""After a first line on its refusals, a limiter logs at most one such line in this time."""
MAX_NAMED = 5
_MAX_COUNTED = 100


class Remote(Protocol):
    """A request, as far as it tells where it comes from."""

    @property
    def remote(self) -> str:
        """The client's address."""


class Limiter:
    """The buckets of one class.

    A bucket is one number: the moment at which it will be full again. Buckets stand in two
    generations; the older one is dropped when the younger is large, or older than a bucket takes to
    fill, and buckets that are used move to the younger.
    """

    __slots__ = ("_capacity", "_interval", "_lifetime", "_old", "_turn_at", "_young", "name")

    def __init__(self, name: str, rate: Rate) -> None:
        self.name = name
        self._interval = rate.seconds / rate.count
        self._capacity = rate.burst * self._interval
        self._lifetime = max(self._capacity, 60.0)
        self._turn_at = 0.0
        self._young: dict[Hashable, float] = {}
        self._old: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float) -> float:
        """Take one token at `now` (monotonic seconds).

        Returns 0, or the seconds after which there will be one, when there is none.
        """
        full_at = self._young.get(key)
        if full_at is None:
            full_at = self._older(key, now)
        if full_at < now:
            full_at = now
        full_at += self._interval
        wait = full_at - now - self._capacity
        # A tolerance, since sums of intervals are not exact.
        if wait > 1e-6:
            return wait
        self._young[key] = full_at
        return 0.0

    def wait(self, key: Hashable, now: float) -> float:
        """What `take` would return, without taking anything."""
        full_at = self._young.get(key) or self._old.get(key, now)
        wait = max(full_at, now) + self._interval - now - self._capacity
        return wait if wait > 1e-6 else 0.0

    def forget(self, key: Hashable) -> None:
        """Fill a bucket."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._young) + len(self._old)

    def _older(self, key: Hashable, now: float) -> float:
        if now >= self._turn_at or len(self._young) >= MAX_KEYS // 2:
            self._old = self._young
            self._young = {}
            self._turn_at = now + self._lifetime
        full_at = self._old.pop(key, now)
        self._young[key] = full_at
        return full_at


class RateLimits:
    """All limiters of a process; endpoints declare which one counts their requests."""

    def __init__(
        self, enabled: bool, rates: Mapping[str, Rate], clock: Clock, *, servers: bool = True
    ) -> None:
        """`servers`: whether those that other servers have are among them."""
        self._clock = clock
        self._monotonic = clock.monotonic
        self._rates: dict[str, Rate] = {}
        self._limiters: dict[LimitName, Limiter] = {}
        self._told: dict[str, _Refusals] = {}
        self.refused: dict[str, int] = dict.fromkeys(NAMES, 0)
        """How many requests each limiter has refused."""
        self.configure(enabled, rates, servers=servers)

    def configure(self, enabled: bool, rates: Mapping[str, Rate], *, servers: bool = True) -> None:
        """Use these rates from now on; buckets whose rate stays the same keep their level."""
        limiters = {}
        if enabled:
            for name in NAMES:
                if name in _BY_SERVER and not servers:
                    continue
                kept = self._limiters.get(name) if self._rates.get(name) == rates[name] else None
                limiters[name] = kept or Limiter(name, rates[name])
        self._limiters = limiters
        self._rates = dict(rates)

    def check(self, name: LimitName, session: "Session | None", request: Remote) -> None:
        """Count a request of this class; raises `MatrixError` M_LIMIT_EXCEEDED when it is too much.

        Without a session, or in a class that counts addresses, its address is counted.
        """
        limiter = self._limiters.get(name)
        if limiter is None:
            return
        key: Hashable
        if session is None or name in _BY_ADDRESS:
            key = network_of(request.remote)
        elif session.is_admin or session.is_unlimited:
            return
        elif name in _BY_DEVICE:
            key = session.device_nid
        else:
            key = session.user_nid
        now = self._monotonic()
        wait = limiter.take(key, now)
        if wait:
            who = session.user_id if session is not None else str(key)
            raise self._refusal(limiter, who, wait)

    def charge(self, name: LimitName, account: str) -> None:
        """Count something that concerns an account, whoever does it; raises as `check` does."""
        limiter = self._limiters.get(name)
        if limiter is not None:
            wait = limiter.take(account, self._monotonic())
            if wait:
                raise self._refusal(limiter, account, wait)

    def foresee(self, name: LimitName, account: str) -> None:
        """Raise as `charge` would, and count nothing: whose account it is has not been shown."""
        limiter = self._limiters.get(name)
        if limiter is not None:
            wait = limiter.wait(account, self._monotonic())
            if wait:
                raise self._refusal(limiter, account, wait)

    def forgive(self, name: LimitName, account: str) -> None:
        """Forget what was charged to an account."""
        limiter = self._limiters.get(name)
        if limiter is not None:
            limiter.forget(account)

    def _refusal(self, limiter: Limiter, who: str, wait: float) -> MatrixError:
        name = limiter.name
        self.refused[name] += 1
        told = self._told.get(name)
        if told is None:
            told = self._told[name] = _Refusals(name, self._clock)
        told.add(who, wait)
        return limit_exceeded(f"Too many requests (limit {name}); try again later", wait)


class _Refusals:
    """The log of one limiter: the first refusal at once, then sums, each after LOG_SECONDS."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._quiet = True
        self._by_who: dict[str, int] = {}
        self._others = 0

    def add(self, who: str, wait: float) -> None:
        if self._quiet:
            self._quiet = False
            log.warning("limit %s refuses %s for the next %.1f s", self._name, who, wait)
            self._clock.call_later(LOG_SECONDS, self._sum_up)
        elif who in self._by_who or len(self._by_who) < _MAX_COUNTED:
            self._by_who[who] = self._by_who.get(who, 0) + 1
        else:
            self._others += 1

    def _sum_up(self) -> None:
        total = sum(self._by_who.values()) + self._others
        if not total:
            self._quiet = True
            return
        worst = sorted(self._by_who.items(), key=lambda item: -item[1])[:MAX_NAMED]
        named = ", ".join(f"{who} {count} times" for who, count in worst)
        more = total - sum(count for _, count in worst)
        others = f", others {more} times" if more else ""
        log.warning(
            "limit %s refused %d requests in %d s: %s%s",
            self._name,
            total,
            LOG_SECONDS,
            named,
            others,
        )
        self._by_who.clear()
        self._others = 0
        self._clock.call_later(LOG_SECONDS, self._sum_up)


def limit_exceeded(message: str, seconds: float) -> MatrixError:
    """The answer to whoever has to wait `seconds` before trying again."""
    return MatrixError(
        "M_LIMIT_EXCEEDED",
        message,
        429,
        extra={"retry_after_ms": math.ceil(seconds * 1000)},
        headers={"Retry-After": str(math.ceil(seconds))},
    )


@lru_cache(maxsize=4_096)
def network_of(address: str) -> str:
    """Whom an address stands for: an IPv4 address itself, the /64 network of an IPv6 address.

    What is no address (a unix socket) stands for itself.
    """
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))

"""What requests cost, by room, user and endpoint: the time they hold the loop and the database's.

Owns the accounts of the last minutes, in which what is older counts less and less (half of it after
five minutes), and the measuring of one request. Invariants: accounts are bounded in number however
many rooms and users there are, the cheapest go; measuring costs a request under 2 us. Work that a
request leaves to others (jobs, deliveries) is not counted.
"""

from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Kind = Literal["room", "user", "endpoint"]
KINDS: tuple[Kind, ...] = ("room", "user", "endpoint")

HALF_LIFE = 300.0
MOST = 2_000
"""Accounts of one kind that are kept; past it the cheaper half goes."""
_RESCALE_AT = 2.0**60


class Cost:
    """What one request has cost so far, in seconds, and for whom."""

    __slots__ = ("database", "loop", "room", "user")

    def __init__(self) -> None:
        self.loop = 0.0
        self.database = 0.0
        self.room: str | None = None
        self.user: str | None = None


COST: ContextVar[Cost | None] = ContextVar("cost", default=None)
"""The cost of the request that is being worked on."""


def database_seconds(seconds: float) -> None:
    """The request that is being worked on has used the database for so long."""
    cost = COST.get()
    if cost is not None:
        cost.database += seconds


class Measured(Generic[T]):
    """Awaits a coroutine and adds the time of its steps, not that of its waiting, to a cost."""

    __slots__ = ("_cost", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], cost: Cost) -> None:
        self._work = work
        self._cost = cost

    def __await__(self) -> Generator[Any, Any, T]:
        work, cost = self._work, self._cost
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            began = perf_counter()
            try:
                waited = work.send(sent) if thrown is None else work.throw(thrown)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                cost.loop += perf_counter() - began
            sent = thrown = None
            try:
                sent = yield waited
            except BaseException as error:
                thrown = error


@dataclass(slots=True)
class Account:
    """Decayed sums of one room, user or endpoint: seconds, and how many requests."""

    loop: float = 0.0
    database: float = 0.0
    requests: float = 0.0


class Costs:
    """The accounts of this process."""

    def __init__(self, seconds: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        # Sums are kept as if all were of the moment `_zero`: later costs weigh more.
        self._zero = seconds()
        self._accounts: dict[Kind, dict[str, Account]] = {kind: {} for kind in KINDS}

    def add(self, endpoint: str, cost: Cost) -> None:
        """Count a request that has ended."""
        weight = 2.0 ** ((self._seconds() - self._zero) / HALF_LIFE)
        if weight > _RESCALE_AT:
            self._rescale(weight)
            weight = 1.0
        self._count("endpoint", endpoint, cost, weight)
        if cost.user is not None:
            self._count("user", cost.user, cost, weight)
        if cost.room is not None:
            self._count("room", cost.room, cost, weight)

    def top(self, kind: Kind, most: int) -> list[tuple[str, Account]]:
        """The dearest of a kind, the dearest first, with what they have cost lately."""
        weight = 2.0 ** ((self._seconds() - self._zero) / HALF_LIFE)
        dearest = sorted(self._accounts[kind].items(), key=_dear, reverse=True)[:most]
        return [
            (name, Account(one.loop / weight, one.database / weight, one.requests / weight))
            for name, one in dearest
        ]

    def _count(self, kind: Kind, name: str, cost: Cost, weight: float) -> None:
        accounts = self._accounts[kind]
        account = accounts.get(name)
        if account is None:
            if len(accounts) >= MOST:
                kept = sorted(accounts.items(), key=_dear, reverse=True)[: MOST // 2]
                accounts = self._accounts[kind] = dict(kept)
            account = accounts[name] = Account()
        account.loop += cost.loop * weight
        account.database += cost.database * weight
        account.requests += weight

    def _rescale(self, weight: float) -> None:
        self._zero = self._seconds()
        for accounts in self._accounts.values():
            for account in accounts.values():
                account.loop /= weight
                account.database /= weight
                account.requests /= weight


def _dear(item: tuple[str, Account]) -> float:
    return item[1].loop + item[1].database

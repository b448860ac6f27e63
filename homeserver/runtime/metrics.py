"""What the process counts about itself, and its rendering for Prometheus.

Owns every metric. Observing one is a few hundred nanoseconds because numbers are kept in plain
lists and only turned into Prometheus' families when somebody asks; the client library is imported
then. Labels come from declarations (endpoints), never from input, so the number of series is fixed.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from homeserver.runtime.costs import KINDS, Costs

if TYPE_CHECKING:
    from prometheus_client import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DEAREST = 10
"""How many rooms, users and endpoints are shown with what they cost: labels stay few."""
_COSTS = "Of what costs most lately (half-life five minutes): time of "
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Histogram:
    """Counts of observations up to each bound."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Pairs of upper bound and number of observations up to it, as Prometheus has them."""
        rows, running = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
        return rows


class EndpointMetrics:
    """Requests to one endpoint: their time, and how many got each status."""

    __slots__ = ("_seconds", "_statuses")

    def __init__(self) -> None:
        self._seconds = Histogram(SECONDS)
        self._statuses: dict[int, int] = {}

    def observe(self, status: int, seconds: float) -> None:
        self._seconds.observe(seconds)
        self._statuses[status] = self._statuses.get(status, 0) + 1

    @property
    def seconds(self) -> Histogram:
        return self._seconds

    @property
    def statuses(self) -> dict[int, int]:
        """How many requests were answered with each status."""
        return self._statuses


class Metrics:
    """All metrics of a process. Objects get it in their constructor and count directly."""

    def __init__(self) -> None:
        self._endpoints: dict[str, EndpointMetrics] = {}
        self._gauges: list[tuple[str, str, Callable[[], float | None]]] = []
        self._named: list[tuple[str, str, str, Callable[[], Iterable[tuple[str, float]]]]] = []
        self.commit_items = Histogram(SIZES)
        self.commit_seconds = Histogram(SECONDS)
        self.ring_hits = 0
        self.ring_misses = 0
        self.slow_steps = 0
        self.state_resets = 0
        self.refusals: Mapping[str, int] = {}
        """How many requests each rate limit has refused."""
        self.costs = Costs()

    def endpoint(self, name: str) -> EndpointMetrics:
        """The metrics under an endpoint's name, always the same object."""
        return self._endpoints.setdefault(name, EndpointMetrics())

    def committed(self, items: int, seconds: float) -> None:
        """One batch was committed."""
        self.commit_items.observe(items)
        self.commit_seconds.observe(seconds)

    def news(self, *, in_memory: bool) -> None:
        """A sync took its news from memory, or from the database."""
        if in_memory:
            self.ring_hits += 1
        else:
            self.ring_misses += 1

    def gauge(self, name: str, meaning: str, read: Callable[[], float | None]) -> None:
        """A figure that is read when it is asked for, such as the stream's position.

        It is left out while it is None, not known yet.
        """
        self._gauges.append((name, meaning, read))

    def by_name(
        self, name: str, meaning: str, label: str, read: Callable[[], Iterable[tuple[str, float]]]
    ) -> None:
        """Like `gauge`, for the few (value of the label, figure) that `read` gives."""
        self._named.append((name, meaning, label, read))

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        from prometheus_client import (
            CollectorRegistry,
            GCCollector,
            PlatformCollector,
            ProcessCollector,
            generate_latest,
        )

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> "Iterator[Metric]":
        """The families of our own metrics; called by the client library."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        seconds = HistogramMetricFamily(
            "homeserver_request_seconds", "Time from request to reply", labels=["endpoint"]
        )
        replies = CounterMetricFamily(
            "homeserver_replies", "Replies sent", labels=["endpoint", "status"]
        )
        for name, endpoint in self._endpoints.items():
            seconds.add_metric([name], endpoint.seconds.buckets(), endpoint.seconds.total)
            for status, count in endpoint.statuses.items():
                replies.add_metric([name, str(status)], count)
        yield seconds
        yield replies
        limited = CounterMetricFamily(
            "homeserver_limited", "Requests that a rate limit refused", labels=["limit"]
        )
        for name, count in self.refusals.items():
            limited.add_metric([name], count)
        yield limited
        for title, meaning, histogram in (
            ("homeserver_commit_items", "Callers whose work shared a batch", self.commit_items),
            ("homeserver_commit_seconds", "Time to commit a batch", self.commit_seconds),
        ):
            family = HistogramMetricFamily(title, meaning)
            family.add_metric([], histogram.buckets(), histogram.total)
            yield family
        for title, meaning, number in (
            ("homeserver_ring_hits", "Syncs answered from memory", self.ring_hits),
            ("homeserver_ring_misses", "Syncs that needed the database", self.ring_misses),
            ("homeserver_slow_steps", "Steps that held the event loop too long", self.slow_steps),
            ("homeserver_state_resets", "Losses by state resolution alone", self.state_resets),
        ):
            yield CounterMetricFamily(title, meaning, value=number)
        names = ["kind", "name"]
        loop = GaugeMetricFamily("homeserver_cost_loop_seconds", _COSTS + "the loop", labels=names)
        database = GaugeMetricFamily(
            "homeserver_cost_database_seconds", _COSTS + "the database", labels=names
        )
        for kind in KINDS:
            for name, account in self.costs.top(kind, DEAREST):
                loop.add_metric([kind, name], account.loop)
                database.add_metric([kind, name], account.database)
        yield loop
        yield database
        for title, meaning, read in self._gauges:
            figure = read()
            if figure is not None:
                yield GaugeMetricFamily(title, meaning, value=figure)
        for title, meaning, label, read_all in self._named:
            figures = GaugeMetricFamily(title, meaning, labels=[label])
            for value, figure in read_all():
                figures.add_metric([value], figure)
            yield figures

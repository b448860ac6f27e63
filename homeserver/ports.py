"""What the core needs of the outside, as small protocols.

`app.py` connects each with its implementation. Nothing here has behaviour.
"""

from collections.abc import Collection
from typing import Protocol

from homeserver.matrix.canonical import JsonObject
from storage.changes import Change


class CommitMetrics(Protocol):
    """Where the commit queue reports its batches."""

    def committed(self, items: int, seconds: float) -> None:
        """One batch of `items` was committed in `seconds`."""


class SyncMetrics(Protocol):
    """Where sync reports whence its news came."""

    def news(self, *, in_memory: bool) -> None:
        """The news of one stretch were taken from the ring, or from the database."""


class Outbox(Protocol):
    """Where EDUs for other servers are put.

    spec: server-server-api#edus
    """

    def edu(
        self,
        destinations: Collection[str],
        type: str,  # noqa: A002
        content: JsonObject,
        key: str | None = None,
        pos: int = 0,
    ) -> list[Change]:
        """The changes that queue an EDU for these servers, to be committed with what it tells of.

        It is sent at least once, to each server in the order of positions and among the events of
        that time; `pos` counts the positions of the item that commits it, from 0. While it has not
        been sent to a server, a later one of the same `key` takes its place. What is too long is
        split by its `messages`. Raises `MatrixError` M_TOO_LARGE for what can't be.
        """

    def wake(self, destinations: Collection[str]) -> None:
        """What was queued for these servers is committed: send it at once."""

    def ephemeral(
        self,
        destinations: Collection[str],
        type: str,  # noqa: A002
        content: JsonObject,
        key: str,
    ) -> None:
        """Send an EDU that may be lost; a later one of the same type and key takes its place."""

"""What the core needs of the outside, as small protocols.

`app.py` connects each with its implementation. Nothing here has behaviour.
"""

from typing import Protocol


class CommitMetrics(Protocol):
    """Where the commit queue reports its batches."""

    def committed(self, items: int, seconds: float) -> None:
        """One batch of `items` was committed in `seconds`."""


class SyncMetrics(Protocol):
    """Where sync reports whence its news came."""

    def news(self, *, in_memory: bool) -> None:
        """The news of one stretch were taken from the ring, or from the database."""

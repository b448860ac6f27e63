"""Whether this process is alive, ready, or going away.

Owns the `draining` event, which everything that waits for long listens to, and the list of checks
behind `/health/ready`. A check is quick and reads only what is in memory.
"""

import asyncio
from collections.abc import Callable

Check = Callable[[], str | None]


class Health:
    """The state that load balancers ask for."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        """Set when the process is asked to end: long polls answer at once, nothing new begins."""
        self._checks: dict[str, Check] = {}
        self.started = False
        """True from the moment that requests can be served."""

    def add(self, name: str, check: Check) -> None:
        """Have `check` asked for readiness; it returns what is wrong, or None."""
        self._checks[name] = check

    def problems(self) -> dict[str, str]:
        """What stands against sending requests here, by the name of its check; empty: ready."""
        found = {name: wrong for name, check in self._checks.items() if (wrong := check())}
        if self.draining.is_set():
            found["process"] = "it is shutting down"
        elif not self.started:
            found["process"] = "it is starting"
        return found

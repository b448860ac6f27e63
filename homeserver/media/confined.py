"""The bounds of a process that reads what strangers have made.

Owns them alone: such a process sets them before it reads anything. Not every system knows every
bound; whoever starts the process bounds its time in any case.
"""

import resource
from contextlib import suppress


def confine(memory: int, cpu_seconds: int | None = None) -> None:
    """Bound the memory (bytes) and CPU time of this process; it writes no files and no core."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    if cpu_seconds is not None:
        limits[resource.RLIMIT_CPU] = cpu_seconds
    for limit, most in limits.items():
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))

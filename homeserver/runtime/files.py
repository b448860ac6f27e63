"""How many files and connections the process may have open.

Each connection is an open file. Systems begin with a low limit that a process may raise by itself;
only what the administrator has set as the highest is for the administrator to change.
"""

import logging
import resource

log = logging.getLogger(__name__)

WANTED = 1_048_576
FEW = 4_096


def allow_many_files() -> int:
    """Raise the limit as far as is allowed and sensible; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            wanted = soft
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < FEW:
        log.warning(
            "only %d open files are allowed: so many clients can be connected at most", soft
        )
    return soft

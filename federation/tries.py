"""When what could not be done for a staged event is tried again, and when it is given up."""

from collections.abc import Iterable

from storage import inbound as store
from storage.changes import Change
from storage.schema import InboundPduRow

FIRST_PAUSE_MS = 10_000
LONGEST_PAUSE_MS = 3_600_000
MAX_TRIES = 12


def later(rows: Iterable[InboundPduRow], now: int) -> list[Change]:
    """The changes that have these tried again after a pause from `now` (ms), or given up."""
    changes: list[Change] = []
    for row in rows:
        tries = row.tries + 1
        if tries >= MAX_TRIES:
            changes.append(store.given_up(row))
        else:
            pause = min(FIRST_PAUSE_MS << (tries - 1), LONGEST_PAUSE_MS)
            changes.append(store.put_off(row, tries, now + pause))
    return changes

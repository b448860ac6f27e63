"""Stored events as other servers get them: the bytes of the PDU, redacted where that took effect.

Owns that nothing is decoded which need not be, and the walk along auth events. Whether the asker
may have them is not asked here.
"""

from collections.abc import Collection

from homeserver.matrix import canonical
from homeserver.matrix.redact import redact
from homeserver.matrix.versions import RoomRules
from storage.engine import Database
from storage.events import event_rows, events
from storage.packing import unpack_numbers
from storage.schema import REDACTED


async def stored_pdus(
    database: Database, nids: Collection[int], rules: RoomRules
) -> dict[int, bytes]:
    """PDUs by number in canonical JSON; numbers that don't exist are absent."""
    return {
        nid: canonical.encode(redact(canonical.decode_object(found.json), rules))
        if found.row.flags & REDACTED
        else found.json
        for nid, found in (await events(database, nids)).items()
    }


async def auth_chain(database: Database, nids: Collection[int]) -> set[int]:
    """All auth events of these events, theirs, and so on (numbers)."""
    chain: set[int] = set()
    waiting = list(nids)
    seen = set(nids)
    while waiting:
        part, waiting = waiting[:1_000], waiting[1_000:]
        for row in (await event_rows(database, part)).values():
            for auth in unpack_numbers(row.auths):
                chain.add(auth)
                if auth not in seen:
                    seen.add(auth)
                    waiting.append(auth)
    return chain

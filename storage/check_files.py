"""Proving that `media_shown` says which files events, profiles and account data name.

A part of `check`, and as that meant for a database that nobody writes to. It finds names on its
own, by the grammar of mxc:// URIs. Whether the files are there is `media fsck`'s matter.
"""

import re
from collections.abc import AsyncIterator

from storage import check_queries as queries
from storage.compression import unpack_json
from storage.engine import Database
from storage.media_shown import account_data_after, listed_up_to, profiles_after
from storage.schema import REDACTED

_AT_ONCE = 1_000
_NAMES_AT_ONCE = 100

Shown = tuple[str, int, int, str]


async def files_differences(db: Database, here: str) -> list[str]:
    """A sentence for every disagreement about the files of the server `here`."""
    found: list[str] = []
    if not here or await listed_up_to(db) is not None:
        # The latter: it comes from a version without the table, and the server has more to list.
        return found
    number = 0
    async for expected in _expected(db, here):
        number += len(expected)
        ids = sorted({one[0] for one in expected})
        there: set[Shown] = set()
        for start in range(0, len(ids), _NAMES_AT_ONCE):
            rows = await db.scan(queries.FILES_SHOWN, ids[start : start + _NAMES_AT_ONCE])
            there.update((row[0], row[1], row[2], row[3]) for row in rows)
        found += [f"media_shown lacks {one}" for one in sorted(expected - there)]
    ((rows_number,),) = await db.scan(queries.COUNT_FILES_SHOWN)
    if rows_number != number:
        found.append(f"media_shown has {rows_number} rows; files are shown in {number} places")
    return found


async def _expected(db: Database, here: str) -> AsyncIterator[set[Shown]]:
    mark = f"mxc://{here}/".encode()
    pattern = re.compile(re.escape(mark) + rb"([A-Za-z0-9_-]{1,255})")

    def ids(text: bytes) -> list[str]:
        return [one[1].decode() for one in pattern.finditer(text)] if mark in text else []

    last = 0
    while events := await db.scan(queries.EVENTS_JSON_AFTER, last, _AT_ONCE):
        last = events[-1][0]
        yield {
            (media_id, 0, nid, "")
            for nid, flags, json in events
            if not flags & REDACTED
            for media_id in ids(unpack_json(json))
        }
    user_nid, field = 0, ""
    while profiles := await profiles_after(db, user_nid, field, _AT_ONCE):
        user_nid, field, _ = profiles[-1]
        yield {(one, 1, nid, name) for nid, name, value in profiles for one in ids(value)}
    key = 0, -1, ""
    while data := await account_data_after(db, *key, _AT_ONCE):
        key = data[-1][:3]
        yield {
            (one, 2, nid, f"{room_nid} {type_}")
            for nid, room_nid, type_, content in data
            for one in ids(content)
        }

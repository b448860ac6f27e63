"""Who shows which files of this server, and who has ceased to.

What is read here may be older than what a commit finds, so whatever is decided by it is written
with the condition under which it was decided. A database from before there was such a table says in
`meta` (`UNLISTED`) up to which event what it has was looked through.
"""

from collections.abc import Collection
from typing import Final

from storage.changes import Change, Delete, Do, Put
from storage.compression import unpack_json
from storage.engine import Database
from storage.schema import (
    MAY_BE_SHOWN,
    MEDIA_OF_SERVICE,
    SHOWN_BY_ACCOUNT_DATA,
    MediaLeftRow,
    MediaRow,
    MetaRow,
)

UNLISTED: Final = "files_unlisted"


async def listed_up_to(db: Database) -> int | None:
    """The last event (number) whose files were listed, None when all are."""
    rows = await db.fetch("SELECT value FROM meta WHERE key = ?", UNLISTED)
    return int(rows[0][0]) if rows else None


def listed(event_nid: int | None) -> Change:
    """Keep what `listed_up_to` says."""
    if event_nid is None:
        return Delete(MetaRow, (UNLISTED,))
    return Put(MetaRow(UNLISTED, str(event_nid)))


async def events_after(db: Database, event_nid: int, limit: int) -> list[tuple[int, bytes]]:
    """Up to so many stored events behind one, by their numbers, with their JSON."""
    rows = await db.scan(
        "SELECT event_nid, json FROM event_json WHERE event_nid > ? ORDER BY event_nid LIMIT ?",
        event_nid,
        limit,
    )
    return [(nid, unpack_json(json)) for nid, json in rows]


async def profiles_after(
    db: Database, user_nid: int, field: str, limit: int
) -> list[tuple[int, str, bytes]]:
    """Up to so many fields of profiles behind one: user, field and value."""
    rows = await db.scan(
        "SELECT user_nid, field, value FROM profiles WHERE (user_nid, field) > (?, ?)"
        " ORDER BY user_nid, field LIMIT ?",
        user_nid,
        field,
        limit,
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def account_data_after(
    db: Database, user_nid: int, room_nid: int, type_: str, limit: int
) -> list[tuple[int, int, str, bytes]]:
    """Up to so many pieces of account data behind one: user, room, type and content."""
    rows = await db.scan(
        "SELECT user_nid, room_nid, type, content FROM account_data"
        " WHERE (user_nid, room_nid, type) > (?, ?, ?) ORDER BY user_nid, room_nid, type LIMIT ?",
        user_nid,
        room_nid,
        type_,
        limit,
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def event_shows(media_id: str, event_nid: int) -> Do:
    """An event names a file, unless it was redacted meanwhile."""
    return Do(
        "INSERT INTO media_shown (media_id, kind, nid, part)"
        " SELECT CAST(? AS TEXT), 0, event_nid, '' FROM events"
        " WHERE event_nid = ? AND (flags & 4) = 0 ON CONFLICT DO NOTHING",
        (media_id, event_nid),
    )


def profile_shows(media_id: str, user_nid: int, field: str, value: bytes) -> Do:
    """A field of a profile names a file, if it still has this value."""
    return Do(
        "INSERT INTO media_shown (media_id, kind, nid, part)"
        " SELECT CAST(? AS TEXT), 1, user_nid, field FROM profiles"
        " WHERE user_nid = ? AND field = ? AND value = ? ON CONFLICT DO NOTHING",
        (media_id, user_nid, field, value),
    )


def account_data_shows(
    media_id: str, user_nid: int, room_nid: int, type_: str, content: bytes
) -> Do:
    """A piece of account data names a file, if it still has this content."""
    return Do(
        "INSERT INTO media_shown (media_id, kind, nid, part)"
        " SELECT CAST(? AS TEXT), 2, user_nid, CAST(room_nid AS TEXT) || ' ' || type"
        " FROM account_data WHERE user_nid = ? AND room_nid = ? AND type = ? AND content = ?"
        " ON CONFLICT DO NOTHING",
        (media_id, user_nid, room_nid, type_, content),
    )


async def shown(db: Database, media_ids: Collection[str]) -> set[str]:
    """Those files of this server that an event, a profile or account data names."""
    rows = await db.fetch(
        "SELECT DISTINCT media_id FROM media_shown WHERE media_id IN (??)", media_ids
    )
    return {media_id for (media_id,) in rows}


async def unseen(
    db: Database, since: int, content_type: str, limit: int
) -> list[tuple[int, str, int, int]]:
    """The files made since a time (ms), of a type or without one yet, that nothing readable names.

    Uploader, media id, when it was made, and when (ms) the first encrypted event was sent that it
    is tied to, 0 for none. Files of application services are left out.
    """
    rows = await db.scan(
        "SELECT uploader_nid, media_id, created_ts, (SELECT min(origin_ts) FROM media_shown AS ties"
        " JOIN events ON event_nid = ties.nid WHERE ties.media_id = media.media_id)"
        " FROM media WHERE uploader_nid IS NOT NULL AND created_ts > ? AND flags & ? = 0"
        " AND (content_type = ? OR hash IS NULL) AND NOT EXISTS (SELECT 1 FROM media_shown AS seen"
        " WHERE seen.media_id = media.media_id AND (seen.kind <> ? OR seen.nid = 0))"
        " ORDER BY created_ts LIMIT ?",
        since,
        MEDIA_OF_SERVICE,
        content_type,
        MAY_BE_SHOWN,
        limit,
    )
    return [(row[0], row[1], row[2], row[3] or 0) for row in rows]


def may_be_shown_no_more(event_nid: int, server: str, sender_nid: int, now: int) -> list[Do]:
    """An encrypted event is redacted: its sender has left the files that it may have shown."""
    return [
        Do(
            "INSERT INTO media_left (server, media_id, sender_nid, ts)"
            " SELECT CAST(? AS TEXT), media_id, CAST(? AS BIGINT), CAST(? AS BIGINT)"
            " FROM media_shown WHERE kind <> 0 AND kind = ? AND nid = ?"
            " ON CONFLICT (server, media_id, sender_nid) DO UPDATE SET ts = excluded.ts",
            (server, sender_nid, now, MAY_BE_SHOWN, event_nid),
        ),
        Do(
            "DELETE FROM media_shown WHERE kind <> 0 AND kind = ? AND nid = ?",
            (MAY_BE_SHOWN, event_nid),
        ),
    ]


async def left_before(db: Database, ts: int, limit: int) -> list[MediaLeftRow]:
    """What was left until a time (ms) and not looked at since, the oldest first."""
    rows = await db.fetch(
        "SELECT server, media_id, sender_nid, ts FROM media_left WHERE ts <= ? ORDER BY ts LIMIT ?",
        ts,
        limit,
    )
    return [MediaLeftRow(*row) for row in rows]


async def leavers(db: Database, server: str, media_id: str) -> set[int]:
    """The users who have shown a file and do so less than before."""
    rows = await db.fetch(
        "SELECT sender_nid FROM media_left WHERE server = ? AND media_id = ?", server, media_id
    )
    return {sender_nid for (sender_nid,) in rows}


def account_data_replaced(user_nid: int, part: str) -> Do:
    """A piece of account data ("room_nid type") shows no file any more."""
    return Do(
        "DELETE FROM media_shown WHERE kind <> 0 AND kind = ? AND nid = ? AND part = ?",
        (SHOWN_BY_ACCOUNT_DATA, user_nid, part),
    )


def looked_at(row: MediaLeftRow) -> Do:
    """Keep in mind that a user has left a file that others show, if nothing has changed since."""
    return Do(
        "UPDATE media_left SET ts = NULL"
        " WHERE server = ? AND media_id = ? AND sender_nid = ? AND ts = ?",
        row,
    )


def done_with(row: MediaLeftRow) -> Do:
    """Forget that a user has left a file, if nothing has changed since."""
    return Do(
        "DELETE FROM media_left WHERE server = ? AND media_id = ? AND sender_nid = ? AND ts = ?",
        row,
    )


def gone(server: str, media_id: str) -> Do:
    """Forget everybody who has left a file that is no more."""
    return Do("DELETE FROM media_left WHERE server = ? AND media_id = ?", (server, media_id))


def dropped_unless_shown(row: MediaRow) -> Do:
    """Remove a file's name; the item fails with `Missed` when something shows it after all."""
    return Do(
        "DELETE FROM media WHERE server = ? AND media_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM media_shown WHERE media_id = ?)",
        (row.server, row.media_id, row.media_id),
        expect=1,
    )

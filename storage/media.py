"""Reading and changing what is known of media: URIs, stored files, thumbnails, usage."""

from collections.abc import Collection

from storage.changes import Delete, Do
from storage.engine import Database
from storage.schema import (
    MEDIA_QUARANTINED,
    BlobInDoubtRow,
    BlobRow,
    JudgedHashRow,
    MediaRow,
    MediaUsageRow,
    ThumbnailRow,
)


async def media(db: Database, server: str, media_ids: Collection[str]) -> dict[str, MediaRow]:
    """What URIs of one server name, by their media id."""
    rows = await db.fetch(
        "SELECT server, media_id, hash, size, content_type, filename, uploader_nid, created_ts,"
        " used_ts, expires_ts, flags FROM media WHERE server = ? AND media_id IN (??)",
        server,
        media_ids,
    )
    return {row[1]: MediaRow(*row) for row in rows}


async def names_of(db: Database, digest: bytes, limit: int) -> list[tuple[str, str]]:
    """Some of the URIs (server, media id) that name a content."""
    rows = await db.fetch(
        "SELECT server, media_id FROM media WHERE hash = ? LIMIT ?", digest, limit
    )
    return [(server, media_id) for server, media_id in rows]


async def rows_of(db: Database, digest: bytes, limit: int) -> list[MediaRow]:
    """Some of the URIs that name a content."""
    rows = await db.fetch(
        "SELECT server, media_id, hash, size, content_type, filename, uploader_nid, created_ts,"
        " used_ts, expires_ts, flags FROM media WHERE hash = ? LIMIT ?",
        digest,
        limit,
    )
    return [MediaRow(*row) for row in rows]


async def cached_bytes(db: Database) -> int:
    """How much is only cached: files of other servers, pictures of previews, their smaller forms.

    What has several names counts for each of them.
    """
    rows = await db.scan("SELECT coalesce(sum(size), 0) FROM media WHERE used_ts > ?", 0)
    forms = await db.scan(
        "SELECT coalesce(sum(small.size), 0) FROM media"
        " JOIN thumbnails AS small ON small.hash = media.hash AND small.thumb_hash <> small.hash"
        " WHERE used_ts > ?",
        0,
    )
    return int(rows[0][0]) + int(forms[0][0])


async def cached_names(db: Database, digest: bytes) -> int:
    """How many names a content has under which it is only cached."""
    rows = await db.fetch("SELECT count(*) FROM media WHERE hash = ? AND used_ts > ?", digest, 0)
    return int(rows[0][0])


async def least_used(db: Database, limit: int) -> list[MediaRow]:
    """What is only cached and was not used for longest."""
    rows = await db.fetch(
        "SELECT server, media_id, hash, size, content_type, filename, uploader_nid, created_ts,"
        " used_ts, expires_ts, flags FROM media WHERE used_ts > ? ORDER BY used_ts LIMIT ?",
        0,
        limit,
    )
    return [MediaRow(*row) for row in rows]


def touched(row: MediaRow, now: int) -> Do:
    """What is only cached was used."""
    return Do(
        "UPDATE media SET used_ts = ? WHERE server = ? AND media_id = ? AND used_ts IS NOT NULL",
        (now, row.server, row.media_id),
    )


async def pending(db: Database, user_nid: int, now: int) -> int:
    """How many URIs a user has made that wait for their content."""
    rows = await db.fetch(
        "SELECT count(*) FROM media WHERE expires_ts > ? AND uploader_nid = ?", now, user_nid
    )
    return int(rows[0][0])


async def usage(db: Database, user_nids: Collection[int]) -> dict[int, MediaUsageRow]:
    """What users have uploaded; those who have nothing are absent."""
    rows = await db.fetch(
        "SELECT user_nid, bytes, files FROM media_usage WHERE user_nid IN (??)", user_nids
    )
    return {row[0]: MediaUsageRow(*row) for row in rows}


async def all_usage(db: Database) -> tuple[int, int]:
    """How many bytes in how many files all users have uploaded that are still there."""
    rows = await db.scan("SELECT coalesce(sum(bytes), 0), coalesce(sum(files), 0) FROM media_usage")
    return int(rows[0][0]), int(rows[0][1])


async def most_usage(db: Database, limit: int) -> list[tuple[str, int, int]]:
    """Who has most here: user id, bytes, files."""
    rows = await db.scan(
        "SELECT name, bytes, files FROM media_usage JOIN names ON name_nid = user_nid"
        " WHERE files > 0 ORDER BY bytes DESC, name LIMIT ?",
        limit,
    )
    return [(row[0], row[1], row[2]) for row in rows]


def used(user_nid: int, size: int, files: int) -> Do:
    """Add to what a user has uploaded, or take from it."""
    return Do(
        "INSERT INTO media_usage (user_nid, bytes, files) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET bytes = media_usage.bytes + excluded.bytes,"
        " files = media_usage.files + excluded.files",
        (user_nid, size, files),
    )


def filled(row: MediaRow) -> Do:
    """Give a URI its content; the item fails with `Missed` when it has one or is gone."""
    return Do(
        "UPDATE media SET hash = ?, size = ?, content_type = ?, filename = ?, expires_ts = NULL"
        " WHERE server = ? AND media_id = ? AND hash IS NULL",
        (row.hash, row.size, row.content_type, row.filename, row.server, row.media_id),
        expect=1,
    )


def pending_forgotten(now: int) -> Do:
    """Drop the URIs whose content never came."""
    return Do("DELETE FROM media WHERE expires_ts <= ?", (now,))


async def blob(db: Database, digest: bytes) -> BlobRow | None:
    """The stored file of a hash, if there is one."""
    rows = await db.fetch("SELECT hash, size, place, created_ts FROM blobs WHERE hash = ?", digest)
    return BlobRow(*rows[0]) if rows else None


async def blobs_after(db: Database, after: bytes, limit: int) -> list[BlobRow]:
    """Stored files in the order of their hashes."""
    rows = await db.fetch(
        "SELECT hash, size, place, created_ts FROM blobs WHERE hash > ? ORDER BY hash LIMIT ?",
        after,
        limit,
    )
    return [BlobRow(*row) for row in rows]


async def named(db: Database, digests: Collection[bytes]) -> set[bytes]:
    """Those of the contents that a URI names, or that are a smaller form of a picture."""
    uris = await db.fetch("SELECT DISTINCT hash FROM media WHERE hash IN (??)", digests)
    forms = await db.fetch(
        "SELECT DISTINCT thumb_hash FROM thumbnails WHERE thumb_hash IN (??)", digests
    )
    return {digest for (digest,) in (*uris, *forms)}


async def in_doubt(db: Database) -> list[BlobInDoubtRow]:
    """Files of which an earlier run did not say whether they are there."""
    rows = await db.scan("SELECT hash, place FROM blobs_in_doubt ORDER BY hash")
    return [BlobInDoubtRow(*row) for row in rows]


def decided(digest: bytes, place: int) -> Delete:
    """A file is there or not, as `blobs` says."""
    return Delete(BlobInDoubtRow, (digest, place))


async def thumbnails(db: Database, digest: bytes) -> dict[str, ThumbnailRow]:
    """The smaller forms of a picture by their spec."""
    rows = await db.fetch(
        "SELECT hash, spec, thumb_hash, size, content_type FROM thumbnails WHERE hash = ?", digest
    )
    return {row[1]: ThumbnailRow(*row) for row in rows}


async def larger_forms(db: Database, thumb_hash: bytes, limit: int) -> list[tuple[bytes, str]]:
    """Some of the pictures, and the spec, of which a content is a smaller form (or itself)."""
    rows = await db.fetch(
        "SELECT hash, spec FROM thumbnails WHERE thumb_hash = ? LIMIT ?", thumb_hash, limit
    )
    return [(digest, spec) for digest, spec in rows]


async def shunned(db: Database, limit: int) -> list[tuple[str, str]]:
    """Names (server, media id) of other servers' files that are hidden, and were not fetched."""
    rows = await db.scan(
        "SELECT server, media_id FROM media WHERE hash IS NULL AND uploader_nid IS NULL"
        " AND server > '' AND flags & ? <> 0 ORDER BY server, media_id LIMIT ?",
        MEDIA_QUARANTINED,
        limit,
    )
    return [(server, media_id) for server, media_id in rows]


async def judged(db: Database) -> list[JudgedHashRow]:
    """Every content that is quarantined or blocked."""
    rows = await db.scan("SELECT hash, blocked, reason, ts FROM judged_hashes ORDER BY hash")
    return [JudgedHashRow(*row) for row in rows]

"""Reading and forgetting what web pages were found to say of themselves."""

from storage.changes import Do
from storage.engine import Database
from storage.schema import UrlPreviewRow


async def preview(db: Database, url: str) -> UrlPreviewRow | None:
    """What is known of an address, though its time may be over."""
    rows = await db.fetch("SELECT url, found, expires_ts FROM url_previews WHERE url = ?", url)
    return UrlPreviewRow(*rows[0]) if rows else None


def forgotten(now: int, most: int) -> list[Do]:
    """Drop what is over, and of the rest what is over first until at most so many are left."""
    return [
        Do("DELETE FROM url_previews WHERE expires_ts <= ?", (now,)),
        Do(
            "DELETE FROM url_previews WHERE expires_ts <= (SELECT expires_ts FROM url_previews"
            " ORDER BY expires_ts DESC LIMIT 1 OFFSET ?)",
            (most,),
        ),
    ]

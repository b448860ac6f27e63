"""What web pages were found to say of themselves stays for a time, and within a number."""

from storage.changes import Item, Put
from storage.engine import Database
from storage.previews import forgotten, preview
from storage.schema import UrlPreviewRow


async def test_what_is_over_goes_and_then_what_is_over_first(database: Database) -> None:
    rows = [UrlPreviewRow(f"https://e.example/{n}", b"{}" if n else None, n) for n in range(10)]
    await database.commit([Item([Put(row) for row in rows])])
    assert await preview(database, rows[0].url) == rows[0]
    assert await preview(database, "https://e.example/none") is None
    for now, most, left in ((2, 100, 7), (2, 7, 7), (2, 4, 4), (9, 4, 0)):
        await database.commit([Item(forgotten(now, most))])
        kept = [row for row in rows if await preview(database, row.url) is not None]
        assert kept == rows[10 - left :]

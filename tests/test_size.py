"""What is stored stays in proportion to the events: a busy room, replayed in small.

`python -m bench.size` is the same in large. The bounds are a little above what it takes now, so
that a table or an index that grows with every event is noticed.
"""

from pathlib import Path

from bench.size import configuration, replay
from storage.engine import DatabaseSettings

EVENTS = 2_500
MEMBERS = 40


async def test_a_busy_room_is_not_much_larger_than_its_events(
    database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    config = configuration(tmp_path, database_settings.dsn)
    found = await replay(config, EVENTS, MEMBERS, lambda _: None)
    assert found.events >= EVENTS
    shares = {one.table: (one.own + one.indexes) / found.json_bytes for one in found.sizes.tables}
    by_event = ("event_json", "events", "event_children")
    assert sum(shares[table] for table in by_event) < (1.0 if database_settings.path else 1.4)
    # In so small a database each of PostgreSQL's indexes counts as two pages.
    small = 0.02 if database_settings.path else 0.08
    large = {table for table, share in shares.items() if share > small}
    assert large <= {*by_event, "txn_ids", "snapshots"}

"""What is stored stays in proportion to the events: a busy room, replayed in small.

`python -m bench.size` is the same in large. The bounds are a little above what it takes now, so
that a table or an index that grows with every event is noticed.
"""

from pathlib import Path

from bench.size import configuration, replay
from storage.engine import DatabaseSettings

EVENTS = 2_500
MEMBERS = 40
DAYS = 4
# What has a row for each event, message, reaction or transaction: the share of each table at most.
BOUNDS = {
    "sqlite": {
        "event_json": 0.68,
        "events": 0.3,
        "event_children": 0.03,
        "relations": 0.03,
        "txn_ids": 0.03,
        "snapshots": 0.03,
    },
    "postgresql": {
        "message_index": 1.0,
        "event_json": 0.78,
        "events": 0.62,
        "event_children": 0.15,
        "relations": 0.1,
        "txn_ids": 0.3,
        # Rows that have gone stay until they are vacuumed, which so short a life doesn't see.
        "waiting_words": 0.25,
    },
}


async def test_a_busy_room_is_not_much_larger_than_its_events(
    database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    config = configuration(tmp_path, database_settings.dsn)
    found = await replay(config, EVENTS, MEMBERS, lambda _: None, DAYS)
    assert found.events >= EVENTS
    sqlite = database_settings.path is not None
    bounds = BOUNDS["sqlite" if sqlite else "postgresql"]
    shares = {one.table: (one.own + one.indexes) / found.json_bytes for one in found.sizes.tables}
    # In so small a database each of PostgreSQL's indexes counts as two pages.
    small = 0.02 if sqlite else 0.08
    larger = {table: share for table, share in shares.items() if share > bounds.get(table, small)}
    assert not larger

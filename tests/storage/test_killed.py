"""Killed while it writes: what was acknowledged is there, whole, and positions have no gaps."""

import subprocess
import sys
from pathlib import Path

from storage.engine import Database, DatabaseSettings, open_database


def acknowledged(settings: DatabaseSettings, run: int, lines: int) -> list[tuple[int, ...]]:
    """Let a process write, kill it after so many lines; what it has said."""
    place = settings.dsn or str(settings.path)
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writing", place, str(run)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(lines)]
    writer.kill()
    said += writer.stdout.readlines()
    writer.stdout.close()
    writer.wait()
    return [tuple(map(int, line.split())) for line in said if line.endswith("\n")]


async def prove(database: Database, said: list[tuple[int, ...]]) -> None:
    log = await database.scan("SELECT user_nid, room_nid, pos, event_nid FROM membership_log")
    rows = {(task, n, k): pos for task, n, pos, k in log}
    for task, n, first, count in said:
        assert [rows[task, n, k] for k in range(count)] == list(range(first, first + count))
    assert sorted(rows.values()) == list(range(1, await database.position() + 1))
    json = await database.scan("SELECT event_nid FROM event_json")
    assert len(json) == len({(task, n) for task, n, _ in rows})
    receipts = await database.scan("SELECT room_nid, event_pos, pos FROM receipts")
    for task, last, pos in receipts:
        assert last == max(n for of, n, _ in rows if of == task)
        assert pos == max(p for (of, n, _), p in rows.items() if (of, n) == (task, last))


async def test_what_was_acknowledged_outlives_a_kill(database_settings: DatabaseSettings) -> None:
    said: list[tuple[int, ...]] = []
    for run, lines in enumerate((1, 150, 40)):
        said += acknowledged(database_settings, run, lines)
        database = await open_database(database_settings)
        # From here on nothing is written that the killed process had sent.
        await database.start_timeline()
        await prove(database, said)
        await database.close()

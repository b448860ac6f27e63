"""A process that commits until it is killed, and says what was acknowledged.

`python -m tests.storage.writing PATH_OR_DSN RUN`: prints a line `task n first count` for each item
once `commit` has returned: the rows of item n of that task then stand at positions first to
first + count - 1.
"""

import asyncio
import itertools
import sys
from pathlib import Path

from storage.changes import Insert, Item, Pos, Put
from storage.engine import Database, DatabaseSettings, open_database
from storage.schema import EventJsonRow, MembershipLogRow, ReceiptRow

TASKS = 5


def item(task: int, n: int, count: int) -> Item:
    rows = [Insert(MembershipLogRow(task, n, Pos(k), 1, k)) for k in range(count)]
    return Item(
        [
            *rows,
            Insert(EventJsonRow(task + 1_000 * n, b"x" * 500)),
            Put(ReceiptRow(task, 1, 1, "", "$", n, 0, Pos(count - 1))),
        ],
        count,
    )


async def write(database: Database, task: int) -> None:
    for n in itertools.count(1):
        items = [item(task, 2 * n + i, 1 + (n + task + i) % 3) for i in range(1 + n % 2)]
        firsts = await database.commit(items)
        for i, (made, first) in enumerate(zip(items, firsts, strict=True)):
            print(task, 2 * n + i, first, made.positions, flush=True)


async def main(place: str, run: int) -> None:
    settings = DatabaseSettings(dsn=place) if "=" in place else DatabaseSettings(path=Path(place))
    database = await open_database(settings)
    await database.start_timeline()
    await asyncio.gather(*(write(database, task) for task in range(run * TASKS, (run + 1) * TASKS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

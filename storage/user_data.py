"""Reading what users keep and leave behind: account data, receipts, filters.

Rows carry the position of their last change only: what was overwritten since is found at its new
position, so a reader who goes on from `until` misses nothing.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from storage.engine import Database
from storage.schema import AccountDataRow, ReceiptRow


async def account_data(db: Database, user_nid: int) -> list[AccountDataRow]:
    """All of a user's account data, the global part (room_nid 0) first."""
    rows = await db.scan(
        "SELECT user_nid, room_nid, type, content, pos FROM account_data WHERE user_nid = ?"
        " ORDER BY room_nid, type",
        user_nid,
    )
    return [AccountDataRow(*row) for row in rows]


async def account_data_between(
    db: Database, user_nid: int, after: int, until: int
) -> list[AccountDataRow]:
    """A user's account data last changed at positions in (after, until], in that order."""
    rows = await db.fetch(
        "SELECT user_nid, room_nid, type, content, pos FROM account_data WHERE user_nid = ?"
        " AND pos > ? AND pos <= ? ORDER BY pos, room_nid, type",
        user_nid,
        after,
        until,
    )
    return [AccountDataRow(*row) for row in rows]


async def account_data_in(
    db: Database, user_nid: int, room_nids: Collection[int]
) -> dict[int, dict[str, AccountDataRow]]:
    """By room (0: global) and type, a user's account data."""
    rows = await db.fetch(
        "SELECT user_nid, room_nid, type, content, pos FROM account_data WHERE user_nid = ?"
        " AND room_nid IN (??)",
        user_nid,
        room_nids,
    )
    found: dict[int, dict[str, AccountDataRow]] = defaultdict(dict)
    for row in rows:
        found[row[1]][row[2]] = AccountDataRow(*row)
    return dict(found)


async def account_data_of(
    db: Database, user_nids: Collection[int], room_nid: int, type_: str
) -> dict[int, AccountDataRow]:
    """By user, the account data of one type in one room (0: global)."""
    rows = await db.fetch(
        "SELECT user_nid, room_nid, type, content, pos FROM account_data"
        " WHERE user_nid IN (??) AND room_nid = ? AND type = ?",
        user_nids,
        room_nid,
        type_,
    )
    return {row[0]: AccountDataRow(*row) for row in rows}


async def receipts_in(db: Database, room_nids: Collection[int]) -> dict[int, list[ReceiptRow]]:
    """By room all receipts, of all users and kinds."""
    rows = await db.scan(
        "SELECT room_nid, user_nid, kind, thread, event_id, event_pos, ts, pos FROM receipts"
        " WHERE room_nid IN (??) ORDER BY room_nid, pos, user_nid, kind, thread",
        room_nids,
    )
    return _by_room(rows)


async def receipts_between(
    db: Database, room_nids: Collection[int], after: int, until: int
) -> dict[int, list[ReceiptRow]]:
    """By room the receipts last moved at positions in (after, until], in that order."""
    rows = await db.scan(
        "SELECT room_nid, user_nid, kind, thread, event_id, event_pos, ts, pos FROM receipts"
        " WHERE room_nid IN (??) AND pos > ? AND pos <= ?"
        " ORDER BY room_nid, pos, user_nid, kind, thread",
        room_nids,
        after,
        until,
    )
    return _by_room(rows)


async def receipts_of(
    db: Database, user_nid: int, room_nids: Collection[int]
) -> dict[int, list[ReceiptRow]]:
    """By room a user's own receipts."""
    rows = await db.fetch(
        "SELECT room_nid, user_nid, kind, thread, event_id, event_pos, ts, pos FROM receipts"
        " WHERE room_nid IN (??) AND user_nid = ? ORDER BY room_nid, kind, thread",
        room_nids,
        user_nid,
    )
    return _by_room(rows)


async def filters(db: Database, user_nid: int, filter_nids: Collection[int]) -> dict[int, bytes]:
    """The JSON of a user's filters by number."""
    return dict(
        await db.fetch(
            "SELECT filter_nid, json FROM filters WHERE user_nid = ? AND filter_nid IN (??)",
            user_nid,
            filter_nids,
        )
    )


async def filters_of(db: Database, user_nid: int) -> dict[int, bytes]:
    """The JSON of all filters of a user by number, lowest first."""
    return dict(
        await db.fetch(
            "SELECT filter_nid, json FROM filters WHERE user_nid = ? ORDER BY filter_nid", user_nid
        )
    )


def _by_room(rows: list[tuple[Any, ...]]) -> dict[int, list[ReceiptRow]]:
    found: dict[int, list[ReceiptRow]] = defaultdict(list)
    for row in rows:
        receipt = ReceiptRow(*row)
        found[receipt.room_nid].append(receipt)
    return dict(found)

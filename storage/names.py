"""Reading interned names and state keys; `Database.intern` is what adds them."""

from collections.abc import Collection

from storage.engine import Database


async def names(db: Database, name_nids: Collection[int]) -> dict[int, str]:
    """The text of each number."""
    return dict(
        await db.fetch("SELECT name_nid, name FROM names WHERE name_nid IN (??)", name_nids)
    )


async def name_numbers(db: Database, texts: Collection[str]) -> dict[str, int]:
    """The number of each text that has one."""
    return dict(await db.fetch("SELECT name, name_nid FROM names WHERE name IN (??)", texts))


async def state_keys(db: Database, key_nids: Collection[int]) -> dict[int, tuple[str, str]]:
    """The (event type, state key) of each number."""
    rows = await db.fetch(
        "SELECT key_nid, types.name, keys.name FROM state_keys"
        " JOIN names AS types ON types.name_nid = type_nid"
        " JOIN names AS keys ON keys.name_nid = state_keys.name_nid"
        " WHERE key_nid IN (??)",
        key_nids,
    )
    return {nid: (event_type, state_key) for nid, event_type, state_key in rows}


async def state_key_parts(db: Database, key_nids: Collection[int]) -> dict[int, tuple[int, int]]:
    """The (type_nid, name_nid) of each number."""
    rows = await db.fetch(
        "SELECT key_nid, type_nid, name_nid FROM state_keys WHERE key_nid IN (??)", key_nids
    )
    return {nid: (type_nid, name_nid) for nid, type_nid, name_nid in rows}


async def state_key_numbers(
    db: Database, type_nid: int, name_nids: Collection[int]
) -> dict[int, int]:
    """By name_nid, the number of the state key of this type, where there is one."""
    return dict(
        await db.fetch(
            "SELECT name_nid, key_nid FROM state_keys WHERE type_nid = ? AND name_nid IN (??)",
            type_nid,
            name_nids,
        )
    )

"""What is read of stored presence."""

from storage import presence
from storage.changes import Item, Put
from storage.engine import Database
from storage.schema import OFFLINE, ONLINE, PresenceRow


async def test_presence_is_found_by_user_and_by_activity(database: Database) -> None:
    nids = await database.intern([f"@u{number}:here" for number in range(4)])
    rows = [
        PresenceRow(nids["@u0:here"], OFFLINE, None, 1_000),
        PresenceRow(nids["@u1:here"], ONLINE, "here", 3_000),
        PresenceRow(nids["@u2:here"], ONLINE, None, 2_000),
    ]
    await database.commit([Item([Put(row) for row in rows], 0)])
    found = await presence.presence_of(database, nids.values())
    assert found == {row.user_nid: row for row in rows}
    recent = await presence.recently_active(database, 1_000, 10)
    assert list(recent.items()) == [("@u1:here", rows[1]), ("@u2:here", rows[2])]
    assert list(await presence.recently_active(database, 0, 1)) == ["@u1:here"]

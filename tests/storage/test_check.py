"""`differences` is silent about a sound database and names whatever was tampered with."""

import pytest

from storage.changes import Do, Item, Put
from storage.check import differences
from storage.engine import Database
from storage.schema import ProfileRow
from tests.storage.house import build


async def test_a_new_database_is_sound(database: Database) -> None:
    assert await differences(database) == []


async def test_a_room_as_a_server_writes_it_is_sound(database: Database) -> None:
    await build(database)
    assert await differences(database) == []


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        ("DELETE FROM event_json WHERE event_nid = 7", "event 7 has no JSON"),
        ("DELETE FROM events WHERE event_nid = 7", "the JSON of event 7 belongs to no event"),
        ("DELETE FROM events WHERE event_nid = 7", "its previous event 7 does not exist"),
        ("UPDATE events SET pos = 500 WHERE event_nid = 9", "events holds position 500"),
        ("UPDATE events SET type_nid = 500 WHERE event_nid = 7", "event 7 has a type"),
        ("UPDATE events SET key_nid = 500 WHERE event_nid = 2", "event 2 has an unknown state"),
        ("UPDATE events SET snap_nid = 500 WHERE event_nid = 7", "event 7 has a snapshot"),
        ("UPDATE events SET flags = flags | 4 WHERE event_nid = 7", "event 7 is marked as red"),
        ("UPDATE events SET flags = flags | 1 WHERE event_nid = 3", "rejected event 3"),
        ("UPDATE events SET flags = flags | 2 WHERE event_nid = 9", "its extremities are [9]"),
        ("UPDATE events SET depth = 50 WHERE event_nid = 9", "its depth is 9"),
        ("DELETE FROM event_children WHERE prev_nid = 3", "event_children lacks (3, 4)"),
        (
            "INSERT INTO event_children (prev_nid, event_nid) VALUES (3, 9)",
            "event_children has 9 rows; the events have 8 edges",
        ),
        ("DELETE FROM room_heads", "room 1 has events but no head"),
        ("UPDATE room_heads SET last_pos = 3", "its last position is 3"),
        ("UPDATE room_heads SET snap_nid = 5", "the snapshot of its head has event 5"),
        ("DELETE FROM snapshots WHERE level = 0", "has no keyframe"),
        ("UPDATE snapshots SET size = 9 WHERE snap_nid = 1", "snapshot 1 is no whole state"),
        ("UPDATE snapshots SET parent_nid = 99 WHERE snap_nid = 5", "snapshot 5 stands on one"),
        ("UPDATE current_state SET event_nid = 2 WHERE event_nid = 3", "event 2 stands under"),
        ("DELETE FROM current_state WHERE event_nid = 3", "its last change leads to 3"),
        ("UPDATE state_changes SET old_nid = 4 WHERE new_nid = 6", "starts at 4, not at 5"),
        ("UPDATE memberships SET membership = 4 WHERE event_nid = 6", "about @bob:here"),
        ("UPDATE memberships SET membership = 4 WHERE event_nid = 6", "the log of user"),
        ("DELETE FROM memberships WHERE event_nid = 6", "about @bob:here"),
        ("UPDATE room_summary SET joined = 3", "joined = 3 and should say 2"),
        ("UPDATE room_summary SET name = NULL", "name = None and should say 'House'"),
        ("DELETE FROM room_summary", "it has no summary"),
        (
            "INSERT INTO room_servers SELECT 1, name_nid, 2 FROM names WHERE name = '@bob:here'",
            "2 users of @bob:here are counted, 0 are joined",
        ),
        (
            "INSERT INTO server_stays SELECT 1, name_nid, 2, 1 FROM names WHERE name = '@bob:here'",
            "@bob:here is here, but its users say otherwise",
        ),
        ("DELETE FROM names WHERE name = 'm.room.message'", "has a type or a sender"),
        ("DELETE FROM users WHERE localpart = 'alice'", "device 5 belongs to no account"),
        ("DELETE FROM devices", "is of device 5"),
        ("DELETE FROM rooms", "alias #house:here leads to no room"),
        ("UPDATE redactions SET event_nid = 99", "the redaction 99 of $8"),
        ("UPDATE txn_ids SET event_nid = 99", "transaction m1 of device 5"),
        (
            "INSERT INTO missing_prevs (room_nid, event_id, child_nid) VALUES (1, '$7', 9)",
            "$7 is said to be missing for event 9, but is here",
        ),
        (
            "INSERT INTO media_shown (media_id, kind, nid, part) VALUES ('id', 0, 7, '')",
            "media_shown has 1 rows; files are shown in 0 places",
        ),
    ],
)
async def test_tampering_is_found(database: Database, tampering: str, named: str) -> None:
    await build(database)
    await database.commit([Item([Do(tampering)])])
    found = await differences(database)
    assert any(named in sentence for sentence in found), found


async def test_a_file_that_is_shown_but_not_known_to_be_is_found(database: Database) -> None:
    await build(database)
    row = ProfileRow(3, "avatar_url", b'"mxc://here/id"')
    await database.commit([Item([Put(row)])])
    assert "media_shown lacks ('id', 1, 3, 'avatar_url')" in await differences(database)

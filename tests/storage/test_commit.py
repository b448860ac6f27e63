"""The batch commit: all or nothing, positions without gaps, refusals that leave nothing."""

import asyncio

import pytest

from storage.changes import (
    Conflict,
    Delete,
    Do,
    Fenced,
    Insert,
    Item,
    Malformed,
    Missed,
    Pos,
    Put,
)
from storage.engine import Database, DatabaseSettings, open_database
from storage.events import event_rows
from storage.schema import (
    AccountDataRow,
    EventChildRow,
    EventJsonRow,
    MembershipLogRow,
    MetaRow,
    ReceiptRow,
    RoomHeadRow,
    UserRow,
)
from tests.databases import PostgresServer
from tests.storage.rows import event


def meta(key: str, value: str) -> Item:
    return Item([Put(MetaRow(key, value))])


async def metas(database: Database) -> dict[str, str]:
    rows = await database.scan("SELECT key, value FROM meta WHERE key <> 'schema_version'")
    return dict(rows)


async def test_positions_follow_each_other_in_the_order_of_the_items(database: Database) -> None:
    first = await database.commit(
        [
            Item([Insert(event(1, pos=Pos(0))), Insert(event(2, pos=Pos(1)))], 2),
            Item([Insert(event(3))]),
            Item([Insert(event(4, pos=Pos(0)))], 1),
        ]
    )
    assert first == [1, 3, 3]
    second = await database.commit([Item([Insert(event(5, pos=Pos(0)))], 1)])
    assert second == [4]
    rows = await event_rows(database, [1, 2, 3, 4, 5])
    assert [rows[nid].pos for nid in range(1, 6)] == [1, 2, None, 3, 4]
    assert await database.position() == 4


async def test_absolute_positions_are_kept(database: Database) -> None:
    await database.commit([Item([Insert(event(1, pos=-17)), Insert(event(2, pos=Pos(0)))], 1)])
    rows = await event_rows(database, [1, 2])
    assert (rows[1].pos, rows[2].pos) == (-17, 1)


async def test_a_row_comes_back_as_it_was_written(database: Database) -> None:
    row = AccountDataRow(7, 0, "m.über.\U0001f600", b"\x00\xff{}", -5)
    await database.commit([Item([Put(row), Put(UserRow(1, "alice", None, 0, 2**62))])])
    rows = await database.fetch(
        "SELECT user_nid, room_nid, type, content, pos FROM account_data WHERE user_nid = ?", 7
    )
    assert [AccountDataRow(*row) for row in rows] == [row]
    users = await database.fetch("SELECT * FROM users WHERE user_nid = ?", 1)
    assert users == [(1, "alice", None, 0, 2**62)]


async def test_a_read_after_a_commit_sees_it(database: Database) -> None:
    for n in range(20):
        await database.commit([meta("n", str(n))])
        assert await database.fetch("SELECT value FROM meta WHERE key = ?", "n") == [(str(n),)]
        assert await database.scan("SELECT value FROM meta WHERE key = ?", "n") == [(str(n),)]


async def test_a_row_that_exists_is_not_inserted_again(database: Database) -> None:
    await database.commit([Item([Insert(event(1))])])
    with pytest.raises(Conflict) as conflict:
        await database.commit([meta("a", "1"), Item([Insert(event(1))]), meta("b", "2")])
    assert conflict.value.table == "events"
    assert await metas(database) == {}


async def test_two_items_may_not_insert_the_same_row(database: Database) -> None:
    with pytest.raises(Conflict, match="events"):
        await database.commit([Item([Insert(event(1))]), Item([Insert(event(1))])])
    assert await event_rows(database, [1]) == {}


async def test_a_second_key_conflicts_too(database: Database) -> None:
    await database.commit([Item([Insert(UserRow(1, "alice", None, 0, 0))])])
    with pytest.raises(Conflict) as conflict:
        await database.commit([Item([Insert(UserRow(2, "alice", None, 0, 0))])])
    assert conflict.value.table == "users"


async def test_an_event_id_may_be_taken_in_another_room(database: Database) -> None:
    await database.commit([Item([Insert(event(1))])])
    other = event(2, room=2)._replace(event_id="$event1")
    await database.commit([Item([Insert(other)])])
    with pytest.raises(Conflict):
        await database.commit([Item([Insert(other._replace(event_nid=3))])])


async def test_a_refused_batch_uses_no_position(database: Database) -> None:
    await database.commit([Item([Insert(event(1, pos=Pos(0)))], 1)])
    with pytest.raises(Conflict):
        await database.commit([Item([Insert(event(1, pos=Pos(0)))], 1)])
    assert await database.position() == 1
    assert await database.commit([Item([Insert(event(2, pos=Pos(0)))], 1)]) == [2]


async def test_the_last_of_several_writes_of_a_row_stands(database: Database) -> None:
    await database.commit([meta("a", "1"), meta("a", "2"), meta("b", "1")])
    await database.commit([Item([Delete(MetaRow, ("b",))]), meta("c", "1")])
    await database.commit([Item([Delete(MetaRow, ("c",))]), meta("c", "2")])
    assert await metas(database) == {"a": "2", "c": "2"}


async def test_changes_of_one_key_take_effect_in_order(database: Database) -> None:
    a, b = MetaRow("k", "a"), MetaRow("k", "b")
    await database.commit([Item([Insert(a), Put(b)])])
    assert await metas(database) == {"k": "b"}
    await database.commit([Item([Delete(MetaRow, ("k",)), Insert(a)])])
    assert await metas(database) == {"k": "a"}
    await database.commit([Item([Put(b), Delete(MetaRow, ("k",))])])
    assert await metas(database) == {}
    await database.commit([Item([Insert(a), Delete(MetaRow, ("k",))])])
    assert await metas(database) == {}
    await database.commit([Item([Insert(a), Delete(MetaRow, ("k",)), Insert(b)])])
    assert await metas(database) == {"k": "b"}
    with pytest.raises(Conflict):
        await database.commit([Item([Insert(a), Delete(MetaRow, ("k",))])])
    with pytest.raises(Conflict):
        await database.commit([Item([Put(a), Insert(b)])])


async def test_a_name_that_is_given_up_can_be_taken_in_the_same_batch(database: Database) -> None:
    await database.commit([Item([Insert(UserRow(1, "alice", None, 0, 0))])])
    await database.commit(
        [
            Item([Delete(UserRow, (1,))]),
            Item([Insert(UserRow(2, "alice", None, 0, 0))]),
        ]
    )
    assert await database.fetch("SELECT user_nid FROM users WHERE localpart = ?", "alice") == [(2,)]


async def test_rows_that_are_only_a_key_may_be_put_twice(database: Database) -> None:
    for _ in range(2):
        await database.commit([Item([Put(EventChildRow(1, 2)), Put(EventChildRow(1, 3))])])
    assert await database.fetch("SELECT count(*) FROM event_children") == [(2,)]


async def test_a_statement_runs_between_the_changes_around_it(database: Database) -> None:
    append = "UPDATE meta SET value = value || ? WHERE key = ?"
    await database.commit(
        [
            Item([Put(MetaRow("k", "a")), Do(append, ("b", "k"), expect=1)]),
            Item([Do(append, ("c", "k"), expect=1)]),
        ]
    )
    assert await metas(database) == {"k": "abc"}


async def test_a_statement_takes_collections(database: Database) -> None:
    await database.commit([meta("a", "1"), meta("b", "1"), meta("c", "1")])
    gone = Do("DELETE FROM meta WHERE key IN (??)", (["a", "c", "x"],), expect=2)
    nothing = Do("DELETE FROM meta WHERE key IN (??)", ([],), expect=0)
    await database.commit([Item([gone, nothing])])
    assert await metas(database) == {"b": "1"}


async def test_a_statement_that_misses_fails_its_batch(database: Database) -> None:
    await database.commit([Item([Insert(RoomHeadRow(1, b"", 1, 1, Pos(0)))], 1)])
    move = "UPDATE room_heads SET last_pos = ? WHERE room_nid = ? AND last_pos = ?"
    await database.commit([Item([Do(move, (Pos(0), 1, 1), expect=1)], 1)])
    with pytest.raises(Missed):
        await database.commit([meta("a", "1"), Item([Do(move, (Pos(0), 1, 1), expect=1)], 1)])
    assert await database.fetch("SELECT last_pos FROM room_heads") == [(2,)]
    assert await metas(database) == {}
    assert await database.position() == 2


async def test_positions_of_statements_are_those_of_their_item(database: Database) -> None:
    insert = (
        "INSERT INTO membership_log (user_nid, room_nid, pos, membership, event_nid)"
        " VALUES (?, ?, ?, ?, ?)"
    )
    await database.commit(
        [
            Item([Insert(event(1, pos=Pos(0)))], 1),
            Item([Do(insert, (7, 1, Pos(1), 1, 1), expect=1)], 2),
        ]
    )
    assert await database.fetch("SELECT pos FROM membership_log") == [(3,)]
    await database.commit([Item([Delete(MembershipLogRow, (7, 1, 3))])])
    assert await database.fetch("SELECT pos FROM membership_log") == []


async def test_a_row_of_the_same_item_can_be_deleted_by_its_position(database: Database) -> None:
    log = MembershipLogRow(7, 1, Pos(0), 1, 1)
    await database.commit([Item([Put(log), Delete(MembershipLogRow, (7, 1, Pos(0)))], 1)])
    await database.commit(
        [Item([Put(log), Do("DELETE FROM meta WHERE key = ?", ("x",)), _gone(Pos(0))], 1)]
    )
    assert await database.fetch("SELECT pos FROM membership_log") == []


def _gone(pos: int) -> Delete:
    return Delete(MembershipLogRow, (7, 1, pos))


async def test_a_position_must_be_one_of_the_item(database: Database) -> None:
    with pytest.raises(ValueError, match=r"Pos\(1\)"):
        await database.commit([Item([Insert(event(1, pos=Pos(1)))], 1)])
    assert await database.position() == 0


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_text_that_one_database_refuses_is_refused_by_both(
    database: Database, text: str
) -> None:
    with pytest.raises(Malformed):
        await database.commit([meta("a", "1"), meta("b", text)])
    with pytest.raises(Malformed):
        await database.commit([Item([Do("DELETE FROM meta WHERE key = ?", (text,))])])
    with pytest.raises(Malformed):
        await database.fetch("SELECT value FROM meta WHERE key = ?", text)
    with pytest.raises(Malformed):
        await database.fetch("SELECT value FROM meta WHERE key IN (??)", [text])
    with pytest.raises(Malformed):
        await database.intern([text])
    assert await metas(database) == {}
    assert await database.commit([meta("a", "1")]) == [1]


async def test_numbers_beyond_64_bits_are_refused(database: Database) -> None:
    with pytest.raises(Malformed):
        await database.commit([Item([Insert(EventJsonRow(2**63, b""))])])
    with pytest.raises(Malformed):
        await database.fetch("SELECT json FROM event_json WHERE event_nid = ?", 2**63)
    with pytest.raises(Malformed):
        await database.fetch("SELECT json FROM event_json WHERE event_nid IN (??)", [2**63])
    assert await database.commit([meta("a", "1")]) == [1]


async def test_an_empty_collection_holds_nothing(database: Database) -> None:
    await database.commit([meta("a", "1"), Item([Insert(event(1))])])
    assert await database.fetch("SELECT value FROM meta WHERE key IN (??)", []) == []
    assert await event_rows(database, []) == {}
    assert list(await event_rows(database, {1: "any", 2: "collection"}.keys())) == [1]


async def test_batches_of_many_callers_keep_their_order(database: Database) -> None:
    def item(n: int) -> Item:
        return Item([Insert(event(n, pos=Pos(0))), Put(ReceiptRow(1, 1, 1, "", "$", n, 1, Pos(0)))])

    firsts = await asyncio.gather(
        *(database.commit([item(n)._replace(positions=1)]) for n in range(1, 51))
    )
    assert [first for (first,) in firsts] == list(range(1, 51))
    assert await database.fetch("SELECT event_pos, pos FROM receipts") == [(50, 50)]


async def test_a_cancelled_caller_does_not_undo_its_batch(database: Database) -> None:
    task = asyncio.ensure_future(database.commit([meta("a", "1")]))
    await asyncio.sleep(0)
    task.cancel()
    await database.commit([meta("b", "1")])
    assert await metas(database) == {"a": "1", "b": "1"}


async def test_who_lost_the_database_may_not_write(database: Database) -> None:
    await database.start_timeline()
    await database.commit([meta("a", "1")])
    await database.commit([Item([Do("UPDATE stream SET view = view + 1 WHERE one = 1", ())])])
    with pytest.raises(Fenced):
        await database.commit([Item([Put(MetaRow("b", "1"))], 1)])
    assert await metas(database) == {"a": "1"}
    assert await database.position() == 0


async def test_a_process_that_is_no_longer_known_may_not_write(postgres: PostgresServer) -> None:
    """SQLite has one process only; whichever came last has raised the view."""
    dsn = postgres.new_database()
    database = await open_database(DatabaseSettings(dsn=dsn, durable=False))
    try:
        await database.commit([Item([Do("DELETE FROM workers WHERE id <> ?", ("",), expect=1)])])
        with pytest.raises(Fenced):
            await database.commit([meta("b", "1")])
        assert await metas(database) == {}
    finally:
        await database.close()
        postgres.drop(dsn)


async def test_what_was_committed_is_there_after_opening_again(
    database_settings: DatabaseSettings,
) -> None:
    for n in range(3):
        database = await open_database(database_settings)
        timelines = await database.start_timeline()
        assert [row.from_pos for row in timelines] == list(range(n + 1))
        assert len({row.id for row in timelines}) == n + 1
        assert await database.commit([Item([Insert(event(n, pos=Pos(0)))], 1)]) == [n + 1]
        await database.close()

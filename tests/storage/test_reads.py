"""What the read functions answer about a small room."""

import pytest

from storage import accounts, events, memberships, public_rooms, rooms, state, user_data
from storage.changes import Insert, Item, Pos, Put
from storage.engine import Database
from storage.packing import unpack_entries
from storage.schema import (
    INVITE,
    JOIN,
    AccessTokenRow,
    AccountDataRow,
    ErasureRow,
    FilterRow,
    JobRow,
    LoginTokenRow,
    ProfileChangeRow,
    ProfileRow,
    RegistrationTokenRow,
    UiaSessionRow,
)
from tests.storage.house import DEVICE, ROOM, House, build
from tests.storage.rows import event


@pytest.fixture
async def house(database: Database) -> House:
    return await build(database)


async def test_events_are_found_by_number_and_by_id(database: Database, house: House) -> None:
    found = await events.events(database, [7, 8, 99])
    assert found.keys() == {7, 8}
    assert found[7].row.sender_nid == house.names["@alice:here"]
    assert found[7].json == b'{"content": {"body": "one"}}'
    assert await events.events_by_id(database, ROOM, ["$7", "$99"]) == {"$7": found[7]}
    assert await events.events_by_id(database, 2, ["$7"]) == {}
    assert await events.event_json(database, [8]) == {8: found[8].json}
    assert await events.event_rows(database, [8]) == {8: found[8].row}
    assert await events.event_numbers(database, ROOM, ["$1", "$9"]) == {"$1": 1, "$9": 9}
    assert await events.event_ids(database, [1, 9]) == {1: "$1", 9: "$9"}
    assert await events.rooms_of_event(database, "$7") == [ROOM]
    assert await events.rooms_of_event(database, "$99") == []


async def test_a_timeline_is_read_from_either_end(database: Database, house: House) -> None:
    async def page(after: int, until: int, limit: int, *, newest_first: bool) -> list[int]:
        found = await events.timeline(
            database, ROOM, after, until, limit, newest_first=newest_first
        )
        return [row.event_nid for row, _ in found]

    assert await page(0, 10, 3, newest_first=True) == [9, 8, 7]
    assert await page(0, 10, 3, newest_first=False) == [1, 2, 3]
    assert await page(2, 4, 10, newest_first=True) == [4, 3]
    assert await page(2, 4, 10, newest_first=False) == [3, 4]
    assert await page(4, 4, 10, newest_first=False) == []


async def test_a_timeline_leaves_out_what_was_not_accepted(
    database: Database, house: House
) -> None:
    hidden = [event(20 + flag, pos=Pos(n), flags=flag) for n, flag in enumerate((1, 2, 64))]
    backfilled = event(30, pos=-4)
    await database.commit([Item([Insert(row) for row in (*hidden, backfilled, event(31))], 3)])
    shown = await events.timeline(database, ROOM, 8, 99, 10, newest_first=False)
    assert [row.event_nid for row, _ in shown] == [9]


async def test_edges_redactions_and_transactions_are_found(
    database: Database, house: House
) -> None:
    assert await events.children(database, [1, 2, 9]) == {1: [2], 2: [3]}
    assert await events.children_of_missing(database, ROOM, ["$x"]) == {}
    assert await events.redactions_of(database, ROOM, ["$7", "$8"]) == {"$8": [9]}
    assert await events.sent_event(database, DEVICE, 77, "m1") == 7
    assert await events.sent_event(database, DEVICE, 78, "m1") is None
    assert await events.txn_ids(database, DEVICE, [6, 7]) == {7: "m1"}
    assert await events.txn_ids(database, 6, [7]) == {}
    auths = await events.auth_edges(database, ROOM, 0)
    assert [nid for nid, _, _ in auths] == [1, 2, 3, 4, 5, 6]


async def test_state_is_known_at_every_position(database: Database, house: House) -> None:
    bob = house.keys["m.room.member", "@bob:here"]
    name = house.keys["m.room.name", ""]
    values = [await state.values_at(database, ROOM, [bob, name], pos) for pos in range(11)]
    assert [value.get(bob) for value in values] == [None] * 5 + [5] + [6] * 5
    assert [value.get(name) for value in values] == [None] * 3 + [3] * 8
    whole = [await state.state_at(database, ROOM, pos) for pos in range(11)]
    assert [len(found) for found in whole] == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5]
    assert [found.get(bob) for found in whole] == [value.get(bob) for value in values]
    now = (await state.current_states(database, [ROOM]))[ROOM]
    assert now == whole[-1]
    assert await state.current_values(database, [ROOM, 2], [bob]) == {ROOM: {bob: 6}}
    changes = await state.state_changes(database, [ROOM], 4, 6)
    assert [(row.pos, row.old_nid, row.new_nid) for row in changes[ROOM]] == [
        (5, None, 5),
        (6, 5, 6),
    ]


async def test_a_snapshot_comes_with_what_it_stands_on(database: Database, house: House) -> None:
    chains = await state.snapshot_chains(database, [6, 1, 99])
    assert {root: [row.snap_nid for row in rows] for root, rows in chains.items()} == {
        1: [1],
        6: [6, 5, 4, 3, 2, 1],
    }
    decoded: dict[int, int | None] = {}
    for row in reversed(chains[6]):
        decoded |= unpack_entries(row.entries)
    assert decoded == (await state.current_states(database, [ROOM]))[ROOM]
    assert (await state.snapshots(database, [3]))[3] == chains[6][3]
    assert len(await state.snapshots_by_hash(database, ROOM, b"hash")) == 6


async def test_rooms_are_found(database: Database, house: House) -> None:
    row = (await rooms.rooms(database, [ROOM]))[ROOM]
    assert await rooms.rooms_by_id(database, ["!house:here", "!x"]) == {"!house:here": row}
    assert (await rooms.heads(database, [ROOM]))[ROOM].last_pos == 9
    summary = (await rooms.summaries(database, [ROOM]))[ROOM]
    assert await public_rooms.listed_after(database, (2**53, 0), 10) == [summary]
    alias = (await rooms.aliases(database, ["#house:here", "#x:here"]))["#house:here"]
    assert await rooms.aliases_of(database, [ROOM]) == {ROOM: [alias]}


async def test_memberships_are_found(database: Database, house: House) -> None:
    alice, bob = house.names["@alice:here"], house.names["@bob:here"]
    joined = await memberships.in_room(database, ROOM, [JOIN])
    assert joined.keys() == {alice, bob}
    assert await memberships.in_room(database, ROOM, [INVITE]) == {}
    assert await memberships.of_user(database, bob) == {ROOM: joined[bob]}
    assert await memberships.of_user_in(database, bob, [ROOM, 2]) == {ROOM: joined[bob]}
    assert await memberships.in_room_of(database, ROOM, [bob]) == {bob: joined[bob]}
    assert await memberships.joined_rooms(database, [alice, bob]) == {alice: {ROOM}, bob: {ROOM}}
    assert await memberships.local_members(database, [ROOM]) == {ROOM: {alice, bob}}
    log = await memberships.log_between(database, bob, 0, 10)
    assert [(row.pos, row.membership) for row in log] == [(5, INVITE), (6, JOIN)]
    assert await memberships.log_between(database, bob, 5, 6) == log[1:]
    assert await memberships.history_of_user_in(database, bob, [ROOM]) == {ROOM: log}
    then = [await memberships.of_user_at(database, bob, [ROOM], pos) for pos in (4, 5, 6, 9)]
    assert then == [{}, {ROOM: log[0]}, {ROOM: log[1]}, {ROOM: log[1]}]


async def test_accounts_are_found(database: Database, house: House) -> None:
    alice = house.names["@alice:here"]
    user = (await accounts.users(database, [alice]))[alice]
    assert await accounts.users_by_localpart(database, ["alice", "carol"]) == {"alice": user}
    assert await accounts.any_account(database)
    device = (await accounts.devices(database, [DEVICE]))[DEVICE]
    assert await accounts.devices_of(database, [alice]) == {alice: {"PHONE": device}}
    owner = (await accounts.token_owners(database, [b"token", b"other"]))[b"token"]
    assert (owner.device, owner.user, owner.user_id) == (device, user, "@alice:here")
    assert await accounts.tokens_of(database, [DEVICE]) == {DEVICE: [owner.token]}
    again = AccessTokenRow(b"next", DEVICE, alice, 5, b"refresh", 9, b"token")
    await database.commit([Item([Put(again)])])
    assert await accounts.refreshable(database, [b"refresh", b"next"]) == {b"refresh": again}
    assert (await accounts.token_owners(database, [b"next"]))[b"next"].token == again


async def test_what_belongs_to_users_is_found(database: Database, house: House) -> None:
    bob = house.names["@bob:here"]
    data = [
        AccountDataRow(bob, 0, "m.direct", b"{}", 11),
        AccountDataRow(bob, ROOM, "m.tag", b"[]", 12),
    ]
    await database.commit([Item([Put(row) for row in data])])
    assert await user_data.account_data(database, bob) == data
    assert await user_data.account_data_between(database, bob, 11, 12) == data[1:]
    assert await user_data.account_data_in(database, bob, [ROOM]) == {ROOM: {"m.tag": data[1]}}
    found = await user_data.account_data_of(database, [bob], 0, "m.direct")
    assert found == {bob: data[0]}
    receipts = await user_data.receipts_in(database, [ROOM])
    assert [(row.event_pos, row.pos) for row in receipts[ROOM]] == [(7, 10)]
    assert await user_data.receipts_between(database, [ROOM], 9, 10) == receipts
    assert await user_data.receipts_between(database, [ROOM], 10, 11) == {}
    assert await user_data.receipts_of(database, bob, [ROOM]) == receipts
    await database.commit([Item([Put(FilterRow(bob, 1, b"{}")), Put(FilterRow(bob, 2, b"[]"))])])
    assert await user_data.filters(database, bob, [2]) == {2: b"[]"}
    assert await user_data.filters_of(database, bob) == {1: b"{}", 2: b"[]"}


async def test_the_rest_is_found(database: Database) -> None:
    token = RegistrationTokenRow("abc", None, 0, None)
    session = UiaSessionRow("s", b"{}", 5)
    jobs = [JobRow(n, "profile", b"{}", 100 - n, 0) for n in range(1, 4)]
    assert await accounts.next_job_at(database, 0) is None
    assert not await accounts.any_account(database)
    await database.commit(
        [Item([Put(row) for row in (token, session, *jobs, ProfileRow(1, "displayname", b'"A"'))])]
    )
    assert await accounts.registration_tokens(database, ["abc", "x"]) == {"abc": token}
    assert await accounts.uia_sessions(database, ["s", "x"]) == {"s": session}
    assert await accounts.jobs_due(database, 98, 10) == [jobs[2], jobs[1]]
    assert await accounts.jobs_due(database, 200, 1) == [jobs[2]]
    assert await accounts.next_job_at(database, 0) == 97
    assert await accounts.next_job_at(database, 97) == 98
    assert await accounts.profiles(database, [1, 2]) == {1: {"displayname": b'"A"'}}
    change = ProfileChangeRow(1, 3, b"{}")
    login = LoginTokenRow(b"hash", 1, 5)
    erased = [ErasureRow(user_nid, 7 * user_nid) for user_nid in (1, 2, 3)]
    await database.commit([Item([Put(row) for row in (change, login, *erased)])])
    assert await accounts.profile_changes(database, [1, 2]) == {1: change}
    assert await accounts.login_tokens(database, [b"hash", b"x"]) == {b"hash": login}
    assert await accounts.erasures(database, 1, 1) == {2: 14}

"""Changes of accounts that are more than a row."""

import pytest

from storage import account_changes, accounts, user_data
from storage.changes import Change, Item, Missed, Put
from storage.engine import Database
from storage.schema import ADMIN, DEACTIVATED, LOCKED, SUSPENDED, FilterRow, ProfileRow, UserRow


@pytest.mark.parametrize("deactivated", [False, True])
async def test_accounts_are_changed_unless_they_are_deactivated(
    database: Database, deactivated: bool
) -> None:
    flags = ADMIN | (DEACTIVATED if deactivated else 0)
    user = UserRow(1, "alice", "old", flags, 0)
    rows = (user, ProfileRow(1, "m.tz", b'"UTC"'), FilterRow(1, 1, b"{}"))
    await database.commit([Item([Put(row) for row in rows])])
    changes: list[Change] = [
        account_changes.flag_set(1, LOCKED),
        account_changes.flag_set(1, SUSPENDED),
        account_changes.flag_cleared(1, SUSPENDED),
        account_changes.password_set(1, "new"),
    ]
    for change in changes:
        if deactivated:
            with pytest.raises(Missed):
                await database.commit([Item([change])])
        else:
            await database.commit([Item([change])])
    await database.commit([Item([account_changes.password_renewed(1, "other", "wrong")])])
    expected = user if deactivated else user._replace(flags=ADMIN | LOCKED, password="new")
    assert await accounts.users(database, [1]) == {1: expected}
    if deactivated:
        with pytest.raises(Missed):
            await database.commit([Item(account_changes.account_closed(1))])
        return
    await database.commit([Item(account_changes.account_closed(1))])
    closed = (await accounts.users(database, [1]))[1]
    assert (closed.password, closed.flags) == (None, ADMIN | LOCKED | DEACTIVATED)
    assert await accounts.profiles(database, [1]) == {}
    assert await user_data.filters_of(database, 1) == {}

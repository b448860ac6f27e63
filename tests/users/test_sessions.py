"""What an access token stands for, as long as it stands for anything."""

import hashlib

import bcrypt
import pytest

from homeserver.errors import MatrixError
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.limits import RateLimits
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names, Numbers
from homeserver.users import sessions as module
from homeserver.users.inbox import UserInbox
from homeserver.users.logins import Logins
from homeserver.users.passwords import PasswordCost, Passwords
from homeserver.users.sessions import DeviceRequest, Sessions
from storage.accounts import users
from storage.changes import Put
from storage.engine import Database
from storage.schema import ADMIN, DEACTIVATED, GUEST, AccessTokenRow, UserRow

USER_ID = "@alice:test.example"


class Here:
    """A request from one place."""

    remote = "192.0.2.1"


@pytest.fixture
def sessions(database: Database, commits: CommitQueue, clock: FakeClock) -> Sessions:
    return Sessions(database, commits, Numbers(database), UserInbox(), clock)


async def account(
    database: Database, commits: CommitQueue, flags: int = 0, password: str | None = None
) -> int:
    user_nid = (await Names(database).nids([USER_ID]))[USER_ID]
    await commits.commit([Put(UserRow(user_nid, "alice", password, flags, 0))])
    return user_nid


async def test_a_token_is_looked_up_once_and_then_known(
    sessions: Sessions, database: Database, commits: CommitQueue
) -> None:
    user_nid = await account(database, commits, ADMIN)
    begun = await sessions.begin(user_nid, DeviceRequest("PHONE"))
    assert sessions.cached(begun.access_token) is None
    session = await sessions.authenticate(begun.access_token, Here())
    assert (session.user_id, session.user_nid) == (USER_ID, user_nid)
    assert (session.device_id, session.is_admin, session.is_guest) == ("PHONE", True, False)
    assert sessions.cached(begun.access_token) == session
    assert sessions.cached(begun.access_token + "x") is None


async def test_only_the_hash_of_a_token_is_stored(
    sessions: Sessions, database: Database, commits: CommitQueue
) -> None:
    begun = await sessions.begin(await account(database, commits), DeviceRequest())
    rows = await database.fetch("SELECT token_hash FROM access_tokens")
    assert rows == [(hashlib.sha256(begun.access_token.encode()).digest(),)]


async def test_an_ended_session_is_forgotten_at_once(
    sessions: Sessions, database: Database, commits: CommitQueue
) -> None:
    begun = await sessions.begin(await account(database, commits), DeviceRequest())
    session = await sessions.authenticate(begun.access_token, Here())
    await sessions.end(session)
    assert sessions.cached(begun.access_token) is None
    with pytest.raises(MatrixError) as caught:
        await sessions.authenticate(begun.access_token, Here())
    assert (caught.value.status, caught.value.errcode) == (401, "M_UNKNOWN_TOKEN")


async def test_an_expired_token_logs_out_softly(
    sessions: Sessions, database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    begun = await sessions.begin(await account(database, commits), DeviceRequest())
    session = await sessions.authenticate(begun.access_token, Here())
    assert session.device_nid is not None
    expires = clock.now_ms() + 1_000
    row = AccessTokenRow(session.token_hash, session.device_nid, session.user_nid, expires)
    await commits.commit([Put(row)])
    fresh = Sessions(database, commits, Numbers(database), UserInbox(), clock)
    await fresh.authenticate(begun.access_token, Here())
    assert fresh.cached(begun.access_token) is not None
    await clock.advance(1)
    assert fresh.cached(begun.access_token) is None
    with pytest.raises(MatrixError) as caught:
        await fresh.authenticate(begun.access_token, Here())
    assert caught.value.extra == {"soft_logout": True}


async def test_tokens_of_a_deactivated_account_are_good_for_nothing(
    sessions: Sessions, database: Database, commits: CommitQueue
) -> None:
    begun = await sessions.begin(await account(database, commits), DeviceRequest())
    await account(database, commits, DEACTIVATED)
    with pytest.raises(MatrixError) as caught:
        await sessions.authenticate(begun.access_token, Here())
    assert caught.value.errcode == "M_UNKNOWN_TOKEN"


async def test_a_guest_is_known_as_one(
    sessions: Sessions, database: Database, commits: CommitQueue
) -> None:
    begun = await sessions.begin(await account(database, commits, GUEST), DeviceRequest())
    assert (await sessions.authenticate(begun.access_token, Here())).is_guest


async def test_only_so_many_sessions_are_in_memory(
    sessions: Sessions, database: Database, commits: CommitQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CACHED", 2)
    user_nid = await account(database, commits)
    tokens = [(await sessions.begin(user_nid, DeviceRequest())).access_token for _ in range(3)]
    for token in tokens:
        await sessions.authenticate(token, Here())
    assert [sessions.cached(token) is not None for token in tokens] == [False, True, True]


async def test_a_deactivated_account_cannot_log_in(
    database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    passwords = Passwords(PasswordCost(1, 8))
    logins = Logins(database, commits, passwords, RateLimits(False, {}, clock), "test.example")
    await account(database, commits, DEACTIVATED, await passwords.hash("right"))
    with pytest.raises(MatrixError) as caught:
        await logins.check({"user": "alice"}, "right")
    assert (caught.value.status, caught.value.errcode) == (403, "M_USER_DEACTIVATED")
    with pytest.raises(MatrixError) as caught:
        await logins.check({"user": "alice"}, "wrong")
    assert caught.value.errcode == "M_FORBIDDEN"
    passwords.close()


async def test_hashes_from_elsewhere_are_renewed_at_login(
    database: Database, commits: CommitQueue, clock: FakeClock
) -> None:
    passwords = Passwords(PasswordCost(1, 8), pepper="pepper")
    logins = Logins(database, commits, passwords, RateLimits(False, {}, clock), "test.example")
    hashed = bcrypt.hashpw(b"rightpepper", bcrypt.gensalt(4)).decode()
    for form in ("$2a$", "$2b$", "$2y$"):
        user_nid = await account(database, commits, 0, form + hashed[4:])
        with pytest.raises(MatrixError):
            await logins.check({"user": "alice"}, "wrong")
        assert (await users(database, [user_nid]))[user_nid].password == form + hashed[4:]
        await logins.check({"user": "alice"}, "right")
        renewed = (await users(database, [user_nid]))[user_nid].password or ""
        assert renewed.startswith("$argon2id$")
        await logins.check({"user": "alice"}, "right")
        assert (await users(database, [user_nid]))[user_nid].password == renewed
    passwords.close()

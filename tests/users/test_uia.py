"""User-interactive authentication with more than one stage, and the password stage."""

from collections.abc import Iterator
from typing import Any

import pytest

from homeserver.config import Mail
from homeserver.errors import MatrixError
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.limits import RateLimits
from homeserver.runtime.mail import Mailer
from homeserver.streams.commit import CommitQueue
from homeserver.users.logins import Logins
from homeserver.users.passwords import PasswordCost, Passwords
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.uia import (
    DUMMY,
    LIFETIME_MS,
    PASSWORD,
    REGISTRATION_TOKEN,
    Interactive,
    Operation,
    Proven,
)
from homeserver.users.validations import Validations
from storage.accounts import uia_sessions
from storage.engine import Database
from storage.schema import UserRow

BOTH = Operation("both", [(REGISTRATION_TOKEN, DUMMY)])
EITHER = Operation("either", [(REGISTRATION_TOKEN,), (DUMMY,)])


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    service = Passwords(PasswordCost(1, 8))
    yield service
    service.close()


@pytest.fixture
def tokens(database: Database, commits: CommitQueue, clock: FakeClock) -> RegistrationTokens:
    return RegistrationTokens(database, commits, clock)


@pytest.fixture
def interactive(
    database: Database,
    commits: CommitQueue,
    passwords: Passwords,
    tokens: RegistrationTokens,
    clock: FakeClock,
) -> Interactive:
    limits = RateLimits(False, {}, clock)
    logins = Logins(database, commits, passwords, limits, "test.example")
    mailer = Mailer(Mail(), "test.example")
    validations = Validations(database, commits, mailer, limits, clock, "https://test.example")
    return Interactive(database, commits, logins, tokens, validations, clock, "test.example")


async def refused(interactive: Interactive, operation: Operation, auth: Any) -> MatrixError:
    with pytest.raises(MatrixError) as caught:
        await interactive.check(operation, auth)
    return caught.value


async def begun(interactive: Interactive, operation: Operation) -> str:
    error = await refused(interactive, operation, None)
    assert (error.status, error.errcode) == (401, "")
    return str(error.extra["session"])


async def test_stages_are_done_in_their_order(
    interactive: Interactive, tokens: RegistrationTokens
) -> None:
    await tokens.create("invitation")
    session = await begun(interactive, BOTH)
    early = await refused(interactive, BOTH, {"type": DUMMY, "session": session})
    assert early.errcode == "M_UNRECOGNIZED"
    assert "completed" not in early.extra
    first = {"type": REGISTRATION_TOKEN, "token": "invitation", "session": session}
    for _ in range(2):
        half = await refused(interactive, BOTH, first)
        assert (half.status, half.errcode) == (401, "")
        assert half.extra["completed"] == [REGISTRATION_TOKEN]
        assert half.extra["session"] == session
    proven = await interactive.check(BOTH, {"type": DUMMY, "session": session})
    assert proven.registration_token == "invitation"


async def test_any_flow_will_do(interactive: Interactive) -> None:
    assert await interactive.check(EITHER, {"type": DUMMY}) == Proven(None, {}, ())


async def test_a_wrong_stage_can_be_tried_again(
    interactive: Interactive, tokens: RegistrationTokens
) -> None:
    session = await begun(interactive, EITHER)
    wrong = {"type": REGISTRATION_TOKEN, "token": "wrong", "session": session}
    error = await refused(interactive, EITHER, wrong)
    assert (error.status, error.errcode) == (401, "M_UNAUTHORIZED")
    assert error.extra["flows"] == [{"stages": [REGISTRATION_TOKEN]}, {"stages": [DUMMY]}]
    await tokens.create("right")
    proven = await interactive.check(EITHER, {**wrong, "token": "right"})
    assert proven.registration_token == "right"


async def test_only_the_session_asks_how_far_it_is(
    interactive: Interactive, tokens: RegistrationTokens
) -> None:
    await tokens.create("invitation")
    session = await begun(interactive, BOTH)
    assert "completed" not in (await refused(interactive, BOTH, {"session": session})).extra
    auth = {"type": REGISTRATION_TOKEN, "token": "invitation", "session": session}
    await refused(interactive, BOTH, auth)
    error = await refused(interactive, BOTH, {"session": session})
    assert error.extra["completed"] == [REGISTRATION_TOKEN]


async def test_a_session_belongs_to_one_operation(interactive: Interactive) -> None:
    session = await begun(interactive, BOTH)
    error = await refused(interactive, EITHER, {"type": DUMMY, "session": session})
    assert (error.status, error.errcode) == (403, "M_FORBIDDEN")


async def test_the_end_of_a_session_is_committed_with_the_operation(
    interactive: Interactive, commits: CommitQueue, database: Database
) -> None:
    session = await begun(interactive, EITHER)
    proven = await interactive.check(EITHER, {"type": DUMMY, "session": session})
    assert await uia_sessions(database, [session])
    await commits.commit(proven.changes)
    assert not await uia_sessions(database, [session])
    error = await refused(interactive, EITHER, {"type": DUMMY, "session": session})
    assert error.errcode == "M_UNKNOWN"


async def test_the_password_is_that_of_the_user(
    interactive: Interactive, passwords: Passwords
) -> None:
    user = UserRow(1, "alice", await passwords.hash("right"), 0, 0)
    operation = Operation("remove", [(PASSWORD,)], user)
    auth: dict[str, Any] = {"type": PASSWORD, "user": "@alice:test.example", "password": "right"}
    assert await interactive.check(operation, auth) == Proven(None, {}, ())
    wrong = await refused(interactive, operation, {**auth, "password": "wrong"})
    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    foreign = await refused(interactive, operation, {**auth, "user": "bob"})
    assert foreign.status == 403
    nameless = await refused(interactive, operation, {"type": PASSWORD, "password": "right"})
    assert nameless.errcode == "M_MISSING_PARAM"


async def test_an_account_without_a_password_proves_nothing(interactive: Interactive) -> None:
    operation = Operation("remove", [(PASSWORD,)], UserRow(1, "alice", None, 0, 0))
    auth = {"type": PASSWORD, "user": "alice", "password": ""}
    assert (await refused(interactive, operation, auth)).status == 401


async def test_sessions_of_the_past_are_removed(
    interactive: Interactive, database: Database, clock: FakeClock
) -> None:
    old = await begun(interactive, BOTH)
    await interactive.forget_expired()
    assert await uia_sessions(database, [old])
    await clock.advance(LIFETIME_MS / 1000)
    new = await begun(interactive, BOTH)
    await interactive.forget_expired()
    assert list(await uia_sessions(database, [old, new])) == [new]

"""Registering accounts."""

import asyncio
import hashlib
import hmac
from typing import Any

import pytest

from tests.serving import CLIENT, Reply, Running

REGISTER = f"{CLIENT}/register"
DUMMY = {"type": "m.login.dummy"}
SECRET = "/_synapse/admin/v1/register"


async def register(server: Running, **body: Any) -> Reply:
    return await server.request("POST", REGISTER, body=body)


async def registered(server: Running, username: str, **body: Any) -> Any:
    body = {"username": username, "password": "pass word", "auth": DUMMY, **body}
    reply = await register(server, **body)
    assert reply.status == 200, reply.body
    return reply.body


async def test_registration_asks_for_a_step_and_then_makes_the_account(server: Running) -> None:
    first = await register(server, username="alice", password="x")
    assert first.status == 401
    assert first.body["flows"] == [{"stages": ["m.login.dummy"]}]
    assert first.body["params"] == {}
    assert "errcode" not in first.body
    auth = {**DUMMY, "session": first.body["session"]}
    made = await register(server, username="alice", password="x", auth=auth)
    assert made.status == 200
    assert made.body["user_id"] == "@alice:test.example"
    me = await server.request("GET", f"{CLIENT}/account/whoami", token=made.body["access_token"])
    assert me.body["user_id"] == "@alice:test.example"
    assert me.body["device_id"] == made.body["device_id"]


async def test_an_empty_request_is_told_the_flows(server: Running) -> None:
    reply = await register(server)
    assert reply.status == 401
    assert reply.body["flows"]


async def test_all_may_be_sent_at_once(server: Running) -> None:
    body = await registered(server, "alice", device_id="PHONE", initial_device_display_name="Mine")
    assert body["device_id"] == "PHONE"
    devices = await server.request("GET", f"{CLIENT}/devices", token=body["access_token"])
    assert devices.body["devices"][0]["display_name"] == "Mine"


async def test_without_a_user_name_the_server_chooses_one(server: Running) -> None:
    reply = await register(server, password="x", auth=DUMMY)
    assert reply.status == 200
    assert reply.body["user_id"].endswith(":test.example")


async def test_a_session_of_the_exchange_can_be_used_once(server: Running) -> None:
    session = (await register(server)).body["session"]
    auth = {**DUMMY, "session": session}
    assert (await register(server, username="a", password="x", auth=auth)).status == 200
    again = await register(server, username="b", password="x", auth=auth)
    assert (again.status, again.errcode) == (400, "M_UNKNOWN")


async def test_a_session_that_failed_in_the_end_can_be_tried_again(server: Running) -> None:
    session = (await register(server)).body["session"]
    auth = {**DUMMY, "session": session}
    assert (await register(server, username="a", auth=auth)).errcode == "M_MISSING_PARAM"
    assert (await register(server, username="a", password="x", auth=auth)).status == 200


async def test_sessions_end_with_their_time(server: Running) -> None:
    session = (await register(server)).body["session"]
    await server.clock.advance(31 * 60)
    reply = await register(server, username="a", password="x", auth={**DUMMY, "session": session})
    assert reply.errcode == "M_UNKNOWN"


async def test_without_login_there_is_no_token(server: Running) -> None:
    body = await registered(server, "alice", inhibit_login=True)
    assert body == {"user_id": "@alice:test.example"}


@pytest.mark.parametrize("name", ["a", "q.w-e_r=t/3+", "UPPER", "a" * 241])
async def test_names_that_may_be_registered(server: Running, name: str) -> None:
    body = await registered(server, name)
    assert body["user_id"] == f"@{name.lower()}:test.example"


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "@a", "é", "a!", "a\\b", "ſ", "İ", "a" * 242, "a\nb"]
)
async def test_names_that_may_not_be_registered(server: Running, name: str) -> None:
    for reply in (
        await register(server, username=name, password="x"),
        await server.request("GET", f"{REGISTER}/available", query={"username": name}),
    ):
        assert (reply.status, reply.errcode) == (400, "M_INVALID_USERNAME")


async def test_a_name_can_be_taken_once(server: Running) -> None:
    async def available() -> Reply:
        return await server.request("GET", f"{REGISTER}/available", query={"username": "Alice"})

    assert (await available()).body == {"available": True}
    await registered(server, "alice")
    for reply in (await register(server, username="ALICE", password="x"), await available()):
        assert (reply.status, reply.errcode) == (400, "M_USER_IN_USE")


async def test_of_two_at_once_one_gets_the_name(server: Running) -> None:
    body = {"username": "alice", "password": "x", "auth": DUMMY}
    replies = await asyncio.gather(*(register(server, **body) for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 400, 400, 400, 400]
    assert {reply.errcode for reply in replies} == {None, "M_USER_IN_USE"}


async def test_the_first_account_administers_the_server(server: Running) -> None:
    bodies = await asyncio.gather(*(registered(server, f"user{n}") for n in range(4)))
    sessions = server.app.services.sessions
    for body in bodies:
        await server.request("GET", f"{CLIENT}/account/whoami", token=body["access_token"])
    found = [sessions.cached(body["access_token"]) for body in bodies]
    assert [session.is_admin for session in found if session].count(True) == 1


@pytest.mark.parametrize("kind", ["guest", "robot"])
async def test_other_kinds_of_accounts_are_refused(server: Running, kind: str) -> None:
    reply = await server.request("POST", REGISTER, body={}, query={"kind": kind})
    expected = {"guest": (403, "M_GUEST_ACCESS_FORBIDDEN"), "robot": (400, "M_INVALID_PARAM")}
    assert (reply.status, reply.errcode) == expected[kind]


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"username": 1}, "M_BAD_JSON"),
        ({"auth": "x"}, "M_BAD_JSON"),
        ({"auth": {"type": 1}}, "M_BAD_JSON"),
        ({"auth": {"type": None}}, "M_MISSING_PARAM"),
        ({"auth": {"session": 1}}, "M_BAD_JSON"),
        ({"auth": {"session": "unknown"}}, "M_UNKNOWN"),
        ({"device_id": "", "auth": DUMMY}, "M_INVALID_PARAM"),
        ({"device_id": "x" * 256}, "M_INVALID_PARAM"),
        ({"initial_device_display_name": "x" * 101}, "M_TOO_LARGE"),
        ({"password": "x" * 513, "auth": DUMMY}, "M_INVALID_PARAM"),
        ({"password": "", "auth": DUMMY}, "M_WEAK_PASSWORD"),
    ],
)
async def test_malformed_registrations(server: Running, body: Any, errcode: str) -> None:
    reply = await server.request("POST", REGISTER, body=body)
    assert (reply.status, reply.errcode) == (400, errcode)


async def test_an_unknown_stage_is_not_done(server: Running) -> None:
    reply = await register(server, auth={"type": "m.login.recaptcha"})
    assert (reply.status, reply.errcode) == (401, "M_UNRECOGNIZED")
    assert reply.body["flows"]
    assert "completed" not in reply.body


class TestByToken:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"registration": {"mode": "token"}}

    async def test_a_token_makes_as_many_accounts_as_it_may(self, server: Running) -> None:
        tokens = server.app.services.registration_tokens
        token = await tokens.create("invitation", uses_allowed=1)
        auth = {"type": "m.login.registration_token", "token": token}
        replies = await asyncio.gather(
            *(register(server, username=f"u{n}", password="x", auth=auth) for n in range(3))
        )
        assert sum(reply.status == 200 for reply in replies) == 1
        assert not await tokens.is_valid(token)
        late = await register(server, username="late", password="x", auth=auth)
        assert (late.status, late.errcode) == (401, "M_UNAUTHORIZED")

    async def test_the_dummy_step_is_no_way_around(self, server: Running) -> None:
        reply = await register(server, username="a", password="x", auth=DUMMY)
        assert reply.status == 401
        assert reply.body["flows"] == [{"stages": ["m.login.registration_token"]}]

    async def test_validity_can_be_asked(self, server: Running) -> None:
        tokens = server.app.services.registration_tokens
        now = server.clock.now_ms()
        await tokens.create("good", expires_ts=now + 1_000)
        path = "/_matrix/client/v1/register/m.login.registration_token/validity"

        async def valid(token: str) -> Any:
            return (await server.request("GET", path, query={"token": token})).body["valid"]

        assert await valid("good") is True
        assert await valid("bad") is False
        assert await valid("not a token") is False
        await server.clock.advance(2)
        assert await valid("good") is False
        assert (await server.request("GET", path)).errcode == "M_MISSING_PARAM"


class TestClosed:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"registration": {"mode": "closed", "shared_secret": ""}}

    async def test_nobody_may_register(self, server: Running) -> None:
        validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=x"
        for reply in (
            await register(server, username="alice", password="x", auth=DUMMY),
            await server.request("GET", f"{REGISTER}/available?username=alice"),
            await server.request("GET", validity),
        ):
            assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")

    async def test_the_shared_secret_is_not_offered(self, server: Running) -> None:
        assert (await server.request("GET", SECRET)).status == 400


def code(nonce: str, name: str, password: str, rank: str, *more: str) -> str:
    text = "\0".join([nonce, name, password, rank, *more])
    return hmac.new(b"shared secret", text.encode(), hashlib.sha1).hexdigest()


async def by_secret(server: Running, **changed: Any) -> Reply:
    nonce = (await server.request("GET", SECRET)).body["nonce"]
    body = {
        "nonce": nonce,
        "username": "alice",
        "password": "pässwörd",
        "mac": code(nonce, "alice", "pässwörd", "notadmin"),
    }
    return await server.request("POST", SECRET, body={**body, **changed})


async def test_the_shared_secret_makes_accounts(server: Running) -> None:
    reply = await by_secret(server, displayname="Alice")
    assert reply.status == 200
    assert reply.body["user_id"] == "@alice:test.example"
    assert reply.body["home_server"] == "test.example"
    me = await server.request("GET", f"{CLIENT}/account/whoami", token=reply.body["access_token"])
    assert me.body["device_id"] == reply.body["device_id"]
    profile = await server.request("GET", f"{CLIENT}/profile/@alice:test.example")
    assert profile.body == {"displayname": "Alice"}


async def test_the_code_covers_rank_and_type(server: Running) -> None:
    nonce = (await server.request("GET", SECRET)).body["nonce"]
    body = {"nonce": nonce, "username": "root", "password": "x", "admin": True, "user_type": "bot"}
    mac = code(nonce, "root", "x", "admin", "bot")
    assert (await server.request("POST", SECRET, body={**body, "mac": mac})).status == 200


@pytest.mark.parametrize(
    ("changed", "status", "errcode"),
    [
        ({"mac": "0" * 40}, 403, "M_FORBIDDEN"),
        ({"mac": "ü"}, 403, "M_FORBIDDEN"),
        ({"admin": True}, 403, "M_FORBIDDEN"),
        ({"user_type": "bot"}, 403, "M_FORBIDDEN"),
        ({"username": "bob"}, 403, "M_FORBIDDEN"),
        ({"nonce": "unknown"}, 400, "M_UNKNOWN"),
        ({"nonce": 1}, 400, "M_BAD_JSON"),
        ({"mac": None}, 400, "M_BAD_JSON"),
    ],
)
async def test_a_wrong_code_makes_nothing(
    server: Running, changed: Any, status: int, errcode: str
) -> None:
    reply = await by_secret(server, **changed)
    assert (reply.status, reply.errcode) == (status, errcode)


async def test_a_nonce_is_good_once_and_for_a_minute(server: Running) -> None:
    nonce = (await server.request("GET", SECRET)).body["nonce"]

    async def use(name: str) -> Reply:
        mac = code(nonce, name, "x", "notadmin")
        body = {"nonce": nonce, "username": name, "password": "x", "mac": mac}
        return await server.request("POST", SECRET, body=body)

    assert (await use("a")).status == 200
    assert (await use("b")).errcode == "M_UNKNOWN"
    nonce = (await server.request("GET", SECRET)).body["nonce"]
    await server.clock.advance(61)
    assert (await use("b")).errcode == "M_UNKNOWN"

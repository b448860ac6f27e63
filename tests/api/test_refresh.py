"""Refresh tokens: sessions whose access tokens expire."""

import asyncio
from typing import Any

import pytest

from tests.serving import CLIENT, PASSWORD, Reply, Running

LOGIN = {"type": "m.login.password", "user": "alice", "password": PASSWORD}


async def log_in(server: Running, **more: Any) -> Any:
    body = {**LOGIN, "refresh_token": True, **more}
    reply = await server.request("POST", f"{CLIENT}/login", body=body)
    assert reply.status == 200, reply.body
    return reply.body


async def refresh(server: Running, token: str) -> Reply:
    return await server.request("POST", f"{CLIENT}/refresh", body={"refresh_token": token})


async def refreshed(server: Running, token: str) -> Any:
    reply = await refresh(server, token)
    assert reply.status == 200, reply.body
    return reply.body


async def whoami(server: Running, token: str) -> Reply:
    return await server.request("GET", f"{CLIENT}/account/whoami", token=token)


async def test_who_does_not_ask_gets_none_and_never_expires(server: Running) -> None:
    await server.person("alice")
    session = await log_in(server, refresh_token=False)
    assert "refresh_token" not in session
    assert "expires_in_ms" not in session
    await server.clock.advance(2 * 3_600)
    assert (await whoami(server, session["access_token"])).status == 200


async def test_an_expired_token_logs_out_softly_and_is_replaced(server: Running) -> None:
    await server.person("alice")
    first = await log_in(server)
    assert first["expires_in_ms"] == 3_600_000
    assert (await whoami(server, first["access_token"])).status == 200
    await server.clock.advance(3_600)
    expired = await whoami(server, first["access_token"])
    assert (expired.status, expired.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert expired.body["soft_logout"] is True
    second = await refreshed(server, first["refresh_token"])
    assert second["expires_in_ms"] == 3_600_000
    me = (await whoami(server, second["access_token"])).body
    assert me["device_id"] == first["device_id"]


async def test_registration_gives_them_too(server: Running) -> None:
    body = {
        "username": "alice",
        "password": "x",
        "refresh_token": True,
        "auth": {"type": "m.login.dummy"},
    }
    made = (await server.request("POST", f"{CLIENT}/register", body=body)).body
    assert (await refresh(server, made["refresh_token"])).status == 200


async def test_an_answer_that_got_lost_can_be_asked_for_again(server: Running) -> None:
    await server.person("alice")
    first = await log_in(server)
    lost = await refreshed(server, first["refresh_token"])
    second = await refreshed(server, first["refresh_token"])
    assert (await whoami(server, first["access_token"])).status == 200
    assert (await whoami(server, second["access_token"])).status == 200
    assert (await whoami(server, lost["access_token"])).status == 401
    assert (await refresh(server, lost["refresh_token"])).status == 401


async def test_a_transaction_outlives_the_token_it_was_begun_with(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    first = await log_in(server)
    path = f"{CLIENT}/rooms/{room}/send/m.room.message/mine"
    body = {"msgtype": "m.text", "body": "once"}
    sent = await server.request("PUT", path, token=first["access_token"], body=body)
    # The answer was lost, and the token ended before the client asked again.
    await server.clock.advance(3_600)
    assert (await server.request("PUT", path, token=first["access_token"], body=body)).status == 401
    second = (await refreshed(server, first["refresh_token"]))["access_token"]
    again = await server.request("PUT", path, token=second, body=body)
    assert (again.status, again.body) == (200, sent.body)
    told = await server.request("GET", f"{CLIENT}/sync", token=second)
    events = told.body["rooms"]["join"][room]["timeline"]["events"]
    mine = [event for event in events if event["type"] == "m.room.message"]
    assert [event["unsigned"].get("transaction_id") for event in mine] == ["mine"]


@pytest.mark.parametrize("restart", [False, True])
async def test_the_old_tokens_end_when_the_new_access_token_is_used(
    server: Running, restart: bool
) -> None:
    await server.person("alice")
    first = await log_in(server)
    await whoami(server, first["access_token"])
    second = await refreshed(server, first["refresh_token"])
    if restart:
        await server.restart()
    for _ in range(2):
        assert (await whoami(server, second["access_token"])).status == 200
    assert (await whoami(server, first["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    reply = await refresh(server, first["refresh_token"])
    assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (await refresh(server, second["refresh_token"])).status == 200


async def test_the_old_tokens_end_when_the_new_refresh_token_is_used(server: Running) -> None:
    await server.person("alice")
    first = await log_in(server)
    second = await refreshed(server, first["refresh_token"])
    third = await refreshed(server, second["refresh_token"])
    assert (await whoami(server, first["access_token"])).status == 401
    assert (await refresh(server, first["refresh_token"])).status == 401
    assert (await whoami(server, second["access_token"])).status == 200
    assert (await whoami(server, third["access_token"])).status == 200
    assert (await whoami(server, second["access_token"])).status == 401


async def test_of_many_at_once_the_last_stays(server: Running) -> None:
    await server.person("alice")
    first = await log_in(server)
    replies = await asyncio.gather(*(refresh(server, first["refresh_token"]) for _ in range(6)))
    states = [(await whoami(server, reply.body["access_token"])).status for reply in replies]
    assert sorted(states) == [200, 401, 401, 401, 401, 401]


async def test_the_device_keeps_its_name(server: Running) -> None:
    await server.person("alice")
    first = await log_in(server, device_id="PHONE", initial_device_display_name="Mine")
    second = await refreshed(server, first["refresh_token"])
    reply = await server.request("GET", f"{CLIENT}/devices/PHONE", token=second["access_token"])
    assert reply.body["display_name"] == "Mine"


@pytest.mark.parametrize("path", ["/logout", "/logout/all"])
async def test_logging_out_ends_refresh_tokens(server: Running, path: str) -> None:
    await server.person("alice")
    first = await log_in(server)
    await server.request("POST", CLIENT + path, token=first["access_token"])
    reply = await refresh(server, first["refresh_token"])
    assert (reply.status, reply.body["soft_logout"]) == (401, False)


async def test_a_new_login_on_the_device_ends_them(server: Running) -> None:
    await server.person("alice")
    first = await log_in(server, device_id="PHONE")
    await log_in(server, device_id="PHONE")
    assert (await refresh(server, first["refresh_token"])).status == 401


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"refresh_token": 1}, 400, "M_BAD_JSON"),
        ({"refresh_token": ""}, 401, "M_UNKNOWN_TOKEN"),
        ({"refresh_token": "unknown"}, 401, "M_UNKNOWN_TOKEN"),
    ],
)
async def test_tokens_that_are_none(server: Running, body: Any, status: int, errcode: str) -> None:
    reply = await server.request("POST", f"{CLIENT}/refresh", body=body)
    assert (reply.status, reply.errcode) == (status, errcode)


async def test_an_access_token_refreshes_nothing(server: Running) -> None:
    await server.person("alice")
    first = await log_in(server)
    assert (await refresh(server, first["access_token"])).status == 401
    assert (await whoami(server, first["refresh_token"])).status == 401


class TestLifetimes:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"sessions": {"refreshed_minutes": 0, "token_days": 1, "refresh_days": 1}}

    async def test_each_is_what_is_configured(self, server: Running) -> None:
        await server.person("alice")
        refreshing = await log_in(server)
        plain = await log_in(server, refresh_token=False)
        assert "expires_in_ms" not in refreshing
        assert plain["expires_in_ms"] == 86_400_000
        await server.clock.advance(86_400)
        reply = await refresh(server, refreshing["refresh_token"])
        assert (reply.status, reply.body["soft_logout"]) == (401, True)
        assert (await whoami(server, plain["access_token"])).body["soft_logout"] is True
        assert (await whoami(server, refreshing["access_token"])).status == 200

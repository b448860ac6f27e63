"""Logging in and out, and what access tokens are good for."""

import asyncio
from typing import Any

import pytest

from tests.serving import CLIENT, PASSWORD, Person, Reply, Running

LOGIN = f"{CLIENT}/login"


async def login(server: Running, **body: Any) -> Reply:
    body = {"type": "m.login.password", "password": PASSWORD, **body}
    return await server.request("POST", LOGIN, body=body)


def user(name: str) -> dict[str, Any]:
    return {"identifier": {"type": "m.id.user", "user": name}}


async def whoami(server: Running, token: str) -> Reply:
    return await server.request("GET", f"{CLIENT}/account/whoami", token=token)


async def test_the_flows(server: Running) -> None:
    reply = await server.request("GET", LOGIN)
    assert reply.body == {"flows": [{"type": "m.login.password"}]}


@pytest.mark.parametrize(
    "named",
    [
        user("alice"),
        user("@alice:test.example"),
        user("ALICE"),
        user("@Alice:test.example"),
        {"user": "alice"},
        {"user": "@alice:test.example"},
    ],
)
async def test_all_ways_to_name_an_account(server: Running, named: Any) -> None:
    await server.person("alice")
    reply = await login(server, **named)
    assert reply.status == 200
    assert reply.body["user_id"] == "@alice:test.example"
    me = await whoami(server, reply.body["access_token"])
    assert me.body["user_id"] == "@alice:test.example"


async def test_a_wrong_password_and_an_unknown_account_look_the_same(server: Running) -> None:
    await server.person("alice")
    replies = [
        await login(server, **user("alice"), password="wrong"),
        await login(server, **user("nobody")),
        await login(server, **user("@alice:elsewhere.example")),
        await login(
            server,
            identifier={"type": "m.id.thirdparty", "medium": "email", "address": "a@example.org"},
        ),
        await login(server, identifier={"type": "m.id.phone", "country": "GB", "phone": "1"}),
        await login(server, medium="email", address="a@example.org"),
    ]
    assert {(reply.status, str(reply.body)) for reply in replies} == {(403, str(replies[0].body))}
    assert replies[0].errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"type": "m.login.unknown", **user("alice")}, "M_UNKNOWN"),
        ({"type": 1}, "M_BAD_JSON"),
        ({"password": None, **user("alice")}, "M_MISSING_PARAM"),
        ({}, "M_MISSING_PARAM"),
        ({"identifier": "alice"}, "M_BAD_JSON"),
        ({"identifier": {"type": "m.id.unknown"}}, "M_UNKNOWN"),
        ({"identifier": {"type": "m.id.user"}}, "M_MISSING_PARAM"),
        ({"identifier": {"type": "m.id.user", "user": 1}}, "M_BAD_JSON"),
        ({"identifier": {"type": "m.id.thirdparty"}}, "M_MISSING_PARAM"),
        ({"device_id": "x" * 256, **user("alice")}, "M_INVALID_PARAM"),
        ({"initial_device_display_name": "x" * 101, **user("alice")}, "M_TOO_LARGE"),
    ],
)
async def test_malformed_logins(server: Running, body: Any, errcode: str) -> None:
    await server.person("alice")
    reply = await login(server, **body)
    assert (reply.status, reply.errcode) == (400, errcode)


async def test_passwords_that_can_be_no_passwords_are_wrong(server: Running) -> None:
    await server.person("alice")
    for password in ("", "x" * 513, "x\n"):
        assert (await login(server, **user("alice"), password=password)).status == 403


async def test_an_account_is_closed_after_too_many_wrong_passwords(server: Running) -> None:
    server.app.limits.configure(True, server.config.limits.rates)
    await server.person("alice")
    await server.person("bob")
    for _ in range(10):
        assert (await login(server, **user("alice"), password="wrong")).status == 403
    refused = await login(server, **user("alice"))
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert refused.body["retry_after_ms"] > 0
    assert int(refused.headers["Retry-After"]) * 1000 >= refused.body["retry_after_ms"]
    assert (await login(server, **user("bob"))).status == 200
    await server.clock.advance(refused.body["retry_after_ms"] / 1000)
    assert (await login(server, **user("alice"))).status == 200


async def test_the_device_is_the_one_asked_for(server: Running) -> None:
    await server.person("alice")
    first = await login(
        server, **user("alice"), device_id="PHONE", initial_device_display_name="Old"
    )
    assert first.body["device_id"] == "PHONE"
    again = await login(
        server, **user("alice"), device_id="PHONE", initial_device_display_name="New"
    )
    assert (await whoami(server, first.body["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    device = await server.request(
        "GET", f"{CLIENT}/devices/PHONE", token=again.body["access_token"]
    )
    assert device.body["display_name"] == "Old"


async def test_at_once_on_one_device_one_session_stays(server: Running) -> None:
    await server.person("alice")
    replies = await asyncio.gather(
        *(login(server, **user("alice"), device_id="PHONE") for _ in range(5))
    )
    states = [(await whoami(server, reply.body["access_token"])).status for reply in replies]
    assert sorted(states) == [200, 401, 401, 401, 401]


async def test_logging_out_ends_the_session_and_its_device(server: Running) -> None:
    alice = await server.person("alice")
    other = (await login(server, **user("alice"))).body["access_token"]
    assert await alice.ok("POST", "/logout") == {}
    assert (await whoami(server, alice.token)).errcode == "M_UNKNOWN_TOKEN"
    devices = await server.request("GET", f"{CLIENT}/devices", token=other)
    assert alice.device_id not in [device["device_id"] for device in devices.body["devices"]]


async def test_logging_out_everywhere_ends_all_sessions_of_one_user(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    other = (await login(server, **user("alice"))).body["access_token"]
    await alice.ok("POST", "/logout/all")
    for token in (alice.token, other):
        reply = await whoami(server, token)
        assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")
        assert reply.body["soft_logout"] is False
    await bob.ok("GET", "/account/whoami")


async def test_sessions_survive_a_restart_and_logouts_too(server: Running) -> None:
    alice = await server.person("alice")
    other = (await login(server, **user("alice"))).body["access_token"]
    await alice.ok("POST", "/logout")
    await server.restart()
    assert (await whoami(server, other)).status == 200
    assert (await whoami(server, alice.token)).status == 401


async def test_tokens_may_come_in_the_query(server: Running) -> None:
    alice = await server.person("alice")
    reply = await server.request(
        "GET", f"{CLIENT}/account/whoami", query={"access_token": alice.token}
    )
    assert reply.body["user_id"] == alice.user_id


async def last_seen(server: Running, person: Person) -> Any:
    """The person's device after the minute in which uses are collected."""
    await server.clock.advance(61)
    # What is committed now comes after what was collected.
    await person.ok("PUT", f"/devices/{person.device_id}", body={"display_name": "Mine"})
    return await person.ok("GET", f"/devices/{person.device_id}")


async def test_devices_remember_when_they_were_seen(server: Running) -> None:
    alice = await server.person("alice")
    start = server.clock.now_ms()
    await alice.ok("GET", "/account/whoami")
    device = await last_seen(server, alice)
    assert (device["last_seen_ts"], device["last_seen_ip"]) == (start, "127.0.0.1")
    await alice.ok("GET", "/account/whoami")
    assert (await last_seen(server, alice))["last_seen_ts"] == start
    await server.clock.advance(300)
    await alice.ok("GET", "/account/whoami")
    assert (await last_seen(server, alice))["last_seen_ts"] == start + 422_000


async def test_a_device_that_was_seen_and_removed_stays_away(server: Running) -> None:
    alice = await server.person("alice")
    bob = await server.person("bob")
    await alice.ok("GET", "/account/whoami")
    await alice.ok("POST", "/logout")
    await last_seen(server, bob)
    token = (await login(server, **user("alice"))).body["access_token"]
    devices = await server.request("GET", f"{CLIENT}/devices", token=token)
    assert len(devices.body["devices"]) == 1

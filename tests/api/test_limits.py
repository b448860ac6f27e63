"""Rate limits as clients meet them."""

import asyncio
from typing import Any

import pytest

import client_api
from homeserver.http.endpoint import Client, endpoint_of
from homeserver.runtime.limits import NAMES
from tests.serving import CLIENT, Running

LOGIN = {"type": "m.login.password", "password": "wrong"}


@pytest.fixture
def settings() -> dict[str, Any]:
    return {
        "limits": {
            "enabled": True,
            "send": "6/min, 3 at once",
            "login_address": "6/min, 3 at once",
            "initial_sync": "6/min, 2 at once",
            "unknown_token": "6/min, 3 at once",
        }
    }


@pytest.fixture
async def limited(server: Running) -> Running:
    """The first account of a server is its administrator's, and has no limits."""
    await server.person("admin", admin=True)
    return server


async def test_a_flood_is_refused_and_told_when_to_come_again(limited: Running) -> None:
    alice, bob = await limited.person("alice"), await limited.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    for number in range(3):
        await alice.say(room_id, f"message {number}")
    path = f"/rooms/{room_id}/send/m.room.message/refused"
    refused = await alice.refused("M_LIMIT_EXCEEDED", "PUT", path, body={"body": "no"})
    assert refused.status == 429
    assert refused.body["retry_after_ms"] == 10_000
    assert refused.headers["Retry-After"] == "10"
    assert "send" in refused.body["error"]
    await bob.say(room_id, "others are not concerned")
    await alice.ok("GET", "/joined_rooms")
    await limited.clock.advance(10)
    await alice.say(room_id, "afterwards")
    texts = [
        event["content"]["body"]
        for event in (await bob.sync())["rooms"]["join"][room_id]["timeline"]["events"]
        if event["type"] == "m.room.message"
    ]
    assert "no" not in texts
    assert texts[-1] == "afterwards"


async def test_administrators_are_exempt(server: Running) -> None:
    await server.person("first")
    admin = await server.person("second", admin=True)
    room_id = await admin.create_room()
    for number in range(9):
        await admin.say(room_id, f"message {number}")


async def test_logins_are_counted_by_address(limited: Running) -> None:
    for number in range(3):
        body = {**LOGIN, "identifier": {"type": "m.id.user", "user": f"u{number}"}}
        assert (await limited.request("POST", f"{CLIENT}/login", body=body)).status == 403
    refused = await limited.request("POST", f"{CLIENT}/login", body=body)
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert (await limited.request("GET", f"{CLIENT}/login")).status == 200


async def test_first_syncs_are_counted_and_later_ones_not(limited: Running) -> None:
    alice = await limited.person("alice")
    for _ in range(2):
        await alice.sync(since=None)
    await alice.refused("M_LIMIT_EXCEEDED", "GET", "/sync")
    for _ in range(9):
        await alice.sync()


async def test_guessing_tokens_is_refused(limited: Running) -> None:
    alice = await limited.person("alice")
    replies = [
        (await limited.request("GET", f"{CLIENT}/joined_rooms", token=f"guess{number}")).errcode
        for number in range(4)
    ]
    assert replies == [*["M_UNKNOWN_TOKEN"] * 3, "M_LIMIT_EXCEEDED"]
    await alice.ok("GET", "/joined_rooms")


async def test_the_metrics_count_refusals(limited: Running) -> None:
    alice = await limited.person("alice")
    room_id = await alice.create_room()
    paths = [f"/rooms/{room_id}/send/m.room.message/{number}" for number in range(5)]
    await asyncio.gather(*(alice.raw("PUT", path, body={}) for path in paths))
    assert b'homeserver_limited_total{limit="send"} 2.0' in limited.app.metrics.render()


def test_every_class_of_requests_is_used_and_logins_never_count_as_others() -> None:
    from client_api import login

    declared = {endpoint.limit for endpoint in client_api.endpoints()}
    inside = {"login_account", "initial_sync", "push", "unknown_token"}
    of_servers = {"server_send", "server_join", "server_read", "server_read_heavy"}
    assert set(NAMES) == declared | inside | of_servers
    assert endpoint_of(login.login).limit == "login_address"
    for endpoint in client_api.endpoints():
        if isinstance(endpoint.auth, Client):
            assert endpoint.limit not in {"open", "registration", "login_address"}, endpoint.name

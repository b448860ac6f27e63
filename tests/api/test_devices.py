"""Devices: naming, listing, removing with the password."""

from typing import Any

import pytest

from tests.serving import CLIENT, PASSWORD, Person, Running


def password(name: str, text: str = PASSWORD) -> dict[str, Any]:
    return {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": name},
        "password": text,
    }


async def second_device(person: Person, device_id: str = "TWO") -> str:
    body = {
        "type": "m.login.password",
        "user": person.user_id,
        "password": PASSWORD,
        "device_id": device_id,
    }
    reply = await person.server.request("POST", f"{CLIENT}/login", body=body)
    return str(reply.body["access_token"])


async def test_devices_are_listed_and_named(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await second_device(alice)
    await alice.ok("PUT", "/devices/TWO", body={"display_name": "My phone"})
    devices = (await alice.ok("GET", "/devices"))["devices"]
    assert [device["device_id"] for device in devices] == [alice.device_id, "TWO"]
    assert (await alice.ok("GET", "/devices/TWO"))["display_name"] == "My phone"
    await alice.ok("PUT", "/devices/TWO", body={})
    assert (await alice.ok("GET", "/devices/TWO"))["display_name"] == "My phone"
    assert len((await bob.ok("GET", "/devices"))["devices"]) == 1


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_unknown_and_foreign_devices_are_not_found(server: Running, method: str) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    body = {"display_name": "x"} if method == "PUT" else None
    await alice.refused("M_NOT_FOUND", method, "/devices/NONE", body=body)
    await alice.refused("M_NOT_FOUND", method, f"/devices/{bob.device_id}", body=body)


async def test_names_have_a_limit(server: Running) -> None:
    alice = await server.person("alice")
    path = f"/devices/{alice.device_id}"
    await alice.refused("M_TOO_LARGE", "PUT", path, body={"display_name": "x" * 101})
    await alice.refused("M_BAD_JSON", "PUT", path, body={"display_name": 1})


async def test_removing_needs_the_password(server: Running) -> None:
    alice = await server.person("alice")
    token = await second_device(alice)
    first = await alice.raw("DELETE", "/devices/TWO")
    assert first.status == 401
    assert first.body["flows"] == [{"stages": ["m.login.password"]}]
    session = first.body["session"]
    auth = {**password("alice", "wrong"), "session": session}
    wrong = await alice.raw("DELETE", "/devices/TWO", body={"auth": auth})
    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    assert wrong.body["session"] == session
    auth = {**password("alice"), "session": session}
    assert await alice.ok("DELETE", "/devices/TWO", body={"auth": auth}) == {}
    reply = await server.request("GET", f"{CLIENT}/account/whoami", token=token)
    assert reply.errcode == "M_UNKNOWN_TOKEN"
    await alice.refused("M_NOT_FOUND", "GET", "/devices/TWO")


async def test_the_password_must_be_ones_own(server: Running) -> None:
    alice = await server.person("alice")
    await server.person("bob")
    await second_device(alice)
    reply = await alice.raw("DELETE", "/devices/TWO", body={"auth": password("bob")})
    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    await alice.ok("GET", "/devices/TWO")


async def test_a_proof_is_for_what_it_was_begun_for(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await second_device(alice)
    session = (await alice.raw("DELETE", "/devices/OTHER")).body["session"]
    for person, path in ((alice, "/devices/TWO"), (bob, "/devices/OTHER")):
        auth = {**password(person.user_id), "session": session}
        reply = await person.raw("DELETE", path, body={"auth": auth})
        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


async def test_several_are_removed_at_once(server: Running) -> None:
    alice = await server.person("alice")
    for device_id in ("TWO", "THREE"):
        await second_device(alice, device_id)
    body = {"devices": ["TWO", "THREE", "GONE"]}
    assert (await alice.raw("POST", "/delete_devices", body=body)).status == 401
    await alice.ok("POST", "/delete_devices", body={**body, "auth": password("alice")})
    assert len((await alice.ok("GET", "/devices"))["devices"]) == 1


async def test_removing_nothing_succeeds(server: Running) -> None:
    alice = await server.person("alice")
    await alice.ok("DELETE", "/devices/GONE", body={"auth": password("alice")})


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"devices": "TWO"}, "M_BAD_JSON"),
        ({"devices": [1]}, "M_BAD_JSON"),
        ({"devices": ["x"] * 1_001}, "M_INVALID_PARAM"),
        ({"devices": [], "auth": []}, "M_BAD_JSON"),
        ({"devices": [], "auth": {"type": "m.login.password"}}, "M_MISSING_PARAM"),
    ],
)
async def test_malformed_removals(server: Running, body: Any, errcode: str) -> None:
    alice = await server.person("alice")
    assert (await alice.refused(errcode, "POST", "/delete_devices", body=body)).status == 400

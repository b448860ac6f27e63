"""Stored filters."""

from typing import Any

import pytest

from tests.serving import Running

WANTED = {
    "room": {"timeline": {"limit": 10, "types": ["m.room.*"]}, "state": {"types": []}},
    "org.example.unknown": 1,
}


async def test_a_filter_is_stored_as_it_was_given(server: Running) -> None:
    alice = await server.person("alice")
    path = f"/user/{alice.user_id}/filter"
    filter_id = (await alice.ok("POST", path, body=WANTED))["filter_id"]
    assert not filter_id.startswith("{")
    assert await alice.ok("GET", f"{path}/{filter_id}") == WANTED
    await server.restart()
    assert await alice.ok("GET", f"{path}/{filter_id}") == WANTED


async def test_the_same_filter_has_the_same_id(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    path = f"/user/{alice.user_id}/filter"
    one = await alice.ok("POST", path, body=WANTED)
    again = await alice.ok("POST", path, body=dict(reversed(WANTED.items())))
    other = await alice.ok("POST", path, body={})
    assert one == again
    assert one != other
    await bob.refused("M_NOT_FOUND", "GET", f"/user/{bob.user_id}/filter/{one['filter_id']}")


@pytest.mark.parametrize("filter_id", ["1", "x", "-1", "9" * 30, "%7B%7D", "1.5", "٣"])
async def test_unknown_filters_are_not_found(server: Running, filter_id: str) -> None:
    alice = await server.person("alice")
    await alice.refused("M_NOT_FOUND", "GET", f"/user/{alice.user_id}/filter/{filter_id}")


async def test_filters_of_others_are_out_of_reach(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await alice.refused("M_FORBIDDEN", "POST", f"/user/{bob.user_id}/filter", body={})
    await alice.refused("M_FORBIDDEN", "GET", f"/user/{bob.user_id}/filter/1")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"room": []},
        {"room": {"timeline": {"limit": "x"}}},
        {"room": {"rooms": ["not a room"]}},
        {"presence": {"senders": [1]}},
        {"event_format": "xml"},
    ],
)
async def test_malformed_filters(server: Running, body: Any) -> None:
    alice = await server.person("alice")
    path = f"/user/{alice.user_id}/filter"
    assert (await alice.refused("M_BAD_JSON", "POST", path, body=body)).status == 400
    await alice.refused("M_NOT_JSON", "POST", path, data=b"nonsense")


async def test_filters_have_a_limit(server: Running) -> None:
    alice = await server.person("alice")
    body = {"org.example": "x" * 70_000}
    await alice.refused("M_TOO_LARGE", "POST", f"/user/{alice.user_id}/filter", body=body)


async def test_sync_takes_filters_by_id_and_inline(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    await alice.say(room_id, "hello")
    body = {"room": {"timeline": {"types": ["m.room.create"]}}}
    stored = await alice.ok("POST", f"/user/{alice.user_id}/filter", body=body)
    inline = '{"room":{"timeline":{"types":["m.room.create"]}}}'
    for given in (stored["filter_id"], inline):
        answer = await alice.sync(since=None, remember=False, filter=given)
        timeline = answer["rooms"]["join"][room_id]["timeline"]["events"]
        assert {event["type"] for event in timeline} <= {"m.room.create"}
    for given, errcode in (
        ("12345", "M_NOT_FOUND"),
        ("{", "M_NOT_JSON"),
        ('{"room":1}', "M_BAD_JSON"),
    ):
        await alice.refused(errcode, "GET", "/sync", query={"filter": given})

"""Account data and tags, and how they come down sync."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running


def path(person: Person, type_: str, room_id: str | None = None) -> str:
    room = f"/rooms/{quote(room_id, safe='')}" if room_id else ""
    return f"/user/{person.user_id}{room}/account_data/{quote(type_, safe='')}"


def tags(person: Person, room_id: str, tag: str = "") -> str:
    below = f"/{quote(tag, safe='')}" if tag else ""
    return f"/user/{person.user_id}/rooms/{quote(room_id, safe='')}/tags{below}"


def by_type(events: list[Any]) -> dict[str, Any]:
    return {event["type"]: event["content"] for event in events}


async def test_account_data_is_kept_and_replaced(server: Running) -> None:
    alice = await server.person("alice")
    where = path(alice, "org.example.ü/x")
    await alice.refused("M_NOT_FOUND", "GET", where)
    await alice.ok("PUT", where, body={"a": [1, 1.5, None], "ü": "ü"})
    assert await alice.ok("GET", where) == {"a": [1, 1.5, None], "ü": "ü"}


UNSTABLE = "/_matrix/client/unstable/org.matrix.msc3391"


@pytest.mark.parametrize("how", ["DELETE", "unstable", "PUT"])
@pytest.mark.parametrize("in_room", [False, True])
async def test_what_is_deleted_is_gone_and_announced_as_empty(
    server: Running, how: str, in_room: bool
) -> None:
    """MSC3391: devices that know it are told `{}`, new ones nothing."""
    alice = await server.person("alice")
    room_id = await alice.create_room()
    where = path(alice, "org.example", room_id if in_room else None)
    await alice.ok("PUT", where, body={"a": 1})
    await alice.sync()

    def told(answer: Any) -> dict[str, Any]:
        part = answer["rooms"]["join"][room_id] if in_room else answer
        return by_type(part["account_data"]["events"])

    async def delete() -> None:
        if how == "PUT":
            await alice.ok("PUT", where, body={})
        else:
            await alice.ok("DELETE", where if how == "DELETE" else UNSTABLE + where)

    await delete()
    await alice.refused("M_NOT_FOUND", "GET", where)
    since = alice.since
    for restarted in (False, True):
        if restarted:
            await server.restart()
        assert told(await alice.sync(since=since)) == {"org.example": {}}
        assert "org.example" not in str(await alice.sync(remember=False, since=None))
        old = await alice.ok("GET", "/initialSync")
        assert "org.example" not in str(old)
    await alice.refused("M_NOT_FOUND", "GET", where)
    await alice.ok("PUT", where, body={"a": 2})
    assert told(await alice.sync()) == {"org.example": {"a": 2}}


async def test_sliding_sync_tells_of_deletions_as_sync_does(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    wheres = [path(alice, "org.example", one) for one in (None, room_id)]
    body = {
        "lists": {"all": {"ranges": [[0, 9]], "required_state": [], "timeline_limit": 1}},
        "extensions": {"account_data": {"enabled": True}},
    }
    sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

    async def told(pos: str | None) -> tuple[str, str]:
        query = {} if pos is None else {"pos": pos}
        answer = await alice.ok("POST", sliding, body=body, query=query)
        return answer["pos"], str(answer["extensions"].get("account_data"))

    for where in wheres:
        await alice.ok("PUT", where, body={"a": 1})
    pos, shown = await told(None)
    assert shown.count("{'a': 1}") == 2
    for where in wheres:
        await alice.ok("DELETE", where)
    _, shown = await told(pos)
    assert shown.count("'org.example'") == 2
    assert "{'a': 1}" not in shown
    _, shown = await told(None)
    assert "org.example" not in shown


async def test_deleting_what_is_not_there_is_told_to_nobody(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await alice.sync()
    await alice.ok("DELETE", path(alice, "org.example"))
    await alice.ok("PUT", path(alice, "org.example"), body={"a": 1})
    await alice.ok("DELETE", path(alice, "org.example"))
    await alice.sync()
    await alice.ok("DELETE", path(alice, "org.example"))
    assert "account_data" not in await alice.sync()
    await alice.refused("M_FORBIDDEN", "DELETE", path(bob, "org.example"))
    for type_ in ("m.push_rules", "m.fully_read"):
        await alice.refused("M_BAD_JSON", "DELETE", path(alice, type_))


async def test_rooms_have_account_data_of_their_own(server: Running) -> None:
    alice = await server.person("alice")
    room_id, other = await alice.create_room(), await alice.create_room()
    await alice.ok("PUT", path(alice, "org.example", room_id), body={"in": "room"})
    assert await alice.ok("GET", path(alice, "org.example", room_id)) == {"in": "room"}
    await alice.refused("M_NOT_FOUND", "GET", path(alice, "org.example", other))
    await alice.refused("M_NOT_FOUND", "GET", path(alice, "org.example"))


async def test_it_comes_down_sync_to_its_user_alone(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    await alice.sync()
    await bob.sync()
    await alice.ok("PUT", path(alice, "org.example"), body={"n": 1})
    await alice.ok("PUT", path(alice, "org.example"), body={"n": 2})
    await alice.ok("PUT", path(alice, "org.example.room", room_id), body={"n": 3})
    answer = await alice.sync()
    assert by_type(answer["account_data"]["events"]) == {"org.example": {"n": 2}}
    room = answer["rooms"]["join"][room_id]
    assert by_type(room["account_data"]["events"]) == {"org.example.room": {"n": 3}}
    quiet = await bob.sync()
    assert "account_data" not in quiet
    assert "rooms" not in quiet
    again = by_type((await alice.sync(since=None))["account_data"]["events"])
    assert again["org.example"] == {"n": 2}


async def test_it_survives_a_restart(server: Running) -> None:
    alice = await server.person("alice")
    await alice.ok("PUT", path(alice, "org.example"), body={"n": 1})
    await server.restart()
    assert await alice.ok("GET", path(alice, "org.example")) == {"n": 1}


@pytest.mark.parametrize("type_", ["m.fully_read", "m.push_rules"])
async def test_what_the_server_keeps_itself_cannot_be_set(server: Running, type_: str) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    for where in (path(alice, type_), path(alice, type_, room_id)):
        assert (await alice.refused("M_BAD_JSON", "PUT", where, body={})).status == 405


async def test_push_rules_can_be_read_as_account_data(server: Running) -> None:
    alice = await server.person("alice")
    content = await alice.ok("GET", path(alice, "m.push_rules"))
    assert content == await alice.ok("GET", "/pushrules/")


async def test_account_data_of_others_is_out_of_reach(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await bob.create_room()
    for where in (path(bob, "x"), path(bob, "x", room_id), tags(bob, room_id)):
        await alice.refused("M_FORBIDDEN", "GET", where)
    for where in (path(bob, "x"), path(bob, "x", room_id), tags(bob, room_id, "x")):
        await alice.refused("M_FORBIDDEN", "PUT", where, body={})
    for unknown in (room_id, "!unknown:test.example"):
        await alice.refused("M_NOT_FOUND", "PUT", path(alice, "x", unknown), body={})
        await alice.refused("M_NOT_FOUND", "GET", path(alice, "x", unknown))
        await alice.refused("M_NOT_FOUND", "PUT", tags(alice, unknown, "x"), body={})
        await alice.refused("M_NOT_FOUND", "GET", tags(alice, unknown))


async def test_account_data_has_limits(server: Running) -> None:
    alice = await server.person("alice")
    large = {"x": "y" * 262_144}
    assert (await alice.refused("M_TOO_LARGE", "PUT", path(alice, "x"), body=large)).status == 413
    await alice.refused("M_INVALID_PARAM", "PUT", path(alice, "x" * 256), body={})
    assert (await alice.refused("M_BAD_JSON", "PUT", path(alice, "x"), body=[])).status == 400
    await alice.refused("M_NOT_JSON", "PUT", path(alice, "x"), data=b"{")


async def test_tags_are_put_replaced_and_removed(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    assert await alice.ok("GET", tags(alice, room_id)) == {"tags": {}}
    await alice.ok("PUT", tags(alice, room_id, "m.favourite"), body={"order": 0.5})
    await alice.ok("PUT", tags(alice, room_id, "u.Größe/1"), body={})
    await alice.ok("PUT", tags(alice, room_id, "m.favourite"), body={"order": 1})
    expected = {"tags": {"m.favourite": {"order": 1}, "u.Größe/1": {}}}
    assert await alice.ok("GET", tags(alice, room_id)) == expected
    await alice.ok("DELETE", tags(alice, room_id, "u.Größe/1"))
    await alice.ok("DELETE", tags(alice, room_id, "never there"))
    assert await alice.ok("GET", tags(alice, room_id)) == {"tags": {"m.favourite": {"order": 1}}}
    assert await alice.ok("GET", path(alice, "m.tag", room_id)) == {
        "tags": {"m.favourite": {"order": 1}}
    }


async def test_tags_put_at_once_are_all_kept(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    await alice.sync()
    names = {f"u.{number}" for number in range(20)}
    await asyncio.gather(*(alice.ok("PUT", tags(alice, room_id, name), body={}) for name in names))
    assert set((await alice.ok("GET", tags(alice, room_id)))["tags"]) == names
    room = (await alice.sync())["rooms"]["join"][room_id]
    assert set(by_type(room["account_data"]["events"])["m.tag"]["tags"]) == names


@pytest.mark.parametrize(
    ("tag", "body", "errcode"),
    [
        ("x" * 256, {}, "M_INVALID_PARAM"),
        ("u.x", {"order": "first"}, "M_BAD_JSON"),
        ("u.x", {"order": True}, "M_BAD_JSON"),
        ("u.x", [], "M_BAD_JSON"),
    ],
)
async def test_malformed_tags(server: Running, tag: str, body: Any, errcode: str) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    await alice.refused(errcode, "PUT", tags(alice, room_id, tag), body=body)


async def test_a_room_has_so_many_tags(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    content: dict[str, Any] = {"tags": {f"u.{number}": {} for number in range(500)}}
    await alice.ok("PUT", path(alice, "m.tag", room_id), body=content)
    await alice.refused("M_INVALID_PARAM", "PUT", tags(alice, room_id, "u.more"), body={})


async def test_tags_are_there_whatever_a_client_wrote_in_their_place(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    await alice.ok("PUT", path(alice, "m.tag", room_id), body={"tags": "none"})
    assert await alice.ok("GET", tags(alice, room_id)) == {"tags": {}}
    await alice.ok("PUT", tags(alice, room_id, "u.x"), body={})
    assert await alice.ok("GET", tags(alice, room_id)) == {"tags": {"u.x": {}}}


async def test_a_room_can_be_marked_as_unread(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    event_id = await alice.say(room_id, "hello")
    await alice.sync()
    path = f"/user/{alice.user_id}/rooms/{quote(room_id, safe='')}/account_data/m.marked_unread"
    for content in ({"unread": True}, {"unread": False}):
        await alice.ok("PUT", path, body=content)
        room = (await alice.sync())["rooms"]["join"][room_id]
        assert room["account_data"]["events"] == [{"type": "m.marked_unread", "content": content}]
        assert await alice.ok("GET", path) == content
    # Reading does not move it: that is for the client that shows the room.
    await alice.ok("PUT", path, body={"unread": True})
    markers = f"/rooms/{quote(room_id, safe='')}/read_markers"
    await alice.ok("POST", markers, body={"m.fully_read": event_id, "m.read": event_id})
    assert await alice.ok("GET", path) == {"unread": True}

"""The published room directory as clients see it."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms import public_rooms
from tests.serving import Person, Running

PATH = "/publicRooms"


async def publish(person: Person, name: str, **options: Any) -> str:
    return await person.create_room(visibility="public", preset="public_chat", name=name, **options)


async def search(person: Person, **wanted: Any) -> list[str]:
    body = await person.ok("POST", PATH, body={"filter": wanted})
    return [room.get("name", "") for room in body["chunk"]]


def names(page: Any) -> list[str]:
    return [room["name"] for room in page["chunk"]]


async def visibility(person: Person, room_id: str, value: str) -> None:
    path = f"/directory/list/room/{quote(room_id, safe='')}"
    await person.ok("PUT", path, body={"visibility": value})
    assert await person.ok("GET", path) == {"visibility": value}


async def test_an_entry_tells_what_a_stranger_needs(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await publish(
        alice,
        "Lounge",
        topic="Tea and cake",
        room_alias_name="lounge",
        creation_content={"type": "m.space"},
        initial_state=[
            {"type": "m.room.avatar", "content": {"url": "mxc://test.example/cake"}},
            {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}},
            {
                "type": "m.room.history_visibility",
                "content": {"history_visibility": "world_readable"},
            },
        ],
    )
    await alice.create_room(visibility="private", preset="public_chat", name="Unlisted")
    reply = await server.request("GET", "/_matrix/client/v3" + PATH)
    assert reply.body == {
        "chunk": [
            {
                "room_id": room_id,
                "name": "Lounge",
                "topic": "Tea and cake",
                "avatar_url": "mxc://test.example/cake",
                "canonical_alias": "#lounge:test.example",
                "room_type": "m.space",
                "join_rule": "public",
                "guest_can_join": True,
                "world_readable": True,
                "num_joined_members": 1,
            }
        ],
        "total_room_count_estimate": 1,
    }


async def test_what_a_room_lacks_is_left_out(server: Running) -> None:
    alice = await server.person("alice")
    await alice.create_room(visibility="public")
    (entry,) = (await alice.ok("GET", PATH))["chunk"]
    assert entry.keys() == {
        "room_id",
        "num_joined_members",
        "world_readable",
        "guest_can_join",
        "join_rule",
    }


async def test_rooms_enter_and_leave_the_directory(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    admin = await server.person("admin", admin=True)
    room_id = await alice.create_room(preset="public_chat", name="Lounge")
    await bob.join(room_id)
    path = f"/directory/list/room/{quote(room_id, safe='')}"
    await bob.refused("M_FORBIDDEN", "PUT", path, body={"visibility": "public"})
    assert await bob.ok("GET", path) == {"visibility": "private"}
    await visibility(alice, room_id, "public")
    assert names(await bob.ok("GET", PATH)) == ["Lounge"]
    await visibility(admin, room_id, "private")
    assert names(await bob.ok("GET", PATH)) == []
    await bob.refused("M_BAD_JSON", "PUT", path, body={"visibility": "secret"})
    for method in ("GET", "PUT"):
        await bob.refused("M_NOT_FOUND", method, "/directory/list/room/!no:test.example", body={})


async def test_rooms_that_no_stranger_may_enter_or_read_are_not_listed(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room(visibility="public", preset="private_chat", name="Den")
    assert names(await alice.ok("GET", PATH)) == []
    await alice.put_state(
        room_id, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    assert names(await alice.ok("GET", PATH)) == ["Den"]
    empty = await publish(alice, "Empty")
    await alice.ok("POST", f"/rooms/{quote(empty, safe='')}/leave")
    assert names(await alice.ok("GET", PATH)) == ["Den"]


async def test_pages_lead_both_ways(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    for number in range(5):
        room_id = await publish(alice, str(number))
        if number == 1:
            await bob.join(room_id)
    first = await alice.ok("GET", PATH, query={"limit": 2})
    assert names(first) == ["1", "4"]
    assert "prev_batch" not in first
    second = await alice.ok("GET", PATH, query={"limit": 2, "since": first["next_batch"]})
    assert names(second) == ["3", "2"]
    third = await alice.ok("GET", PATH, query={"limit": 2, "since": second["next_batch"]})
    assert names(third) == ["0"]
    assert "next_batch" not in third
    assert third["total_room_count_estimate"] == 5
    back = await alice.ok("GET", PATH, query={"limit": 2, "since": third["prev_batch"]})
    assert names(back) == ["3", "2"]
    again = await alice.ok("GET", PATH, query={"limit": 2, "since": back["prev_batch"]})
    assert names(again) == ["1", "4"]
    assert "prev_batch" not in again
    onward = await alice.ok("GET", PATH, query={"limit": 9, "since": again["next_batch"]})
    assert names(onward) == ["3", "2", "0"]


async def test_a_token_holds_while_rooms_come_and_go(server: Running) -> None:
    alice = await server.person("alice")
    rooms = [await publish(alice, str(number)) for number in range(4)]
    first = await alice.ok("POST", PATH, body={"limit": 2})
    assert names(first) == ["3", "2"]
    await publish(alice, "4")
    await visibility(alice, rooms[2], "private")
    rest = await alice.ok("POST", PATH, body={"limit": 2, "since": first["next_batch"]})
    assert names(rest) == ["1", "0"]
    back = await alice.ok("POST", PATH, body={"limit": 5, "since": rest["prev_batch"]})
    assert names(back) == ["4", "3"]
    for room_id in (rooms[1], rooms[0]):
        await visibility(alice, room_id, "private")
    gone = await alice.ok("POST", PATH, body={"since": first["next_batch"]})
    assert names(gone) == []
    assert names(await alice.ok("POST", PATH, body={"since": gone["prev_batch"]})) == ["4", "3"]


async def test_search_looks_at_name_topic_and_alias_in_any_language(server: Running) -> None:
    alice = await server.person("alice")
    await publish(alice, "Straße")
    await publish(alice, "ОБЩИЙ чат", topic="О погоде")
    await publish(alice, "ｗｉｄｅ", room_alias_name="kitchen_sink")
    await publish(alice, "Café")
    for term, found in (
        ("STRASSE", ["Straße"]),
        ("общий", ["ОБЩИЙ чат"]),
        ("ПОГОДЕ", ["ОБЩИЙ чат"]),
        ("wide", ["ｗｉｄｅ"]),
        ("#Kitchen_", ["ｗｉｄｅ"]),
        ("cafe\u0301", ["Café"]),
        (" café ", ["Café"]),
        ("%", []),
        ("tea", []),
    ):
        assert await search(alice, generic_search_term=term) == found
    assert len(await search(alice, generic_search_term="")) == 4
    too_long = {"filter": {"generic_search_term": "x" * 1001}}
    await alice.refused("M_INVALID_PARAM", "POST", PATH, body=too_long)


async def test_rooms_are_chosen_by_type(server: Running) -> None:
    alice = await server.person("alice")
    await publish(alice, "plain")
    await publish(alice, "space", creation_content={"type": "m.space"})
    await publish(alice, "other", creation_content={"type": "org.example"})
    assert await search(alice, room_types=["m.space"]) == ["space"]
    assert await search(alice, room_types=[None, "org.example"]) == ["other", "plain"]
    assert await search(alice, room_types=[]) == []
    assert await search(alice, room_types=None) == ["other", "space", "plain"]
    assert await search(alice, room_types=[None], generic_search_term="o") == []


async def test_a_search_is_paged_and_bounded(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_rooms, "_SEARCHED_AT_ONCE", 2)
    monkeypatch.setattr(public_rooms, "MOST_SEARCHED", 4)
    alice = await server.person("alice")
    for name in ("cat 1", "dog 1", "dog 2", "cat 2", "dog 3", "dog 4", "cat 3"):
        await publish(alice, name)

    async def page(since: str | None, limit: int = 2) -> Any:
        wanted = {"filter": {"generic_search_term": "CAT"}, "limit": limit, "since": since}
        return await alice.ok("POST", PATH, body=wanted)

    first = await page(None)
    assert names(first) == ["cat 3", "cat 2"]
    second = await page(first["next_batch"])
    assert names(second) == ["cat 1"]
    assert "next_batch" not in second
    back = await page(second["prev_batch"])
    assert names(back) == ["cat 2"]
    assert names(await page(back["prev_batch"])) == ["cat 3"]
    assert names(await page(None, limit=1)) == ["cat 3"]


async def test_no_page_is_longer_than_the_server_allows(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_rooms, "MOST_ROOMS", 2)
    alice = await server.person("alice")
    for number in range(3):
        await publish(alice, str(number))
    for query in ({}, {"limit": 0}, {"limit": 1_000_000}):
        page = await alice.ok("GET", PATH, query=query)
        assert names(page) == ["2", "1"]
        assert "next_batch" in page


async def test_what_cannot_be_answered_is_refused(server: Running) -> None:
    alice = await server.person("alice")
    await publish(alice, "Lounge")
    for since in ("x", "p1_f_1", "p1_f_1_99999999999999999999"):
        await alice.refused("M_INVALID_PARAM", "GET", PATH, query={"since": since})
    await alice.refused("M_INVALID_PARAM", "GET", PATH, query={"limit": -1})
    await alice.refused("M_BAD_JSON", "POST", PATH, body={"filter": {"room_types": [1]}})
    assert names(await alice.ok("GET", PATH, query={"server": "test.example"})) == ["Lounge"]
    query = {"server": "nowhere.invalid"}
    await alice.refused("M_UNKNOWN", "POST", PATH, query=query, body={})
    await alice.refused("M_INVALID_PARAM", "GET", PATH, query={"server": "no server"})
    reply = await server.request("POST", "/_matrix/client/v3" + PATH, body={})
    assert reply.errcode == "M_MISSING_TOKEN"


async def test_rooms_of_a_bridged_network_are_asked_for_apart(server: Running) -> None:
    alice = await server.person("alice")
    await publish(alice, "Lounge")
    assert names(await alice.ok("POST", PATH, body={"include_all_networks": True})) == ["Lounge"]
    assert names(await alice.ok("POST", PATH, body={"third_party_instance_id": "irc"})) == []
    both = {"include_all_networks": True, "third_party_instance_id": "irc"}
    await alice.refused("M_INVALID_PARAM", "POST", PATH, body=both)

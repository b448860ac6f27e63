"""Profiles, aliases, directories and OpenID tokens across servers.

spec: server-server-api#querying-for-information, server-server-api#openid
"""

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from tests.federation.house import House, house
from tests.federation.internet import nothing_here
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("queries")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(made: House) -> tuple[Person, Person]:
    """Alice is of one server, Bob of the other."""
    a, b = made.servers.values()
    return await a.person("alice"), await b.person("bob")


async def test_profiles_of_other_servers(people: tuple[Person, Person]) -> None:
    alice, bob = people
    profile = f"/profile/{alice.user_id}"
    await alice.ok("PUT", f"{profile}/displayname", body={"displayname": "Alice"})
    await alice.ok("PUT", f"{profile}/m.tz", body={"m.tz": "Europe/London"})
    assert await bob.ok("GET", profile) == {"displayname": "Alice", "m.tz": "Europe/London"}
    assert await bob.ok("GET", f"{profile}/displayname") == {"displayname": "Alice"}
    await bob.refused("M_NOT_FOUND", "GET", f"{profile}/avatar_url")
    await bob.refused("M_NOT_FOUND", "GET", "/profile/@nobody:a.example")
    await bob.refused("M_UNKNOWN", "GET", "/profile/@nobody:nowhere.example")


async def test_rooms_are_found_by_aliases_of_other_servers(people: tuple[Person, Person]) -> None:
    alice, bob = people
    room = await alice.create_room(preset="public_chat", room_alias_name="here")
    alias = quote("#here:a.example")
    found = await bob.ok("GET", f"/directory/room/{alias}")
    assert found == {"room_id": room, "servers": ["a.example"]}
    joined = await bob.ok("POST", f"/join/{alias}", body={})
    assert joined == {"room_id": room}
    found = await alice.ok("GET", f"/directory/room/{alias}")
    assert found == {"room_id": room, "servers": ["a.example", "b.example"]}
    await bob.refused("M_NOT_FOUND", "GET", f"/directory/room/{quote('#none:a.example')}")
    await bob.refused("M_NOT_FOUND", "POST", f"/join/{quote('#none:a.example')}", body={})


async def test_directories_of_other_servers(people: tuple[Person, Person]) -> None:
    alice, bob = people
    for name in ("Cats", "Dogs"):
        await alice.create_room(preset="public_chat", visibility="public", name=name)
    page = await bob.ok("GET", "/publicRooms?server=a.example&limit=1")
    assert len(page["chunk"]) == 1
    rest = await bob.ok(
        "GET", "/publicRooms", query={"server": "a.example", "since": page["next_batch"]}
    )
    names = {room["name"] for room in [*page["chunk"], *rest["chunk"]] if "name" in room}
    assert names == {"Cats", "Dogs"}
    body = {"filter": {"generic_search_term": "cat"}}
    found = await bob.ok("POST", "/publicRooms?server=a.example", body=body)
    assert [room["name"] for room in found["chunk"]] == ["Cats"]
    reply = await bob.server.request("GET", "/_matrix/client/v3/publicRooms?server=a.example")
    assert reply.errcode == "M_MISSING_TOKEN"


async def test_openid_tokens_name_their_user_to_anybody(
    made: House, people: tuple[Person, Person]
) -> None:
    alice, bob = people
    path = f"/user/{alice.user_id}/openid/request_token"
    token = await alice.ok("POST", path, body={})
    assert token["matrix_server_name"] == "a.example"
    assert token["token_type"] == "Bearer"
    guest = await made.guest("third.example")
    a = made.servers["a.example"]
    target = "/_matrix/federation/v1/openid/userinfo?access_token="
    reply = await guest.request(a, "GET", target + token["access_token"])
    assert (reply.status, reply.body) == (200, {"sub": alice.user_id})
    forged = token["access_token"][:-4] + "AAAA"
    for wrong in (forged, "", "x", alice.token):
        reply = await guest.request(a, "GET", target + quote(wrong))
        assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")
    await bob.refused("M_FORBIDDEN", "POST", path, body={})


async def test_spaces_of_other_servers_are_walked(people: tuple[Person, Person]) -> None:
    alice, bob = people
    space = await alice.create_room(
        preset="public_chat", name="Space", creation_content={"type": "m.space"}
    )
    open_room = await alice.create_room(preset="public_chat", name="Open")
    closed_room = await alice.create_room(name="Closed")
    for room in (open_room, closed_room):
        await alice.put_state(space, "m.space.child", {"via": ["a.example"]}, room)
    await bob.ok("POST", f"/join/{space}?via=a.example", body={})
    path = f"/_matrix/client/v1/rooms/{quote(space)}/hierarchy"
    found = await bob.ok("GET", path)
    assert [room["name"] for room in found["rooms"]] == ["Space", "Open"]
    summary = f"/_matrix/client/v1/room_summary/{quote(open_room)}?via=a.example"
    assert (await bob.ok("GET", summary))["name"] == "Open"
    await bob.refused("M_NOT_FOUND", "GET", summary.replace(quote(open_room), quote(closed_room)))


async def test_what_another_server_says_of_a_space_is_asked_once_for_all(
    made: House, people: tuple[Person, Person]
) -> None:
    alice, _ = people
    far, absent = "!far:third.example", "!absent:third.example"
    guest = made.guests.get("third.example") or await made.guest("third.example")
    told = {
        "room_id": far,
        "room_type": "m.space",
        "name": "Far",
        "join_rule": "public",
        "guest_can_join": False,
        "world_readable": False,
        "num_joined_members": 1,
        "children_state": [],
    }

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if quote(far, safe="") in request.raw_path:
            return web.json_response({"room": told, "children": [], "inaccessible_children": []})
        return await nothing_here(request)

    guest.answer = answer
    space = await alice.create_room(preset="public_chat", creation_content={"type": "m.space"})
    for room in (far, absent):
        await alice.put_state(space, "m.space.child", {"via": ["third.example"]}, room)
    carol = await made.servers["a.example"].person("carol")
    await carol.join(space)

    async def walk(person: Person) -> list[str]:
        path = f"/_matrix/client/v1/rooms/{quote(space)}/hierarchy"
        return [room["room_id"] for room in (await person.ok("GET", path))["rooms"]]

    def asked() -> int:
        return sum("/hierarchy/" in seen.target for seen in guest.seen)

    for person in (alice, carol, alice):
        assert await walk(person) == [space, far]
        assert asked() == 2


async def test_a_closed_space_is_told_to_no_stranger(
    made: House, people: tuple[Person, Person]
) -> None:
    alice, _ = people
    space = await alice.create_room(creation_content={"type": "m.space"})
    guest = made.guests.get("third.example") or await made.guest("third.example")
    target = f"/_matrix/federation/v1/hierarchy/{quote(space)}"
    reply = await guest.request(made.servers["a.example"], "GET", target)
    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")

"""Room aliases and the canonical alias."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Reply, Running

CANONICAL = "m.room.canonical_alias"
LOUNGE = "#lounge:test.example"


def at(alias: str) -> str:
    return f"/directory/room/{quote(alias, safe='')}"


def of(room_id: str, rest: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}/{rest}"


async def put(person: Person, alias: str, room_id: str) -> None:
    await person.ok("PUT", at(alias), body={"room_id": room_id})


async def canonical(person: Person, room_id: str) -> Any:
    return await person.ok("GET", of(room_id, f"state/{CANONICAL}/"))


async def set_canonical(person: Person, room_id: str, content: Any) -> Reply:
    return await person.raw("PUT", of(room_id, f"state/{CANONICAL}/"), body=content)


async def test_an_alias_leads_to_its_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await put(alice, LOUNGE, room_id)
    reply = await server.request("GET", "/_matrix/client/v3" + at(LOUNGE))
    assert reply.body == {"room_id": room_id, "servers": ["test.example"]}
    await bob.ok("POST", f"/join/{quote(LOUNGE, safe='')}", body={})
    assert await bob.ok("GET", of(room_id, "aliases")) == {"aliases": [LOUNGE]}
    await bob.refused("M_NOT_FOUND", "GET", at("#nobody:test.example"))
    await bob.refused("M_UNKNOWN", "GET", at("#lounge:nowhere.invalid"))


async def test_an_alias_belongs_to_one_room(server: Running) -> None:
    alice = await server.person("alice")
    first, second = [await alice.create_room() for _ in range(2)]
    await put(alice, LOUNGE, first)
    for room_id in (first, second):
        reply = await alice.refused("M_UNKNOWN", "PUT", at(LOUNGE), body={"room_id": room_id})
        assert reply.status == 409
    body = {"room_alias_name": "lounge"}
    await alice.refused("M_ROOM_IN_USE", "POST", "/createRoom", body=body)
    assert (await alice.ok("GET", at(LOUNGE)))["room_id"] == first


@pytest.mark.parametrize(
    "alias",
    [
        "#lounge:else.where",
        "lounge",
        "#lounge",
        "#:test.example",
        "#" + "é" * 122 + ":test.example",
    ],
)
async def test_what_is_no_alias_of_this_server_is_refused(server: Running, alias: str) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    await alice.refused("M_INVALID_PARAM", "PUT", at(alias), body={"room_id": room_id})


async def test_an_alias_has_at_most_255_bytes(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    alias = "#" + "é" * 120 + "x:test.example"
    assert len(alias.encode()) == 255
    await put(alice, alias, room_id)
    assert (await alice.ok("GET", at(alias)))["room_id"] == room_id
    for name in ("x" * 242, "", "a:b", "\0"):
        assert (
            await alice.raw("POST", "/createRoom", body={"room_alias_name": name})
        ).status == 400


async def test_only_members_give_a_room_an_alias(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    for unknown in (room_id, "!no:test.example"):
        await bob.refused("M_FORBIDDEN", "PUT", at(LOUNGE), body={"room_id": unknown})
    await bob.join(room_id)
    await put(bob, LOUNGE, room_id)
    await bob.refused("M_MISSING_PARAM", "PUT", at(LOUNGE), body={})
    await bob.refused("M_INVALID_PARAM", "PUT", at(LOUNGE), body={"room_id": "room"})


async def test_who_may_remove_an_alias(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    admin = await server.person("admin", admin=True)
    room_id = await alice.create_room(preset="public_chat")
    for person in (bob, carol):
        await person.join(room_id)
    for remover, status in ((carol, 403), (bob, 200), (alice, 200), (admin, 200)):
        if status == 200:
            await bob.raw("PUT", at(LOUNGE), body={"room_id": room_id})
        else:
            await put(bob, LOUNGE, room_id)
        assert (await remover.raw("DELETE", at(LOUNGE))).status == status
    await bob.refused("M_NOT_FOUND", "DELETE", at(LOUNGE))
    await bob.refused("M_NOT_FOUND", "GET", at(LOUNGE))


async def test_the_list_of_aliases_is_for_members_and_readable_rooms(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat", room_alias_name="lounge")
    await bob.refused("M_FORBIDDEN", "GET", of(room_id, "aliases"))
    await bob.join(room_id)
    assert await bob.ok("GET", of(room_id, "aliases")) == {"aliases": [LOUNGE]}
    await bob.ok("POST", of(room_id, "leave"))
    await bob.refused("M_FORBIDDEN", "GET", of(room_id, "aliases"))
    readable = {"history_visibility": "world_readable"}
    await alice.put_state(room_id, "m.room.history_visibility", readable)
    assert await bob.ok("GET", of(room_id, "aliases")) == {"aliases": [LOUNGE]}


async def test_a_canonical_alias_must_lead_to_the_room(server: Running) -> None:
    alice = await server.person("alice")
    room_id, other = [await alice.create_room() for _ in range(2)]
    await put(alice, LOUNGE, room_id)
    await put(alice, "#other:test.example", other)
    content = {"alias": LOUNGE, "alt_aliases": [LOUNGE]}
    assert (await set_canonical(alice, room_id, content)).status == 200
    for bad in ("#other:test.example", "#nowhere:test.example", "#lounge:else.where"):
        for wanted in ({"alias": bad}, {**content, "alt_aliases": [LOUNGE, bad]}):
            reply = await set_canonical(alice, room_id, wanted)
            assert (reply.status, reply.errcode) == (400, "M_BAD_ALIAS")
    assert await canonical(alice, room_id) == content


@pytest.mark.parametrize(
    "content",
    [
        {"alias": "lounge"},
        {"alias": 7},
        {"alt_aliases": "#lounge:test.example"},
        {"alt_aliases": [7]},
        {"alt_aliases": [""]},
        {"alt_aliases": ["#x"]},
        {"alt_aliases": [f"#{number}:test.example" for number in range(101)]},
    ],
)
async def test_a_malformed_canonical_alias_is_refused(server: Running, content: Any) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    reply = await set_canonical(alice, room_id, content)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    state = [{"type": CANONICAL, "content": content}]
    await alice.refused("M_INVALID_PARAM", "POST", "/createRoom", body={"initial_state": state})
    for nothing in ({}, {"alias": None}, {"alias": ""}):
        assert (await set_canonical(alice, room_id, nothing)).status == 200


async def test_aliases_that_were_there_before_are_not_asked_again(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    for alias in (LOUNGE, "#bar:test.example"):
        await put(bob, alias, room_id)
    await set_canonical(alice, room_id, {"alias": LOUNGE, "alt_aliases": ["#bar:test.example"]})
    # Bob may remove the aliases that he has made, but not change the event that names them.
    for alias in (LOUNGE, "#bar:test.example"):
        await bob.ok("DELETE", at(alias))
    assert await canonical(alice, room_id) == {
        "alias": LOUNGE,
        "alt_aliases": ["#bar:test.example"],
    }
    assert (await set_canonical(alice, room_id, {"alias": LOUNGE})).status == 200
    reply = await set_canonical(alice, room_id, {"alt_aliases": ["#bar:test.example"]})
    assert reply.errcode == "M_BAD_ALIAS"


async def test_a_removed_alias_is_taken_from_the_canonical_ones(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room(room_alias_name="lounge")
    assert await canonical(alice, room_id) == {"alias": LOUNGE}
    await put(alice, "#bar:test.example", room_id)
    await put(alice, "#tea:test.example", room_id)
    await set_canonical(
        alice,
        room_id,
        {"alias": LOUNGE, "alt_aliases": ["#bar:test.example", "#tea:test.example"], "x.y": 1},
    )
    await alice.ok("DELETE", at("#bar:test.example"))
    left = {"alias": LOUNGE, "alt_aliases": ["#tea:test.example"], "x.y": 1}
    assert await canonical(alice, room_id) == left
    await alice.ok("DELETE", at(LOUNGE))
    await alice.ok("DELETE", at("#tea:test.example"))
    assert await canonical(alice, room_id) == {"x.y": 1}


async def test_a_new_room_names_no_alias_but_its_own(server: Running) -> None:
    alice = await server.person("alice")
    own = {"type": CANONICAL, "content": {"alias": LOUNGE}}
    await alice.refused("M_BAD_ALIAS", "POST", "/createRoom", body={"initial_state": [own]})
    room_id = await alice.create_room(room_alias_name="lounge", initial_state=[own])
    assert await canonical(alice, room_id) == {"alias": LOUNGE}
    await alice.refused("M_BAD_ALIAS", "POST", "/createRoom", body={"initial_state": [own]})

"""The user directory finds who may be found, and nobody else."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running


async def found(person: Person, term: str, **more: Any) -> list[str]:
    body = {"search_term": term, **more}
    reply = await person.ok("POST", "/user_directory/search", body=body)
    return [entry["user_id"] for entry in reply["results"]]


async def named(person: Person, name: str) -> None:
    path = f"/profile/{quote(person.user_id, safe='')}/displayname"
    await person.ok("PUT", path, body={"displayname": name})


@pytest.mark.parametrize("term", ["MARG", "arga", "hamil", "Margaret Ham", "  peggy ", "@peggy:te"])
async def test_users_are_found_by_parts_of_name_and_id(server: Running, term: str) -> None:
    alice, peggy = await server.person("alice"), await server.person("peggy")
    await named(peggy, "Margaret Hamilton")
    assert await found(alice, term) == [peggy.user_id]
    assert await found(alice, "ham%il") == []
    assert await found(alice, "h_mil") == []


async def test_names_in_other_scripts_and_their_changes(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await named(bob, "王小明 ÄÖ")
    assert await found(alice, "小明") == [bob.user_id]
    assert await found(alice, "äö") == [bob.user_id]
    await named(bob, "Robert")
    assert await found(alice, "小明") == []
    assert await found(alice, "robert") == [bob.user_id]


async def test_who_fits_best_comes_first_and_the_rest_is_cut(server: Running) -> None:
    alice = await server.person("alice")
    people = {name: await server.person(name) for name in ("xanna", "anna", "annabel")}
    order = [people[name].user_id for name in ("anna", "annabel", "xanna")]
    assert await found(alice, "anna") == order
    body = {"search_term": "anna", "limit": 2}
    reply = await alice.ok("POST", "/user_directory/search", body=body)
    assert reply["limited"] is True
    assert len(reply["results"]) == 2
    assert await found(alice, "anna", limit=0) == []
    assert await found(alice, "") == []


async def test_who_fits_best_is_found_however_many_fit(server: Running) -> None:
    alice = await server.person("alice")
    body: dict[str, Any] = {"ignored_users": {}}
    for number in range(4):
        body["ignored_users"][(await server.person(f"joannab{number}")).user_id] = {}
    others = [(await server.person(f"joanna{number}")).user_id for number in range(3)]
    anna, annabel, named_so = [await server.person(name) for name in ("anna", "annabel", "x")]
    await named(named_so, "Anna")
    first = [anna.user_id, named_so.user_id]
    assert await found(alice, "anna", limit=2) == first
    assert await found(alice, "anna", limit=3) == [*first, annabel.user_id]
    user = quote(alice.user_id, safe="")
    await alice.ok("PUT", f"/user/{user}/account_data/m.ignored_user_list", body=body)
    assert await found(alice, "anna", limit=6) == [*first, annabel.user_id, *others]


async def test_gone_and_ignored_users_are_not_found(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    body: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    user = quote(alice.user_id, safe="")
    await alice.ok("PUT", f"/user/{user}/account_data/m.ignored_user_list", body=body)
    assert await found(alice, "bob") == []
    carol = await server.person("carol")
    admin = await server.person("admin", admin=True)
    assert await found(alice, "carol") == [carol.user_id]
    path = f"/_synapse/admin/v1/deactivate/{quote(carol.user_id, safe='')}"
    reply = await admin.raw("POST", path, body={"erase": False})
    assert reply.status == 200, reply.body
    assert await found(alice, "carol") == []

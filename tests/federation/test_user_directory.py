"""The user directory knows those users of other servers whom one can meet, and nobody else.

spec: client-server-api#user-directory
"""

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme

from tests.federation.house import House, house, until
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("directory")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


async def found(person: Person, term: str) -> dict[str, str | None]:
    """Who is found, with the names that are shown."""
    reply = await person.ok("POST", "/user_directory/search", body={"search_term": term})
    return {entry["user_id"]: entry.get("display_name") for entry in reply["results"]}


async def test_users_of_other_servers_are_found_by_those_who_share_a_room(made: House) -> None:
    a, b = made.servers.values()
    alice, carol, bob = await a.person("alice"), await a.person("carol"), await b.person("bob")
    dave = await b.person("dave")
    await bob.ok("PUT", f"/profile/{bob.user_id}/displayname", body={"displayname": "Bobby Tables"})
    room = await alice.create_room()
    for guest in (bob, dave):
        await alice.ok("POST", f"/rooms/{quote(room)}/invite", body={"user_id": guest.user_id})
    assert await found(alice, "bob") == {}  # an invite is not yet a meeting
    await bob.ok("POST", f"/join/{quote(room)}", body={})
    for term in ("tables", "@bob", "b.example"):
        assert await found(alice, term) == {bob.user_id: "Bobby Tables"}, term
    assert await found(carol, "tables") == {}
    # It is the same seen from the other side.
    assert alice.user_id in await found(bob, "a.example")
    assert await found(dave, "a.example") == {}

    async def unknown() -> bool:
        return await found(alice, "tables") == {}

    await bob.ok("POST", f"/rooms/{quote(room)}/leave", body={})
    await until(unknown)


async def test_who_is_in_a_public_room_is_found_by_all(made: House) -> None:
    a, b = made.servers.values()
    erin, frank, gina = await a.person("erin"), await a.person("frank"), await b.person("gina")
    room = await erin.create_room(preset="public_chat")
    await gina.ok("POST", f"/join/{quote(room)}?via=a.example", body={})
    assert await found(frank, "gina") == {gina.user_id: None}
    await erin.put_state(room, "m.room.join_rules", {"join_rule": "invite"})
    assert await found(frank, "gina") == {}
    assert await found(erin, "gina") == {gina.user_id: None}
    await erin.put_state(
        room, "m.room.history_visibility", {"history_visibility": "world_readable"}
    )
    assert await found(frank, "gina") == {gina.user_id: None}

"""A ban with `redact_events` counts on every server, for history that comes later too (MSC4293)."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import trustme

from tests.federation.house import House, heard, house
from tests.federation.test_history import whole
from tests.rooms.paths import at
from tests.rooms.test_mass_redaction import FLAG, until_texts

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("mass")) as house_made:
        await house_made.start("a.example", "b.example", "c.example")
        yield house_made


async def test_other_servers_do_the_same_also_with_history(made: House) -> None:
    alice, bob, ben, carol = [
        await made.servers[f"{server}.example"].person(name)
        for server, name in (("a", "alice"), ("b", "bob"), ("b", "ben"), ("c", "carol"))
    ]
    room = await alice.create_room(preset="public_chat", room_version="11")
    for person in (bob, ben):
        await person.ok("POST", f"/join/{room}?via=a.example", body={})
    await heard(alice, room, await bob.say(room, "spam"))
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id, FLAG: True})
    await heard(ben, room, await alice.say(room, "clean"))
    for person in (alice, ben):
        await until_texts(person, room, ["clean"])
    # Carol's server comes to a room in which all this is in the past.
    await carol.ok("POST", f"/join/{room}?via=a.example", body={})
    shown = await whole(carol, room)
    assert [one["content"]["body"] for one in shown if "body" in one["content"]] == ["clean"]
    gone = next(
        one for one in shown if (one["sender"], one["type"]) == (bob.user_id, "m.room.message")
    )
    assert gone["unsigned"]["redacted_because"]["sender"] == alice.user_id

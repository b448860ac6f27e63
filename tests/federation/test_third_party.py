"""Third-party invites become invites once an identity server has signed for whom they are.

spec: server-server-api#third-party-invites
"""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme

from homeserver.matrix.canonical import JsonObject, encode_unpadded
from homeserver.matrix.sign import SigningKey, sign_json
from tests.federation.house import House, house
from tests.federation.test_joins import members, seen
from tests.rooms.paths import at
from tests.serving import Person
from tests.streams.reading import keep

pytestmark = pytest.mark.asyncio(loop_scope="module")
IDENTITY = SigningKey.generate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("thirdparty")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(made: House) -> tuple[Person, Person, Person]:
    """Alice and Carol are of one server, Bob of the other."""
    a, b = made.servers.values()
    return await a.person("alice"), await b.person("bob"), await a.person("carol")


async def room_with_token(alice: Person, token: str) -> str:
    room = await alice.create_room()
    key = encode_unpadded(IDENTITY.public_key)
    content = {
        "display_name": "b...@x...",
        "key_validity_url": "https://identity.invalid/valid",
        "public_key": key,
        "public_keys": [{"public_key": key}],
    }
    await alice.put_state(room, "m.room.third_party_invite", content, token)
    return room


def signed(user_id: str, token: str, key: SigningKey = IDENTITY) -> JsonObject:
    return sign_json({"mxid": user_id, "token": token}, "identity.invalid", key)


def bound(room: str, sender: str, told: JsonObject) -> JsonObject:
    user_id = told["mxid"]
    invite = {"medium": "email", "address": "b@x", "mxid": user_id, "room_id": room}
    return {
        "medium": "email",
        "address": "b@x",
        "mxid": user_id,
        "invites": [{**invite, "sender": sender, "signed": told}],
    }


async def onbind(made: House, server: str, body: JsonObject) -> Any:
    guest = made.guests.get("identity.example") or await made.guest("identity.example")
    target = "/_matrix/federation/v1/3pid/onbind"
    return await guest.request(made.servers[server], "PUT", target, body)


async def test_an_address_becomes_a_user_of_another_server(
    made: House, people: tuple[Person, Person, Person]
) -> None:
    alice, bob, _ = people
    room = await room_with_token(alice, "token1")
    reply = await onbind(
        made, "b.example", bound(room, alice.user_id, signed(bob.user_id, "token1"))
    )
    assert reply.status == 200, reply.body
    await seen(bob, "invite", room)
    member = await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert member["third_party_invite"]["signed"]["token"] == "token1"
    assert member["third_party_invite"]["display_name"] == "b...@x..."
    await bob.ok("POST", f"/join/{room}", body={})
    assert (await members(alice, room))[bob.user_id] == "join"


async def test_an_address_becomes_a_user_of_this_server(
    made: House, people: tuple[Person, Person, Person]
) -> None:
    alice, _, carol = people
    room = await room_with_token(alice, "token2")
    body = bound(room, alice.user_id, signed(carol.user_id, "token2"))
    assert (await onbind(made, "a.example", body)).status == 200
    await seen(carol, "invite", room)


async def test_an_address_leads_past_no_block(
    made: House, people: tuple[Person, Person, Person]
) -> None:
    alice, bob, carol = people
    for number, (person, server) in enumerate(((bob, "b.example"), (carol, "a.example"))):
        token = f"blocked{number}"
        room = await room_with_token(alice, token)
        await keep(person, "m.invite_permission_config", {"default_action": "block"})
        await onbind(made, server, bound(room, alice.user_id, signed(person.user_id, token)))
        assert (await members(alice, room)).keys() == {alice.user_id}
        await keep(person, "m.invite_permission_config", {})
        await onbind(made, server, bound(room, alice.user_id, signed(person.user_id, token)))
        await seen(person, "invite", room)


async def test_false_tokens_and_signatures_invite_nobody(
    made: House, people: tuple[Person, Person, Person]
) -> None:
    alice, bob, carol = people
    room = await room_with_token(alice, "token3")
    stranger = SigningKey.generate()
    for told in (
        signed(bob.user_id, "token3", stranger),
        signed(bob.user_id, "unknown"),
        {**signed(carol.user_id, "token3"), "mxid": bob.user_id},
    ):
        reply = await onbind(made, "b.example", bound(room, alice.user_id, told))
        assert reply.status == 200
    assert (await members(alice, room)).keys() == {alice.user_id}
    other = bound(room, alice.user_id, signed(bob.user_id, "token3"))
    assert (await onbind(made, "a.example", other)).errcode == "M_NOT_FOUND"
    guest = made.guests["identity.example"]
    a = made.servers["a.example"]
    body = {
        "type": "m.room.member",
        "room_id": room,
        "sender": alice.user_id,
        "state_key": bob.user_id,
        "content": {
            "membership": "invite",
            "third_party_invite": {"display_name": "", "signed": signed(bob.user_id, "token3")},
        },
    }
    path = f"/_matrix/federation/v1/exchange_third_party_invite/{quote(room)}"
    reply = await guest.request(a, "PUT", path, body)
    assert reply.errcode == "M_FORBIDDEN", "only the invited user's server may ask"


async def test_who_has_the_signed_token_joins_with_it(
    people: tuple[Person, Person, Person],
) -> None:
    alice, _, carol = people
    room = await room_with_token(alice, "token4")
    await carol.refused("M_FORBIDDEN", "POST", at(room, "join"), body={})
    told = {**signed(carol.user_id, "token4"), "sender": alice.user_id}
    told["signatures"] = signed(carol.user_id, "token4")["signatures"]
    await carol.refused("M_FORBIDDEN", "POST", at(room, "join"), body={"third_party_signed": told})
    body = {"third_party_signed": signed(carol.user_id, "token4")}
    await carol.ok("POST", at(room, "join"), body=body)
    assert (await members(alice, room))[carol.user_id] == "join"

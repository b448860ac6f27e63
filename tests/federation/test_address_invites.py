"""Inviting whoever has an address, with an identity server that keeps what it is told.

spec: client-server-api#third-party-invites
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import trustme

from tests.federation.house import House, house
from tests.federation.identity_server import TOKEN, IdentityServer
from tests.federation.test_joins import members, seen
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("addresses")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(made: House) -> tuple[Person, Person]:
    """Alice is of one server, Bob of the other."""
    a, b = made.servers.values()
    return await a.person("alice"), await b.person("bob")


@pytest_asyncio.fixture(loop_scope="module")
async def identity(made: House, authority: trustme.CA) -> AsyncIterator[IdentityServer]:
    one = IdentityServer(made, authority)
    await one.start()
    yield one
    await one.stop()


def to(identity: IdentityServer, address: str = "Bob@mail.example", **more: Any) -> dict[str, Any]:
    given = {"medium": "email", "address": address, "id_access_token": TOKEN}
    return {**given, "id_server": identity.name, **more}


async def kept(person: Person, room: str) -> list[Any]:
    state = await person.ok("GET", at(room, "state"))
    return [event for event in state if event["type"] == "m.room.third_party_invite"]


@pytest.mark.parametrize("algorithms", [["sha256", "none"], ["none"]])
async def test_whose_address_is_known_is_invited(
    people: tuple[Person, Person], identity: IdentityServer, algorithms: list[str]
) -> None:
    alice, bob = people
    identity.users["bob@mail.example"] = bob.user_id
    identity.algorithms = algorithms
    room = await alice.create_room()
    await alice.ok("POST", at(room, "invite"), body=to(identity, reason="come"))
    await seen(bob, "invite", room)
    member = await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert member["reason"] == "come"
    said = str(identity.asked)
    assert ("mail.example" in said) == (algorithms == ["none"])


async def test_an_invite_waits_until_the_address_is_somebodys(
    people: tuple[Person, Person], identity: IdentityServer
) -> None:
    alice, bob = people
    room = await alice.create_room(name="The room", room_version="11")
    await alice.ok("PUT", f"/profile/{alice.user_id}/displayname", body={"displayname": "Alice"})
    await alice.ok("POST", at(room, "invite"), body=to(identity))
    (stored,) = identity.invites
    assert stored == {
        "token": "token0", "medium": "email", "address": "bob@mail.example", "room_id": room,
        "sender": alice.user_id, "sender_display_name": "Alice", "sender_avatar_url": "",
        "room_name": "The room", "room_join_rules": "invite",
    }  # fmt: skip
    (event,) = await kept(alice, room)
    assert event["state_key"] == "token0"
    content = event["content"]
    assert content["display_name"] == "b..."
    assert content["public_keys"][0]["public_key"] == content["public_key"]
    assert len(content["public_keys"]) == 2
    identity.sessions["sid"] = "bob@mail.example"
    bind = {"sid": "sid", "client_secret": "s", "id_server": identity.name}
    await bob.ok("POST", "/account/3pid/bind", body={**bind, "id_access_token": TOKEN})
    await seen(bob, "invite", room)
    await bob.ok("POST", f"/join/{room}", body={})
    assert (await members(alice, room))[bob.user_id] == "join"
    gone = {"medium": "email", "address": "bob@mail.example", "id_server": identity.name}
    answer = await bob.ok("POST", "/account/3pid/unbind", body=gone)
    assert answer == {"id_server_unbind_result": "success"}
    assert identity.users == {}


async def test_a_new_room_begins_with_invites_to_addresses(
    people: tuple[Person, Person], identity: IdentityServer
) -> None:
    alice, bob = people
    identity.users["bob@mail.example"] = bob.user_id
    room = await alice.create_room(
        invite_3pid=[
            to(identity),
            to(identity, "other@mail.example"),
            to(identity, "third@mail.example", id_access_token="wrong"),
        ]
    )
    await seen(bob, "invite", room)
    assert [event["content"]["display_name"] for event in await kept(alice, room)] == ["o..."]
    many = [to(identity, f"{n}@mail.example") for n in range(21)]
    await alice.refused("M_INVALID_PARAM", "POST", "/createRoom", body={"invite_3pid": many})
    bad = [to(identity, "no address")]
    await alice.refused("M_INVALID_PARAM", "POST", "/createRoom", body={"invite_3pid": bad})


async def test_who_may_not_invite_makes_nobody_ask(
    people: tuple[Person, Person], identity: IdentityServer
) -> None:
    alice, bob = people
    room = await alice.create_room(
        preset="public_chat", power_level_content_override={"invite": 50}
    )
    await bob.ok("POST", f"/join/{room}", body={}, query={"via": "a.example"})
    await bob.refused("M_FORBIDDEN", "POST", at(room, "invite"), body=to(identity))
    assert identity.asked == []


KEY = {"public_key": "a", "key_validity_url": "https://x"}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"token": "a b", "public_keys": [KEY]},
        {"token": "t" * 256, "public_keys": [KEY]},
        {"token": "t", "public_keys": []},
        {"token": "t", "public_keys": [KEY] * 9},
        {"token": "t", "public_keys": [{"public_key": 1, "key_validity_url": "x"}]},
        {"token": "t", "public_keys": [{"public_key": "k" * 2_000, "key_validity_url": "x"}]},
    ],
)
async def test_nonsense_of_an_identity_server_changes_nothing(
    people: tuple[Person, Person], identity: IdentityServer, said: Any
) -> None:
    alice, _ = people
    room = await alice.create_room()
    identity.says["/store-invite"] = (200, said)
    refused = await alice.refused("M_UNKNOWN", "POST", at(room, "invite"), body=to(identity))
    assert refused.status == 502
    assert await kept(alice, room) == []


async def test_refusals_are_told_but_end_nobodys_session(
    people: tuple[Person, Person], identity: IdentityServer
) -> None:
    alice, _ = people
    room = await alice.create_room()
    path = at(room, "invite")
    wrong = to(identity, id_access_token="wrong")
    refused = await alice.refused("M_UNKNOWN", "POST", path, body=wrong)
    assert refused.status == 400, "a client that is told M_UNKNOWN_TOKEN logs itself out"
    bind = {"sid": "s", "client_secret": "s", "id_server": identity.name}
    for token, errcode in (("wrong", "M_THREEPID_AUTH_FAILED"), (TOKEN, "M_SESSION_NOT_VALIDATED")):
        body = {**bind, "id_access_token": token}
        await alice.refused(errcode, "POST", "/account/3pid/bind", body=body)
    identity.says["/hash_details"] = (403, {"errcode": "M_TERMS_NOT_SIGNED", "error": "sign"})
    await alice.refused("M_TERMS_NOT_SIGNED", "POST", path, body=to(identity))
    identity.says["/hash_details"] = (200, {"lookup_pepper": 1})
    await alice.refused("M_UNKNOWN", "POST", path, body=to(identity))
    identity.says.clear()
    identity.users["bob@mail.example"] = "no user"
    await alice.refused("M_UNKNOWN", "POST", path, body=to(identity))
    for token in ("a\r\nHost: inside", "a\n", ""):
        header = to(identity, id_access_token=token)
        await alice.refused("M_BAD_JSON", "POST", path, body=header)
    missing = to(identity)
    del missing["id_access_token"]
    await alice.refused("M_MISSING_PARAM", "POST", path, body=missing)
    phone = to(identity, "123", medium="msisdn")
    await alice.refused("M_THREEPID_MEDIUM_NOT_SUPPORTED", "POST", path, body=phone)
    for server in ("127.0.0.1:1", "no server/x?y", "10.1.2.3"):
        gone = to(identity, id_server=server)
        answer = await alice.refused("M_UNKNOWN", "POST", path, body=gone)
        assert answer.status == 502

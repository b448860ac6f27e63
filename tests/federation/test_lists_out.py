"""What other servers hear of our users' devices and signing keys, also after outages and kills.

spec: server-server-api#device-management, server-server-api#definition-mdevice_list_update
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from nacl.signing import SigningKey

from homeserver.matrix.canonical import JsonObject
from tests.api.test_keys import Device, encoded, signed_by
from tests.federation.house import Guest, House, house, until
from tests.serving import PASSWORD, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

A = "a.example"
LISTS = ("m.device_list_update", "m.signing_key_update")
_count = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("lists")) as house_made:
        await house_made.start(A)
        yield house_made


async def beside(made: House) -> tuple[Person, Guest]:
    """A person and a server that share a room."""
    number = next(_count)
    alice = await made.servers[A].person(f"alice{number}")
    guest = await made.guest(f"guest{number}.example")
    room = await alice.create_room(preset="public_chat")
    await guest.join(made.servers[A], room, guest.user("g"))
    return alice, guest


def edus(guest: Guest, *types: str) -> list[JsonObject]:
    """The contents of the EDUs that came."""
    return [
        edu["content"]
        for body in guest.transactions
        for edu in body.get("edus", ())
        if edu["edu_type"] in (types or LISTS)
    ]


async def heard(guest: Guest, count: int, *types: str) -> list[JsonObject]:
    """The EDUs that came, once there are so many."""

    async def enough() -> bool:
        return len(edus(guest, *types)) >= count

    await until(enough)
    return edus(guest, *types)


async def rename(person: Person, name: str) -> None:
    await person.ok("PUT", f"/devices/{person.device_id}", body={"display_name": name})


async def test_every_change_is_told_once_and_in_order(made: House) -> None:
    alice, guest = await beside(made)
    device = Device(alice)
    await device.upload(device_keys=device.keys, one_time_keys=device.one_time("A"))
    await rename(alice, "Phone")
    stranger = await made.servers[A].person(f"stranger{next(_count)}")
    unheard = Device(stranger)
    await unheard.upload(device_keys=unheard.keys)
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": PASSWORD,
    }
    reply = await made.servers[A].request("POST", "/_matrix/client/v3/login", body=login)
    second = Person(made.servers[A], alice.user_id, reply.body["access_token"], "")
    second.device_id = reply.body["device_id"]
    other = Device(second)
    await other.upload(device_keys=other.keys)
    await alice.ok("POST", "/logout", body={})
    first, named, added, gone = await heard(guest, 4)
    assert first["stream_id"] == 1
    assert first["prev_id"] == []
    assert (first["user_id"], first["device_id"]) == (alice.user_id, alice.device_id)
    assert {key: first["keys"][key] for key in device.keys} == device.keys
    assert (named["stream_id"], named["prev_id"]) == (2, [1])
    assert named["device_display_name"] == "Phone"
    assert (added["stream_id"], added["prev_id"]) == (3, [2])
    assert added["device_id"] == second.device_id
    assert not added.get("deleted")
    assert (gone["stream_id"], gone["prev_id"]) == (4, [3])
    assert (gone["device_id"], gone["deleted"]) == (alice.device_id, True)
    assert "keys" not in gone
    target = f"/_matrix/federation/v1/user/devices/{alice.user_id}"
    shown = (await guest.request(made.servers[A], "GET", target)).body
    assert shown["stream_id"] == 4
    assert [one["device_id"] for one in shown["devices"]] == [second.device_id]


async def test_signing_keys_are_told(made: House) -> None:
    alice, guest = await beside(made)
    device = Device(alice)
    await device.upload(device_keys=device.keys)
    master, own = SigningKey.generate(), SigningKey.generate()

    def key(usage: str, signing: SigningKey) -> dict[str, Any]:
        name = f"ed25519:{encoded(signing)}"
        return {"user_id": alice.user_id, "usage": [usage], "keys": {name: encoded(signing)}}

    signed = signed_by(
        key("self_signing", own), alice.user_id, f"ed25519:{encoded(master)}", master
    )
    body = {"master_key": key("master", master), "self_signing_key": signed}
    await alice.ok("POST", "/keys/device_signing/upload", body=body)
    (told,) = await heard(guest, 1, "m.signing_key_update")
    assert told["user_id"] == alice.user_id
    assert told["master_key"]["keys"] == body["master_key"]["keys"]
    assert told["self_signing_key"]["signatures"] == signed["signatures"]
    vouched = signed_by(device.keys, alice.user_id, f"ed25519:{encoded(own)}", own)
    upload = {alice.user_id: {alice.device_id: vouched}}
    answer = await alice.ok("POST", "/keys/signatures/upload", body=upload)
    assert not answer.get("failures")
    _, again = await heard(guest, 2, "m.device_list_update")
    assert (again["stream_id"], again["prev_id"]) == (2, [1])
    assert f"ed25519:{encoded(own)}" in again["keys"]["signatures"][alice.user_id]


async def test_who_was_away_hears_the_last_of_it_after_a_kill(made: House) -> None:
    alice, guest = await beside(made)
    device = Device(alice)
    await device.upload(device_keys=device.keys)
    await heard(guest, 1)
    asked: list[JsonObject] = []

    def refuse(body: JsonObject) -> web.StreamResponse:
        asked.append(body)
        return web.json_response({}, status=502)

    guest.refuse = refuse
    for number in range(5):
        await rename(alice, f"Phone {number}")

    async def tried() -> bool:
        return bool(asked)

    await until(tried)
    server = made.servers[A]
    await asyncio.to_thread(server.kill)
    guest.refuse = None
    guest.transactions.clear()
    await asyncio.to_thread(server.start)
    # Whatever a server sends ends the pause that it was given.
    await guest.request(server, "GET", "/_matrix/federation/v1/version")
    await guest.send(server)
    (told,) = await heard(guest, 1)
    assert (told["stream_id"], told["prev_id"]) == (6, [5])
    assert told["device_display_name"] == "Phone 4"


async def test_who_comes_into_a_room_is_told_to_its_servers(made: House) -> None:
    alice, guest = await beside(made)
    bob, other = await beside(made)
    device = Device(bob)
    await device.upload(device_keys=device.keys)
    await heard(other, 1)
    assert edus(guest) == []
    room = (await alice.ok("GET", "/joined_rooms"))["joined_rooms"][0]
    await bob.ok("POST", f"/rooms/{room}/join", body={})
    (told,) = await heard(guest, 1)
    assert (told["user_id"], told["stream_id"]) == (bob.user_id, 1)
    await rename(bob, "Tablet")
    assert [one["stream_id"] for one in await heard(guest, 2)] == [1, 2]
    assert [one["stream_id"] for one in await heard(other, 2)] == [1, 2]


async def test_after_an_older_copy_was_put_back_no_version_comes_twice(made: House) -> None:
    """Who has heard of the lost versions must see a gap, whatever it misses of the new ones."""
    server = made.servers[A]
    alice, guest = await beside(made)
    device = Device(alice)
    await device.upload(device_keys=device.keys)
    (before,) = await heard(guest, 1)
    assert server.cli("restored").returncode == 0
    await rename(alice, "Phone")
    _, after = await heard(guest, 2)
    assert after["prev_id"] == [after["stream_id"] - 1]
    assert after["stream_id"] > before["stream_id"] + 100_000

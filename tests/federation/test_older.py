"""Servers that have only the first version of the handshakes with two.

spec: server-server-api#put_matrixfederationv2inviteroomideventid
"""

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from federation.older import out_of_list
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import build
from homeserver.matrix.sign import sign_event
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.generated import GeneratedRoom
from tests.federation.house import Guest, House, house, until
from tests.rooms.paths import at

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("older")) as house_made:
        await house_made.start("a.example")
        yield house_made


def unheard_of(status: int) -> web.StreamResponse:
    return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "What?"}, status=status)


def versions_asked(guest: Guest, verb: str) -> list[str]:
    paths = [one.target.split("/") for one in guest.seen]
    return [path[3] for path in paths if verb in path]


@pytest.mark.parametrize("status", [400, 404])
async def test_a_room_is_joined_through_an_older_server(made: House, status: int) -> None:
    guest = await made.guest(f"join{status}.example")
    room = GeneratedRoom(guest, "1", members=300)
    room.in_list = True

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "/v2/" in request.path:
            return unheard_of(status)
        return await room.answer(request)

    guest.answer = answer
    alice = await made.servers["a.example"].person(f"join{status}")
    await alice.ok("POST", f"/join/{room.room_id}?via={guest.name}", body={})
    found = await alice.ok("GET", at(room.room_id, "joined_members"))
    assert len(found["joined"]) == 302
    assert versions_asked(guest, "send_join") == ["v2", "v1"]


async def test_what_a_server_says_of_the_room_is_not_asked_again(made: House) -> None:
    guest = await made.guest("knows.example")
    room = GeneratedRoom(guest, "1")

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "send_join" in request.path:
            return web.json_response({"errcode": "M_NOT_FOUND", "error": "gone"}, status=404)
        return await room.answer(request)

    guest.answer = answer
    alice = await made.servers["a.example"].person("refused")
    path = f"/join/{room.room_id}?via={guest.name}"
    await alice.refused("M_NOT_FOUND", "POST", path, body={})
    assert versions_asked(guest, "send_join") == ["v2"]


@pytest.mark.parametrize("version", ["1", "2", "6"])
async def test_users_of_an_older_server_are_invited_to_old_rooms(made: House, version: str) -> None:
    """Of a room's version the older endpoint is told nothing: it can only be 1 or 2."""
    guest = await made.guest(f"invited{version}.example")
    rules = ROOM_VERSIONS[version]
    bodies: list[JsonObject] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "/v1/invite/" not in request.path:
            return unheard_of(404)
        bodies.append(json.loads(await request.read()))
        pdu = {key: value for key, value in bodies[-1].items() if key != "unsigned"}
        signed = sign_event(pdu, rules, guest.name, guest.keys.key)
        return web.json_response([200, {"event": signed}])

    guest.answer = answer
    alice = await made.servers["a.example"].person(f"inviter{version}")
    room = await alice.create_room(room_version=version)
    path = at(room, "invite")
    body = {"user_id": guest.user("bob")}
    if version == "6":
        assert (await alice.raw("POST", path, body=body)).status >= 400
        assert bodies == []
        return
    await alice.ok("POST", path, body=body)
    shown = {event["type"] for event in bodies[0]["unsigned"]["invite_room_state"]}
    assert "m.room.create" in shown
    members = (await alice.ok("GET", at(room, "members")))["chunk"]
    now = {event["state_key"]: event["content"]["membership"] for event in members}
    assert now[guest.user("bob")] == "invite"


async def test_an_older_server_is_told_that_its_invite_is_declined(made: House) -> None:
    guest = await made.guest("declined.example")
    a = made.servers["a.example"]
    alice = await a.person("declining")
    room = GeneratedRoom(guest, "1")
    sender = guest.user("creator")
    invite, _ = build(
        room.rules,
        room_id=room.room_id,
        sender=sender,
        type="m.room.member",
        content={"membership": "invite"},
        state_key=alice.user_id,
        prev_event_ids=[room.events[-1].event_id],
        auth_event_ids=[event.event_id for event in room.base_auth],
        depth=9,
        origin_server_ts=guest.keys.clock.now_ms(),
        sign=guest.keys.key,
        server_name=guest.name,
    )
    left: list[JsonObject] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "make_leave" in request.path:
            template = {
                **{key: invite.pdu[key] for key in ("prev_events", "auth_events", "depth")},
                "type": "m.room.member",
                "room_id": room.room_id,
                "sender": alice.user_id,
                "state_key": alice.user_id,
                "content": {"membership": "leave"},
            }
            return web.json_response({"room_version": "1", "event": template})
        if "/v1/send_leave/" in request.path:
            left.append(json.loads(await request.read()))
            return web.json_response([200, {}])
        return unheard_of(404)

    guest.answer = answer
    path = f"/_matrix/federation/v1/invite/{quote(room.room_id)}/{quote(invite.event_id)}"
    assert (await guest.request(a, "PUT", path, invite.pdu)).status == 200
    await alice.ok("POST", at(room.room_id, "leave"), body={})

    async def told() -> bool:
        return bool(left)

    await until(told)
    assert (left[0]["sender"], left[0]["content"]["membership"]) == (alice.user_id, "leave")
    assert versions_asked(guest, "send_leave") == ["v2", "v1"]


async def read(*chunks: bytes) -> bytes:
    async def given() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return b"".join([piece async for piece in out_of_list(given())])


async def test_an_answer_is_taken_out_of_its_list_wherever_it_is_cut() -> None:
    whole = b' [ 200 , {"a": [1, "]  ", {}]} ] \n'
    wanted = json.loads(whole)[1]
    for cut in range(len(whole) + 1):
        assert json.loads(await read(whole[:cut], whole[cut:])) == wanted
    assert json.loads(await read(*(whole[at : at + 1] for at in range(len(whole))))) == wanted
    for other in (b"", b"{}", b"[403, {}]", b'[200, {"a": 1}'):
        with pytest.raises(Malformed):
            await read(other)
    with pytest.raises(Malformed):
        await read(b"[" + b" " * 100, b"200,{}]")

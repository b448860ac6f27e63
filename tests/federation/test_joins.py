"""Users of one server join rooms of another.

spec: server-server-api#joining-rooms
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from federation.joining import LEAVE_SECONDS
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event, build
from homeserver.matrix.sign import event_id_of, hash_and_sign
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.databases import PostgresServer
from tests.federation.generated import GeneratedRoom
from tests.federation.house import Guest, House, heard, house, until
from tests.processes import postgresql_url
from tests.rooms.paths import at
from tests.serving import Person
from tests.streams.reading import keep

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSIONS = [str(number) for number in range(1, 13)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> AsyncIterator[House]:
    """Two servers, one on each kind of database."""
    async with house(authority, tmp_path_factory.mktemp("joins")) as house_made:
        house_made.server("b.example", postgresql_url(postgres.blank_database()))
        await house_made.start("a.example", "b.example")
        yield house_made


_count = itertools.count()


def signed_invite(guest: Guest, room: str, sender: str, target: str) -> JsonObject:
    """An invite that the guest has made and signed; nobody else knows the room."""
    event, _ = build(
        ROOM_VERSIONS["10"],
        room_id=room,
        sender=sender,
        type="m.room.member",
        content={"membership": "invite"},
        state_key=target,
        prev_event_ids=["$prev"],
        auth_event_ids=["$create"],
        depth=7,
        origin_server_ts=guest.keys.clock.now_ms(),
        sign=guest.keys.key,
        server_name=guest.name,
    )
    return event.pdu


def create_of(room: str, sender: str) -> list[JsonObject]:
    content = {"room_version": "10", "creator": sender}
    return [{"type": "m.room.create", "state_key": "", "sender": sender, "content": content}]


async def person(made: House, server: str) -> Person:
    return await made.servers[server].person(f"user{next(_count)}")


async def join(person: Person, room: str, *via: str) -> None:
    path = f"/join/{room}?" + "&".join(f"via={one}" for one in via)
    await person.ok("POST", path, body={})


async def members(person: Person, room: str) -> dict[str, str]:
    found = await person.ok("GET", at(room, "members"))
    return {one["state_key"]: one["content"]["membership"] for one in found["chunk"]}


async def seen(person: Person, section: str, room: str) -> Any:
    """The room's part of a section of /sync, once it is there."""

    async def look() -> Any:
        rooms = (await person.sync(timeout=1_000)).get("rooms", {})
        return rooms.get(section, {}).get(room)

    return await until(look)


@pytest.mark.parametrize("version", VERSIONS)
async def test_rooms_of_every_version_are_joined(made: House, version: str) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat", room_version=version, name="Here")
    await join(bob, room, "a.example")
    assert await members(bob, room) == {alice.user_id: "join", bob.user_id: "join"}
    assert await members(alice, room) == {alice.user_id: "join", bob.user_id: "join"}
    name = await bob.ok("GET", at(room, "state", "m.room.name"))
    assert name == {"name": "Here"}
    synced = (await bob.sync())["rooms"]["join"][room]
    keys = {event["type"] for event in synced["state"]["events"]}
    assert {"m.room.create", "m.room.name", "m.room.member", "m.room.join_rules"} <= keys
    assert [event["sender"] for event in synced["timeline"]["events"]] == [bob.user_id]
    assert synced["summary"]["m.joined_member_count"] == 2
    await bob.say(room, "I am here")
    said = await alice.say(room, "So you are")
    await heard(bob, room, said)


async def test_who_is_removed_by_another_server_is_out(made: House) -> None:
    alice, bob = await person(made, "b.example"), await person(made, "a.example")
    room = await alice.create_room(preset="public_chat")
    await join(bob, room, "b.example")
    await bob.sync()
    await alice.ok("POST", at(room, "kick"), body={"user_id": bob.user_id})
    await seen(bob, "leave", room)
    await join(bob, room, "b.example")
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id})
    await seen(bob, "leave", room)
    await bob.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=b.example", body={})


async def test_an_invite_can_be_taken_back(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(invite=[bob.user_id])
    await seen(bob, "invite", room)
    await alice.ok("POST", at(room, "kick"), body={"user_id": bob.user_id, "reason": "sorry"})
    left = await seen(bob, "leave", room)
    (event,) = left["timeline"]["events"]
    assert (event["sender"], event["content"]["reason"]) == (alice.user_id, "sorry")
    await bob.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=a.example", body={})


async def test_three_servers_hear_each_other(made: House) -> None:
    """Each was let in by another; a join through one reaches the third."""
    made.server("c.example")
    await made.start("c.example")
    people = [await person(made, name) for name in ("a.example", "b.example", "c.example")]
    alice, bob, carol = people
    room = await alice.create_room(preset="public_chat")
    await join(bob, room, "a.example")
    await join(carol, room, "b.example")
    everybody = dict.fromkeys((one.user_id for one in people), "join")
    for one in people:

        async def complete(one: Person = one) -> bool:
            return await members(one, room) == everybody

        await until(complete)
    for speaker in people:
        said = await speaker.say(room, f"I am {speaker.user_id}")
        for listener in people:
            await heard(listener, room, said)


async def test_what_is_sent_while_a_join_is_under_way_is_heard_after_it(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with house(authority, tmp_path) as made:
        (a,) = await made.start("a.example")
        guest = await made.guest("guest.example")
        room = GeneratedRoom(guest, "11", members=300)
        guest.answer = room.answer
        alice = await a.person("alice")
        room.held.clear()
        path = f"/join/{room.room_id}?via={guest.name}"
        joining = asyncio.create_task(alice.ok("POST", path, body={}))

        async def begun() -> bool:
            return room.pieces_sent > 0

        await until(begun)
        (join_pdu,) = room.joins
        joined = Event.parse(join_pdu, room.rules)
        creator = guest.user("creator")
        auth = [room.create, room.events[1], room.levels]
        room.events.append(joined)
        content = {"msgtype": "m.text", "body": "just now"}
        message = room.add("m.room.message", creator, content, None, auth)
        reply = await guest.send(a, message.pdu)
        assert reply.status == 200, reply.body
        room.held.set()
        await joining
        await heard(alice, room.room_id, message.event_id)


@pytest.mark.parametrize("version", ["1", "6", "10", "11", "12"])
async def test_invited_users_see_what_the_room_is_and_join(made: House, version: str) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(room_version=version, name="Secret", invite=[bob.user_id])
    invite = await seen(bob, "invite", room)
    state = {event["type"]: event for event in invite["invite_state"]["events"]}
    assert state["m.room.name"]["content"] == {"name": "Secret"}
    assert state["m.room.create"]["sender"] == alice.user_id
    assert state["m.room.member"]["sender"] in (alice.user_id, bob.user_id)
    assert all(set(one) == {"type", "state_key", "sender", "content"} for one in state.values())
    assert (await members(alice, room))[bob.user_id] == "invite"
    await join(bob, room)  # the inviting server is asked without being named
    assert (await members(bob, room))[alice.user_id] == "join"
    assert (await members(alice, room))[bob.user_id] == "join"


async def test_an_invite_is_declined_at_once_and_the_server_is_told(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(invite=[bob.user_id])
    await seen(bob, "invite", room)
    await bob.ok("POST", at(room, "leave"), body={"reason": "no"})
    left = await seen(bob, "leave", room)
    assert [event["content"]["membership"] for event in left["timeline"]["events"]] == ["leave"]

    async def told() -> bool:
        return (await members(alice, room))[bob.user_id] == "leave"

    await until(told)
    await bob.ok("POST", at(room, "forget"), body={})
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    await seen(bob, "invite", room)
    await join(bob, room)


async def test_an_invite_of_another_server_is_pushed(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    told: list[JsonObject] = []

    async def notified(request: web.BaseRequest) -> web.StreamResponse:
        told.append((await request.json())["notification"])
        return web.json_response({})

    runner = web.ServerRunner(web.Server(notified))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pusher = {
        "app_id": "test.app",
        "pushkey": "key",
        "kind": "http",
        "app_display_name": "App",
        "device_display_name": "Device",
        "lang": "en",
        "data": {"url": f"http://127.0.0.1:{runner.addresses[0][1]}/_matrix/push/v1/notify"},
    }
    await bob.ok("POST", "/pushers/set", body=pusher)
    room = await alice.create_room(invite=[bob.user_id])

    async def came() -> bool:
        return bool(told)

    await until(came)
    assert (told[0]["room_id"], told[0]["type"]) == (room, "m.room.member")
    assert (told[0]["sender"], told[0]["user_is_target"]) == (alice.user_id, True)
    await runner.cleanup()


async def invited_by(made: House, guest: Guest, bob: Person, room: str) -> None:
    """Bob has an invite of a server into a room that nobody else knows."""
    b, sender = made.servers["b.example"], guest.user("eve")
    pdu = signed_invite(guest, room, sender, bob.user_id)
    body = {"room_version": "10", "event": pdu, "invite_room_state": create_of(room, sender)}
    event_id = quote(event_id_of(pdu, ROOM_VERSIONS["10"]))
    path = f"/_matrix/federation/v2/invite/{quote(room)}/{event_id}"
    reply = await guest.request(b, "PUT", path, body)
    assert reply.status == 200, reply.body
    assert set(reply.body["event"]["signatures"]) == {guest.name, "b.example"}


async def silent(guest: Guest) -> asyncio.Event:
    """The server takes every request from now on and answers none; set when one has come."""
    asked = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    guest.server.handler = handle
    return asked


@pytest.mark.parametrize("remote", ["down", "silent"])
async def test_a_declined_invite_waits_for_no_server(made: House, remote: str) -> None:
    """All that it may take are 200 ms: nothing that the server does, or doesn't, is part of it."""
    guest = await made.guest(f"{remote}.example")
    bob = await person(made, "b.example")
    room = f"!r:{guest.name}"
    await invited_by(made, guest, bob, room)
    await seen(bob, "invite", room)
    asked = await silent(guest)
    if remote == "down":
        await guest.server.stop()
    async with asyncio.timeout(LEAVE_SECONDS / 2):
        await bob.ok("POST", at(room, "leave"), body={})
        await bob.ok("POST", at(room, "forget"), body={})
    assert room not in (await bob.sync(since=None)).get("rooms", {}).get("invite", {})
    if remote == "silent":  # it is told all the same, as far as it listens
        await asyncio.wait_for(asked.wait(), 30)


async def test_a_room_is_left_and_forgotten_while_its_server_is_silent(made: House) -> None:
    guest = await made.guest("stalls.example")
    room = GeneratedRoom(guest)
    guest.answer = room.answer
    bob = await person(made, "b.example")
    await join(bob, room.room_id, guest.name)
    asked = await silent(guest)
    async with asyncio.timeout(LEAVE_SECONDS / 2):
        await bob.ok("POST", at(room.room_id, "leave"), body={})
        await bob.ok("POST", at(room.room_id, "forget"), body={})
    assert room.room_id not in (await bob.sync(since=None)).get("rooms", {}).get("join", {})
    await asyncio.wait_for(asked.wait(), 30)


async def test_a_server_is_not_told_of_a_leave_that_a_newer_invite_has_overtaken(
    made: House,
) -> None:
    guest = await made.guest("again.example")
    bob = await person(made, "b.example")
    room, other = (f"!{name}:{guest.name}" for name in "ro")
    told: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        told.append(request.path)
        return web.json_response({}, status=500)

    guest.answer = answer
    for one in (room, other):
        await invited_by(made, guest, bob, one)
        await bob.ok("POST", at(one, "leave"), body={})
        await until(partial(came, told, f"make_leave/{one}", 1))
        if one == room:
            await invited_by(made, guest, bob, room)
    # When the second is tried again, so would have been the first.
    await until(partial(came, told, f"make_leave/{other}", 2), 90)
    assert not await came(told, f"make_leave/{room}", 2)
    await seen(bob, "invite", room)


async def came(told: list[str], word: str, count: int) -> bool:
    return sum(word in path for path in told) >= count


@pytest.mark.parametrize("version", ["7", "11", "12"])
async def test_knocking_shows_the_room_and_is_answered_by_an_invite(
    made: House, version: str
) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(room_version=version, name="Door")
    await bob.refused("M_FORBIDDEN", "POST", f"/knock/{room}?via=a.example", body={})
    await alice.put_state(room, "m.room.join_rules", {"join_rule": "knock"})
    await bob.ok("POST", f"/knock/{room}?via=a.example", body={"reason": "please"})
    knock = await seen(bob, "knock", room)
    assert "Door" in str(knock["knock_state"])
    assert (await members(alice, room))[bob.user_id] == "knock"
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    await seen(bob, "invite", room)
    await join(bob, room)
    assert (await members(bob, room))[bob.user_id] == "join"


async def test_restricted_joins_are_signed_by_the_resident_server(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    space = await alice.create_room(preset="public_chat")
    for version in ("8", "9", "10", "11", "12"):
        room = await alice.create_room(room_version=version)
        rule = {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": space}],
        }
        await alice.put_state(room, "m.room.join_rules", rule)
        if version == "8":
            await bob.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=a.example", body={})
            await join(bob, space, "a.example")
        await join(bob, room, "a.example")
        content = await bob.ok("GET", at(room, "state", "m.room.member", bob.user_id))
        assert content["join_authorised_via_users_server"] == alice.user_id


async def test_what_a_resident_server_does_not_know_it_does_not_authorise(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    elsewhere = await bob.create_room(preset="public_chat")
    room = await alice.create_room(room_version="11")
    allow = [{"type": "m.room_membership", "room_id": elsewhere}]
    rule = {"join_rule": "restricted", "allow": allow}
    await alice.put_state(room, "m.room.join_rules", rule)
    path = f"/join/{room}?via=a.example"
    await bob.refused("M_UNABLE_TO_AUTHORISE_JOIN", "POST", path, body={})


async def test_another_server_authorises_what_nobody_here_can(made: House) -> None:
    """Bob is in the room, but may invite nobody; Carol of his server is let in by Alice's."""
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    carol = await person(made, "b.example")
    space = await alice.create_room(preset="public_chat")
    levels = {"users": {alice.user_id: 100}, "invite": 50}
    room = await alice.create_room(room_version="11", power_level_content_override=levels)
    allow = [{"type": "m.room_membership", "room_id": space}]
    rule = {"join_rule": "restricted", "allow": allow}
    await alice.put_state(room, "m.room.join_rules", rule)
    for one in (bob, carol):
        await join(one, space, "a.example")
    await join(bob, room, "a.example")
    kept = await bob.say(room, "before")
    await join(carol, room, "a.example")
    assert (await members(bob, room)).keys() == {alice.user_id, bob.user_id, carol.user_id}
    content = await bob.ok("GET", at(room, "state", "m.room.member", carol.user_id))
    assert content["join_authorised_via_users_server"] == alice.user_id
    await heard(alice, room, kept)
    await heard(carol, room, await bob.say(room, "after"))


async def test_two_who_join_at_once_are_both_in(made: House) -> None:
    alice = await person(made, "a.example")
    bob, carol = await person(made, "b.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat")
    await asyncio.gather(join(bob, room, "a.example"), join(carol, room, "a.example"))
    everybody = {alice.user_id, bob.user_id, carol.user_id}
    for one in (alice, bob, carol):

        async def complete(one: Person = one) -> bool:
            return (await members(one, room)).keys() == everybody

        await until(complete)
    await heard(carol, room, await bob.say(room, "both"))


async def test_the_banned_and_the_excluded_stay_out(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat")
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id})
    await bob.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=a.example", body={})
    carol = await person(made, "b.example")
    acl = {"allow": ["*"], "deny": ["B.Example"]}
    await alice.put_state(room, "m.room.server_acl", acl)
    await carol.refused("M_FORBIDDEN", "POST", f"/join/{room}?via=a.example", body={})
    await carol.refused("M_NOT_FOUND", "POST", "/join/!none:a.example", body={})
    await carol.refused("M_UNKNOWN", "POST", "/join/!none:nowhere.example", body={})


async def test_a_room_that_was_left_is_joined_again_as_it_is_by_then(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    carol = await person(made, "a.example")
    room = await alice.create_room(preset="public_chat", name="Before")
    await join(bob, room, "a.example")
    await bob.ok("POST", at(room, "leave"), body={})
    await alice.put_state(room, "m.room.name", {"name": "After"})
    await carol.join(room)
    await join(bob, room, "a.example")
    assert await bob.ok("GET", at(room, "state", "m.room.name")) == {"name": "After"}
    assert (await members(bob, room)).keys() == {alice.user_id, bob.user_id, carol.user_id}
    synced = (await bob.sync(since=None))["rooms"]["join"][room]
    assert synced["summary"]["m.joined_member_count"] == 3
    b = made.servers["b.example"]
    b.stop()
    checked = b.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr
    await made.start("b.example")
    assert await bob.ok("GET", at(room, "state", "m.room.name")) == {"name": "After"}


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_who_has_left_stays_out_when_another_enters_by_a_server_that_has_not_heard(
    made: House, version: str
) -> None:
    guest = await made.guest(f"deaf{version}.example")
    room = GeneratedRoom(guest, version)
    guest.answer = room.answer
    bob, dora = await person(made, "b.example"), await person(made, "b.example")
    await join(bob, room.room_id, guest.name)
    await bob.ok("POST", at(room.room_id, "leave"), body={})
    room.state = [*room.state, room.joins[0]]
    await join(dora, room.room_id, guest.name)
    assert (await members(dora, room.room_id))[bob.user_id] == "leave"
    assert (await bob.ok("GET", "/joined_rooms"))["joined_rooms"] == []
    assert "join" not in (await bob.sync(since=None)).get("rooms", {})

    async def told_again() -> bool:
        pdus = [pdu for body in guest.transactions for pdu in body["pdus"]]
        leaves = [pdu for pdu in pdus if pdu.get("state_key") == bob.user_id]
        return len(leaves) == 2

    await until(told_again)
    said = await dora.say(room.room_id, "he is gone")
    await heard(dora, room.room_id, said)
    b = made.servers["b.example"]
    b.stop()
    checked = b.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr
    await made.start("b.example")


@pytest.mark.parametrize("server", ["a.example", "b.example"])
@pytest.mark.parametrize("said", ["leave", "nothing"])
async def test_who_went_while_nobody_of_ours_was_there_is_left_to_all_who_knew_them(
    made: House, server: str, said: str
) -> None:
    guest = await made.guest(f"gone-{said}-{server}")
    room = GeneratedRoom(guest, members=1)
    guest.answer = room.answer
    bob, dora, erik = [await person(made, server) for _ in range(3)]
    for one in (bob, dora, erik):
        await join(one, room.room_id, guest.name)
    tokens = [(await one.sync())["next_batch"] for one in (bob, dora, erik)]
    went, joined = guest.user("member0"), room.events[-1]
    room.events.append(Event.parse(room.joins[-1], room.rules))
    came_and_went = room.member(guest.user("guest"))
    assert (await guest.send(made.servers[server], came_and_went.pdu)).status == 200
    await heard(copy(bob), room.room_id, came_and_went.event_id)
    for one in (bob, dora, erik):
        await one.ok("POST", at(room.room_id, "leave"), body={})
    if said == "leave":
        auth = [*room.auth, joined]
        leave = room.add("m.room.member", went, {"membership": "leave"}, went, auth)
        room.state = [*room.state, leave.pdu]
    room.state = [pdu for pdu in room.state if pdu != joined.pdu]
    for one in (bob, dora):
        await join(one, room.room_id, guest.name)

    creator, gone = guest.user("creator"), {went, came_and_went.sender}
    ours = {bob.user_id, dora.user_id}
    for one, since in zip((bob, dora, erik), tokens, strict=True):
        lists = (await one.sync(since=since))["device_lists"]
        told = {kind: set(lists[kind]) for kind in ("changed", "left")}
        if one is erik:
            assert told == {"changed": set(), "left": {*ours, *gone, creator}}
        else:
            others = ours - {one.user_id}
            assert told["changed"] == {*others, creator}
            assert told["left"] == {*gone, erik.user_id}
        query = {"from": since, "to": one.since}
        again = await one.ok("GET", "/keys/changes", query=query)
        assert {kind: set(again[kind]) for kind in told} == told


async def test_a_join_that_a_kill_cut_off_is_taken_up_again(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with house(authority, tmp_path) as made:
        (a,) = await made.start("a.example")
        guest = await made.guest("guest.example")
        room = GeneratedRoom(guest, "11", members=600)
        guest.answer = room.answer
        alice = await a.person("alice")
        room.held.clear()
        joining = asyncio.create_task(alice.raw("POST", f"/join/{room.room_id}?via={guest.name}"))

        async def begun() -> bool:
            return room.pieces_sent > 0

        await until(begun)
        await alice.refused("M_FORBIDDEN", "GET", at(room.room_id, "members"))
        assert "rooms" not in await alice.sync()
        a.kill()
        room.held.set()
        with contextlib.suppress(aiohttp.ClientError):
            await joining
        await made.start("a.example")

        async def there() -> bool:
            reply = await alice.raw("GET", at(room.room_id, "joined_members"))
            return reply.status == 200

        await until(there)
        synced = (await alice.sync(since=None))["rooms"]["join"][room.room_id]
        assert synced["summary"]["m.joined_member_count"] == 602
        assert len(room.joins) == 2
        a.stop()
        checked = a.check()
        assert checked.returncode == 0, checked.stdout


async def test_another_resident_is_asked_when_the_first_one_breaks_off(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """The second knows the same room; the first one's answer ends in the middle."""
    async with house(authority, tmp_path) as made:
        (a,) = await made.start("a.example")
        first, second = await made.guest("one.example"), await made.guest("two.example")
        room = GeneratedRoom(second, "11", members=300)
        broken = copy(room)
        broken.cut_at = 65_536
        first.answer, second.answer = broken.answer, room.answer
        alice = await a.person("alice")
        via = f"via={first.name}&via={second.name}"
        await alice.ok("POST", f"/join/{room.room_id}?{via}", body={})
        assert len(await members(alice, room.room_id)) == 302


async def test_another_resident_is_asked_when_the_first_one_says_nothing(made: House) -> None:
    alice = await person(made, "a.example")
    first, second = await made.guest("mute.example"), await made.guest("speaks.example")
    room = GeneratedRoom(second)
    second.answer = room.answer
    asked = await silent(first)
    async with asyncio.timeout(25):  # the first one would be waited for longer
        await join(alice, room.room_id, first.name, second.name)
    assert asked.is_set()
    assert (await members(alice, room.room_id))[alice.user_id] == "join"


async def test_members_are_left_out_of_an_answer_where_that_is_asked_for(made: House) -> None:
    """But for those who authorise what is told: it can be checked without the others."""
    alice, other = await person(made, "a.example"), await person(made, "a.example")
    room = await alice.create_room(preset="public_chat", room_version="11", name="Few")
    await join(other, room)
    guest = await made.guest("lazy.example")
    told = await guest.join(made.servers["a.example"], room, guest.user("g"), omit_members=True)
    assert told["members_omitted"] is True
    assert told["servers_in_room"] == ["a.example"]  # those before the join
    rules = ROOM_VERSIONS["11"]
    state, chain = (
        {event.event_id: event for event in (Event.parse(pdu, rules) for pdu in told[name])}
        for name in ("state", "auth_chain")
    )
    types = [event.type for event in state.values()]
    assert "m.room.member" not in types
    assert {"m.room.create", "m.room.power_levels", "m.room.name"} <= set(types)
    assert {event.state_key for event in chain.values()} == {alice.user_id}
    known = state | chain
    own = Event.parse(told["event"], rules)
    for event in (*known.values(), own):
        assert set(event.auth_event_ids) <= known.keys()


@pytest.mark.parametrize(
    "attack", ["foreign", "unsigned", "no create", "banned", "members left out", "cycle"]
)
async def test_a_lying_resident_does_not_get_its_state_believed(made: House, attack: str) -> None:
    name = f"liar{next(_count)}.example"
    guest = await made.guest(name)
    room = GeneratedRoom(guest, "1" if attack == "cycle" else "11")
    guest.answer = room.answer
    alice = await person(made, "a.example")
    refused = True
    if attack == "foreign":
        # An event of another room, where its sender has all power.
        other = GeneratedRoom(guest, "10")
        topic = other.add(
            "m.room.topic", guest.user("creator"), {"topic": "x"}, "", other.base_auth
        )
        room.state.append(topic.pdu)
        room.chain += other.state
        refused = False
    elif attack == "unsigned":
        forged = room.member(guest.user("forged")).pdu
        room.state.append({**forged, "signatures": {name: {guest.keys.key.key_id: "A" * 86}}})
        refused = False
    elif attack == "no create":
        room.state, room.chain = room.state[1:], room.chain[1:]
    elif attack == "members left out":
        room.omitted = True
    elif attack == "banned":
        ban = {"membership": "ban"}
        creator = guest.user("creator")
        room.state.append(
            room.add("m.room.member", creator, ban, alice.user_id, room.base_auth).pdu
        )
    else:
        one = room.member(guest.user("one"))
        unsigned = {key: value for key, value in one.pdu.items() if key != "signatures"}
        unsigned["auth_events"] = [[one.event_id, {}], *unsigned["auth_events"]]
        room.state.append(hash_and_sign(unsigned, room.rules, name, guest.keys.key))
        refused = False
    path = f"/join/{room.room_id}?via={name}"
    if refused:
        reply = await alice.raw("POST", path, body={})
        assert reply.status in (403, 502), reply.body
        assert "rooms" not in await alice.sync()
    else:
        await alice.ok("POST", path, body={})
        state = await alice.ok("GET", at(room.room_id, "state"))
        kept = {(event["type"], event["state_key"]) for event in state}
        assert ("m.room.topic", "") not in kept
        assert {key for kind, key in kept if kind == "m.room.member"} == {
            guest.user("creator"),
            alice.user_id,
        }


async def test_a_thousand_invites_end_at_a_bound(made: House) -> None:
    guest = await made.guest(f"flood{next(_count)}.example")
    b, bob = made.servers["b.example"], await person(made, "b.example")
    statuses = []
    for number in range(30):
        room, sender = f"!flood{number}:{guest.name}", guest.user("eve")
        pdu = signed_invite(guest, room, sender, bob.user_id)
        body = {"room_version": "10", "event": pdu, "invite_room_state": create_of(room, sender)}
        event_id = quote(event_id_of(pdu, ROOM_VERSIONS["10"]))
        path = f"/_matrix/federation/v2/invite/{quote(room)}/{event_id}"
        statuses.append((await guest.request(b, "PUT", path, body)).status)
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 21


async def test_invites_that_a_user_blocks_are_not_signed(made: House) -> None:
    """Those that it ignores are, and it isn't told of them."""
    guest = await made.guest(f"unwanted{next(_count)}.example")
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    b, sender = made.servers["b.example"], guest.user("eve")
    filters = "org.matrix.msc4155.invite_permission_config"

    async def invited_by_guest(room: str) -> Any:
        pdu = signed_invite(guest, room, sender, bob.user_id)
        body = {"room_version": "10", "event": pdu, "invite_room_state": create_of(room, sender)}
        event_id = quote(event_id_of(pdu, ROOM_VERSIONS["10"]))
        path = f"/_matrix/federation/v2/invite/{quote(room)}/{event_id}"
        return await guest.request(b, "PUT", path, body)

    await keep(bob, filters, {"ignored_servers": [guest.name], "blocked_users": ["*:a.example"]})
    assert (await invited_by_guest(f"!ignored:{guest.name}")).status == 200
    room = await alice.create_room()
    invitation = {"user_id": bob.user_id}
    await alice.refused("M_INVITE_BLOCKED", "POST", at(room, "invite"), body=invitation)
    assert (await members(alice, room)).keys() == {alice.user_id}
    # A room is made, and who blocks is left out.
    made_room = await alice.create_room(invite=[bob.user_id])
    assert (await members(alice, made_room)).keys() == {alice.user_id}
    await keep(bob, filters, {})
    await keep(bob, "m.invite_permission_config", {"default_action": "block"})
    reply = await invited_by_guest(f"!blocked:{guest.name}")
    assert (reply.status, reply.errcode) == (403, "M_INVITE_BLOCKED")
    assert "rooms" not in await bob.sync(since="")
    await keep(bob, "m.invite_permission_config", {})
    shown = (await bob.sync(since=""))["rooms"]["invite"]
    assert shown.keys() == {f"!ignored:{guest.name}"}


async def test_a_lie_about_a_room_s_version_keeps_nobody_out(made: House) -> None:
    guest = await made.guest(f"early{next(_count)}.example")
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room, sender = await alice.create_room(preset="public_chat", room_version="11"), guest.user("x")
    pdu = signed_invite(guest, room, sender, bob.user_id)
    body = {"room_version": "10", "event": pdu, "invite_room_state": create_of(room, sender)}
    event_id = quote(event_id_of(pdu, ROOM_VERSIONS["10"]))
    path = f"/_matrix/federation/v2/invite/{quote(room)}/{event_id}"
    reply = await guest.request(made.servers["b.example"], "PUT", path, body)
    assert reply.status == 200, reply.body
    await seen(bob, "invite", room)
    await join(bob, room, "a.example")
    assert (await members(bob, room)) == {alice.user_id: "join", bob.user_id: "join"}
    said = await alice.say(room, "welcome")
    await heard(bob, room, said)


async def test_what_is_no_invite_of_ours_is_not_signed(made: House) -> None:
    guest = await made.guest(f"odd{next(_count)}.example")
    b, bob = made.servers["b.example"], await person(made, "b.example")
    room, sender = f"!odd:{guest.name}", guest.user("eve")

    async def answer(pdu: JsonObject, version: str = "10", **changed: Any) -> Any:
        body = {"room_version": version, "event": pdu, "invite_room_state": create_of(room, sender)}
        event_id = event_id_of(pdu, ROOM_VERSIONS["10"])
        path = f"/_matrix/federation/v2/invite/{quote(changed.get('room', room))}/{quote(event_id)}"
        reply = await guest.request(b, "PUT", path, {**body, **changed.get("body", {})})
        assert reply.status >= 400, reply.body
        return reply.errcode

    right = signed_invite(guest, room, sender, bob.user_id)
    assert await answer(right, "99") == "M_INCOMPATIBLE_ROOM_VERSION"
    assert await answer(right, room=f"!other:{guest.name}") == "M_INVALID_PARAM"
    nobody = signed_invite(guest, room, sender, "@nobody:b.example")
    assert await answer(nobody) == "M_FORBIDDEN"
    assert await answer(signed_invite(guest, room, sender, "@x:a.example")) == "M_INVALID_PARAM"
    stranger = signed_invite(guest, room, "@eve:a.example", bob.user_id)
    assert await answer(stranger) == "M_INVALID_PARAM"
    changed = {**right, "content": {"membership": "join"}}
    assert await answer(changed) == "M_INVALID_PARAM"
    wrong = [{**create_of(room, sender)[0], "content": {"room_version": "9"}}]
    assert await answer(right, body={"invite_room_state": wrong}) == "M_INVALID_PARAM"
    assert "rooms" not in await bob.sync()

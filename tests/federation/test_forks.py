"""Events that other servers sent before they knew what we know: who may read them.

spec: client-server-api#room-history-visibility
"""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event, build
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.house import Guest, House, heard, house
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = ROOM_VERSIONS["11"]
_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("forks")) as house_made:
        await house_made.start("a.example")
        yield house_made


def said(guest: Guest, room: str, user: str, joined: JsonObject, text: str) -> Event:
    """A message of the guest's user right behind its join, whatever has happened since."""
    events = [Event.parse(pdu, RULES) for pdu in (*joined["state"], joined["event"])]
    state = {event.key: event for event in events}
    auth = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", user)]
    last = state["m.room.member", user]
    event, _ = build(
        RULES,
        room_id=room,
        sender=user,
        type="m.room.message",
        content={"msgtype": "m.text", "body": text},
        state_key=None,
        prev_event_ids=[last.event_id],
        auth_event_ids=[state[key].event_id for key in auth],
        depth=last.depth + 1,
        origin_server_ts=guest.keys.clock.now_ms(),
        sign=guest.keys.key,
        server_name=guest.name,
    )
    return event


async def secretive(made: House) -> tuple[Person, Person, Guest, str, JsonObject]:
    """Alice, Bob, a guest with what it got when it joined, and Alice's room for those present."""
    a = made.servers["a.example"]
    number = next(_numbers)
    alice, bob = await a.person(f"alice{number}"), await a.person(f"bob{number}")
    guest = await made.guest(f"guest{number}.example")
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room = await alice.create_room(
        preset="public_chat", room_version="11", initial_state=[{**hidden, "state_key": ""}]
    )
    await alice.sync()
    joined = await guest.join(a, room, guest.user("g"))
    return alice, bob, guest, room, joined


async def test_who_was_not_there_then_does_not_read_it_in_the_history(made: House) -> None:
    a = made.servers["a.example"]
    alice, bob, guest, room, joined = await secretive(made)
    secret = said(guest, room, guest.user("g"), joined, "before Bob came")
    await bob.join(room)
    assert (await guest.send(a, secret.pdu)).body == {"pdus": {secret.event_id: {}}}
    await heard(alice, room, secret.event_id)
    for person, sees in ((alice, True), (bob, False)):
        page = await person.ok("GET", at(room, "messages"), query={"dir": "b", "limit": 50})
        assert (secret.event_id in [event["event_id"] for event in page["chunk"]]) == sees
        first = await person.sync(since=None, remember=False)
        timeline = first["rooms"]["join"][room]["timeline"]["events"]
        assert (secret.event_id in [event["event_id"] for event in timeline]) == sees
        one = await person.raw("GET", at(room, "event", secret.event_id))
        assert one.status == (200 if sees else 404)


async def test_who_was_not_there_then_does_not_hear_it_live(made: House) -> None:
    a = made.servers["a.example"]
    alice, bob, guest, room, joined = await secretive(made)
    secret = said(guest, room, guest.user("g"), joined, "before Bob came")
    await bob.join(room)
    await bob.sync()
    assert (await guest.send(a, secret.pdu)).body == {"pdus": {secret.event_id: {}}}
    await heard(alice, room, secret.event_id)
    after = await alice.say(room, "now that Bob is here")
    told: list[str] = []
    async with asyncio.timeout(20):
        while after not in told:
            section = (await bob.sync(timeout=5_000))["rooms"]["join"][room]
            told += [event["event_id"] for event in section["timeline"]["events"]]
    assert secret.event_id not in told


async def test_who_was_not_there_then_is_not_notified(made: House) -> None:
    a = made.servers["a.example"]
    alice, bob, guest, room, joined = await secretive(made)
    told: dict[str, list[str]] = {"alice": [], "bob": []}
    both = asyncio.Event()

    async def notified(request: web.BaseRequest) -> web.StreamResponse:
        notification = (await request.json())["notification"]
        told[notification["devices"][0]["pushkey"]].append(notification["event_id"])
        if all(told.values()):
            both.set()
        return web.json_response({})

    runner = web.ServerRunner(web.Server(notified))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        secret = said(guest, room, guest.user("g"), joined, "before Bob came")
        await bob.join(room)
        open_room = await alice.create_room(invite=[bob.user_id])
        await bob.join(open_room)
        await alice.sync()
        for name, person in (("alice", alice), ("bob", bob)):
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/_matrix/push/v1/notify"
            names = ("app_id", "pushkey", "app_display_name", "device_display_name", "lang")
            pusher = {"kind": "http", "data": {"url": url}, **dict.fromkeys(names, name)}
            await person.ok("POST", "/pushers/set", body=pusher)
        assert (await guest.send(a, secret.pdu)).body == {"pdus": {secret.event_id: {}}}
        await heard(alice, room, secret.event_id)
        after = await alice.say(open_room, "to Bob alone")
        await asyncio.wait_for(both.wait(), 20)
        assert told == {"alice": [secret.event_id], "bob": [after]}
    finally:
        await runner.cleanup()

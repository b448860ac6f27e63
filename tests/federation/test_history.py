"""What happened before a server came is fetched when its users page into it.

spec: server-server-api#backfilling-and-retrieving-missing-events
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from federation.gaps import REQUEST_SECONDS
from homeserver.matrix.canonical import JsonObject
from tests.federation.branch import Branch
from tests.federation.generated import GeneratedRoom
from tests.federation.house import House, heard, house, until
from tests.federation.internet import Handler
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

_count = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("history")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


async def person(made: House, server: str) -> Person:
    return await made.servers[server].person(f"user{next(_count)}")


async def whole(person: Person, room: str) -> list[JsonObject]:
    """Every event that paging back gives, oldest first; pages until `end` is absent."""
    found: list[JsonObject] = []
    query: dict[str, object] = {"dir": "b", "limit": 50}
    for _ in range(100):
        page = await person.ok("GET", at(room, "messages"), query=query)
        found += page["chunk"]
        if "end" not in page:
            return found[::-1]
        query["from"] = page["end"]
    raise AssertionError("the start was never reached")


@pytest.mark.parametrize("version", ["2", "6", "12"])
async def test_all_of_it_comes_in_order_and_ends_at_the_start(made: House, version: str) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat", room_version=version)
    for number in range(250):
        await alice.say(room, f"message {number}")
    redacted = await alice.say(room, "regret")
    await alice.ok("PUT", at(room, "redact", redacted, "txn"), body={})
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    ours, theirs = await whole(alice, room), await whole(bob, room)
    assert [one["event_id"] for one in theirs] == [one["event_id"] for one in ours]
    assert theirs[0]["type"] == "m.room.create"
    gone = next(one for one in theirs if one["event_id"] == redacted)
    assert gone["content"] == {}


async def test_a_room_that_was_entered_says_that_there_is_more(made: House) -> None:
    """Programs that knew of the room by an invite page back only where a timeline is cut short."""
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    for who in (bob, alice):
        await who.sync()
    room = await alice.create_room(preset="private_chat")
    said = await alice.say(room, "before bob came")
    assert await entered(alice, room) is False, "its own server has all of it"
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    while room not in (await bob.sync(timeout=10_000)).get("rooms", {}).get("invite", {}):
        pass
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    for since in (bob.since, None):
        bob.since = since
        assert await entered(bob, room) is True
    assert said in [one["event_id"] for one in await whole(bob, room)]


async def entered(person: Person, room: str) -> bool:
    """Whether the timeline with which the person is told of a room is cut short."""
    while True:
        joined = (await person.sync(timeout=10_000)).get("rooms", {}).get("join", {})
        if room in joined:
            return bool(joined[room]["timeline"]["limited"])


@pytest.mark.parametrize("visibility", ["joined", "invited"])
async def test_what_was_not_for_newcomers_stays_hidden(made: House, visibility: str) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room = await alice.create_room(preset="public_chat", initial_state=[hidden])
    secret = await alice.say(room, "secret")
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    said = await alice.say(room, "for all")
    await heard(bob, room, said)
    shown = await whole(bob, room)
    assert "secret" not in str(shown)
    await bob.refused("M_NOT_FOUND", "GET", at(room, "event", secret))


async def test_events_of_a_room_are_for_servers_in_it(made: House) -> None:
    alice = await person(made, "a.example")
    a = made.servers["a.example"]
    guest = await made.guest(f"guest{next(_count)}.example")
    room = await alice.create_room(preset="public_chat")
    event_id = await alice.say(room, "not for you")
    for target in (
        f"/_matrix/federation/v1/event/{event_id}",
        f"/_matrix/federation/v1/state/{room}?event_id={event_id}",
        f"/_matrix/federation/v1/state_ids/{room}?event_id={event_id}",
        f"/_matrix/federation/v1/event_auth/{room}/{event_id}",
        f"/_matrix/federation/v1/backfill/{room}?v={event_id}&limit=10",
    ):
        refused = await guest.request(a, "GET", target)
        assert refused.status in (403, 404), (target, refused.body)
    body = {"earliest_events": [], "latest_events": [event_id]}
    target = f"/_matrix/federation/v1/get_missing_events/{room}"
    assert (await guest.request(a, "POST", target, body)).status == 403


async def test_a_room_cannot_be_read_under_the_name_of_another(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    shared = await alice.create_room(preset="public_chat")
    await bob.ok("POST", f"/join/{shared}?via=a.example", body={})
    private = await alice.create_room()
    event_id = await alice.say(private, "secret")
    b = made.servers["b.example"]
    for target in (
        f"/_matrix/federation/v1/state/{shared}?event_id={event_id}",
        f"/_matrix/federation/v1/state_ids/{shared}?event_id={event_id}",
        f"/_matrix/federation/v1/event_auth/{shared}/{event_id}",
    ):
        reply = await made.request_as(b, made.servers["a.example"], "GET", target)
        assert reply.status == 404, (target, reply.body)
    target = f"/_matrix/federation/v1/backfill/{shared}?v={event_id}&limit=10"
    reply = await made.request_as(b, made.servers["a.example"], "GET", target)
    assert reply.body["pdus"] == []


async def test_history_goes_on_behind_state_that_was_told_with_the_join(made: House) -> None:
    """Both where the join stands, and wherever one answer about the past ends."""
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat")
    for number in range(110):
        await alice.put_state(room, "org.example.state", {"number": number}, str(number))
        if number < 3:
            await alice.say(room, f"message {number}")
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    ours, theirs = await whole(alice, room), await whole(bob, room)
    assert [one["event_id"] for one in theirs] == [one["event_id"] for one in ours]
    assert theirs[0]["type"] == "m.room.create"


async def test_a_past_that_was_made_up_is_not_believed(made: House) -> None:
    """Only what known events stand behind is history, whatever else a server in the room signs."""
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    a = made.servers["a.example"]
    room = await alice.create_room(preset="public_chat", room_version="11")
    for number in range(120):
        await alice.say(room, f"message {number}")
    branches = [
        await Branch.join(await made.guest(f"guest{next(_count)}.example"), a, room)
        for _ in range(4)
    ]

    def lies(branch: Branch) -> Handler:
        """What a.example has of the past, and more."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if "/backfill/" not in request.path:
                return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
            reply = await branch.guest.request(a, "GET", request.raw_path)
            depths = [pdu["depth"] for pdu in reply.body["pdus"]]
            pdus = [branch.say("hostile", depth=depth).pdu for depth in depths[:50]]
            return web.json_response({"pdus": [*pdus, *reply.body["pdus"]]})

        return answer

    for branch in branches:
        branch.guest.answer = lies(branch)
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    theirs = await whole(bob, room)
    assert "hostile" not in str(theirs)
    ids = [one["event_id"] for one in await whole(alice, room)]
    assert [one["event_id"] for one in theirs] == ids


async def test_by_its_time_an_event_is_found_that_only_others_have_yet(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    room = await alice.create_room(preset="public_chat")
    said = [await alice.say(room, f"message {number}") for number in range(230)]
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    wanted = (await alice.ok("GET", at(room, "event", said[3])))["origin_server_ts"]
    path = f"/_matrix/client/v1/rooms/{quote(room)}/timestamp_to_event"
    for way in "fb":
        query = {"ts": wanted, "dir": way}
        found = await bob.ok("GET", path, query=query)
        assert found == await alice.ok("GET", path, query=query)
        assert found["origin_server_ts"] == wanted
        context = await bob.ok("GET", at(room, "context", found["event_id"]))
        assert context["event"]["event_id"] == found["event_id"]
        assert context["events_before"]
    await bob.refused("M_NOT_FOUND", "GET", path, query={"ts": 1, "dir": "b"})
    create = await bob.ok("GET", path, query={"ts": 1, "dir": "f"})
    assert create == await alice.ok("GET", path, query={"ts": 1, "dir": "f"})
    assert [one["event_id"] for one in await whole(bob, room)] == [
        one["event_id"] for one in await whole(alice, room)
    ]


async def test_by_its_time_an_event_is_found_in_a_gap(made: House) -> None:
    """Between two events that are here lie some that nobody has sent us."""
    alice, a = await person(made, "a.example"), made.servers["a.example"]
    room = await alice.create_room(preset="public_chat", room_version="11")
    for number in range(5):
        await alice.say(room, f"message {number}")
    guest = await made.guest(f"guest{next(_count)}.example")
    branch = await Branch.join(guest, a, room)
    start = guest.keys.clock.now_ms() + 3_600_000
    absent = [
        branch.add("m.room.message", {"body": f"absent {number}"}, ts=start + 1_000 * number)
        for number in range(5)
    ]
    last = branch.say("the last", ts=start + 10_000)
    ids = [event.event_id for event in branch.state.values()]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "/state_ids/" in request.path:
            return web.json_response({"pdu_ids": ids, "auth_chain_ids": ids})
        if "/backfill/" in request.path:
            return web.json_response({"pdus": [event.pdu for event in absent[::-1]]})
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

    guest.answer = answer
    await alice.sync()
    await guest.send(a, last.pdu)
    await heard(alice, room, last.event_id)
    path = f"/_matrix/client/v1/rooms/{quote(room)}/timestamp_to_event"
    for ts, way, number in ((1_999, "f", 2), (2_001, "b", 2), (4_001, "b", 4)):
        found = await alice.ok("GET", path, query={"ts": start + ts, "dir": way})
        assert found["event_id"] == absent[number].event_id, (ts, way)


async def test_who_looks_for_a_time_does_not_wait_for_a_server_that_stalls(made: House) -> None:
    guest = await made.guest(f"guest{next(_count)}.example")
    room = GeneratedRoom(guest)
    asked, never = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "/backfill/" in request.path:
            asked.set()
            await never.wait()
        return await room.answer(request)

    guest.answer = answer
    bob = await person(made, "b.example")
    await bob.ok("POST", f"/join/{room.room_id}?via={guest.name}", body={})
    path = f"/_matrix/client/v1/rooms/{quote(room.room_id)}/timestamp_to_event"
    began = time.monotonic()
    await bob.refused("M_NOT_FOUND", "GET", path, query={"ts": 1, "dir": "b"})
    assert time.monotonic() - began < REQUEST_SECONDS - 5
    assert asked.is_set()
    found = await bob.ok("GET", path, query={"ts": 1, "dir": "f"})  # the nearest that is here
    event = await bob.ok("GET", at(room.room_id, "event", found["event_id"]))
    assert event["state_key"] == bob.user_id
    never.set()


async def test_who_pages_does_not_wait_for_a_server_that_stalls(made: House) -> None:
    """The page is empty and says that there is more, which comes when the server has answered."""
    bob = await person(made, "b.example")
    guest = await made.guest(f"guest{next(_count)}.example")
    room = GeneratedRoom(guest)
    asked: list[str] = []
    released = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "/backfill/" in request.path:
            asked.append(request.path_qs)
            await released.wait()
            return web.json_response({"pdus": [event.pdu for event in room.events[::-1]]})
        return await room.answer(request)

    guest.answer = answer
    await bob.ok("POST", f"/join/{room.room_id}?via={guest.name}", body={})
    path = at(room.room_id, "messages")
    first = await bob.ok("GET", path, query={"dir": "b", "limit": 1})
    assert len(first["chunk"]) == 1
    began = time.monotonic()
    empty = await bob.ok("GET", path, query={"dir": "b", "from": first["end"]})
    assert time.monotonic() - began < REQUEST_SECONDS - 5
    assert (empty["chunk"], "end" in empty, len(asked)) == ([], True, 1)
    released.set()

    async def more() -> list[str]:
        page = await bob.ok("GET", path, query={"dir": "b", "from": empty["end"], "limit": 2})
        return [event["event_id"] for event in page["chunk"]]

    found = await until(more)
    times = len(asked)
    assert await more() == found  # it is kept: nobody is asked again
    assert len(asked) == times


async def test_the_event_nearest_to_a_time_is_one_that_the_server_may_see(made: House) -> None:
    alice, bob = await person(made, "a.example"), await person(made, "b.example")
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room = await alice.create_room(preset="public_chat", initial_state=[hidden])
    secret = await alice.say(room, "secret")
    await bob.ok("POST", f"/join/{room}?via=a.example", body={})
    said = await alice.say(room, "for all")
    shown = [await alice.ok("GET", at(room, "event", one)) for one in (secret, said)]
    before, now = (event["origin_server_ts"] for event in shown)
    a, b = made.servers["a.example"], made.servers["b.example"]
    path = f"/_matrix/federation/v1/timestamp_to_event/{room}"
    found = await made.request_as(b, a, "GET", f"{path}?ts={now}&dir=f")
    assert found.body == {"event_id": said, "origin_server_ts": now}
    for way in "fb":
        found = await made.request_as(b, a, "GET", f"{path}?ts={before}&dir={way}")
        assert found.status == 200
        assert found.body["event_id"] != secret
    late = await made.request_as(b, a, "GET", f"{path}?ts={now + 60_000}&dir=f")
    assert (late.status, late.errcode) == (404, "M_NOT_FOUND")
    guest = await made.guest(f"guest{next(_count)}.example")
    refused = await guest.request(a, "GET", f"{path}?ts={now}&dir=b")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")

"""What waits for its room: nothing that one server sends or withholds holds up another's events.

spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from federation.shares import MAX_STAGED
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.sign import hash_and_sign
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.house import Guest, House, heard, house
from tests.federation.internet import Handler
from tests.federation.test_outages import chain
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

_count = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("staging")) as house_made:
        await house_made.start("a.example")
        yield house_made


async def room_of(made: House) -> tuple[Person, str]:
    alice = await made.servers["a.example"].person(f"alice{next(_count)}")
    room = await alice.create_room(preset="public_chat", room_version="11")
    await alice.sync()
    return alice, room


async def said(made: House, room: str, count: int) -> tuple[Guest, list[Event]]:
    """A new server in the room, and messages of it, each after the one before; none is sent."""
    guest = await made.guest(f"guest{next(_count)}.example")
    user = guest.user("g")
    joined = await guest.join(made.servers["a.example"], room, user)
    return guest, [event for event, _ in chain(guest, room, user, joined, count)]


def tells(events: list[Event]) -> Handler:
    """Answer get_missing_events with all of these."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "/get_missing_events/" in request.path:
            return web.json_response({"events": [event.pdu for event in events]})
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

    return answer


async def test_a_server_that_floods_and_withholds_fills_its_own_share_only(made: House) -> None:
    a = made.servers["a.example"]
    alice, room = await room_of(made)
    flood, junk = await said(made, room, 1_060)
    never = asyncio.Event()

    async def stall(request: web.BaseRequest) -> web.StreamResponse:
        await never.wait()
        return web.json_response({})

    flood.answer = stall
    answers: dict[str, JsonObject] = {}
    # Without the first one nothing of it can be judged.
    for start in range(1, len(junk), 50):
        sent = await flood.send(a, *(event.pdu for event in junk[start : start + 50]))
        answers |= sent.body["pdus"]
    refused = [one for one in answers.values() if one]
    assert len(refused) == len(junk) - 1 - MAX_STAGED // 2
    honest, (first, second) = await said(made, room, 2)
    honest.answer = tells([first])
    assert (await honest.send(a, second.pdu)).body == {"pdus": {second.event_id: {}}}
    # The flood's question is under way all the time.
    await heard(alice, room, second.event_id, 25)
    never.set()


async def test_a_copy_without_a_known_key_takes_the_place_of_no_verified_event(
    made: House,
) -> None:
    a = made.servers["a.example"]
    alice, room = await room_of(made)
    honest, (first, second) = await said(made, room, 2)
    hostile, _ = await said(made, room, 0)
    asked = asyncio.Event()
    sane = tells([first])

    async def nothing(request: web.BaseRequest) -> web.StreamResponse:
        if "/state_ids/" in request.path:
            asked.set()
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

    honest.answer = nothing
    await honest.send(a, second.pdu)
    await asyncio.wait_for(asked.wait(), 30)
    for _ in range(2):
        forged = {**second.pdu, "signatures": {honest.name: {"ed25519:other": "AAAA"}}}
        assert (await hostile.send(a, forged)).body == {"pdus": {second.event_id: {}}}
    honest.answer = sane
    await heard(alice, room, second.event_id, 90)


@pytest.mark.long
async def test_events_whose_keys_come_late_are_verified_and_hold_up_nobody(made: House) -> None:
    a = made.servers["a.example"]
    alice, room = await room_of(made)
    honest, (one,) = await said(made, room, 1)
    late, (theirs,) = await said(made, room, 1)
    late.keys.rotate()
    pdu = {key: value for key, value in theirs.pdu.items() if key != "signatures"}
    whole = late.server.handler
    held = asyncio.Event()

    async def no_keys(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/_matrix/key/") and not held.is_set():
            await held.wait()
        return await whole(request)

    late.server.handler = no_keys
    resigned = Event.parse(signed_by(late, pdu), theirs.rules)
    assert resigned.event_id == theirs.event_id
    sent = await honest.send(a, resigned.pdu, one.pdu)
    assert sent.body == {"pdus": {one.event_id: {}, theirs.event_id: {}}}
    await heard(alice, room, one.event_id)
    held.set()
    # Keys that could not be had are left alone for a while; the event is tried ever more rarely.
    await heard(alice, room, theirs.event_id, 300)


def signed_by(guest: Guest, pdu: JsonObject) -> JsonObject:
    """The event's signatures with the guest's present key."""
    return hash_and_sign(pdu, ROOM_VERSIONS["11"], guest.name, guest.keys.key)


async def test_events_that_lack_each_other_are_judged_together_when_all_are_there(
    made: House,
) -> None:
    """Every second one first, as after an outage: nobody has to be asked once the others come."""
    a = made.servers["a.example"]
    alice, room = await room_of(made)
    guest, events = await said(made, room, 400)
    asked: list[str] = []

    async def nothing(request: web.BaseRequest) -> web.StreamResponse:
        if "/get_missing_events/" in request.path:
            asked.extend(json.loads(await request.read())["latest_events"])
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

    guest.answer = nothing
    for part in (events[1::2], events[::2]):
        for start in range(0, len(part), 50):
            await guest.send(a, *(event.pdu for event in part[start : start + 50]))
    await heard(alice, room, events[-1].event_id, 60)
    # Every one of the first half lacked something, and was asked for at most twice.
    assert len(asked) <= 2 * len(events) // 2

"""Peers that answer questions about what is missing slowly, with nonsense, or with lies.

A mad server sends what an honest one has said, and is asked first for what came before it. Whatever
it answers, the room has the honest server's events as soon as that one is asked; other rooms don't
wait, and nothing false is believed.
spec: server-server-api#backfilling-and-retrieving-missing-events
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from federation.gaps import ROUNDS
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.sign import SigningKey, hash_and_sign
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.branch import Branch
from tests.federation.house import Guest, House, HouseServer, heard, house, until
from tests.federation.internet import Handler, answers
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count()
QUESTIONS = ("get_missing_events", "state_ids", "state", "event", "event_auth", "backfill")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("mad")) as house_made:
        await house_made.start("a.example")
        yield house_made


@dataclass
class Between:
    """A room of Alice's with an honest server and a mad one in it; the latter's name comes first.

    `first` was said by the honest one and told to nobody, `second` comes after it.
    """

    a: HouseServer
    alice: Person
    honest: Branch
    mad: Branch
    first: Event
    second: Event

    @property
    def room(self) -> str:
        return self.honest.room

    async def relay(self, answer: Handler) -> None:
        """Have the mad server send `second`; it answers every question as it is told."""
        self.mad.guest.answer = answer
        sent = await self.mad.guest.send(self.a, self.second.pdu)
        assert sent.body == {"pdus": {self.second.event_id: {}}}

    async def heals(self) -> None:
        """Alice hears both, in their order."""
        heard_of: list[str] = []
        wanted = [self.first.event_id, self.second.event_id]
        async with asyncio.timeout(90):
            while wanted != [one for one in heard_of if one in wanted]:
                answer = await self.alice.sync(timeout=5_000)
                section = answer.get("rooms", {}).get("join", {}).get(self.room, {})
                for event in section.get("timeline", {}).get("events", ()):
                    assert "hostile" not in json.dumps(event)
                    heard_of.append(event["event_id"])

    def questions(self, guest: Guest) -> list[str]:
        """What was asked of a server, a word for each request."""
        return [word for seen in guest.seen for word in [kind_of(seen.target)] if word]


def kind_of(path: str) -> str:
    return next((word for word in QUESTIONS if f"/{word}/" in path), "")


async def between(made: House) -> Between:
    a, number = made.servers["a.example"], next(_numbers)
    alice = await a.person(f"alice{number}")
    room = await alice.create_room(preset="public_chat", room_version="11")
    honest = await Branch.join(await made.guest(f"z{number}.example"), a, room)
    mad = await Branch.join(await made.guest(f"m{number}.example"), a, room)
    await alice.sync()
    first = honest.add("m.room.message", {"msgtype": "m.text", "body": "the first"})
    second = honest.say("the second")
    honest.guest.answer = knows(honest, [first, second])
    return Between(a, alice, honest, mad, first, second)


def knows(branch: Branch, said: list[Event], *, without: tuple[str, ...] = ()) -> Handler:
    """Honest answers to all questions, but for some; the state is that of the branch."""
    state = list(branch.state.values())
    by_id = {event.event_id: event for event in (*state, *said)}
    ids = [event.event_id for event in state]
    pdus = [event.pdu for event in state]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        kind = kind_of(request.path)
        found: JsonObject | None = None
        if kind == "get_missing_events":
            asked = await request.json()
            latest = {prev for id_ in asked["latest_events"] for prev in named(by_id, id_)}
            known = [by_id[id_].pdu for id_ in latest if id_ in by_id]
            found = {"events": [pdu for pdu in known if pdu not in pdus]}
        elif kind == "state_ids":
            found = {"pdu_ids": ids, "auth_chain_ids": ids}
        elif kind == "state":
            found = {"pdus": pdus, "auth_chain": pdus}
        elif kind == "event_auth":
            found = {"auth_chain": pdus}
        elif kind == "event":
            event = by_id.get(unquote(request.path.rpartition("/")[2]))
            found = {"pdus": [event.pdu]} if event is not None else None
        if found is None or kind in without:
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        return web.json_response(found)

    return answer


def named(by_id: dict[str, Event], event_id: str) -> list[str]:
    return list(by_id[event_id].prev_event_ids) if event_id in by_id else []


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    """An answer that never ends: it is read as far as one may be long."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" " * 1_048_576)
            await asyncio.sleep(0)  # a write to a peer that has gone waits for nothing
    return response


async def silent(request: web.BaseRequest) -> web.StreamResponse:
    """No answer."""
    await asyncio.Event().wait()
    return web.Response()


def lies(room: Between, kind: str) -> Handler:
    """Answers that look like some, about something else."""
    mad, honest = room.mad, room.honest
    thief = SigningKey(honest.guest.keys.key.version, b"\1" * 32)
    pdus: list[JsonObject] = []
    if kind == "nothing":
        pass
    elif kind == "unrelated":
        events = [mad.add("m.room.message", {"body": f"hostile {n}"}) for n in range(60)]
        pdus = [event.pdu for event in events]
    elif kind == "forged":
        # The honest server's events, which somebody else has signed.
        pdus = [{**room.first.pdu, "signatures": honest.say("x", key=thief).pdu["signatures"]}]
        pdus += [honest.say("hostile", key=thief).pdu]
    elif kind == "of no form":
        pdus = [{"hostile": 1}, {**room.first.pdu, "depth": "hostile"}]
    ids = [mad.last.event_id] if kind != "nothing" else []
    told: dict[str, JsonObject] = {
        "get_missing_events": {"events": pdus},
        "state_ids": {"pdu_ids": ids, "auth_chain_ids": ids},
        "state": {"pdus": pdus, "auth_chain": pdus},
        "event": {"pdus": pdus},
        "event_auth": {"auth_chain": pdus},
        "backfill": {"pdus": pdus},
    }

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(told[kind_of(request.path)])

    return answer


PLAIN: dict[str, Handler] = {
    "garbage": answers(b"\xff\x00 hostile"),
    "500": answers({"errcode": "M_UNKNOWN"}, 500),
    "429": answers({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2**60}, 429),
    "a list": answers([1, 2]),
    "other types": answers(
        {"events": "hostile", "pdus": {}, "pdu_ids": 1, "auth_chain_ids": None, "auth_chain": 2.5}
    ),
    "endless": endless,
    "silent": silent,
}


@pytest.mark.parametrize(
    "kind", [*PLAIN, "nothing", "unrelated", "forged", "of no form", "another room"]
)
async def test_the_next_server_is_asked_when_an_answer_is_of_no_use(made: House, kind: str) -> None:
    room = await between(made)
    if kind == "another room":
        other = await between(made)
        answer = knows(other.honest, [other.first, other.second])
    else:
        answer = PLAIN.get(kind) or lies(room, kind)
    await room.relay(answer)
    await room.heals()
    asked = room.questions(room.mad.guest)
    assert asked, "it was not asked at all"
    assert len(asked) <= 2 * ROUNDS
    # Nothing of it has come into the room.
    page = await room.alice.ok("GET", at(room.room, "messages"), query={"dir": "b", "limit": 100})
    assert "hostile" not in json.dumps(page)


@pytest.mark.parametrize("kind", ["cut off", "garbage"])
async def test_a_state_that_goes_wrong_in_the_middle_is_asked_of_the_next(
    made: House, kind: str
) -> None:
    """Nothing of it is kept, also not the events before the middle."""
    room = await between(made)
    mad, honest = room.mad, room.honest
    members = [
        mad.make("m.room.topic", {"topic": f"hostile {number}"}, f"{number}")
        for number in range(60)
    ]
    ids = [event.event_id for event in (*honest.state.values(), *members)]
    begin = json.dumps({"pdus": [event.pdu for event in members]}).encode()[:-2]
    # No other way leads to `first`.
    honest.guest.answer = knows(honest, [room.first, room.second], without=("get_missing_events",))

    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        asked = kind_of(request.path)
        if asked == "state_ids":
            return web.json_response({"pdu_ids": ids, "auth_chain_ids": []})
        if asked != "state":
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        return web.Response(body=begin + (b"" if kind == "cut off" else b',\xff"}'))

    await room.relay(broken)
    await heard(room.alice, room.room, room.second.event_id, 90)
    assert "state" in room.questions(mad.guest)
    for event in members[:3]:
        await room.alice.refused("M_NOT_FOUND", "GET", at(room.room, "event", event.event_id))


async def test_other_rooms_and_servers_go_on_while_one_stalls(made: House) -> None:
    stalled, other = await between(made), await between(made)
    stalled.honest.guest.answer = silent
    await stalled.relay(silent)

    async def asked() -> bool:
        return bool(stalled.questions(stalled.mad.guest))

    await until(asked)
    # In another room, and in the same by a server that is not asked for anything.
    await other.relay(answers({}, 500))
    await other.heals()
    guest = await made.guest(f"n{next(_numbers)}.example")
    beside = await Branch.join(guest, stalled.a, stalled.room)
    said = beside.say("beside it")
    await guest.send(stalled.a, said.pdu)
    await heard(stalled.alice, stalled.room, said.event_id)
    # Once the honest server answers, it is as if nothing had been.
    stalled.honest.guest.answer = knows(stalled.honest, [stalled.first, stalled.second])
    third = stalled.honest.say("the third", prevs=[stalled.second.event_id])
    await stalled.honest.guest.send(stalled.a, third.pdu)
    await stalled.heals()


@pytest.mark.parametrize("kind", ["left out", "of another time", "no beginning"])
async def test_a_state_that_was_made_up_rejects_nobodys_events(made: House, kind: str) -> None:
    """By what it leaves out, a server would decide what others may say."""
    room = await between(made)
    honest = room.honest
    joined = honest.state["m.room.member", honest.user]
    left = {"membership": "leave"}
    gone = honest.add("m.room.member", left, honest.user, prevs=[joined.event_id])
    back = honest.add("m.room.member", {"membership": "join"}, honest.user)
    await honest.guest.send(room.a, gone.pdu, back.pdu)
    await heard(room.alice, room.room, back.event_id)
    room.first = honest.say("the first")
    room.second = honest.say("the second", prevs=[room.first.event_id])
    honest.guest.answer = knows(honest, [room.first, room.second], without=("get_missing_events",))
    ids = [event.event_id for event in honest.state.values()]
    if kind == "left out":
        ids.remove(back.event_id)
    elif kind == "of another time":
        ids.append(gone.event_id)  # two events of one key: the later would count
    else:
        ids.remove(honest.state["m.room.create", ""].event_id)

    async def told(request: web.BaseRequest) -> web.StreamResponse:
        if kind_of(request.path) == "state_ids":
            return web.json_response({"pdu_ids": ids, "auth_chain_ids": []})
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

    await room.relay(told)
    await heard(room.alice, room.room, room.second.event_id, 60)
    assert "state_ids" in room.questions(room.mad.guest)


@pytest.mark.parametrize("key", ["prev_events", "auth_events"])
async def test_events_that_stand_behind_each_other_in_a_circle_are_left(
    made: House, key: str
) -> None:
    """In the first room versions a server chooses the ids of its events."""
    a, number = made.servers["a.example"], next(_numbers)
    alice = await a.person(f"alice{number}")
    room = await alice.create_room(preset="public_chat", room_version="2")
    guest = await made.guest(f"m{number}.example")
    mad = await Branch.join(guest, a, room, rules=ROOM_VERSIONS["2"])
    await alice.sync()
    ids = [f"$circle{place}:{guest.name}" for place in range(3)]
    circle: dict[str, JsonObject] = {}
    for place, event_id in enumerate(ids):
        pdu = dict(mad.say(f"hostile {place}").pdu)
        behind = [ids[place - 1], {}]
        pdu |= {"event_id": event_id, key: [*(pdu[key] if key == "auth_events" else ()), behind]}
        del pdu["hashes"], pdu["signatures"]
        circle[event_id] = hash_and_sign(pdu, mad.rules, guest.name, guest.keys.key)
    done = asyncio.Event()
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        kind = kind_of(request.path)
        asked.append(kind)
        everything = list(circle.values())
        if kind == "get_missing_events":
            return web.json_response({"events": everything})
        if kind == "event_auth":
            return web.json_response({"auth_chain": everything})
        if kind == "event":
            pdu = circle.get(unquote(request.path.rpartition("/")[2]))
            return web.json_response({"pdus": [pdu]})
        done.set()
        return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)

    guest.answer = answer
    await guest.send(a, circle[ids[0]])
    if key == "prev_events":
        await asyncio.wait_for(done.wait(), 60)
    else:
        await until(lambda: said(asked, "event_auth"))
    honest = mad.say("honest")
    await guest.send(a, honest.pdu)
    await heard(alice, room, honest.event_id)
    assert len(asked) <= 4 * ROUNDS
    for event_id in ids:
        await alice.refused("M_NOT_FOUND", "GET", at(room, "event", event_id))


async def said(asked: list[str], word: str) -> bool:
    return word in asked

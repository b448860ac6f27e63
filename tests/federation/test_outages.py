"""Outages between real servers: when they are over, all have the same events and the same state.

Three servers as processes share a room. One is killed while people talk, or while it bursts itself;
two can't reach each other while both sides write; a fourth one, which the test plays, answers with
everything but sense.
"""

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import trustme
from aiohttp import web

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event, build
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.house import Guest, House, HouseServer, heard, house, until
from tests.federation.internet import Handler, answers
from tests.serving import Person

LONG = pytest.mark.long
NAMES = ("a.example", "b.example", "c.example")


@dataclass
class Together:
    """Three servers with a person each in one room, and what each was told that it has sent."""

    made: House
    servers: list[HouseServer]
    people: list[Person]
    room_id: str
    welcome: str
    sent: list[str] = field(default_factory=list)

    async def say(self, number: int, text: str) -> str:
        event_id = await self.people[number].say(self.room_id, text)
        self.sent.append(event_id)
        return event_id

    async def talk(self, number: int, count: int, pause: float = 0.02) -> None:
        """Say so much, one after the other."""
        for place in range(count):
            await self.say(number, f"{number}.{place}")
            await asyncio.sleep(pause)

    async def timeline(self, number: int) -> list[str]:
        """The events of the room that a person finds, newest first, as far back as need be."""
        query: dict[str, Any] = {"dir": "b", "limit": 1000}
        path = f"/rooms/{quote(self.room_id)}/messages"
        found: list[str] = []
        while len(found) < len(self.sent) + 10:
            page = await self.people[number].ok("GET", path, query=query)
            found += [event["event_id"] for event in page["chunk"]]
            if "end" not in page or not page["chunk"]:
                break
            query["from"] = page["end"]
        return found

    async def state(self, number: int) -> dict[tuple[str, str], str]:
        shown = await self.people[number].ok("GET", f"/rooms/{quote(self.room_id)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in shown}

    async def agree(self) -> bool:
        """Whether every server has each event that was acknowledged, and one state."""
        for number in range(len(self.people)):
            if not set(self.sent) <= set(await self.timeline(number)):
                return False
        states = [await self.state(number) for number in range(len(self.people))]
        return all(state == states[0] for state in states[1:])

    async def check(self, seconds: float) -> None:
        """They agree in time, and nobody has anything twice."""
        try:
            await until(self.agree, seconds)
        except TimeoutError:
            for number in range(len(self.people)):
                there = await self.timeline(number)
                missing = [one for one in self.sent if one not in there]
                print(NAMES[number], "lacks", len(missing), "of", len(self.sent), missing[:5])
                print(sorted((await self.state(number)).items()))
            raise
        for number in range(len(self.people)):
            there = await self.timeline(number)
            assert len(there) == len(set(there))


@pytest.fixture
async def together(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Together]:
    async with house(authority, tmp_path, wired=True) as made:
        servers = await made.start(*NAMES)
        people = [await server.person(f"p{n}") for n, server in enumerate(servers)]
        levels = {"users": {person.user_id: 100 for person in people}}
        room_id = await people[0].create_room(
            preset="public_chat", room_version="11", power_level_content_override=levels
        )
        for person in people[1:]:
            await person.ok("POST", f"/join/{quote(room_id)}?server_name=a.example", body={})
        first = await people[0].say(room_id, "welcome")
        for person in people[1:]:
            await heard(person, room_id, first)
        yield Together(made, servers, people, room_id, first)


@pytest.mark.parametrize(
    ("seconds", "count", "pause"), [(1, 30, 0.02), pytest.param(60, 300, 0.2, marks=LONG)]
)
async def test_a_server_that_is_killed_under_load_misses_nothing(
    together: Together, seconds: int, count: int, pause: float
) -> None:
    """The people of the others talk on meanwhile."""
    talking = [asyncio.create_task(together.talk(n, count, pause)) for n in (0, 1)]
    await asyncio.sleep(0.3)
    together.servers[2].kill()
    await asyncio.sleep(seconds)
    await together.made.start("c.example")
    await asyncio.gather(*talking)
    await together.say(2, "I am back")
    await together.check(120)


async def test_a_server_that_is_killed_while_it_bursts_sends_everything_once(
    together: Together,
) -> None:
    """Also what it had stored and told nobody of: all end with the same events."""

    async def burst(life: int) -> None:
        for number in itertools.count():
            await asyncio.gather(*(together.say(0, f"{life}.{number}.{n}") for n in range(5)))
            together.sent.append(
                await together.people[0].put_state(
                    together.room_id, "test.state", {"number": number}, "burst"
                )
            )

    for life in range(2):
        wanted = len(together.sent) + 25
        bursting = asyncio.create_task(burst(life))
        while len(together.sent) < wanted:
            assert not bursting.done(), bursting.result()
            await asyncio.sleep(0.01)
        together.servers[0].kill()
        with contextlib.suppress(aiohttp.ClientError):
            await bursting
        await together.made.start("a.example")
    await together.say(0, "the last")
    await together.check(120)
    everything = []
    for number in range(3):
        found = await together.timeline(number)
        everything.append(set(found[: found.index(together.welcome)]))
    assert everything[0] == everything[1] == everything[2]


@pytest.mark.parametrize(("seconds", "count"), [(1, 10), pytest.param(60, 300, marks=LONG)])
async def test_a_partition_heals_after_both_sides_wrote(
    together: Together, seconds: int, count: int
) -> None:
    """Between b and c only: a hears of both. State is changed on both sides."""
    together.made.cut("b.example", "c.example")
    b, c = together.people[1:]
    await asyncio.gather(together.talk(1, count), together.talk(2, count))
    for person, name in ((b, "by b"), (c, "by c")):
        topic = {"topic": name}
        together.sent.append(await person.put_state(together.room_id, "m.room.topic", topic))
        key = f"of {name}"
        together.sent.append(await person.put_state(together.room_id, "test.state", {}, key))
    await asyncio.sleep(seconds)
    together.made.mend("b.example", "c.example")
    await together.say(1, "healed")
    await together.say(2, "healed, too")
    await together.check(120)


@pytest.mark.parametrize("count", [5, pytest.param(200, marks=LONG)])
async def test_a_server_alone_writes_on_and_all_is_told_later(
    together: Together, count: int
) -> None:
    """Cut off from everybody, its people go on; so do the others."""
    for other in ("a.example", "b.example"):
        together.made.cut("c.example", other)
    await asyncio.gather(*(together.talk(number, count) for number in range(3)))
    for other in ("a.example", "b.example"):
        together.made.mend("c.example", other)
    await together.check(120)


async def test_a_peer_without_sense_holds_up_nobody(together: Together) -> None:
    """It answers late, with garbage, with errors, without end; the others hear all at once."""
    a, alice = together.servers[0], together.people[0]
    guest = await together.made.guest("guest.example")
    await guest.join(a, together.room_id, guest.user("mad"))
    turns = itertools.count()
    never = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while not never.is_set():
                await response.write(b" " * 65_536)
                await asyncio.sleep(0)  # a write to a peer that has gone waits for nothing
        return response

    async def late(request: web.BaseRequest) -> web.StreamResponse:
        await never.wait()
        return web.json_response({}, status=500)  # it was not taken

    kinds: list[Handler] = [
        endless,
        late,
        answers(b"\xff\x00 garbage"),
        answers({"errcode": "M_UNKNOWN"}, 500),
        answers({}, 503),
    ]

    async def mad(request: web.BaseRequest) -> web.StreamResponse:
        return await kinds[next(turns) % len(kinds)](request)

    sane = guest.server.handler

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if "/send/" in request.path and not never.is_set():
            return await mad(request)
        return await sane(request)

    guest.server.handler = handle
    for number in range(20):
        event_id = await together.say(0, f"on we go {number}")
        await heard(together.people[1], together.room_id, event_id, 15)
    await together.check(20)
    never.set()
    await alice.ok("POST", "/_homeserver/admin/v1/federation/guest.example/retry", body={})

    async def caught_up() -> bool:
        await alice.ok("POST", "/_homeserver/admin/v1/federation/guest.example/retry", body={})
        there = [pdu["content"].get("body") for pdu in guest.pdus]
        return all(f"on we go {number}" in there for number in range(20))

    await until(caught_up, 90)


@pytest.mark.parametrize("count", [12, pytest.param(150, marks=LONG)])
async def test_transactions_that_come_twice_and_in_any_order(
    together: Together, count: int
) -> None:
    """The sender says when asked what came before; nobody has anything twice."""
    guest = await together.made.guest("guest.example")
    user = guest.user("mixed")
    joined = await guest.join(together.servers[0], together.room_id, user)
    said = chain(guest, together.room_id, user, joined, count)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "/get_missing_events/" not in request.path:
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        asked = json.loads(await request.read())
        ids = [event.event_id for event, _ in said]
        last = max(ids.index(one) for one in asked["latest_events"] if one in ids)
        known = [ids.index(one) for one in asked["earliest_events"] if one in ids]
        between = said[max(known, default=-1) + 1 : last][-asked["limit"] :]
        return web.json_response({"events": [event.pdu for event, _ in between]})

    guest.answer = answer
    chance = random.Random(count)
    for server in together.servers:
        order = [event.pdu for event, _ in said] * 2
        chance.shuffle(order)
        sends = [guest.send(server, pdu) for pdu in order]
        replies = await asyncio.gather(*sends)
        assert {reply.status for reply in replies} == {200}
    together.sent += [event.event_id for event, _ in said]
    await together.check(60)


def chain(
    guest: Guest, room_id: str, user: str, joined: JsonObject, count: int
) -> list[tuple[Event, bytes]]:
    """Messages of a user who has just joined, each after the one before."""
    rules = ROOM_VERSIONS["11"]
    events = [Event.parse(pdu, rules) for pdu in (*joined["state"], joined["event"])]
    by_key = {event.key: event for event in events if event.is_state}
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", user)]
    last = by_key["m.room.member", user]
    made = []
    for number in range(count):
        event, pdu = build(
            rules,
            room_id=room_id,
            sender=user,
            type="m.room.message",
            content={"msgtype": "m.text", "body": f"mixed {number}"},
            state_key=None,
            prev_event_ids=[last.event_id],
            auth_event_ids=[by_key[key].event_id for key in keys],
            depth=last.depth + 1,
            origin_server_ts=guest.keys.clock.now_ms(),
            sign=guest.keys.key,
            server_name=guest.name,
        )
        made.append((event, pdu))
        last = event
    return made

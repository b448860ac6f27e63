"""Long answers about a room's state are read while they come, and a bad one is none.

spec: server-server-api#retrieving-events
"""

import asyncio
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from federation import told_state
from federation.elements import MAX_VALUE_BYTES
from federation.events import Verifier
from federation.told_state import BATCH, ToldState
from homeserver.errors import RemoteError, Unreachable
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event, build
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.rooms.actor import Room
from tests.federation.internet import Handler, Internet, Peer, TlsServer, answers

RULES = ROOM_VERSIONS["11"]
ROOM = Room(1, "!r:a.example", RULES)
ASKED = "$" + "a" * 43

Ask = Callable[[ToldState, str], Awaitable[Any]]
ASKS: dict[str, Ask] = {
    "state_ids": lambda told, server: told.ids(server, ROOM.room_id, ASKED),
    "state": lambda told, server: told.events(server, ROOM, ASKED, ()),
    "event_auth": lambda told, server: told.auth_chain(server, ROOM, ASKED),
}
LISTS = {"state_ids": "pdu_ids", "state": "pdus", "event_auth": "auth_chain"}


@dataclass
class Told:
    """A peer that answers as `handler` says, and who asks it."""

    peer: Peer
    server: TlsServer
    told: ToldState

    @property
    def name(self) -> str:
        return self.peer.name

    def say(self, handler: Handler) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.path.startswith("/_matrix/key/"):
                return await self.peer.serve(request)
            return await handler(request)

        self.server.handler = answer

    def event(self, name: str, *, room: str = ROOM.room_id, padding: str = "") -> Event:
        event, _ = build(
            RULES,
            room_id=room,
            sender=f"@u:{self.name}",
            type="m.test",
            content={"body": padding},
            state_key=name,
            prev_event_ids=[],
            auth_event_ids=[],
            depth=1,
            origin_server_ts=1,
            sign=self.peer.key,
            server_name=self.name,
        )
        return event


@pytest.fixture
async def it(net: Internet) -> Told:
    server = await net.server("a.example")
    net.host("a.example")
    federation = await net.federation()
    told = ToldState(federation.requests, Verifier(federation.keyring))
    return Told(Peer(f"a.example:{server.port}", net.clock), server, told)


def streamed(pieces: Callable[[], AsyncIterator[bytes]]) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            async for piece in pieces():
                await response.write(piece)
                await asyncio.sleep(0)  # who reads has its turn, however fast this is
        return response

    return answer


async def test_of_a_state_what_is_wanted_is_kept(it: Told) -> None:
    events = [it.event(str(number)) for number in range(2 * BATCH + 3)]
    other = it.event("other", room="!other:a.example")
    forged = {**it.event("forged").pdu, "content": {"body": "forged"}}
    unsigned = {**it.event("unsigned").pdu, "signatures": {}}
    pdus = [event.pdu for event in events]
    it.say(answers({"pdus": [5, unsigned, *pdus[::2]], "auth_chain": [other.pdu, *pdus]}))
    wanted = [events[0], events[1], events[-1], other]
    found = await it.told.events(it.name, ROOM, ASKED, [event.event_id for event in wanted])
    assert found.keys() == {event.event_id for event in wanted[:3]}
    assert json.loads(found[events[1].event_id].pdu) == events[1].pdu
    it.say(answers({"auth_chain": [forged, unsigned, *pdus]}))
    chain = await it.told.auth_chain(it.name, ROOM, ASKED)
    assert {event.event_id for event in events} <= chain.keys()
    assert len(chain) == len(events) + 1  # the forged one, redacted, as its hash demands
    assert b"forged" not in b"".join(
        held.pdu for held in chain.values() if held.state_key != "forged"
    )


async def test_ids_are_told_once_each(it: Told) -> None:
    ids = [f"${number:043}" for number in range(5)]
    it.say(answers({"pdu_ids": [*ids, *ids], "auth_chain_ids": ids[:2], "more": ["x"]}))
    assert await it.told.ids(it.name, ROOM.room_id, ASKED) == (ids, ids[:2])


@pytest.mark.parametrize("operation", ASKS)
@pytest.mark.parametrize("kind", ["cut off", "no JSON", "garbage", "a long value", "a list"])
async def test_an_answer_that_goes_wrong_in_the_middle_is_none(
    it: Told, operation: str, kind: str
) -> None:
    good = ASKED if operation == "state_ids" else it.event("good").pdu
    begin = json.dumps({LISTS[operation]: [good] * (BATCH + 5)}).encode()[:-2]
    body = {
        "cut off": begin,
        "no JSON": begin + b",nonsense]}",
        "garbage": begin + b',\xff\x00"]}',
        "a long value": begin + b',"' + b"x" * (2 * MAX_VALUE_BYTES) + b'"]}',
        "a list": b"[" + begin + b"]}]",
    }[kind]
    it.say(answers(body))
    with pytest.raises(Malformed):
        await ASKS[operation](it.told, it.name)


@pytest.mark.parametrize("operation", ASKS)
@pytest.mark.parametrize("kind", ["entries", "space", "one value"])
async def test_an_answer_without_end_is_left(
    it: Told, operation: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("MAX_IDS_BYTES", "MAX_CHAIN_BYTES", "MAX_STATE_BYTES"):
        monkeypatch.setattr(told_state, bound, 4 * 1_048_576)
    sent = 0
    numbers = iter(range(10**9))

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"%b":[' % LISTS[operation].encode()
        while True:
            piece = {
                "entries": b"".join(b'"$%043d",' % next(numbers) for _ in range(1_000)),
                "space": b" " * 65_536,
                "one value": (b'"' if not sent else b"") + b"x" * 65_536,
            }[kind]
            sent += len(piece)
            yield piece

    it.say(streamed(pieces))
    with pytest.raises((Malformed, Unreachable)):
        await ASKS[operation](it.told, it.name)
    assert sent < 64 * 1_048_576


@pytest.mark.parametrize("operation", ["state", "event_auth"])
async def test_more_events_than_may_be_are_none(
    it: Told, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told_state, "MAX_STATE_EVENTS", 5)
    monkeypatch.setattr(told_state, "MAX_CHAIN", 10)
    pdu = it.event("one").pdu
    it.say(answers({LISTS[operation]: [pdu] * 10}))
    await ASKS[operation](it.told, it.name)
    it.say(answers({LISTS[operation]: [pdu] * 11}))
    with pytest.raises(Malformed, match="too many"):
        await ASKS[operation](it.told, it.name)


async def test_too_many_ids_are_none(it: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_state, "MAX_STATE_EVENTS", 5)
    ids = [f"${number:043}" for number in range(6)]
    it.say(answers({"pdu_ids": ids[:5], "auth_chain_ids": []}))
    await it.told.ids(it.name, ROOM.room_id, ASKED)
    for listed in (ids, ["no id"], [5], []):
        it.say(answers({"pdu_ids": listed, "auth_chain_ids": []}))
        with pytest.raises(Malformed):
            await it.told.ids(it.name, ROOM.room_id, ASKED)


@pytest.mark.parametrize("operation", ASKS)
async def test_a_refusal_is_told_as_such(it: Told, operation: str) -> None:
    it.say(answers({"errcode": "M_FORBIDDEN", "error": "no"}, 403))
    with pytest.raises(RemoteError, match="403 M_FORBIDDEN"):
        await ASKS[operation](it.told, it.name)


async def test_a_server_that_is_left_alone_is_not_asked(it: Told) -> None:
    it.say(answers(b"down", 502))
    with pytest.raises((Unreachable, RemoteError)):
        await it.told.ids(it.name, ROOM.room_id, ASKED)
    await it.server.stop()
    for _ in range(2):
        with pytest.raises(Unreachable):
            await it.told.ids(it.name, ROOM.room_id, ASKED)


async def test_a_huge_state_never_stands_in_memory(it: Told) -> None:
    """40 MB of events that nobody wants: a hundred at a time are held, whoever sends them."""
    pdu = json.dumps({**it.event("huge", padding="x" * 3_000).pdu, "signatures": {}}).encode()
    number = 40 * 1_048_576 // len(pdu)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"auth_chain":[],"pdus":['
        for _ in range(number // 10):
            yield (pdu + b",") * 10
        yield pdu + b"]}"

    it.say(streamed(pieces))
    await asyncio.sleep(0)
    tracemalloc.start()
    try:
        assert await it.told.events(it.name, ROOM, ASKED, [ASKED]) == {}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1_048_576, peak

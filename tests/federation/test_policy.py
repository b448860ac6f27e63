"""Rooms that use a policy server: nothing is sent, or shown, that it has not recommended.

spec: server-server-api#policy-servers
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from homeserver.matrix.canonical import JsonObject, encode_unpadded
from homeserver.matrix.event import Event
from homeserver.matrix.sign import POLICY_KEY_ID, SigningKey, sign_event
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.rooms.actor import LEAVE_SECONDS
from tests.federation.house import Guest, House, heard, house, until
from tests.federation.internet import nothing_here
from tests.federation.test_outages import chain
from tests.rooms.paths import at
from tests.serving import Person, Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

A = "a.example"
RULES = ROOM_VERSIONS["11"]
SIGN = "/_matrix/policy/v1/sign"
_count = itertools.count()

Answer = Callable[[JsonObject], Awaitable[web.StreamResponse]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("policy")) as house_made:
        await house_made.start(A)
        yield house_made


@dataclass
class PolicyServer:
    """A policy server that signs everything, until `answer` says something else."""

    guest: Guest
    key: SigningKey = field(default_factory=lambda: SigningKey("policy_server", b"k" * 32))
    asked: list[JsonObject] = field(default_factory=list)
    answer: Answer | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != SIGN:
            return await nothing_here(request)
        pdu = json.loads(await request.read())
        self.asked.append(pdu)
        return (
            web.json_response(self.signature(pdu))
            if self.answer is None
            else (await self.answer(pdu))
        )

    def signature(self, pdu: JsonObject) -> JsonObject:
        """What it answers when it recommends an event."""
        signed = sign_event({**pdu, "signatures": {}}, RULES, self.guest.name, self.key)
        return dict(signed["signatures"])

    def signed(self, event: Event) -> JsonObject:
        """The PDU with its signature."""
        signatures = {**event.pdu["signatures"], **self.signature(event.pdu)}
        return {**event.pdu, "signatures": signatures}

    def bodies(self) -> list[str]:
        """The texts of the messages that it was asked about."""
        return [pdu["content"]["body"] for pdu in self.asked if "body" in pdu["content"]]

    @property
    def content(self) -> JsonObject:
        """What rooms that use it say."""
        keys = {"ed25519": encode_unpadded(self.key.public_key)}
        return {"via": self.guest.name, "public_keys": keys}


async def policed(made: House) -> tuple[Person, str, PolicyServer]:
    """A room of Alice's that uses a policy server."""
    alice = await made.servers[A].person(f"alice{next(_count)}")
    room = await alice.create_room(preset="public_chat", room_version="11")
    server = PolicyServer(await made.guest(f"policy{next(_count)}.example"))
    server.guest.answer = server.handle
    await server.guest.join(made.servers[A], room, server.guest.user("policy"))
    await alice.put_state(room, "m.room.policy", server.content)
    await alice.sync()
    assert server.asked == []
    return alice, room, server


async def peer(made: House, room: str) -> tuple[Guest, JsonObject]:
    """Another server in the room, and the answer to its join."""
    guest = await made.guest(f"guest{next(_count)}.example")
    return guest, await guest.join(made.servers[A], room, guest.user("g"))


async def say(alice: Person, room: str, body: str = "hello") -> Reply:
    path = at(room, "send", "m.room.message", f"t{next(_count)}")
    return await alice.raw("PUT", path, body={"msgtype": "m.text", "body": body})


async def bodies(alice: Person, room: str) -> list[str]:
    page = await alice.ok("GET", at(room, "messages"), query={"dir": "b", "limit": 100})
    found = [event["content"].get("body") for event in page["chunk"]]
    return [body for body in reversed(found) if body is not None]


def refuses(status: int = 400, **body: Any) -> Answer:
    async def answer(pdu: JsonObject) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


SPAM = refuses(400, errcode="M_FORBIDDEN", error="No spam")


async def test_what_we_send_is_signed_by_the_policy_server_first(made: House) -> None:
    alice, room, server = await policed(made)
    guest, joined = await peer(made, room)
    assert POLICY_KEY_ID in joined["event"]["signatures"][server.guest.name]
    event_id = await alice.say(room, "hello")
    await alice.put_state(room, "m.room.topic", {"topic": "t"})
    assert [pdu["type"] for pdu in server.asked] == [
        "m.room.member",
        "m.room.message",
        "m.room.topic",
    ]
    await heard(alice, room, event_id)

    async def arrived() -> list[JsonObject]:
        return [pdu for pdu in guest.pdus if pdu["type"] == "m.room.topic"]

    await until(arrived)
    for pdu in guest.pdus:
        assert set(pdu["signatures"]) == {A, server.guest.name}
        assert Event.parse(pdu, RULES).event_id
        assert pdu["signatures"][server.guest.name] == server.signature(pdu)[server.guest.name]


async def test_only_the_policy_itself_needs_no_signature(made: House) -> None:
    alice, room, server = await policed(made)
    server.answer = SPAM
    for event_type, state_key in (("m.room.policy", "other"), ("m.room.name", "")):
        reply = await alice.raw("PUT", at(room, "state", event_type, state_key), body={"via": "x"})
        assert (reply.status, reply.body["errcode"]) == (400, "M_FORBIDDEN")
    assert (await alice.raw("PUT", at(room, "send", "m.room.policy", "t"), body={})).status == 400
    await alice.put_state(room, "m.room.policy", {})
    assert len(server.asked) == 3
    assert (await say(alice, room)).status == 200
    assert len(server.asked) == 3


async def test_a_refusal_is_told_as_it_is_and_nothing_has_happened(made: House) -> None:
    alice, room, server = await policed(made)
    guest, _ = await peer(made, room)
    server.answer = SPAM
    reply = await say(alice, room, "buy")
    assert (reply.status, reply.body) == (400, {"errcode": "M_FORBIDDEN", "error": "No spam"})
    server.answer = refuses(429, errcode="M_LIMIT_EXCEEDED", error="Slowly", retry_after_ms=77)
    reply = await say(alice, room, "buy")
    assert (reply.status, reply.body["retry_after_ms"]) == (429, 77)
    server.answer = None
    await heard(alice, room, (await say(alice, room, "fine")).body["event_id"])
    assert await bodies(alice, room) == ["fine"]

    async def arrived() -> bool:
        return any(pdu["type"] == "m.room.message" for pdu in guest.pdus)

    await until(arrived)
    assert [pdu["content"]["body"] for pdu in guest.pdus] == ["fine"]


async def test_answers_that_are_no_signature_send_nothing(made: House) -> None:
    alice, room, server = await policed(made)
    secret = await made.guest(f"secret{next(_count)}.example")
    other = SigningKey.generate()

    async def wrong_key(pdu: JsonObject) -> web.StreamResponse:
        forged = sign_event({**pdu, "signatures": {}}, RULES, server.guest.name, other)
        ((_, signature),) = forged["signatures"][server.guest.name].items()
        return web.json_response({server.guest.name: {POLICY_KEY_ID: signature}})

    async def of_another_event(pdu: JsonObject) -> web.StreamResponse:
        return web.json_response(server.signature({**pdu, "depth": pdu["depth"] + 1}))

    async def moved(pdu: JsonObject) -> web.StreamResponse:
        place = f"https://127.0.0.1:{secret.server.port}{SIGN}"
        return web.Response(status=307, headers={"Location": place})

    async def too_long(pdu: JsonObject) -> web.StreamResponse:
        return web.json_response({**server.signature(pdu), "filler": "x" * 100_000})

    expected: list[tuple[Answer, int, str]] = [
        (wrong_key, 502, "M_UNKNOWN"),
        (of_another_event, 502, "M_UNKNOWN"),
        (refuses(200), 502, "M_UNKNOWN"),
        (refuses(200, **{server.guest.name: {POLICY_KEY_ID: ["x"]}}), 502, "M_UNKNOWN"),
        (refuses(200, **{server.guest.name: "x"}), 502, "M_UNKNOWN"),
        (refuses(500, errcode="M_FORBIDDEN"), 502, "M_UNKNOWN"),
        # What a client would take for the end of its own session.
        (refuses(401, errcode="M_UNKNOWN_TOKEN", error="Log in"), 403, "M_FORBIDDEN"),
        (refuses(404, errcode="M_UNRECOGNIZED"), 403, "M_FORBIDDEN"),
        (moved, 502, "M_UNKNOWN"),
        (too_long, 502, "M_UNKNOWN"),
    ]
    for answer, status, errcode in expected:
        server.answer = answer
        reply = await say(alice, room)
        assert (reply.status, reply.body["errcode"]) == (status, errcode), reply.body
    assert secret.seen == []
    assert await bodies(alice, room) == []


async def test_a_policy_server_that_stalls_holds_up_nothing_but_its_room_s_own_events(
    made: House,
) -> None:
    alice, room, server = await policed(made)
    bob = await made.servers[A].person(f"bob{next(_count)}")
    await bob.ok("POST", f"/join/{room}", body={})
    guest, joined = await peer(made, room)
    never = asyncio.Event()

    async def stall(pdu: JsonObject) -> web.StreamResponse:
        await never.wait()
        return web.json_response({})

    server.answer = stall
    asked = len(server.asked)
    waiting = asyncio.create_task(say(alice, room, "mine"))

    async def is_asked() -> bool:
        return len(server.asked) > asked

    await until(is_asked)
    ((theirs, _),) = chain(guest, room, guest.user("g"), joined, 1)
    await guest.send(made.servers[A], server.signed(theirs))
    await heard(alice, room, theirs.event_id)
    assert not waiting.done()
    # Who wants to leave is not kept: half of the 200 ms that a leave may take.
    assert LEAVE_SECONDS <= 0.1
    await bob.ok("POST", at(room, "leave"), body={})
    members = await alice.ok("GET", at(room, "joined_members"))
    assert bob.user_id not in members["joined"]
    reply = await waiting
    assert (reply.status, reply.body["errcode"]) == (502, "M_UNKNOWN")
    never.set()
    await asyncio.to_thread(lambda: None)
    assert "mine" not in await bodies(alice, room)


async def test_without_its_policy_server_a_room_can_be_freed_of_it(made: House) -> None:
    alice, room, server = await policed(made)
    await server.guest.server.stop()
    for _ in range(2):
        reply = await say(alice, room)
        assert (reply.status, reply.body["errcode"]) == (502, "M_UNKNOWN")
    await alice.put_state(room, "m.room.policy", {})
    assert (await say(alice, room)).status == 200


async def test_a_server_that_has_no_user_in_the_room_is_not_asked(made: House) -> None:
    alice, room, server = await policed(made)
    user = server.guest.user("policy")
    await alice.ok("POST", at(room, "kick"), body={"user_id": user})
    asked = len(server.asked)
    assert (await say(alice, room)).status == 200
    bad = {"via": server.guest.name, "public_keys": {"ed25519": 1}}
    await server.guest.join(made.servers[A], room, user)
    assert (await say(alice, room)).status == 200
    assert len(server.asked) == asked + 1
    await alice.put_state(room, "m.room.policy", bad)
    assert (await say(alice, room)).status == 200
    assert len(server.asked) == asked + 1


async def test_events_of_others_are_believed_with_its_signature_and_asked_about_without(
    made: House,
) -> None:
    alice, room, server = await policed(made)
    guest, joined = await peer(made, room)
    server.asked.clear()
    four = [event for event, _ in chain(guest, room, guest.user("g"), joined, 4)]
    signed, unsigned, spam, last = four

    async def judge(pdu: JsonObject) -> web.StreamResponse:
        if pdu["content"]["body"] == spam.content["body"]:
            return await SPAM(pdu)
        return web.json_response(server.signature(pdu))

    server.answer = judge
    forged = {**spam.pdu, "signatures": {**spam.pdu["signatures"]}}
    forged["signatures"][server.guest.name] = {POLICY_KEY_ID: "A" * 86}
    await guest.send(
        made.servers[A], server.signed(signed), unsigned.pdu, forged, server.signed(last)
    )
    await heard(alice, room, last.event_id)
    assert await bodies(alice, room) == [
        event.content["body"] for event in (signed, unsigned, last)
    ]
    assert server.bodies() == [unsigned.content["body"], spam.content["body"]]
    reply = await alice.raw("GET", at(room, "event", spam.event_id))
    assert reply.status == 404
    # Whoever asks us for it gets the signature with it.
    target = f"/_matrix/federation/v1/event/{quote(unsigned.event_id, safe='')}"
    (pdu,) = (await guest.request(made.servers[A], "GET", target)).body["pdus"]
    assert POLICY_KEY_ID in pdu["signatures"][server.guest.name]


async def test_the_policy_server_s_own_events_need_both_of_its_keys(made: House) -> None:
    alice, room, server = await policed(made)
    joined = await server.guest.join(made.servers[A], room, server.guest.user("second"))
    ((event, _),) = chain(server.guest, room, server.guest.user("second"), joined, 1)
    pdu = dict(event.pdu)
    pdu["signatures"] = {
        server.guest.name: {
            **pdu["signatures"][server.guest.name],
            **server.signature(pdu)[server.guest.name],
        }
    }
    await server.guest.send(made.servers[A], pdu)
    await heard(alice, room, event.event_id)
    keys = [seen for seen in server.guest.seen if seen.target.startswith("/_matrix/key/")]
    assert len(keys) == 1


async def test_joins_and_invites_of_others_are_asked_about_first(made: House) -> None:
    alice, room, server = await policed(made)
    guest = await made.guest(f"guest{next(_count)}.example")
    server.answer = SPAM
    with pytest.raises(AssertionError, match="No spam"):
        await guest.join(made.servers[A], room, guest.user("g"))
    path = at(room, "invite")
    reply = await alice.raw("POST", path, body={"user_id": guest.user("g")})
    assert (reply.status, reply.body["error"]) == (400, "No spam")
    assert not [seen for seen in guest.seen if "/invite/" in seen.target]
    members = await alice.ok("GET", at(room, "members"))
    assert guest.user("g") not in {one["state_key"] for one in members["chunk"]}


async def test_pipelined_events_keep_their_transactions_and_stand_one_behind_the_other(
    made: House,
) -> None:
    alice, room, server = await policed(made)
    sent = await asyncio.gather(*(say(alice, room, f"m{number}") for number in range(6)))
    assert {reply.status for reply in sent} == {200}
    assert sorted(await bodies(alice, room)) == [f"m{number}" for number in range(6)]
    assert len({pdu["depth"] for pdu in server.asked}) == len(server.asked) == 6


async def test_this_server_is_no_policy_server(made: House) -> None:
    guest = await made.guest(f"guest{next(_count)}.example")
    reply = await guest.request(made.servers[A], "POST", SIGN, {"type": "m.room.message"})
    assert (reply.status, reply.body["errcode"]) == (404, "M_UNRECOGNIZED")
    stranger = SigningKey.generate()
    reply = await made.signed(guest.name, stranger, made.servers[A], "POST", SIGN, {})
    assert (reply.status, reply.body["errcode"]) == (401, "M_UNAUTHORIZED")

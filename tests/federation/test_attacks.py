"""What a hostile server may try against a room, through the endpoints that are there for all.

Each test plays one server, in the room of a person whom it must neither mislead nor hold up.
spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.sign import SigningKey, content_hash
from homeserver.users.operator import FILE
from tests.federation.branch import RULES, Branch
from tests.federation.house import Guest, House, HouseServer, heard, house, until
from tests.federation.internet import Peer
from tests.rooms.paths import at
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGEST = 2**53 - 1
_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("attacks")) as house_made:
        await house_made.start("a.example")
        yield house_made


async def attacked(made: House, *, power: int = 0) -> tuple[HouseServer, Person, Branch]:
    """A server, Alice with a public room on it, and a server of a stranger's in that."""
    a, number = made.servers["a.example"], next(_numbers)
    alice = await a.person(f"alice{number}")
    guest = await made.guest(f"guest{number}.example")
    levels = {"users": {alice.user_id: 100, guest.user("g"): power}}
    room = await alice.create_room(
        preset="public_chat", room_version="11", power_level_content_override=levels
    )
    await alice.sync()
    return a, alice, await Branch.join(guest, a, room)


async def goes_on(
    a: HouseServer, alice: Person, branch: Branch, without: Collection[Event | JsonObject] = ()
) -> None:
    """The room does: Alice hears what is honest, and knows nothing of what is not."""
    honest = branch.say("honest")
    await branch.guest.send(a, honest.pdu)
    await heard(alice, branch.room, honest.event_id)
    for hostile in without:
        event_id = hostile.event_id if isinstance(hostile, Event) else str(hostile["event_id"])
        await alice.refused("M_NOT_FOUND", "GET", at(branch.room, "event", event_id))
    page = await alice.ok("GET", at(branch.room, "messages"), query={"dir": "b", "limit": 100})
    assert "hostile" not in json.dumps(page)
    assert "hostile" not in json.dumps(await alice.ok("GET", at(branch.room, "state")))


def tells(
    answers: Callable[[str], Any],
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """A handler that answers with what is told for the path, and 404 where that is None."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        found = answers(request.path)
        if found is None:
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        return web.json_response(found)

    return answer


@pytest.mark.parametrize("kind", ["other key", "unknown key", "none", "borrowed", "renamed"])
async def test_forged_signatures(made: House, kind: str) -> None:
    a, alice, branch = await attacked(made)
    own = branch.guest.keys.key
    thief = SigningKey(own.version, b"\1" * 32)
    event = branch.say("hostile", key=thief if kind == "other key" else None)
    pdu = dict(event.pdu)
    name = branch.guest.name
    if kind == "none":
        pdu["signatures"] = {}
    elif kind == "unknown key":
        pdu["signatures"] = {name: {"ed25519:unheard": pdu["signatures"][name][own.key_id]}}
    elif kind == "borrowed":
        pdu["signatures"] = branch.say("another").pdu["signatures"]
    elif kind == "renamed":
        pdu["signatures"] = {"evil.example": pdu["signatures"][name]}
    reply = await branch.guest.send(a, pdu)
    assert reply.status == 200
    if kind != "unknown key":  # that may become known
        assert list(reply.body["pdus"].values()) == [{"error": "The event is unsigned"}]
    await goes_on(a, alice, branch, [event])


async def test_content_that_was_changed_after_signing_is_not_shown(made: House) -> None:
    a, alice, branch = await attacked(made)
    event = branch.say("sent")
    changed = {**event.pdu, "content": {"msgtype": "m.text", "body": "hostile"}}
    assert (await branch.guest.send(a, changed)).body == {"pdus": {event.event_id: {}}}
    await heard(alice, branch.room, event.event_id)
    shown = await alice.ok("GET", at(branch.room, "event", event.event_id))
    assert shown["content"] == {}
    await goes_on(a, alice, branch)


async def test_a_server_speaks_for_itself_only(made: House) -> None:
    a, alice, branch = await attacked(made)
    other = await made.guest(f"guest{next(_numbers)}.example")
    beside = await Branch.join(other, a, branch.room)
    # Another's name on the transaction, another's user on the event, ours on both.
    target = f"/_matrix/federation/v1/send/t{next(_numbers)}"
    body: JsonObject = {"origin": other.name, "origin_server_ts": 1, "pdus": []}
    assert (await branch.guest.request(a, "PUT", target, body)).status == 403
    forged = [branch.say("hostile", sender=who) for who in (beside.user, alice.user_id)]
    reply = await branch.guest.send(a, *(event.pdu for event in forged))
    assert set(map(str, reply.body["pdus"].values())) == {"{'error': 'The event is unsigned'}"}
    # What another server has signed itself may come by anybody, once.
    relayed = beside.say("relayed")
    for guest in (branch.guest, other, branch.guest):
        assert (await guest.send(a, relayed.pdu)).body == {"pdus": {relayed.event_id: {}}}
    await heard(alice, branch.room, relayed.event_id)
    await goes_on(a, alice, branch, forged)
    page = await alice.ok("GET", at(branch.room, "messages"), query={"dir": "b", "limit": 100})
    ids = [event["event_id"] for event in page["chunk"]]
    assert ids.count(relayed.event_id) == 1


@pytest.mark.parametrize("where", ["prev_events", "auth_events"])
async def test_events_of_another_room_prove_nothing(made: House, where: str) -> None:
    """The server has all power in a room of its own, and names that room's events."""
    a, alice, branch = await attacked(made)
    powerful = await attacked(made, power=100)
    mallory = await Branch.join(branch.guest, a, powerful[2].room, "mallory")
    admin = powerful[2]
    theirs = [event.pdu for event in admin.state.values()]
    content: JsonObject = {"name": "hostile"}
    if where == "prev_events":
        event = branch.make("m.room.name", content, "", prevs=[mallory.last.event_id])
    else:
        levels = admin.state["m.room.power_levels", ""].event_id
        auths = [branch.state["m.room.create", ""].event_id, levels, branch.last.event_id]
        event = branch.make("m.room.name", content, "", auths=auths)
    asked = asyncio.Event()

    def answers(path: str) -> Any:
        if "/get_missing_events/" in path:
            return {"events": [mallory.last.pdu, *theirs]}
        if "/event_auth/" in path:
            asked.set()
            return {"auth_chain": theirs}
        if "/state_ids/" in path:
            asked.set()
            ids = [one.event_id for one in admin.state.values()]
            return {"pdu_ids": ids, "auth_chain_ids": ids}
        if "/state/" in path:
            return {"pdus": theirs, "auth_chain": theirs}
        by_id = {one.event_id: one.pdu for one in admin.state.values()}
        found = next(
            (pdu for id_, pdu in by_id.items() if quote(id_, safe="") in path or id_ in path), None
        )
        return {"pdus": [found]} if found else None

    branch.guest.answer = tells(answers)
    await branch.guest.send(a, event.pdu)
    await asyncio.wait_for(asked.wait(), 60)
    await goes_on(a, alice, branch, [event])


async def test_auth_chains_without_end_are_given_up(made: House) -> None:
    """Each event that authorises another names one more; none of them is known."""
    a, alice, branch = await attacked(made)
    levels = branch.state["m.room.power_levels", ""].event_id
    create = branch.state["m.room.create", ""].event_id
    chain = [branch.last]
    for number in range(200):
        auths = [create, levels, chain[-1].event_id]
        content: JsonObject = {"membership": "join", "displayname": f"hostile {number}"}
        chain.append(branch.make("m.room.member", content, branch.user, auths=auths))
    auths = [create, levels, chain[-1].event_id]
    last = branch.say("hostile", auths=auths)
    by_id = {event.event_id: event for event in chain}
    done = asyncio.Event()
    asked: list[str] = []

    def answers(path: str) -> Any:
        event_id = path.rpartition("/")[2]
        if "/event/" not in path or event_id not in by_id:
            return None
        asked.append(event_id)
        if len(asked) == 10:
            done.set()
        return {"pdus": [by_id[event_id].pdu]}

    branch.guest.answer = tells(answers)
    await branch.guest.send(a, last.pdu)
    await asyncio.wait_for(done.wait(), 60)
    await goes_on(a, alice, branch, [last])
    assert len(asked) <= 30  # ten rounds, and perhaps a second try


async def test_a_past_without_end_is_given_up(made: House) -> None:
    """Each event stands behind one more, which is told when asked for."""
    a, alice, branch = await attacked(made)
    first = branch.last
    past = [branch.say("hostile 0", prevs=["$" + "A" * 43])]
    for number in range(60):
        past.append(branch.say(f"hostile {number}", prevs=[past[-1].event_id]))
    by_id = {event.event_id: event for event in past}
    rounds = 0
    done = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal rounds
        if "/get_missing_events/" not in request.path:
            done.set()
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        rounds += 1
        wanted = (await request.json())["latest_events"]
        behind = [id_ for one in wanted if one in by_id for id_ in by_id[one].prev_event_ids]
        return web.json_response({"events": [by_id[one].pdu for one in behind if one in by_id]})

    branch.guest.answer = answer
    await branch.guest.send(a, past[-1].pdu)
    await asyncio.wait_for(done.wait(), 60)
    branch.last = first
    await goes_on(a, alice, branch, past)
    assert rounds <= 30


async def test_a_thousand_ends_are_drawn_together(made: House) -> None:
    a, alice, branch = await attacked(made)
    forks = [branch.say(f"fork {number}") for number in range(1_000)]
    for start in range(0, len(forks), 50):
        sent = await branch.guest.send(a, *(event.pdu for event in forks[start : start + 50]))
        assert sent.status == 200
    told = set()

    async def all_told() -> bool:
        section = (await alice.sync(timeout=1_000)).get("rooms", {}).get("join", {})
        for event in section.get(branch.room, {}).get("timeline", {}).get("events", ()):
            told.add(event["event_id"])
        return forks[-1].event_id in told

    await until(all_told, 120)
    ours = [await alice.say(branch.room, f"ours {number}") for number in range(3)]

    async def came() -> list[JsonObject]:
        found = [pdu for pdu in branch.guest.pdus if pdu["sender"] == alice.user_id]
        return found if len(found) == len(ours) else []

    sent_on = await until(came)
    assert all(1 <= len(pdu["prev_events"]) <= 10 for pdu in sent_on)
    named = [prev for pdu in sent_on for prev in pdu["prev_events"]]
    assert len(named) == len(set(named)) == 30
    # Alice's three have taken the places of thirty, and so does her leave of ten more.
    assert await ends(a, branch.room) == 1_000 - 30 + 3
    await alice.ok("POST", at(branch.room, "leave"), body={})
    left = await ends(a, branch.room)
    assert left == 1_000 - 30 + 3 - 9
    # Nobody of ours is there any more: nothing that comes is looked at, not even its signature.
    stranger = SigningKey.generate()
    late = [branch.say(f"late {number}", key=stranger) for number in range(50)]
    reply = await branch.guest.send(a, *(event.pdu for event in late))
    refusal = {"error": "Nobody of this server is in the room"}
    assert reply.body == {"pdus": {event.event_id: refusal for event in late}}
    assert await ends(a, branch.room) == left


async def ends(a: HouseServer, room: str) -> int:
    """How many ends the room has there."""
    token = (a.folder / FILE).read_text().strip()
    path = f"/_homeserver/admin/v1/rooms/{quote(room)}/check?ask_servers=false"
    return int((await a.request("GET", path, token=token)).body["ends"])


@pytest.mark.parametrize(
    "changed",
    [
        {"content": {"body": "hostile" * 10_000}},
        {"type": "hostile" * 40},
        {"depth": -1},
        {"depth": LARGEST + 1},
        {"depth": 1.5},
        {"prev_events": ["$" + "A" * 43] * 21},
        {"auth_events": ["$" + "A" * 43] * 11},
        {"origin_server_ts": -(2**60)},
        {"sender": "hostile"},
        {"room_id": 7},
        {"content": []},
        {"signatures": "hostile"},
        {"hashes": None},
    ],
    ids=str,
)
async def test_what_is_no_event_is_passed_over(made: House, changed: JsonObject) -> None:
    a, alice, branch = await attacked(made)
    pdu = {**branch.say("hostile").pdu, **changed}
    if "signatures" not in changed and all(type(one) is not float for one in changed.values()):
        pdu["hashes"] = {"sha256": content_hash(pdu)} if "hashes" not in changed else None
    honest = branch.say("beside it")
    reply = await branch.guest.request(
        a,
        "PUT",
        f"/_matrix/federation/v1/send/odd{next(_numbers)}",
        {"origin": branch.guest.name, "origin_server_ts": 1, "pdus": [pdu, honest.pdu]},
    )
    assert reply.status in (200, 400), reply.body
    if reply.status == 200:
        assert reply.body["pdus"][honest.event_id] == {}
        await heard(alice, branch.room, honest.event_id)
    await goes_on(a, alice, branch)


async def test_a_transaction_has_at_most_fifty_events_and_a_hundred_edus(made: House) -> None:
    """What is longer is refused whole."""
    a, alice, branch = await attacked(made)
    said = [branch.say(f"hostile {number}").pdu for number in range(51)]
    typing: JsonObject = {"room_id": branch.room, "user_id": branch.user, "typing": True}
    edus: list[JsonObject] = [{"edu_type": "m.typing", "content": typing}] * 101
    for reply in (
        await branch.guest.send(a, *said),
        await branch.guest.send(a, edus=edus),
        await branch.guest.send(a, said[0], edus=edus),
    ):
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    await goes_on(a, alice, branch)
    whole = [branch.say(f"said {number}") for number in range(50)]
    sent = await branch.guest.send(a, *(event.pdu for event in whole), edus=edus[:100])
    assert sent.body == {"pdus": {event.event_id: {} for event in whole}}
    await heard(alice, branch.room, whole[-1].event_id)


async def test_deeply_nested_json_is_refused_at_once(made: House) -> None:
    a, alice, branch = await attacked(made)
    deep: Any = "hostile"
    for _ in range(400):
        deep = {"a": deep}
    body = {"origin": branch.guest.name, "origin_server_ts": 1, "pdus": [{"content": deep}]}
    target = f"/_matrix/federation/v1/send/deep{next(_numbers)}"
    reply = await branch.guest.request(a, "PUT", target, body)
    assert (reply.status, reply.errcode) in ((400, "M_NOT_JSON"), (400, "M_BAD_JSON"))
    await goes_on(a, alice, branch)


async def test_a_transaction_that_comes_again_has_one_effect(made: House) -> None:
    a, alice, branch = await attacked(made)
    once, other = branch.say("once"), branch.say("hostile")
    target = f"/_matrix/federation/v1/send/again{next(_numbers)}"
    body: JsonObject = {"origin": branch.guest.name, "origin_server_ts": 1, "pdus": [once.pdu]}
    together = [branch.guest.request(a, "PUT", target, body) for _ in range(5)]
    answers = [reply.body for reply in await asyncio.gather(*together)]
    assert answers == [{"pdus": {once.event_id: {}}}] * 5
    # The same id with something else in it is the same transaction.
    changed = {**body, "pdus": [other.pdu]}
    assert (await branch.guest.request(a, "PUT", target, changed)).body == answers[0]
    await heard(alice, branch.room, once.event_id)
    await goes_on(a, alice, branch, [other])
    page = await alice.ok("GET", at(branch.room, "messages"), query={"dir": "b", "limit": 100})
    assert [event["event_id"] for event in page["chunk"]].count(once.event_id) == 1


async def test_another_key_under_a_known_name_is_not_believed(made: House) -> None:
    """Whoever takes a server's name over, for a day, has no key that others know."""
    a, alice, branch = await attacked(made)
    guest = branch.guest
    before = guest.keys.key
    guest.keys.key = SigningKey(before.version, b"\2" * 32)
    event = branch.say("hostile")
    reply = await guest.send(a, event.pdu)
    assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")
    guest.keys.key = before
    sent = await guest.send(a, event.pdu)
    assert sent.body["pdus"][event.event_id] == {"error": "The event is unsigned"}
    await goes_on(a, alice, branch, [event])


async def evading(made: House, how: str) -> Guest:
    """A guest whose name is that of evil.example, written otherwise."""
    a = made.servers["a.example"]
    number = next(_numbers)
    guest = await made.guest(f"x{number}.evil.example")
    if how == "case":
        guest.name = guest.name.replace("evil", "EVIL")
    elif how == "port":
        made.names_for(a.name).put(guest.name, "A", "127.0.0.1")
        guest.name = f"{guest.name}:{guest.server.port}"
    guest.keys = Peer(guest.name, guest.keys.clock)
    return guest


@pytest.mark.parametrize("how", ["case", "port"])
async def test_neither_case_nor_port_evades_an_acl(made: House, how: str) -> None:
    a = made.servers["a.example"]
    alice = await a.person(f"alice{next(_numbers)}")
    room = await alice.create_room(preset="public_chat", room_version="11")
    guest = await evading(made, how)
    branch = await Branch.join(guest, a, room)
    await alice.put_state(room, "m.room.server_acl", {"allow": ["*"], "deny": ["*.evil.example"]})
    await alice.sync()
    event = branch.say("hostile")
    typing = {"room_id": room, "user_id": branch.user, "typing": True}
    edus: list[JsonObject] = [{"edu_type": "m.typing", "content": typing}]
    reply = await guest.send(a, event.pdu, edus=edus)
    assert "ACL" in reply.body["pdus"][event.event_id]["error"]
    versions = "ver=11"
    for method, target, body in (
        ("GET", f"make_join/{room}/{quote(guest.user('y'))}?{versions}", None),
        ("GET", f"state_ids/{room}?event_id={quote(event.event_id)}", None),
        ("GET", f"backfill/{room}?v={quote(branch.last.event_id)}&limit=5", None),
        ("POST", f"get_missing_events/{room}", {"earliest_events": [], "latest_events": []}),
    ):
        refused = await guest.request(a, method, f"/_matrix/federation/v1/{target}", body)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), target
    answer = await alice.sync()
    assert "m.typing" not in json.dumps(answer)
    await alice.refused("M_NOT_FOUND", "GET", at(room, "event", event.event_id))


async def test_case_evades_no_operator(made: House) -> None:
    a, alice, branch = await attacked(made)
    name = branch.guest.name
    said = await asyncio.to_thread(a.cli, "federation", "block", name.upper())
    assert said.returncode == 0, said.stderr
    event = branch.say("hostile")
    assert (await branch.guest.send(a, event.pdu)).errcode == "M_FORBIDDEN"
    await asyncio.to_thread(a.cli, "federation", "allow", name)
    await goes_on(a, alice, branch, [event])


async def test_who_has_left_gets_nothing_that_came_later(made: House) -> None:
    a, alice, branch = await attacked(made)
    shared = await alice.say(branch.room, "while it was there")
    left = branch.add("m.room.member", {"membership": "leave"}, branch.user, prevs=[shared])
    await branch.guest.send(a, left.pdu)
    await heard(alice, branch.room, left.event_id)
    later = await alice.say(branch.room, "among us")
    room = branch.room
    for target in (
        f"event/{quote(later)}",
        f"state/{room}?event_id={quote(later)}",
        f"state_ids/{room}?event_id={quote(later)}",
        f"event_auth/{room}/{quote(later)}",
        f"backfill/{room}?v={quote(later)}&limit=10",
        f"timestamp_to_event/{room}?ts=0&dir=f",
    ):
        refused = await branch.guest.request(a, "GET", f"/_matrix/federation/v1/{target}")
        assert refused.status in (403, 404), (target, refused.body)
    body = {"earliest_events": [], "latest_events": [later], "limit": 10}
    target = f"/_matrix/federation/v1/get_missing_events/{room}"
    assert (await branch.guest.request(a, "POST", target, body)).status == 403


@pytest.mark.parametrize("visibility", ["joined", "invited"])
async def test_of_state_from_before_it_came_a_server_reads_what_authorises(
    made: House, visibility: str
) -> None:
    """It may follow how the room came to be, and learns nothing of what was said in it then."""
    a, number = made.servers["a.example"], next(_numbers)
    alice = await a.person(f"alice{number}")
    guest = await made.guest(f"guest{number}.example")
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room = await alice.create_room(
        preset="public_chat", room_version="11", topic="hostile plan", initial_state=[hidden]
    )
    state = {event["type"]: event for event in await alice.ok("GET", at(room, "state"))}
    first = state["m.room.topic"]["event_id"]
    secret = await alice.say(room, "a secret")
    second = await alice.put_state(room, "m.room.topic", {"topic": "as you find it"})
    branch = await Branch.join(guest, a, room)

    async def asked(target: str) -> Any:
        reply = await guest.request(a, "GET", f"/_matrix/federation/v1/{target}")
        assert reply.status == 200, (target, reply.body)
        for word in ("hostile", "a secret", "an absence"):
            assert word not in json.dumps(reply.body), target
        return reply.body

    ids = await asked(f"state_ids/{room}?event_id={quote(secret)}")
    whole = await asked(f"state/{room}?event_id={quote(secret)}")
    told = {Event.parse(pdu, RULES).event_id: pdu for pdu in whole["pdus"]}
    assert first in ids["pdu_ids"]
    assert set(told) == set(ids["pdu_ids"])  # redacted or not they are the same events
    assert told[first]["content"] == {}
    assert (await asked(f"event/{quote(first)}"))["pdus"][0]["content"] == {}
    levels = told[state["m.room.power_levels"]["event_id"]]
    assert levels["content"] == state["m.room.power_levels"]["content"]
    chain = (await asked(f"event_auth/{room}/{quote(secret)}"))["auth_chain"]
    assert {event["type"] for event in chain} <= {
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
    }
    await asked(f"backfill/{room}?v={quote(branch.last.prev_event_ids[0])}&limit=100")
    refused = await guest.request(a, "GET", f"/_matrix/federation/v1/event/{quote(secret)}")
    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    # What was the room's state when it came it was told.
    found = (await asked(f"event/{quote(second)}"))["pdus"][0]
    assert found["content"] == {"topic": "as you find it"}

    left = branch.add("m.room.member", {"membership": "leave"}, branch.user)
    await guest.send(a, left.pdu)
    await heard(alice, room, left.event_id)
    away = await alice.put_state(room, "m.room.topic", {"topic": "in an absence"})
    after = await alice.put_state(room, "m.room.topic", {"topic": "as you find it again"})
    refused = await guest.request(a, "GET", f"/_matrix/federation/v1/event/{quote(after)}")
    assert refused.status == 404
    await Branch.join(guest, a, room)
    assert (await asked(f"event/{quote(away)}"))["pdus"][0]["content"] == {}
    await asked(f"state/{room}?event_id={quote(after)}")
    found = (await asked(f"event/{quote(after)}"))["pdus"][0]
    assert found["content"] == {"topic": "as you find it again"}


async def test_the_greatest_depth_changes_no_order(made: House) -> None:
    a, alice, branch = await attacked(made)
    before = await alice.say(branch.room, "before")
    deepest = branch.say("deep", depth=LARGEST, prevs=[before])
    assert (await branch.guest.send(a, deepest.pdu)).body == {"pdus": {deepest.event_id: {}}}
    await heard(alice, branch.room, deepest.event_id)
    after = [await alice.say(branch.room, f"after {number}") for number in range(3)]
    shallow = branch.say("shallow", depth=0, prevs=[after[-1]])
    await branch.guest.send(a, shallow.pdu)
    await heard(alice, branch.room, shallow.event_id)
    wanted = [before, deepest.event_id, *after, shallow.event_id]
    page = await alice.ok("GET", at(branch.room, "messages"), query={"dir": "b", "limit": 6})
    assert [event["event_id"] for event in page["chunk"]] == wanted[::-1]

    async def came() -> list[JsonObject]:
        return [pdu for pdu in branch.guest.pdus if pdu["content"].get("body") == "after 2"]

    (ours,) = await until(came)
    assert ours["depth"] == LARGEST
    await goes_on(a, alice, branch)

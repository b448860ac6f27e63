"""What state resolution takes from users, though no event says so, is seen; states are compared.

Each reset is a real one: branches that a server makes by hand, sent as any server sends.
"""

import itertools
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.users.operator import FILE
from tests.federation.branch import RULES, Branch
from tests.federation.house import House, heard, house
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("resets")) as house_made:
        await house_made.start("a.example")
        yield house_made


async def shared(made: House) -> tuple[Person, Branch]:
    """Alice and a guest, both with all power, in a public room of Alice's."""
    a = made.servers["a.example"]
    number = next(_numbers)
    alice = await a.person(f"alice{number}")
    guest = await made.guest(f"guest{number}.example")
    levels = {"users": {alice.user_id: 100, guest.user("g"): 100}}
    room = await alice.create_room(
        preset="public_chat", room_version="11", power_level_content_override=levels
    )
    branch = await Branch.join(guest, a, room)
    await alice.sync()
    return alice, branch


async def asked(made: House, method: str, path: str, body: Any = None) -> Any:
    """An operator's request, about a room."""
    server = made.servers["a.example"]
    token = (server.folder / FILE).read_text().strip()
    reply = await server.request(
        method, f"/_homeserver/admin/v1/rooms/{path}", token=token, body=body
    )
    assert reply.status == 200, reply.body
    return reply.body


async def checked(made: House, room: str) -> Any:
    found = await asked(made, "GET", f"{quote(room)}/check?ask_servers=false")
    assert found["differences"] == []
    return found


async def test_a_join_that_is_taken_away_is_seen(made: House) -> None:
    """Bob joined a public room; a rule made before he did, told afterwards, shuts him out."""
    a = made.servers["a.example"]
    alice, branch = await shared(made)
    bob = await a.person(f"bob{next(_numbers)}")
    await bob.join(branch.room)
    await heard(alice, branch.room, await bob.say(branch.room, "here I am"))
    shut = branch.add("m.room.join_rules", {"join_rule": "invite"}, "")
    assert (await branch.guest.send(a, shut.pdu)).body == {"pdus": {shut.event_id: {}}}
    await heard(alice, branch.room, shut.event_id)
    members = await alice.ok("GET", f"/rooms/{branch.room}/joined_members")
    assert bob.user_id not in members["joined"]
    found = await checked(made, branch.room)
    (one,) = found["resets"]
    assert (one["user_id"], one["what"], one["was"], one["now"]) == (
        bob.user_id,
        "membership",
        "join",
        "none",
    )
    assert one["event_id"] == shut.event_id
    assert one["left_event_id"] is None
    said = a.cli("room", "check", branch.room, "--offline")
    assert said.returncode == 0, said.stderr
    assert f"{bob.user_id} went from join to none, at the arrival of {shut.event_id}" in said.stdout
    told = a.cli("room", "check", branch.room, "--json", "--offline")
    assert json.loads(told.stdout)["resets"] == found["resets"]
    assert f"{bob.user_id} went from join to none" in a.log.read_text()


async def test_a_power_that_is_taken_away_is_seen(made: House) -> None:
    """Alice gives Carol power; the guest, who has not heard of it, sets another level."""
    a = made.servers["a.example"]
    alice, branch = await shared(made)
    carol = f"@carol{next(_numbers)}:a.example"
    levels = await alice.ok("GET", f"/rooms/{branch.room}/state/m.room.power_levels")
    more = {**levels, "users": {**levels["users"], carol: 50}}
    given = await alice.put_state(branch.room, "m.room.power_levels", more)
    other = branch.add("m.room.power_levels", {**levels, "events_default": 5}, "")
    await branch.guest.send(a, other.pdu)
    await heard(alice, branch.room, other.event_id)
    (one,) = (await checked(made, branch.room))["resets"]
    assert (one["user_id"], one["what"], one["was"], one["now"]) == (carol, "power", "50", "0")
    assert (one["lost_event_id"], one["left_event_id"]) == (given, other.event_id)


async def test_what_an_event_says_is_no_reset(made: House) -> None:
    """A ban and a demotion on a branch of their own are told by events; so is one's own leave."""
    a = made.servers["a.example"]
    alice, branch = await shared(made)
    bob = await a.person(f"bob{next(_numbers)}")
    await bob.join(branch.room)
    levels = await alice.ok("GET", f"/rooms/{branch.room}/state/m.room.power_levels")
    more = {**levels, "users": {**levels["users"], bob.user_id: 50}}
    await alice.put_state(branch.room, "m.room.power_levels", more)
    fork = await alice.say(branch.room, "from here on there are two branches")
    await alice.say(branch.room, "one")
    late = branch.fork()
    target = f"/_matrix/federation/v1/state/{quote(branch.room)}?event_id={quote(fork)}"
    for pdu in (await branch.guest.request(a, "GET", target)).body["pdus"]:
        event = Event.parse(pdu, RULES)
        late.state[event.key] = event
    less = late.add("m.room.power_levels", levels, "", prevs=[fork])
    ban = late.add("m.room.member", {"membership": "ban"}, bob.user_id)
    await branch.guest.send(a, less.pdu, ban.pdu)
    await heard(alice, branch.room, ban.event_id)
    members = await alice.ok("GET", f"/rooms/{branch.room}/joined_members")
    assert bob.user_id not in members["joined"]
    assert (await checked(made, branch.room))["resets"] == []


async def test_states_are_compared_with_those_of_other_servers(made: House) -> None:
    """One has the same, one another; one refuses and one can't be reached."""
    a = made.servers["a.example"]
    alice, branch = await shared(made)
    others = [branch]
    for _ in range(3):
        guest = await made.guest(f"guest{next(_numbers)}.example")
        others.append(await Branch.join(guest, a, branch.room))
    ids = [event["event_id"] for event in await alice.ok("GET", f"/rooms/{branch.room}/state")]
    await alice.say(branch.room, "compare this")
    topic = next(
        event["event_id"]
        for event in await alice.ok("GET", f"/rooms/{branch.room}/state")
        if event["type"] == "m.room.join_rules"
    )

    def tells(state: list[str]) -> Any:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            assert "/state_ids/" in request.path
            return web.json_response({"pdu_ids": state, "auth_chain_ids": []})

        return answer

    async def refuses(request: web.BaseRequest) -> web.StreamResponse:
        answer: JsonObject = {"errcode": "M_FORBIDDEN", "error": "Not for you"}
        return web.json_response(answer, status=403)

    same, other, refusing, gone = (one.guest for one in others)
    same.answer = tells(ids)
    other.answer = tells([*(one for one in ids if one != topic), "$unknown:elsewhere"])
    refusing.answer = refuses
    await gone.server.stop()
    found = await asked(made, "GET", f"{quote(branch.room)}/check")
    by_name = {one["server"]: one for one in found["servers"]}
    assert {name: one["same"] for name, one in by_name.items()} == {
        same.name: True,
        other.name: False,
        refusing.name: None,
        gone.name: None,
    }
    assert by_name[other.name]["only_ours"] == [topic]
    assert by_name[other.name]["only_theirs"] == ["$unknown:elsewhere"]
    said = by_name[other.name]["sentence"]
    assert re.search(
        r"it has \$unknown:elsewhere \(unknown here\) it lacks \$\S+ \(m.room.join_rules\)", said
    )
    assert by_name[refusing.name]["sentence"] == f"{refusing.name} refuses: M_FORBIDDEN Not for you"
    assert by_name[gone.name]["sentence"].startswith(f"{gone.name} can't be asked")

"""Who says whose invites they want gets no others.

spec: client-server-api#invite-permission, MSC4155
"""

from typing import Any

from homeserver.streams.invite_permissions import MAX_GLOBS
from tests.rooms.paths import at
from tests.serving import SERVER_NAME, Person, Running
from tests.streams.reading import invite, keep

CONFIG = "m.invite_permission_config"
FILTERS = "org.matrix.msc4155.invite_permission_config"


async def invited(person: Person, *, since: str | None = "") -> set[str]:
    """The rooms whose invites a sync shows."""
    answer = await person.sync(since=since, remember=False)
    return set(answer.get("rooms", {}).get("invite", {}))


async def blocked(person: Person, room: str, user: Person) -> None:
    body = {"user_id": user.user_id}
    reply = await person.refused("M_INVITE_BLOCKED", "POST", at(room, "invite"), body=body)
    assert reply.status == 403


async def test_no_way_to_invite_leads_past_the_block(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room()
    await keep(alice, CONFIG, {"default_action": "block"})
    await blocked(bob, room, alice)
    path = at(room, "state", "m.room.member", alice.user_id)
    reply = await bob.refused("M_INVITE_BLOCKED", "PUT", path, body={"membership": "invite"})
    assert reply.status == 403
    assert (await bob.raw("GET", path)).status == 404
    for preset in ("private_chat", "trusted_private_chat"):
        body = {"preset": preset, "invite": [alice.user_id]}
        reply = await bob.refused("M_INVITE_BLOCKED", "POST", "/createRoom", body=body)
        assert reply.status == 403
    assert (await bob.ok("GET", "/joined_rooms"))["joined_rooms"] == [room]
    assert await invited(alice) == set()
    await server.restart()
    await blocked(bob, room, alice)
    await keep(alice, CONFIG, {})
    await invite(bob, room, alice)
    assert await invited(alice) == {room}


async def test_invites_from_before_vanish_and_come_again(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await alice.sync()
    since = alice.since
    room = await bob.create_room(invite=[alice.user_id])
    assert await invited(alice, since=since) == {room}
    assert len((await alice.ok("GET", "/notifications"))["notifications"]) == 1
    await keep(alice, CONFIG, {"default_action": "block"})
    assert await invited(alice) == await invited(alice, since=since) == set()
    assert (await alice.ok("GET", "/notifications"))["notifications"] == []
    member = await bob.ok("GET", at(room, "state", "m.room.member", alice.user_id))
    assert member["membership"] == "invite"
    await keep(alice, CONFIG, {"default_action": "allow"})
    assert await invited(alice) == {room}
    await alice.join(room)


# What is asked for, and what becomes of invites by Bob and by Carol.
CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"blocked_users": ["@bob:*"]}, "blocked", "allowed"),
    ({"blocked_users": [f"@bob:{SERVER_NAME}"]}, "blocked", "allowed"),
    ({"ignored_users": ["@b?b:*"]}, "ignored", "allowed"),
    ({"ignored_users": ["@bob:*"], "blocked_users": ["*"]}, "ignored", "blocked"),
    ({"allowed_users": ["@bob:*"], "blocked_servers": ["*"]}, "allowed", "blocked"),
    ({"allowed_users": ["@bob:*"], "ignored_servers": [SERVER_NAME]}, "allowed", "ignored"),
    ({"blocked_users": ["@bob:*"], "allowed_servers": ["*"]}, "blocked", "allowed"),
    ({"allowed_servers": ["*"], "blocked_servers": ["*"]}, "allowed", "allowed"),
    ({"blocked_servers": ["else.example", "b"]}, "allowed", "allowed"),
    ({"enabled": True, "blocked_users": ["@bob:*"]}, "blocked", "allowed"),
    ({"enabled": False, "blocked_users": ["@bob:*"]}, "allowed", "allowed"),
    ({"blocked_users": "*", "ignored_users": [7, None, ""]}, "allowed", "allowed"),
    ({"blocked_users": ["*a" * 200, "*a" * 120 + "b"]}, "allowed", "allowed"),
    ({"blocked_users": [f"?{n}" for n in range(MAX_GLOBS)] + ["*"]}, "allowed", "allowed"),
]


async def test_filters_go_by_user_and_then_by_server(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    for filters, *rules in CASES:
        await keep(alice, FILTERS, filters)
        wanted, rooms = set(), set()
        for person, rule in zip((bob, carol), rules, strict=True):
            room = await person.create_room()
            rooms.add(room)
            if rule == "blocked":
                await blocked(person, room, alice)
            else:
                await invite(person, room, alice)
            if rule == "allowed":
                wanted.add(room)
        assert await invited(alice) & rooms == wanted, filters
        listed = (await alice.ok("GET", "/notifications"))["notifications"]
        assert {one["room_id"] for one in listed} & rooms == wanted, filters


async def test_clients_are_told_that_the_server_does_it(server: Running) -> None:
    reply = await server.request("GET", "/_matrix/client/versions")
    features = reply.body["unstable_features"]
    assert features["org.matrix.msc4155"] is features["org.matrix.msc4380.stable"] is True

"""Who may come, who must go, and who decides.

spec: client-server-api#room-membership
"""

import asyncio
from typing import Any

import pytest

from homeserver.users.accounts import NewAccount
from homeserver.users.sessions import DeviceRequest
from tests.rooms.paths import at
from tests.serving import SERVER_NAME, Person, Running

RULES = ("public", "invite", "knock", "restricted", "knock_restricted", "private", "nonsense")


async def membership(person: Person, room_id: str, user: Person) -> str | None:
    reply = await person.raw("GET", at(room_id, "state", "m.room.member", user.user_id))
    return None if reply.status == 404 else str(reply.body["membership"])


async def room_with_rule(owner: Person, rule: str, **options: Any) -> str:
    state = [{"type": "m.room.join_rules", "content": {"join_rule": rule}}]
    return await owner.create_room(initial_state=state, **options)


async def change(person: Person, room_id: str, verb: str, target: Person | None = None) -> int:
    """The status of a change of membership."""
    body = {"user_id": target.user_id} if target is not None else {}
    path = at(room_id, verb) if verb != "knock" else at(room_id).replace("/rooms/", "/knock/")
    return (await person.raw("POST", path, body=body)).status


@pytest.mark.parametrize("rule", RULES)
async def test_who_may_join_and_knock_by_join_rule(server: Running, rule: str) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await room_with_rule(alice, rule)
    assert await change(bob, room, "join") == (200 if rule == "public" else 403)
    knocks = rule in ("knock", "knock_restricted")
    assert await change(carol, room, "knock") == (200 if knocks else 403)
    assert await membership(alice, room, carol) == ("knock" if knocks else None)
    if rule != "public":
        assert await change(alice, room, "invite", bob) == 200
        assert await change(bob, room, "join") == (403 if rule in RULES[-2:] else 200)


async def test_what_is_so_already_may_be_asked_for_again(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await room_with_rule(alice, "knock")

    async def twice(person: Person, verb: str, target: Person | None = None) -> None:
        for _ in range(2):
            assert await change(person, room, verb, target) == 200

    async def events_about_bob() -> list[str]:
        query = {"dir": "f", "limit": 100, "filter": '{"types":["m.room.member"]}'}
        page = await alice.ok("GET", at(room, "messages"), query=query)
        about = [event for event in page["chunk"] if event["state_key"] == bob.user_id]
        return [event["content"]["membership"] for event in about]

    await twice(bob, "knock")
    await twice(alice, "invite", bob)
    await twice(bob, "join")
    await twice(bob, "leave")
    await twice(alice, "ban", bob)
    assert await events_about_bob() == ["knock", "invite", "join", "leave", "ban"]


async def test_of_joins_at_one_moment_one_counts(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await asyncio.gather(*(bob.join(room) for _ in range(6)))
    page = await alice.ok("GET", at(room, "messages"), query={"dir": "b", "limit": 100})
    assert sum(event.get("state_key") == bob.user_id for event in page["chunk"]) == 1


async def test_knocks_are_answered_or_taken_back(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await room_with_rule(alice, "knock")
    path = at(room).replace("/rooms/", "/knock/")
    assert await bob.ok("POST", path, body={"reason": "please"}) == {"room_id": room}
    event = await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert (event["membership"], event["reason"]) == ("knock", "please")
    assert room in (await bob.sync())["rooms"]["knock"]
    await bob.refused("M_FORBIDDEN", "PUT", at(room, "send", "m.room.message", "1"), body={})
    assert await change(bob, room, "join") == 403
    assert await change(bob, room, "leave") == 200
    await change(bob, room, "knock")
    assert await change(alice, room, "kick", bob) == 200
    await change(bob, room, "knock")
    assert await change(alice, room, "invite", bob) == 200
    assert await change(bob, room, "knock") == 403
    assert await change(bob, room, "join") == 200
    assert await change(bob, room, "knock") == 403
    await change(alice, room, "ban", bob)
    assert await change(bob, room, "knock") == 403


async def test_invites_can_be_declined_and_withdrawn(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(invite=[bob.user_id])
    assert await change(bob, room, "leave") == 200
    assert await change(bob, room, "join") == 403
    assert await change(alice, room, "invite", bob) == 200
    assert await change(alice, room, "kick", bob) == 200
    assert await change(bob, room, "join") == 403
    assert await change(bob, room, "leave") == 200


# Level of the actor, level of the target (None: not in the room), what may be done then. Kick 50,
# ban 60; to unban needs both.
POWERS: list[tuple[int, int | None, set[str]]] = [
    (0, 0, set()),
    (49, 0, set()),
    (50, 0, {"kick"}),
    (50, 50, set()),
    (59, 58, {"kick"}),
    (60, 0, {"kick", "ban"}),
    (60, 60, set()),
    (60, 61, set()),
    (60, None, {"ban"}),
    (59, None, set()),
    (100, 99, {"kick", "ban"}),
]


@pytest.mark.parametrize(("own", "other", "allowed"), POWERS)
async def test_power_decides_over_kick_and_ban(
    server: Running, own: int, other: int | None, allowed: set[str]
) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    levels = {alice.user_id: 200, bob.user_id: own, carol.user_id: other or 0}
    room = await alice.create_room(
        room_version="11",
        preset="public_chat",
        power_level_content_override={"users": levels, "kick": 50, "ban": 60},
    )
    await bob.join(room)
    if other is not None:
        await carol.join(room)
    for verb in ("kick", "ban"):
        expected = 200 if verb in allowed else 403
        assert await change(bob, room, verb, carol) == expected, verb
        if verb == "kick" and expected == 200:
            await carol.join(room)
    after = await membership(alice, room, carol)
    assert after == ("ban" if "ban" in allowed else None if other is None else "join")
    await alice.raw("POST", at(room, "ban"), body={"user_id": carol.user_id})
    may_unban = own >= 60 and own > (other or 0)
    assert await change(bob, room, "unban", carol) == (200 if may_unban else 403)


async def test_only_members_act_on_others(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(room_version="11", preset="public_chat")
    levels = await alice.ok("GET", at(room, "state", "m.room.power_levels"))
    users = {**levels["users"], bob.user_id: 90}
    await alice.put_state(room, "m.room.power_levels", {**levels, "users": users})
    await carol.join(room)
    for verb in ("kick", "ban", "unban", "invite"):
        assert await change(bob, room, verb, carol) == 403, verb
    await bob.join(room)
    assert await change(bob, room, "kick", carol) == 200
    assert await change(bob, room, "kick", carol) == 403
    assert await change(bob, room, "unban", carol) == 403


async def test_the_banned_stay_out_until_they_are_unbanned(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id, "reason": "spam"})
    event = await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert event == {"membership": "ban", "reason": "spam"}
    for person, verb, target in ((bob, "join", None), (bob, "leave", None), (alice, "invite", bob)):
        assert await change(person, room, verb, target) == 403
    assert await change(alice, room, "unban", bob) == 200
    assert await change(bob, room, "join") == 200


async def test_invites_need_their_level_also_when_they_change_nothing(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(
        preset="public_chat", power_level_content_override={"invite": 10}
    )
    await bob.join(room)
    assert await change(bob, room, "invite", carol) == 403
    assert await change(alice, room, "invite", carol) == 200
    assert await change(bob, room, "invite", carol) == 403
    assert await change(alice, room, "invite", bob) == 403


async def test_users_of_servers_that_cannot_be_reached_are_not_invited(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    remote = "@bob:elsewhere.example"
    reply = await alice.refused("M_UNKNOWN", "POST", at(room, "invite"), body={"user_id": remote})
    assert reply.status == 502
    path = at(room, "state", "m.room.member", remote)
    await alice.refused("M_UNKNOWN", "PUT", path, body={"membership": "invite"})
    await alice.refused("M_NOT_FOUND", "GET", path)
    await alice.ok("POST", at(room, "ban"), body={"user_id": remote})


async def test_reasons_have_a_length(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room()
    body = {"user_id": bob.user_id, "reason": "é" * 2_048}
    await alice.ok("POST", at(room, "invite"), body=body)
    assert (await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id)))["reason"]
    await bob.refused("M_INVALID_PARAM", "POST", at(room, "join"), body={"reason": "é" * 2_049})
    await bob.ok("POST", at(room, "join"), body={"reason": None})


async def test_rooms_one_is_not_in_and_rooms_that_are_not_look_alike(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    secret = await alice.create_room()

    async def answers(room: str) -> list[tuple[int, str | None]]:
        found = []
        for verb in ("leave", "forget", "invite", "kick", "ban", "unban"):
            reply = await bob.raw("POST", at(room, verb), body={"user_id": alice.user_id})
            found.append((reply.status, reply.errcode))
        return found

    assert await answers(secret) == [(403, "M_FORBIDDEN")] * 6
    assert await answers(f"!nowhere:{SERVER_NAME}") == await answers(secret)
    unknown = at(f"!nowhere:{SERVER_NAME}", "join")
    assert (await bob.refused("M_NOT_FOUND", "POST", unknown, body={})).status == 404
    assert (await bob.refused("M_NOT_FOUND", "POST", "/join/%23no%3Atest.example")).status == 404


async def test_a_forgotten_room_is_out_of_sight_until_one_is_invited_again(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(invite=[bob.user_id])
    for verb in ("invited", "join"):
        if verb == "join":
            await bob.join(room)
        await bob.refused("M_UNKNOWN", "POST", at(room, "forget"), body={})
    event_id = await bob.say(room, "hello")
    await bob.ok("POST", at(room, "leave"))
    await bob.ok("GET", at(room, "messages"), query={"dir": "b"})
    await bob.ok("POST", at(room, "forget"))
    await bob.ok("POST", at(room, "forget"))
    for restarted in (False, True):
        if restarted:
            await server.restart()
        for path in ("messages", "state", "members", "context/" + event_id):
            await bob.refused("M_FORBIDDEN", "GET", at(room) + "/" + path, query={"dir": "b"})
        await bob.refused("M_NOT_FOUND", "GET", at(room, "event", event_id))
    await alice.ok("POST", at(room, "invite"), body={"user_id": bob.user_id})
    await bob.join(room)
    await bob.ok("GET", at(room, "event", event_id))


async def test_the_banned_may_forget(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id})
    await bob.ok("POST", at(room, "forget"), body={})


async def test_members_are_named_by_their_profile(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.ok("PUT", f"/profile/{bob.user_id}/displayname", body={"displayname": "Bob"})
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    event = await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert event == {"membership": "join", "displayname": "Bob"}
    joined = (await alice.ok("GET", at(room, "joined_members")))["joined"]
    assert joined[bob.user_id] == {"display_name": "Bob"}


async def test_member_events_as_state_obey_the_same_rules(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(preset="public_chat")

    def about(user: Person) -> str:
        return at(room, "state", "m.room.member", user.user_id)

    own = {"membership": "join", "displayname": "Bobby"}
    first = await bob.ok("PUT", about(bob), body=own)
    assert await bob.ok("PUT", about(bob), body=own) == first
    assert await alice.ok("GET", about(bob)) == own
    for who in (alice, bob):
        await who.refused("M_FORBIDDEN", "PUT", about(carol), body={"membership": "join"})
        await who.refused("M_FORBIDDEN", "PUT", about(carol), body={"membership": "leave"})
        await who.refused("M_FORBIDDEN", "PUT", about(carol), body={"membership": "knock"})
        await who.refused("M_FORBIDDEN", "PUT", about(carol), body={})
    await carol.refused("M_FORBIDDEN", "PUT", about(bob), body={"membership": "leave"})
    await bob.refused("M_FORBIDDEN", "PUT", about(carol), body={"membership": "ban"})
    await alice.ok("PUT", about(bob), body={"membership": "ban"})
    assert await membership(alice, room, bob) == "ban"
    await bob.refused("M_FORBIDDEN", "PUT", about(bob), body={"membership": "join"})
    for nobody in ("", "bob", "@bob", f"@bob\0:{SERVER_NAME}"):
        path = at(room, "state", "m.room.member", nobody)
        await alice.refused("M_INVALID_PARAM", "PUT", path, body={"membership": "ban"})


async def a_guest(server: Running) -> Person:
    made = await server.app.services.accounts.create(
        NewAccount("visitor", device=DeviceRequest(), guest=True)
    )
    assert made.session is not None
    return Person(server, made.user_id, made.session.access_token, made.session.device_id)


@pytest.mark.parametrize("content", [{"guest_access": "forbidden"}, {}])
async def test_guests_leave_when_the_room_lets_them_in_no_more(
    server: Running, content: dict[str, str]
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    guest = await a_guest(server)
    room, other = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for each in (room, other):
        await alice.put_state(each, "m.room.guest_access", {"guest_access": "can_join"})
        await bob.join(each)
        await guest.join(each)
    since = (await guest.sync())["next_batch"]
    polling = asyncio.create_task(guest.sync(since=since, timeout=30_000))
    await server.parked()
    await alice.put_state(room, "m.room.guest_access", content)
    left = await polling
    while room not in left["rooms"].get("leave", {}):
        left = await guest.sync(timeout=30_000)
    assert (await guest.ok("GET", "/joined_rooms"))["joined_rooms"] == [other]
    members = await alice.ok("GET", f"/rooms/{room}/joined_members")
    assert set(members["joined"]) == {alice.user_id, bob.user_id}


@pytest.mark.parametrize("access", ["can_join", "forbidden", None])
async def test_a_guest_is_let_in_where_the_room_says_so(
    server: Running, access: str | None
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(preset="public_chat")
    content = {} if access is None else {"guest_access": access}
    await alice.put_state(room, "m.room.guest_access", content)
    guest = await a_guest(server)
    if access == "can_join":
        await guest.join(room)
        return
    await guest.refused("M_GUEST_ACCESS_FORBIDDEN", "POST", f"/rooms/{room}/join", body={})
    await guest.refused(
        "M_GUEST_ACCESS_FORBIDDEN",
        "PUT",
        f"/rooms/{room}/state/m.room.member/{guest.user_id}",
        body={"membership": "join"},
    )

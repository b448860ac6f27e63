"""The server tells its users something, each in one room of their own.

spec: client-server-api#server-notices
"""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.api.test_account import settled
from tests.rooms.paths import at
from tests.serving import Person, Running
from tests.streams.reading import invite, keep

SEND = "/_synapse/admin/v1/send_server_notice"
SENDER = "@server-notices:test.example"


@pytest.fixture
async def admin(server: Running) -> Person:
    return await server.person("admin", admin=True)


@pytest.fixture
async def ada(server: Running) -> Person:
    return await server.person("ada")


def text(body: str) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body}


async def tell(admin: Person, person: Person, content: Any, **more: Any) -> Any:
    body = {"user_id": person.user_id, "content": content, **more}
    return await admin.ok("POST", SEND, body=body)


async def state(person: Person, room: str, *key: str) -> Any:
    return await person.ok("GET", at(room, "state", *key))


async def tags(person: Person, room: str) -> Any:
    return (await person.ok("GET", f"/user/{person.user_id}{at(room, 'tags')}"))["tags"]


async def invited(person: Person) -> dict[str, Any]:
    """The rooms that the person is invited to, with what is shown of them, by type."""
    rooms = (await person.sync(since="", remember=False)).get("rooms", {}).get("invite", {})
    return {
        room: {event["type"]: event["content"] for event in one["invite_state"]["events"]}
        for room, one in rooms.items()
    }


async def heard(person: Person, room: str) -> list[str]:
    """The texts in the room, oldest first."""
    page = await person.ok("GET", at(room, "messages"), query={"dir": "b", "limit": 100})
    events = reversed(page["chunk"])
    return [one["content"]["body"] for one in events if one["type"] == "m.room.message"]


async def test_a_user_is_invited_to_the_one_room_and_finds_what_was_said(
    admin: Person, ada: Person
) -> None:
    first = await tell(admin, ada, text("hello"))
    second = await tell(admin, ada, text("again"))
    room = first["room_id"]
    assert second["room_id"] == room
    shown = await invited(ada)
    assert list(shown) == [room]
    assert shown[room]["m.room.name"] == {"name": "Server notices"}
    await ada.join(room)
    await tell(admin, ada, text("welcome"))
    assert await heard(ada, room) == ["hello", "again", "welcome"]
    event = await ada.ok("GET", at(room, "event", first["event_id"]))
    assert (event["sender"], event["content"]) == (SENDER, text("hello"))
    assert await tags(ada, room) == {"m.server_notice": {}}
    answer = await ada.sync(since="", remember=False)
    told = answer["rooms"]["join"][room]["account_data"]["events"]
    assert {"type": "m.tag", "content": {"tags": {"m.server_notice": {}}}} in told
    member = await state(ada, room, "m.room.member", SENDER)
    assert member["displayname"] == "Server notices"


async def test_each_user_has_a_room_of_their_own(
    server: Running, admin: Person, ada: Person
) -> None:
    ben = await server.person("ben")
    rooms = [(await tell(admin, one, text("hello")))["room_id"] for one in (ada, ben)]
    assert rooms[0] != rooms[1]
    assert list(await invited(ben)) == [rooms[1]]


async def test_two_notices_at_once_make_one_room_and_a_restart_no_other(
    server: Running, admin: Person, ada: Person
) -> None:
    told = await asyncio.gather(*(tell(admin, ada, text(f"{n}")) for n in range(5)))
    room = told[0]["room_id"]
    assert {one["room_id"] for one in told} == {room}
    await server.restart()
    assert (await tell(admin, ada, text("after")))["room_id"] == room
    await ada.join(room)
    assert sorted(await heard(ada, room)) == ["0", "1", "2", "3", "4", "after"]


async def test_the_invite_can_not_be_declined(server: Running, admin: Person, ada: Person) -> None:
    errcode = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
    room = (await tell(admin, ada, text("hello")))["room_id"]
    reply = await ada.refused(errcode, "POST", at(room, "leave"), body={})
    assert reply.status == 403
    path = at(room, "state", "m.room.member", ada.user_id)
    await ada.refused(errcode, "PUT", path, body={"membership": "leave"})
    assert list(await invited(ada)) == [room]
    other = await admin.create_room()
    await invite(admin, other, ada)
    await ada.ok("POST", at(other, "leave"), body={})


async def test_who_has_left_the_room_is_invited_to_it_again(admin: Person, ada: Person) -> None:
    room = (await tell(admin, ada, text("hello")))["room_id"]
    await ada.join(room)
    await ada.ok("POST", at(room, "leave"), body={})
    await ada.ok("POST", at(room, "forget"), body={})
    await ada.ok("DELETE", f"/user/{ada.user_id}{at(room, 'tags', 'm.server_notice')}")
    assert (await tell(admin, ada, text("again")))["room_id"] == room
    assert list(await invited(ada)) == [room]
    assert await tags(ada, room) == {"m.server_notice": {}}


async def test_notices_come_whatever_invites_a_user_blocks(admin: Person, ada: Person) -> None:
    await keep(ada, "m.invite_permission_config", {"default_action": "block"})
    room = (await tell(admin, ada, text("hello")))["room_id"]
    assert list(await invited(ada)) == [room]


async def test_nobody_else_says_anything_there(admin: Person, ada: Person) -> None:
    room = (await tell(admin, ada, text("hello")))["room_id"]
    await ada.join(room)
    await ada.refused("M_FORBIDDEN", "PUT", at(room, "send", "m.room.message", "1"), body=text("x"))
    await ada.refused("M_FORBIDDEN", "PUT", at(room, "state", "m.room.topic"), body={"topic": "x"})
    await ada.refused("M_FORBIDDEN", "POST", at(room, "invite"), body={"user_id": admin.user_id})


async def test_a_request_that_is_repeated_tells_once(
    server: Running, admin: Person, ada: Person
) -> None:
    body = {"user_id": ada.user_id, "content": text("once")}
    first, same = await asyncio.gather(
        *(admin.ok("PUT", f"{SEND}/t1", body=body) for _ in range(2))
    )
    assert first == same
    await server.restart()
    await server.clock.advance(1)
    assert await admin.ok("PUT", f"{SEND}/t1", body=body) == first
    other = await server.person("other", admin=True)
    assert await other.ok("PUT", f"{SEND}/t1", body=body) != first
    ben = await server.person("ben")
    for_ben = await admin.ok("PUT", f"{SEND}/t1", body={**body, "user_id": ben.user_id})
    assert for_ben["room_id"] != first["room_id"]
    await ada.join(first["room_id"])
    assert await heard(ada, first["room_id"]) == ["once", "once"]
    await admin.refused("M_INVALID_PARAM", "PUT", f"{SEND}/{'t' * 256}", body=body)


async def test_active_notices_are_pinned(admin: Person, ada: Person) -> None:
    content = {
        "msgtype": "m.server_notice",
        "body": "The disk is full",
        "server_notice_type": "m.server_notice.usage_limit_reached",
        "admin_contact": "mailto:admin@test.example",
        "limit_type": "monthly_active_user",
    }
    told = await tell(admin, ada, content, pinned=True)
    room, event_id = told["room_id"], told["event_id"]
    await tell(admin, ada, text("by the way"))
    await ada.join(room)
    assert (await state(ada, room, "m.room.pinned_events"))["pinned"] == [event_id]
    assert (await ada.ok("GET", at(room, "event", event_id)))["content"] == content
    path = f"/_homeserver/admin/v1/notices/{ada.user_id}/{event_id}"
    assert (await ada.raw("DELETE", path)).status == 403
    await admin.ok("DELETE", path)
    assert (await state(ada, room, "m.room.pinned_events"))["pinned"] == []
    assert await heard(ada, room) == ["The disk is full", "by the way"]
    await admin.refused("M_NOT_FOUND", "DELETE", path)


async def test_state_and_other_events_can_be_sent(admin: Person, ada: Person) -> None:
    told = await tell(admin, ada, {"topic": "News"}, type="m.room.topic", state_key="")
    await ada.join(told["room_id"])
    assert (await state(ada, told["room_id"], "m.room.topic"))["topic"] == "News"
    told = await tell(admin, ada, {"n": 1}, type="org.test")
    event = await ada.ok("GET", at(told["room_id"], "event", told["event_id"]))
    assert event["type"] == "org.test"


@pytest.mark.parametrize(
    ("errcode", "change"),
    [
        ("M_MISSING_PARAM", {"content": {"body": "x"}}),
        ("M_MISSING_PARAM", {"content": {"msgtype": "m.text"}}),
        ("M_MISSING_PARAM", {"content": {"msgtype": "m.server_notice", "body": "x"}}),
        ("M_BAD_JSON", {"content": {"msgtype": "m.text", "body": 1}}),
        ("M_BAD_JSON", {"content": []}),
        ("M_INVALID_PARAM", {"type": "m.room.member", "state_key": "@x:test.example"}),
        ("M_INVALID_PARAM", {"user_id": "@ada:elsewhere.example"}),
        ("M_INVALID_PARAM", {"user_id": SENDER}),
        ("M_NOT_FOUND", {"user_id": "@nobody:test.example"}),
    ],
)
async def test_what_can_not_be_told_makes_no_room(
    admin: Person, ada: Person, errcode: str, change: dict[str, Any]
) -> None:
    if change.get("user_id") == SENDER:
        await tell(admin, admin, text("hello"))
    body = {"user_id": ada.user_id, "content": text("x"), **change}
    await admin.refused(errcode, "POST", SEND, body=body)
    assert await invited(ada) == {}


async def test_only_administrators_tell(server: Running, admin: Person, ada: Person) -> None:
    body = {"user_id": admin.user_id, "content": text("x")}
    assert (await ada.raw("POST", SEND, body=body)).status == 403
    assert (await server.request("POST", SEND, body=body)).errcode == "M_MISSING_TOKEN"


async def test_the_name_of_the_sender_is_nobody_elses(
    server: Running, admin: Person, ada: Person
) -> None:
    query = {"username": "server-notices"}
    reply = await server.request("GET", "/_matrix/client/v3/register/available", query=query)
    assert reply.errcode == "M_USER_IN_USE"
    body = {"username": "server-notices", "password": "x", "auth": {"type": "m.login.dummy"}}
    reply = await server.request("POST", "/_matrix/client/v3/register", body=body)
    assert reply.errcode == "M_USER_IN_USE"


class TestConfigured:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {
            "server_notices": {
                "localpart": "the-club",
                "display_name": "The club",
                "avatar_url": "mxc://test.example/logo",
                "room_name": "From the club",
                "auto_join": True,
            }
        }

    async def test_the_sender_and_the_room_are_as_configured_and_joined(
        self, admin: Person, ada: Person
    ) -> None:
        room = (await tell(admin, ada, text("hello")))["room_id"]
        assert await heard(ada, room) == ["hello"]
        assert await state(ada, room, "m.room.name") == {"name": "From the club"}
        assert await state(ada, room, "m.room.avatar") == {"url": "mxc://test.example/logo"}
        profile = await ada.ok("GET", "/profile/@the-club:test.example")
        assert profile == {"displayname": "The club", "avatar_url": "mxc://test.example/logo"}


async def test_the_account_of_a_person_says_nothing_for_the_server(
    server: Running, admin: Person, ada: Person
) -> None:
    notices = replace(server.config.server_notices, localpart="ada")
    server.config = replace(server.config, server_notices=notices)
    await server.restart()
    body = {"user_id": admin.user_id, "content": text("x")}
    await admin.refused("M_USER_IN_USE", "POST", SEND, body=body)
    # Nor does what holds for the server's invites hold for theirs.
    invite = {"user_id": admin.user_id}
    room = await ada.create_room(invite=[admin.user_id])
    await admin.ok("POST", f"/rooms/{room}/leave")
    block = {"default_action": "block"}
    kind = "m.invite_permission_config"
    await admin.ok("PUT", f"/user/{admin.user_id}/account_data/{kind}", body=block)
    await ada.refused("M_INVITE_BLOCKED", "POST", f"/rooms/{room}/invite", body=invite)
    assert await invited(admin) == {}


async def test_a_closed_account_leaves_the_room(
    server: Running, admin: Person, ada: Person
) -> None:
    room = (await tell(admin, ada, text("hello")))["room_id"]
    body: dict[str, Any] = {"new_password": "x"}
    await admin.ok("POST", f"/_synapse/admin/v1/reset_password/{SENDER}", body=body)
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": SENDER}}
    path = "/_matrix/client/v3/login"
    session = (await server.request("POST", path, body={**body, "password": "x"})).body
    sender = Person(server, SENDER, session["access_token"], session["device_id"])
    await sender.sync()
    await admin.ok("POST", f"/_synapse/admin/v1/deactivate/{ada.user_id}", body={})
    await settled(sender, room, ada.user_id, "leave")
    body = {"user_id": ada.user_id, "content": text("x")}
    await admin.refused("M_USER_DEACTIVATED", "POST", SEND, body=body)

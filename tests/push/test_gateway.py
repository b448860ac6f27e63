"""What a gateway is told, and when.

spec: push-gateway-api#post_matrixpushv1notify and client-server-api#push-notifications
"""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.push.sending import PushSender
from storage import push as store
from tests.api.test_devices import second_device
from tests.push.conftest import PushGateway
from tests.serving import Person, Running
from tests.streams.reading import ignore, invite, keep, read


async def pair(server: Running, gateway: PushGateway, **pusher: Any) -> tuple[Person, Person, str]:
    """Alice with a pusher, bob, and a room of both."""
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room(preset="public_chat", name="Tea")
    await alice.join(room)
    await gateway.register(alice, **pusher)
    return alice, bob, room


async def test_a_message_is_told_in_full(server: Running, gateway: PushGateway) -> None:
    alice, bob, room = await pair(server, gateway)
    content = {"msgtype": "m.text", "body": "hi", "m.mentions": {"user_ids": [alice.user_id]}}
    event_id = await bob.send(room, "m.room.message", content)
    await gateway.until(lambda: bool(gateway.told))
    told = gateway.told[0]
    device = told.pop("devices")[0]
    assert told == {
        "event_id": event_id,
        "room_id": room,
        "type": "m.room.message",
        "sender": bob.user_id,
        "room_name": "Tea",
        "content": content,
        "prio": "high",
        "counts": {"unread": 1},
    }
    assert device["tweaks"] == {"sound": "default", "highlight": True}
    assert (device["app_id"], device["pushkey"]) == ("test.app", "key")
    assert device["data"] == {}
    await alice.say(room, "my own")
    await bob.send(room, "m.room.message", {"msgtype": "m.notice", "body": "x"})
    await ignore(alice, bob)
    await bob.say(room, "ignored")
    await gateway.quiet()
    assert gateway.events() == [event_id]


async def test_all_that_happens_at_once_is_told_room_by_room_in_order(
    server: Running, gateway: PushGateway
) -> None:
    alice, bob, room = await pair(server, gateway)
    rooms = [room] + [await bob.create_room(preset="public_chat") for _ in range(4)]
    for joined in rooms[1:]:
        await alice.join(joined)

    async def talk(room_id: str) -> list[str]:
        return [await bob.say(room_id, f"{number}") for number in range(8)]

    said = await asyncio.gather(*map(talk, rooms))
    await gateway.until(lambda: len(gateway.told) == 40)
    for room_id, events in zip(rooms, said, strict=True):
        assert [t["event_id"] for t in gateway.told if t["room_id"] == room_id] == events
    assert gateway.told[-1]["counts"] == {"unread": 40}


async def test_only_ids_and_no_badge(server: Running, gateway: PushGateway) -> None:
    data = {"format": "event_id_only", "org.matrix.msc4076.disable_badge_count": True, "x": 1}
    alice, bob, room = await pair(server, gateway, data=data)
    event_id = await bob.say(room, "hi")
    await gateway.until(lambda: bool(gateway.told))
    (told,) = gateway.told
    device = told.pop("devices")[0]
    assert told == {"event_id": event_id, "room_id": room, "prio": told["prio"]}
    assert device["data"] == data
    await read(alice, room, event_id)
    await server.clock.advance(5)
    await gateway.quiet()
    assert len(gateway.told) == 1


async def test_what_is_too_large_for_a_gateway_is_told_by_its_id(
    server: Running, gateway: PushGateway
) -> None:
    gateway.most = 1_000
    _, bob, room = await pair(server, gateway)
    large, small = await bob.say(room, "x" * 1_000), await bob.say(room, "x")
    await gateway.until(lambda: gateway.events() == [large, small])
    assert ["content" in told for told in gateway.told] == [False, True]
    assert gateway.told[1]["counts"] == {"unread": 2}


async def test_an_invite_is_told(server: Running, gateway: PushGateway) -> None:
    alice, bob, _ = await pair(server, gateway)
    other = await bob.create_room()
    await invite(bob, other, alice)
    await gateway.until(lambda: bool(gateway.told))
    assert gateway.told[0]["room_id"] == other
    assert gateway.told[0]["user_is_target"] is True


async def test_an_invite_that_is_not_wanted_is_not_told(
    server: Running, gateway: PushGateway
) -> None:
    alice, bob, _ = await pair(server, gateway)
    filters = "org.matrix.msc4155.invite_permission_config"
    hidden, shown = await bob.create_room(), await bob.create_room()
    await keep(alice, filters, {"ignored_users": [bob.user_id]})
    await invite(bob, hidden, alice)
    # The sender has looked at it before the later one is told.
    carol = await server.person("carol")
    await bob.ok("POST", f"/rooms/{shown}/invite", body={"user_id": carol.user_id})
    await carol.join(shown)
    await invite(carol, shown, alice)
    await gateway.until(lambda: bool(gateway.told))
    await gateway.quiet()
    assert [told["room_id"] for told in gateway.told] == [shown]


async def test_who_is_invited_hears_of_the_invite_alone(
    server: Running, gateway: PushGateway
) -> None:
    alice, bob, room = await pair(server, gateway)
    other = await bob.create_room(preset="public_chat")
    await invite(bob, other, alice)
    await bob.say(other, "she has not joined")
    last = await bob.say(room, "she has joined here")
    await gateway.until(lambda: last in gateway.events())
    assert [told["room_id"] for told in gateway.told] == [other, room]


@pytest.fixture
def no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's end is as sudden as a crash: what it would keep of the last second is lost."""

    async def lost(_: PushSender) -> None:
        pass

    monkeypatch.setattr(PushSender, "save", lost)


async def test_a_database_that_can_not_be_asked_loses_no_notification(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bob, room = await pair(server, gateway)
    ask, asked = store.pushers_of, 0

    async def fails_at_first(*given: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise OSError("no connection")
        return await ask(*given)

    monkeypatch.setattr(store, "pushers_of", fails_at_first)
    said = await bob.say(room, "hi")
    await gateway.until(lambda: bool(gateway.told), seconds=1)
    assert gateway.events() == [said]
    assert asked == 3


@pytest.mark.usefixtures("no_cursor")
async def test_after_a_crash_invites_and_messages_are_told_again(
    server: Running, gateway: PushGateway
) -> None:
    alice, bob, room = await pair(server, gateway)
    open_, declined = await bob.create_room(), await bob.create_room()
    last = await bob.say(room, "hi")
    await invite(bob, declined, alice)
    await alice.ok("POST", f"/rooms/{quote(declined, safe='')}/leave", body={})
    # Bob is told of what happens in his rooms, too.
    await gateway.register(bob, "bobs")
    await invite(bob, open_, alice)
    await gateway.until(lambda: len(gateway.told) == 3)
    gateway.told.clear()
    await server.restart()
    await gateway.until(lambda: len(gateway.told) == 2)
    assert {told["room_id"] for told in gateway.told} == {room, open_}
    assert last in gateway.events()
    await gateway.quiet()
    assert len(gateway.told) == 2


@pytest.mark.usefixtures("no_cursor")
async def test_after_a_crash_nobody_hears_of_what_came_before_they_joined(
    server: Running, gateway: PushGateway
) -> None:
    alice, bob, _ = await pair(server, gateway)
    other = await bob.create_room(preset="public_chat")
    await bob.say(other, "before")
    await alice.join(other)
    since = await bob.say(other, "since")
    await gateway.until(lambda: bool(gateway.told))
    gateway.told.clear()
    await server.restart()
    await gateway.until(lambda: bool(gateway.told))
    await gateway.quiet()
    assert gateway.events() == [since]


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_invite_comes_when_the_gateway_is_back(
    server: Running, gateway: PushGateway, restarted: bool
) -> None:
    alice, bob, room = await pair(server, gateway)
    open_, declined = await bob.create_room(), await bob.create_room()
    gateway.fail = 502
    await bob.say(room, "this fails first")
    await gateway.until(lambda: gateway.tries > 0)
    read_ = await bob.say(room, "read elsewhere")
    await read(alice, room, read_)
    for asked in (open_, declined):
        await invite(bob, asked, alice)
    await alice.ok("POST", f"/rooms/{quote(declined, safe='')}/leave", body={})
    await gateway.noticed()
    if restarted:
        await server.restart()
    gateway.fail = 200
    await gateway.until(lambda: bool(gateway.events()), 60)
    await gateway.quiet()
    assert [told["room_id"] for told in gateway.told if "room_id" in told] == [open_]


async def test_reading_elsewhere_clears_the_badge(server: Running, gateway: PushGateway) -> None:
    alice, bob, room = await pair(server, gateway)
    await bob.say(room, "1")
    last = await bob.say(room, "2")
    await gateway.until(lambda: len(gateway.told) == 2)
    assert [told["counts"]["unread"] for told in gateway.told][-1] == 2
    await read(alice, room, last)
    await server.clock.advance(1.5)
    await gateway.until(lambda: len(gateway.told) == 3)
    assert gateway.told[2]["counts"] == {"unread": 0}
    assert "event_id" not in gateway.told[2]


async def test_what_was_redacted_with_its_sender_counts_no_more(
    server: Running, gateway: PushGateway
) -> None:
    alice, bob, _ = await pair(server, gateway)
    carol = await server.person("carol")
    room = await carol.create_room(preset="public_chat")
    await alice.join(room)
    await bob.join(room)
    for number in range(3):
        await bob.say(room, f"{number}")
    await gateway.until(lambda: len(gateway.told) == 3)
    assert gateway.told[-1]["counts"] == {"unread": 3}
    ban = {"user_id": bob.user_id, "redact_events": True}
    await carol.say(room, "before")
    await gateway.until(lambda: len(gateway.told) == 4)
    assert gateway.told[-1]["counts"] == {"unread": 4}
    await carol.ok("POST", f"/rooms/{quote(room, safe='')}/ban", body=ban)
    async with asyncio.timeout(60):
        while any(event["content"].get("body") in "012" for event in await messages(alice, room)):
            pass
    await carol.say(room, "after")
    await gateway.until(lambda: len(gateway.told) == 5)
    assert gateway.told[-1]["counts"] == {"unread": 2}


async def messages(person: Person, room: str) -> list[Any]:
    path = f"/rooms/{quote(room, safe='')}/messages"
    page = await person.ok("GET", path, query={"dir": "b", "limit": 100})
    return [event for event in page["chunk"] if "body" in event["content"]]


async def test_rejected_keys_and_ended_sessions(server: Running, gateway: PushGateway) -> None:
    alice, bob, room = await pair(server, gateway)
    await gateway.register(alice, "other")
    gateway.rejects = ["key"]
    await bob.say(room, "1")
    await gateway.until(lambda: len(gateway.told) == 2)
    await gateway.quiet()
    listed = (await alice.ok("GET", "/pushers"))["pushers"]
    assert [pusher["pushkey"] for pusher in listed] == ["other"]
    await alice.ok("POST", "/logout")
    await bob.say(room, "2")
    await gateway.quiet()
    assert len(gateway.told) == 2


async def test_a_gateway_that_was_away_misses_nothing_and_is_not_flooded(
    server: Running, gateway: PushGateway
) -> None:
    alice, bob, room = await pair(server, gateway)
    other = await bob.create_room(preset="public_chat")
    await alice.join(other)
    gateway.fail = 502
    first = await bob.say(room, "0")
    await gateway.until(lambda: gateway.tries >= 3, 1)
    for number in range(20):
        last = await bob.say(room, f"{number}")
    beside = await bob.say(other, "beside")
    await server.clock.advance(3_600)
    await gateway.quiet()
    await server.restart()
    gateway.fail = 200
    await gateway.until(lambda: {last, beside} <= set(gateway.events()), 60)
    assert len(gateway.events()) <= 3
    assert gateway.told[-1]["counts"] == {"unread": 22}
    assert first not in gateway.events()[1:]
    await gateway.quiet()
    told = len(gateway.told)
    await server.clock.advance(2)
    await gateway.quiet()
    await server.restart()
    await gateway.quiet()
    assert len(gateway.told) == told


async def test_a_muted_room_is_not_told(server: Running, gateway: PushGateway) -> None:
    alice, bob, room = await pair(server, gateway)
    path = f"/pushrules/global/room/{quote(room, safe='')}"
    await alice.ok("PUT", path, body={"actions": []})
    await bob.say(room, "muted")
    await gateway.noticed()
    await gateway.register(alice, enabled=False)
    await alice.ok("DELETE", path)
    await bob.say(room, "switched off")
    await gateway.noticed()
    await gateway.register(alice, enabled=True)
    wanted = await bob.say(room, "switched on")
    await gateway.until(lambda: bool(gateway.told))
    assert gateway.events() == [wanted]


async def test_pushers_are_set_listed_and_removed(server: Running, gateway: PushGateway) -> None:
    alice, bob, _ = await pair(server, gateway)
    (shown,) = (await alice.ok("GET", "/pushers"))["pushers"]
    assert shown["data"] == {"url": gateway.url}
    assert (shown["kind"], shown["enabled"], shown["device_id"]) == ("http", True, alice.device_id)
    # The same key of another user is taken from them, unless it is appended.
    await gateway.register(bob, append=True)
    assert (await alice.ok("GET", "/pushers"))["pushers"]
    await gateway.register(bob)
    assert (await alice.ok("GET", "/pushers"))["pushers"] == []
    gone = {"app_id": "test.app", "pushkey": "key", "kind": None}
    await bob.ok("POST", "/pushers/set", body=gone)
    assert (await bob.ok("GET", "/pushers"))["pushers"] == []
    for wrong in (
        {"app_id": "x" * 65},
        {"pushkey": "x" * 513},
        {"kind": "pigeon"},
        {"data": {"url": "ftp://x.example/_matrix/push/v1/notify"}},
        {"data": {"url": "https://x.example/"}},
        {"lang": 7},
        {"data": {"format": "other"}},
    ):
        body = {
            "app_id": "a",
            "pushkey": "k",
            "kind": "http",
            "app_display_name": "a",
            "device_display_name": "d",
            "lang": "en",
            **wrong,
        }
        body["data"] = {"url": gateway.url, **wrong.get("data", {})}  # type: ignore[dict-item]
        assert (await alice.raw("POST", "/pushers/set", body=body)).status == 400, wrong
    assert (await alice.ok("GET", "/pushers"))["pushers"] == []


async def test_another_device_switches_a_pusher_and_does_not_take_it_over(
    server: Running, gateway: PushGateway
) -> None:
    """MSC3881: the pusher stays the phone's, also when the other device logs out."""
    phone, bob, room = await pair(server, gateway)
    token = await second_device(phone)
    laptop = Person(server, phone.user_id, token, "TWO")
    (shown,) = (await laptop.ok("GET", "/pushers"))["pushers"]
    for prefix in ("", "org.matrix.msc3881."):
        assert shown[f"{prefix}enabled"] is True
        assert shown[f"{prefix}device_id"] == phone.device_id
    unstable: dict[str, Any] = {"org.matrix.msc3881.enabled": False}
    await gateway.register(laptop, **unstable)
    (shown,) = (await phone.ok("GET", "/pushers"))["pushers"]
    assert (shown["enabled"], shown["device_id"]) == (False, phone.device_id)
    await bob.say(room, "switched off")
    await gateway.noticed()
    await gateway.register(laptop, enabled=True)
    await laptop.ok("POST", "/logout")
    wanted = await bob.say(room, "switched on")
    await gateway.until(lambda: bool(gateway.told))
    assert gateway.events() == [wanted]


async def test_what_a_gateway_missed_is_told_though_the_pusher_was_set_anew_meanwhile(
    server: Running, gateway: PushGateway
) -> None:
    """Apps set their pusher whenever they start."""
    alice, bob, room = await pair(server, gateway)
    gateway.fail = 502
    missed = await bob.say(room, "missed")
    queues = server.app.services.push.queues
    await gateway.until(lambda: bool(queues.failing))
    await server.app.services.push.sender.save()
    await gateway.register(alice)
    gateway.fail = 200
    await server.restart()
    await gateway.until(lambda: bool(gateway.told), seconds=1)
    assert gateway.events() == [missed]

"""Apps are told by Web Push, encrypted, once they have shown that they get it.

MSC4174, RFC 8030 (requests), RFC 8291 (encryption), RFC 8292 (VAPID).
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from homeserver.push.sealing import RECORD_BYTES
from homeserver.push.vapid import read as read_key
from tests.api.test_devices import second_device
from tests.push.conftest import PushGateway
from tests.push.push_service import App, PushService, claims, push_service, trusting
from tests.push.test_desk import run
from tests.push.test_gateway import pair
from tests.serving import Person, Reply, Running
from tests.streams.reading import read

KIND = "org.matrix.msc4174.webpush"
ACK = "/pushers/ack"
PRIVATE = "127.0.0.2"

on_sqlite = pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def settings(authority: trustme.CA, tmp_path: Path) -> dict[str, Any]:
    """The network of the test but one address is the public one."""
    return {"federation": trusting(authority, tmp_path), "support": {"admin_email": "me@m.example"}}


@pytest.fixture
async def service(server: Running, authority: trustme.CA) -> AsyncIterator[PushService]:
    async with push_service(authority) as made:
        vapid = server.app.services.push.vapid
        made.vapid = vapid.public_key if vapid is not None else ""
        made.now = server.clock.now_ms() / 1_000
        yield made


async def set_pusher(person: Person, app: App, **changes: Any) -> Reply:
    """Set the pusher of an app; `data` is added to its data."""
    body = {
        "app_id": "web.app",
        "pushkey": app.p256dh,
        "kind": KIND,
        "app_display_name": "App",
        "device_display_name": "Browser",
        "lang": "en",
        **changes,
    }
    body["data"] = {**app.data, **changes.get("data", {})}
    return await person.raw("POST", "/pushers/set", body=body)


async def acknowledge(person: Person, token: str, app_id: str = "web.app") -> Reply:
    return await person.raw("POST", ACK, body={"app_id": app_id, "ack_token": token})


async def active(
    gateway: PushGateway, service: PushService, person: Person, app: App, **changes: Any
) -> None:
    """Set the pusher of an app, which answers as it should."""
    known = len(service.tokens)
    assert (await set_pusher(person, app, **changes)).status == 201
    await gateway.until(lambda: len(service.tokens) > known)
    assert (await acknowledge(person, service.tokens[-1])).status == 200


async def told(
    server: Running, gateway: PushGateway, service: PushService, **changes: Any
) -> tuple[Person, Person, str]:
    """Alice with an app that is told by Web Push alone, bob, and a room of both."""
    alice, bob, room = await pair(server, gateway, enabled=False)
    await active(gateway, service, alice, service.subscribe(), **changes)
    return alice, bob, room


async def pushers(person: Person) -> list[dict[str, Any]]:
    """Those for Web Push, as clients see them."""
    listed = (await person.ok("GET", "/pushers"))["pushers"]
    return [one for one in listed if one["kind"] == KIND]


class TestActivation:
    """`pushers/set` answers 201, and the app shows with a token that it is told."""

    async def test_nothing_is_told_before_the_app_has_shown_that_it_is(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, bob, room = await pair(server, gateway)
        app = service.subscribe()
        reply = await set_pusher(alice, app)
        assert (reply.status, reply.body) == (201, {})
        await gateway.until(lambda: bool(service.pushed))
        (first,) = service.pushed
        assert first.message.keys() == {"app_id", "ack_token"}
        assert first.message["app_id"] == "web.app"
        assert first.headers["Urgency"] == "high"
        assert int(first.headers["TTL"]) == 300
        assert [one["activated"] for one in await pushers(alice)] == [False]
        await bob.say(room, "too early")
        await gateway.until(lambda: bool(gateway.told))
        assert (await acknowledge(alice, first.message["ack_token"])).body == {}
        (shown,) = await pushers(alice)
        assert shown["activated"] is True
        assert shown["enabled"] is True
        assert shown["data"] == app.data
        assert shown.keys() <= {
            *("app_id", "pushkey", "kind", "data", "lang", "enabled", "activated", "device_id"),
            *("app_display_name", "device_display_name", "org.matrix.msc3881.enabled"),
            "org.matrix.msc3881.device_id",
        }
        said = await bob.say(room, "now")
        await gateway.until(lambda: service.events == [said])

    async def test_the_answer_may_come_again_and_at_the_unstable_path(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, *_ = await told(server, gateway, service)
        body = {"app_id": "web.app", "ack_token": service.tokens[0]}
        path = "/_matrix/client/unstable/org.matrix.msc4174/pushers/ack"
        assert await alice.ok("POST", path, body=body) == {}

    async def test_a_token_is_its_users_and_its_applications(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, bob, _ = await pair(server, gateway)
        await bob.refused("M_NOT_FOUND", "POST", ACK, body={"app_id": "web.app", "ack_token": "x"})
        # A pusher of another kind is none that could be activated.
        body = {"app_id": "test.app", "ack_token": "x"}
        await alice.refused("M_NOT_FOUND", "POST", ACK, body=body)
        await set_pusher(alice, service.subscribe("alices"))
        await set_pusher(bob, service.subscribe("bobs"))
        await gateway.until(lambda: len(service.tokens) == 2)
        tokens = {one.app.url: one.message["ack_token"] for one in service.pushed}
        alices, bobs = (tokens[service.apps[name].url] for name in ("alices", "bobs"))
        for person, token in ((alice, bobs), (bob, alices), (alice, "é")):
            reply = await acknowledge(person, token)
            assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_ACTIVATION_TOKEN")
        reply = await acknowledge(alice, alices, "other.app")
        assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")
        assert [one["activated"] for one in await pushers(alice)] == [False]
        assert (await acknowledge(alice, alices)).status == 200

    async def test_a_token_is_good_for_five_minutes(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, *_ = await pair(server, gateway)
        app = service.subscribe()
        await set_pusher(alice, app)
        await gateway.until(lambda: len(service.tokens) == 1)
        await server.clock.advance(301)
        reply = await acknowledge(alice, service.tokens[0])
        assert (reply.status, reply.errcode) == (400, "M_EXPIRED_ACTIVATION_TOKEN")
        assert [one["activated"] for one in await pushers(alice)] == [False]
        # Set again, the app gets a new one.
        assert (await set_pusher(alice, app)).status == 201
        await gateway.until(lambda: len(service.tokens) == 2)
        assert (await acknowledge(alice, service.tokens[0])).errcode == "M_UNKNOWN_ACTIVATION_TOKEN"
        assert (await acknowledge(alice, service.tokens[1])).status == 200

    async def test_what_is_set_as_it_was_stays_active(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, bob, room = await told(server, gateway, service)
        app = service.apps["app"]
        assert (await set_pusher(alice, app, lang="de")).status == 200
        await server.restart()
        (shown,) = await pushers(alice)
        assert (shown["lang"], shown["activated"]) == ("de", True)
        said = await bob.say(room, "hi")
        await gateway.until(lambda: service.events == [said])
        # At another place it may be another app.
        app.url = f"{service.url}/moved"
        service.apps["moved"] = app
        assert (await set_pusher(alice, app)).status == 201
        assert [one["activated"] for one in await pushers(alice)] == [False]
        await bob.say(room, "for nobody")
        await gateway.noticed()
        await gateway.until(lambda: not server.app.services.push.queues.waiting)
        assert service.events == [said]

    async def test_one_that_is_switched_off_stays_so_when_it_is_activated(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, bob, room = await told(server, gateway, service, enabled=False)
        (shown,) = await pushers(alice)
        assert (shown["enabled"], shown["activated"]) == (False, True)
        await bob.say(room, "for nobody")
        await gateway.noticed()
        # Another device of the user switches it on (MSC3881).
        other = replace(alice, token=await second_device(alice))
        assert (await set_pusher(other, service.apps["app"], enabled=True)).status == 200
        said = await bob.say(room, "hi")
        await gateway.until(lambda: service.events == [said])
        assert [one["device_id"] for one in await pushers(alice)] == [alice.device_id]

    async def test_a_push_service_that_fails_is_asked_again_while_the_token_is_good(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, *_ = await pair(server, gateway)
        service.status = 503
        await set_pusher(alice, service.subscribe())
        await gateway.until(lambda: service.tries >= 3, 1)
        rows, _ = await server.app.services.push.desk.page((0, "", ""))
        errors = [row["last_error"] for row in rows if row["kind"] == KIND]
        assert errors == ["the push service answered with status 503"]
        service.status = 201
        await gateway.until(lambda: len(service.tokens) == 1, 5)
        assert (await acknowledge(alice, service.tokens[0])).status == 200
        service.status, service.tries = 503, 0
        await set_pusher(alice, service.subscribe("never"))
        await gateway.until(lambda: service.tries >= 2, 1)
        await server.clock.advance(400)
        await gateway.quiet()
        service.status = 201
        for _ in range(3):
            await server.clock.advance(400)
        await gateway.quiet()
        assert len(service.tokens) == 1
        listed = await pushers(alice)
        assert {one["pushkey"]: one["activated"] for one in listed} == {
            service.apps["app"].p256dh: True,
            service.apps["never"].p256dh: False,
        }

    async def test_only_the_newest_token_is_brought(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        """However often an app sets its pusher while the push service fails."""
        alice, *_ = await pair(server, gateway)
        app = service.subscribe()
        service.status = 503
        for _ in range(5):
            assert (await set_pusher(alice, app)).status == 201
        await gateway.until(lambda: service.tries >= 1)
        await gateway.quiet()
        running = [task.get_name() for task in asyncio.all_tasks()]
        assert running.count("activation of a pusher") == 1
        service.status = 201
        await gateway.until(lambda: bool(service.tokens), 1)
        assert (await acknowledge(alice, service.tokens[0])).status == 200
        await server.clock.advance(300)
        await gateway.quiet()
        assert len(service.tokens) == 1

    @pytest.mark.parametrize("status", [403, 404, 410])
    async def test_a_subscription_that_is_none_ends_at_once(
        self, server: Running, gateway: PushGateway, service: PushService, status: int
    ) -> None:
        alice, *_ = await pair(server, gateway)
        service.status = status
        await set_pusher(alice, service.subscribe())
        await until_none(alice)

    async def test_no_app_listens_in_a_private_network(
        self, server: Running, gateway: PushGateway, authority: trustme.CA
    ) -> None:
        alice, *_ = await pair(server, gateway)
        async with push_service(authority, PRIVATE) as inner:
            await set_pusher(alice, inner.subscribe())
            await until_none(alice)
            assert inner.tries == 0


async def until_none(person: Person) -> None:
    async with asyncio.timeout(20):
        while await pushers(person):  # noqa: ASYNC110  # what the server does is seen by asking
            await asyncio.sleep(0.005)


class TestMessages:
    async def test_a_message_is_told_in_full(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        payload = {"user_id": "@alice:test.example", "room_name": "is told", "x": {"y": 1}}
        alice, bob, room = await told(server, gateway, service, data={"default_payload": payload})
        content = {"msgtype": "m.text", "body": "hi", "m.mentions": {"user_ids": [alice.user_id]}}
        event_id = await bob.send(room, "m.room.message", content)
        await gateway.until(lambda: bool(service.told))
        (pushed,) = service.told
        assert pushed.message == {
            "user_id": "@alice:test.example",
            "x": {"y": 1},
            "event_id": event_id,
            "room_id": room,
            "type": "m.room.message",
            "sender": bob.user_id,
            "room_name": "Tea",
            "content": content,
            "prio": "high",
            "unread": 1,
        }
        assert pushed.headers["Urgency"] == "high"
        assert int(pushed.headers["TTL"]) >= 3_600
        assert "Topic" not in pushed.headers

    async def test_only_ids(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        _, bob, room = await told(server, gateway, service, data={"format": "event_id_only"})
        event_id = await bob.say(room, "hi")
        await gateway.until(lambda: bool(service.told))
        said = service.told[0].message
        assert said == {"event_id": event_id, "room_id": room, "prio": said["prio"], "unread": 1}

    @pytest.mark.parametrize(("length", "most"), [(3_990, 4_096), (40_000, 4_096), (2_000, 1_000)])
    async def test_what_does_not_fit_is_told_by_its_id(
        self,
        server: Running,
        gateway: PushGateway,
        service: PushService,
        length: int,
        most: int,
    ) -> None:
        payload = {"x": "y" * 900} if most == RECORD_BYTES else {}
        _, bob, room = await told(server, gateway, service, data={"default_payload": payload})
        service.most = most
        event_id = await bob.say(room, "x" * length)
        await gateway.until(lambda: service.events == [event_id])
        (pushed,) = service.told
        assert pushed.length <= RECORD_BYTES
        assert "content" not in pushed.message
        assert (pushed.message["room_id"], pushed.message["unread"]) == (room, 1)

    async def test_reading_elsewhere_clears_the_badge(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, bob, room = await told(server, gateway, service)
        last = await bob.say(room, "1")
        await gateway.until(lambda: len(service.told) == 1)
        await read(alice, room, last)
        await server.clock.advance(1.5)
        await gateway.until(lambda: len(service.told) == 2)
        assert service.told[1].message == {"unread": 0}
        # A device that was away hears of the last count alone.
        assert service.told[1].headers["Topic"] == "unread"

    @pytest.mark.parametrize(
        ("said", "counts"),
        [({"events_only": True}, True), ({"org.matrix.msc4076.disable_badge_count": True}, False)],
    )
    async def test_an_app_that_wants_no_badge_gets_events_alone(
        self,
        server: Running,
        gateway: PushGateway,
        service: PushService,
        said: dict[str, Any],
        counts: bool,
    ) -> None:
        alice, bob, room = await told(server, gateway, service, data=said)
        last = await bob.say(room, "1")
        await gateway.until(lambda: len(service.told) == 1)
        assert ("unread" in service.told[0].message) is counts
        await read(alice, room, last)
        await server.clock.advance(5)
        await gateway.quiet()
        assert len(service.told) == 1

    async def test_an_app_may_want_the_last_event_of_each_room_only(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        alice, bob, room = await told(server, gateway, service, data={"only_last_per_room": True})
        other = await bob.create_room(preset="public_chat")
        await alice.join(other)
        for where in (room, other, room):
            before = len(service.events)
            await bob.say(where, "hi")
            await gateway.until(lambda before=before: len(service.events) > before)  # type: ignore[misc]
        topics = [one.headers["Topic"] for one in service.told]
        assert topics[0] == topics[2] != topics[1]

    async def test_the_kind_may_be_named_as_it_will_be(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        """And `endpoint` in the place of `url`, as earlier drafts had it."""
        alice, bob, room = await pair(server, gateway)
        app = service.subscribe()
        data = {"endpoint": app.url, "auth": app.auth}
        body = {"kind": "webpush", "app_id": "web.app", "pushkey": app.p256dh, "data": data}
        names = {"app_display_name": "a", "device_display_name": "d", "lang": "en"}
        reply = await alice.raw("POST", "/pushers/set", body={**body, **names})
        assert reply.status == 201
        await gateway.until(lambda: bool(service.tokens))
        await acknowledge(alice, service.tokens[0])
        said = await bob.say(room, "hi")
        await gateway.until(lambda: service.events == [said])


class TestPushServices:
    @pytest.mark.parametrize("status", [403, 404, 410])
    async def test_a_subscription_that_is_no_more_ends_its_pusher(
        self, server: Running, gateway: PushGateway, service: PushService, status: int
    ) -> None:
        alice, bob, room = await told(server, gateway, service)
        service.status = status
        await bob.say(room, "hi")
        await until_none(alice)

    @pytest.mark.parametrize("status", [302, 400, 413, 429, 500])
    async def test_one_that_fails_is_told_when_it_is_back(
        self, server: Running, gateway: PushGateway, service: PushService, status: int
    ) -> None:
        alice, bob, room = await told(server, gateway, service)
        service.status, service.location = status, f"{service.url}/elsewhere"
        said = await bob.say(room, "hi")
        tries = service.tries
        await gateway.until(lambda: service.tries >= tries + 3, 1)
        rows, _ = await server.app.services.push.desk.page((0, "", ""))
        errors = [row["last_error"] for row in rows if row["kind"] == KIND]
        assert errors == [f"the push service answered with status {status}"]
        service.status, service.location = 201, ""
        await gateway.until(lambda: service.events == [said], 60)
        assert [one["activated"] for one in await pushers(alice)] == [True]

    async def test_it_sees_whom_it_serves_and_nothing_else(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        """VAPID: what is signed by the key that the capabilities name, with the contact."""
        alice, bob, room = await told(server, gateway, service)
        capabilities = (await alice.ok("GET", "/capabilities"))["capabilities"]
        capability = capabilities["org.matrix.msc4174.webpush"]
        assert capability == {"enabled": True, "vapid": service.vapid}
        features = (await alice.ok("GET", "/_matrix/client/versions"))["unstable_features"]
        assert features["org.matrix.msc4174"] is True
        await bob.say(room, "hi")
        await gateway.until(lambda: bool(service.events))
        assert len(set(service.authorizations)) == 1
        said, _ = claims(service.authorizations[0])
        assert said["sub"] == "mailto:me@m.example"

    async def test_the_server_stays_the_same_to_it(
        self, server: Running, gateway: PushGateway, service: PushService
    ) -> None:
        """Else every subscription would be lost with a restart."""
        _, bob, room = await told(server, gateway, service)
        file = server.config.push.vapid_key_file
        assert file is not None
        assert read_key(file).public == service.vapid
        await server.restart()
        said = await bob.say(room, "hi")
        await gateway.until(lambda: service.events == [said])


P256 = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"


@on_sqlite
@pytest.mark.parametrize(
    ("errcode", "changes", "data"),
    [
        ("M_MISSING_PARAM", {}, {"url": None}),
        ("M_MISSING_PARAM", {}, {"auth": None}),
        ("M_MISSING_PARAM", {}, {"auth": 1}),
        ("M_INVALID_PARAM", {}, {"url": "http://push.example/p"}),
        ("M_INVALID_PARAM", {}, {"url": "https:///p"}),
        ("M_INVALID_PARAM", {}, {"url": "https://me@push.example/p"}),
        ("M_INVALID_PARAM", {}, {"url": "https://push.example/p q"}),
        ("M_INVALID_PARAM", {}, {"url": "https://push.example/p\r\nTTL: 1"}),
        ("M_INVALID_PARAM", {}, {"auth": AUTH[:-2]}),
        ("M_INVALID_PARAM", {}, {"auth": "&"}),
        ("M_INVALID_PARAM", {}, {"format": "some"}),
        ("M_INVALID_PARAM", {}, {"default_payload": []}),
        ("M_INVALID_PARAM", {}, {"default_payload": {"x": "y" * 1_024}}),
        ("M_INVALID_PARAM", {"pushkey": "&"}, {}),
        ("M_INVALID_PARAM", {"pushkey": P256[:-4]}, {}),
        ("M_INVALID_PARAM", {"pushkey": P256[:-4] + "AAAA"}, {}),
        ("M_INVALID_PARAM", {"kind": "m.webpush"}, {}),
        ("M_MISSING_PARAM", {"lang": None}, {}),
    ],
)
async def test_what_is_no_subscription_is_refused(
    server: Running, errcode: str, changes: dict[str, Any], data: dict[str, Any]
) -> None:
    alice = await server.person("alice")
    body = {
        "app_id": "web.app",
        "pushkey": P256,
        "kind": KIND,
        "app_display_name": "App",
        "device_display_name": "Browser",
        "lang": "en",
        **changes,
        "data": {"url": "https://push.example/p", "auth": AUTH, **data},
    }
    reply = await alice.refused(errcode, "POST", "/pushers/set", body=body)
    assert reply.status == 400
    assert (await alice.ok("GET", "/pushers"))["pushers"] == []


@on_sqlite
async def test_operators_see_and_try_it(
    server: Running, gateway: PushGateway, service: PushService
) -> None:
    alice, *_ = await pair(server, gateway, enabled=False)
    desk = server.app.services.push.desk
    user = await server.app.services.user_list.row(alice.user_id)
    app = service.subscribe()
    await set_pusher(alice, app)
    await gateway.until(lambda: bool(service.tokens))
    (result,) = await desk.test(user.user_nid, alice.user_id, app.p256dh)
    assert "not shown yet" in result["error"]
    (row,) = [one for one in await desk.of(user.user_nid) if one["kind"] == KIND]
    assert (row["activated"], row["enabled"]) == (False, True)
    assert row["to"] == service.url.removeprefix("https://")
    await acknowledge(alice, service.tokens[0])
    (result,) = await desk.test(user.user_nid, alice.user_id, app.p256dh)
    assert result["error"] is None
    assert service.told[0].message["content"]["body"] == "This is a test: notifications arrive."
    (row,) = [one for one in await desk.of(user.user_nid) if one["kind"] == KIND]
    assert (row["activated"], row["last_error"]) == (True, None)
    assert row["last_success_ts"] is not None


@on_sqlite
class TestCommands:
    @pytest.fixture
    def settings(self, authority: trustme.CA, tmp_path: Path) -> dict[str, Any]:
        listeners = [{"port": 0}, {"socket": str(tmp_path / "s"), "apis": ["admin"]}]
        return {"federation": trusting(authority, tmp_path), "listeners": listeners}

    async def test_how_it_goes_is_said_in_words(
        self, server: Running, gateway: PushGateway, service: PushService, tmp_path: Path
    ) -> None:
        alice = await server.person("alice")
        app = service.subscribe()
        service.status = 503
        await set_pusher(alice, app)
        await gateway.until(lambda: service.tries >= 2, 1)
        where = service.url.removeprefix("https://")
        line = (await run(server, tmp_path, "list", "alice")).output
        begin = "@alice:test.example: web.app (Browser) at"
        assert line.startswith(f"{begin} {where}, not activated by its app yet, nothing was taken")
        assert "last failed: the push service answered with status 503 (" in line
        tried = await run(server, tmp_path, "test", "alice")
        assert (tried.exit_code, "has not shown yet" in tried.output) == (1, True)
        service.status = 201
        await gateway.until(lambda: bool(service.tokens), 5)
        await acknowledge(alice, service.tokens[0])
        tried = await run(server, tmp_path, "test", "alice")
        assert (tried.exit_code, tried.output) == (0, f"web.app {app.p256dh}: taken\n")
        line = (await run(server, tmp_path, "list", "alice")).output
        assert line.startswith(f"{begin} {where}, last taken ")
        service.status = 410
        tried = await run(server, tmp_path, "test", "alice")
        assert (tried.exit_code, "the pusher was removed" in tried.output) == (1, True)
        assert await pushers(alice) == []


@on_sqlite
async def test_where_it_is_switched_off_it_is_not_offered(
    server: Running, gateway: PushGateway, service: PushService
) -> None:
    """What apps have set before waits."""
    alice, bob, room = await told(server, gateway, service)
    object.__setattr__(server.config.push, "web_push", False)
    await server.restart()
    capabilities = (await alice.ok("GET", "/capabilities"))["capabilities"]
    assert capabilities["org.matrix.msc4174.webpush"] == {"enabled": False}
    features = (await alice.ok("GET", "/_matrix/client/versions"))["unstable_features"]
    assert features["org.matrix.msc4174"] is False
    reply = await set_pusher(alice, service.subscribe("another"))
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    assert (await acknowledge(alice, service.tokens[0])).errcode == "M_NOT_FOUND"
    said = await bob.say(room, "hi")
    await gateway.until(lambda: bool(server.app.services.push.queues.failing), 1)
    object.__setattr__(server.config.push, "web_push", True)
    await server.restart()
    await gateway.until(lambda: service.events == [said], 60)

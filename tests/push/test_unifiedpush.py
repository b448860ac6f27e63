"""Endpoints of UnifiedPush are told without a gateway between, and nobody else's.

spec: push-gateway-api#post_matrixpushv1notify, https://unifiedpush.org/developers/spec/server/
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from homeserver.push.gateway import PATH
from homeserver.push.unifiedpush import MOST_BYTES, MOST_DEVICES, Endpoints
from tests.push.conftest import PushGateway
from tests.push.distributor import Distributor, distributor
from tests.push.test_gateway import pair
from tests.serving import Person, Reply, Running
from tests.streams.reading import read

OURS = f"https://test.example{PATH}"
PUBLIC = f"https://matrix.gateway.unifiedpush.org{PATH}"
PRIVATE = "127.0.0.2"

on_sqlite = pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)


@pytest.fixture
def settings() -> dict[str, Any]:
    """The network of the test but one address is the public one."""
    return {"federation": {"allow_networks": ["127.0.0.1/32"]}}


@pytest.fixture
async def ntfy() -> AsyncIterator[Distributor]:
    async with distributor() as made:
        yield made


async def told(
    server: Running, gateway: PushGateway, endpoint: str, url: str = OURS, **pusher: Any
) -> tuple[Person, Person, str]:
    """Alice with an app that listens at an endpoint, bob, and a room of both."""
    data = {"url": url, **pusher.pop("data", {})}
    return await pair(server, gateway, pushkey=endpoint, data=data, **pusher)


async def pushkeys(person: Person) -> list[str]:
    return [one["pushkey"] for one in (await person.ok("GET", "/pushers"))["pushers"]]


async def notify(server: Running, *pushkeys: str, **said: Any) -> Reply:
    """What a stranger says to this server's gateway."""
    devices = [{"app_id": "test.app", "pushkey": key} for key in pushkeys]
    return await server.request("POST", PATH, body={"notification": {**said, "devices": devices}})


@pytest.mark.parametrize("url", [OURS, PUBLIC, f"https://Test.example:443{PATH}"])
async def test_an_endpoint_gets_what_a_gateway_would(
    server: Running, gateway: PushGateway, ntfy: Distributor, url: str
) -> None:
    """Its gateway is this server, or one whose work it does: neither is asked over HTTP."""
    endpoint = ntfy.endpoint()
    _, bob, room = await told(server, gateway, endpoint, url, data={"brand": "x"})
    event_id = await bob.say(room, "hi")
    await gateway.until(lambda: bool(ntfy.sent))
    (sent,) = ntfy.sent
    said = sent.notification
    (device,) = said.pop("devices")
    assert sent.endpoint == "/up1?up=1"
    assert sent.headers["Content-Type"] == "application/json"
    assert int(sent.headers["TTL"]) > 0
    assert said == {
        "event_id": event_id,
        "room_id": room,
        "type": "m.room.message",
        "sender": bob.user_id,
        "room_name": "Tea",
        "content": {"msgtype": "m.text", "body": "hi"},
        "prio": said["prio"],
        "counts": {"unread": 1},
    }
    assert (device["app_id"], device["pushkey"]) == ("test.app", endpoint)
    assert device["data"] == {"brand": "x"}


async def test_what_is_urgent_is_said_to_be(
    server: Running, gateway: PushGateway, ntfy: Distributor
) -> None:
    alice, bob, room = await told(server, gateway, ntfy.endpoint())
    content = {"msgtype": "m.text", "body": "hi", "m.mentions": {"user_ids": [alice.user_id]}}
    await bob.send(room, "m.room.message", content)
    await gateway.until(lambda: bool(ntfy.sent))
    assert ntfy.sent[0].headers["Urgency"] == "high"
    assert ntfy.sent[0].notification["prio"] == "high"


@pytest.mark.parametrize(("length", "most"), [(5_000, 4_096), (2_000, 1_000)])
async def test_what_is_too_large_for_an_endpoint_is_told_by_its_id(
    server: Running, gateway: PushGateway, ntfy: Distributor, length: int, most: int
) -> None:
    """Whether for UnifiedPush or for this push server."""
    _, bob, room = await told(server, gateway, ntfy.endpoint())
    ntfy.most = most
    event_id = await bob.say(room, "x" * length)
    await gateway.until(lambda: bool(ntfy.sent))
    said = ntfy.sent[0].notification
    assert len(ntfy.sent[0].body) <= MOST_BYTES
    assert (said["event_id"], said["room_id"], said["counts"]) == (event_id, room, {"unread": 1})
    assert "content" not in said


async def test_what_an_app_says_of_itself_never_makes_it_too_large(
    server: Running, gateway: PushGateway, ntfy: Distributor
) -> None:
    data = {"format": "event_id_only", "note": "x" * 8_000}
    _, bob, room = await told(server, gateway, ntfy.endpoint(), data=data)
    event_id = await bob.say(room, "hi")
    await gateway.until(lambda: ntfy.events == [event_id])
    assert len(ntfy.sent[0].body) <= MOST_BYTES
    assert ntfy.tries == 1


async def test_reading_elsewhere_clears_the_badge_of_an_endpoint(
    server: Running, gateway: PushGateway, ntfy: Distributor
) -> None:
    alice, bob, room = await told(server, gateway, ntfy.endpoint())
    last = await bob.say(room, "1")
    await gateway.until(lambda: len(ntfy.sent) == 1)
    await read(alice, room, last)
    await server.clock.advance(1.5)
    await gateway.until(lambda: len(ntfy.sent) == 2)
    cleared = ntfy.sent[1].notification
    assert cleared["counts"] == {"unread": 0}
    assert "event_id" not in cleared


@pytest.mark.parametrize("status", [404, 410])
async def test_an_endpoint_that_is_no_more_ends_its_pusher(
    server: Running, gateway: PushGateway, ntfy: Distributor, status: int
) -> None:
    alice, bob, room = await told(server, gateway, ntfy.endpoint())
    await gateway.register(alice, ntfy.endpoint("up2"), data={"url": OURS})
    ntfy.answers["up1"] = status
    await bob.say(room, "hi")
    await gateway.until(lambda: ntfy.tries == 2)
    await gateway.quiet()
    assert await pushkeys(alice) == [ntfy.endpoint("up2")]


@pytest.mark.parametrize("status", [302, 307, 400, 403, 429, 500, 507])
async def test_an_endpoint_that_fails_is_told_when_it_is_back(
    server: Running, gateway: PushGateway, ntfy: Distributor, status: int
) -> None:
    alice, bob, room = await told(server, gateway, ntfy.endpoint())
    ntfy.status, ntfy.location = status, ntfy.endpoint("elsewhere")
    said = await bob.say(room, "hi")
    await gateway.until(lambda: ntfy.tries >= 3, 1)
    assert ntfy.sent == []
    ((row,), _) = await server.app.services.push.desk.page((0, "", ""))
    assert row["last_error"] == f"the endpoint answered with status {status}"
    ntfy.status, ntfy.location = 201, ""
    await gateway.until(lambda: ntfy.events == [said], 60)
    assert ntfy.sent[0].endpoint == "/up1?up=1"
    assert await pushkeys(alice) == [ntfy.endpoint()]


@on_sqlite
async def test_an_endless_answer_is_given_up(
    server: Running, gateway: PushGateway, ntfy: Distributor
) -> None:
    _, bob, room = await told(server, gateway, ntfy.endpoint())
    ntfy.endless = True
    said = await bob.say(room, "hi")
    await gateway.until(lambda: ntfy.tries >= 2, 1)
    ntfy.endless = False
    await gateway.until(lambda: ntfy.events == [said], 60)


async def test_an_endpoint_in_a_private_network_ends_unasked(
    server: Running, gateway: PushGateway
) -> None:
    async with distributor(PRIVATE) as inner, distributor() as outer:
        alice, bob, room = await told(server, gateway, inner.endpoint())
        await gateway.register(alice, outer.endpoint(), data={"url": OURS})
        await bob.say(room, "hi")
        await gateway.until(lambda: bool(outer.sent))
        await gateway.until(lambda: not server.app.services.push.queues.waiting)
        assert inner.tries == 0
        assert await pushkeys(alice) == [outer.endpoint()]


async def test_a_redirect_into_a_private_network_is_not_followed(
    server: Running, gateway: PushGateway, ntfy: Distributor
) -> None:
    async with distributor(PRIVATE) as inner:
        _, bob, room = await told(server, gateway, ntfy.endpoint())
        ntfy.status, ntfy.location = 307, inner.endpoint()
        await bob.say(room, "hi")
        await gateway.until(lambda: ntfy.tries >= 2, 1)
        assert inner.tries == 0


async def test_a_gateway_in_a_private_network_ends_nothing(
    server: Running, gateway: PushGateway
) -> None:
    """An operator may allow it later; what it is to be told waits."""
    url = f"http://{PRIVATE}:1{PATH}"
    alice, bob, room = await pair(server, gateway, data={"url": url})
    await bob.say(room, "hi")
    await gateway.until(lambda: bool(server.app.services.push.queues.failing), 1)
    assert await pushkeys(alice) == ["key"]


def test_what_is_no_endpoint_is_the_key_of_another_gateway() -> None:
    endpoints = Endpoints("https://test.example", ["up.example:8443"], enabled=True)
    for serves, pushkey, url in (
        (True, "https://ntfy.example/up1?up=1", OURS),
        (True, "http://ntfy.example/up1", f"http://test.example:80{PATH}"),
        (True, "https://ntfy.example/up1", f"https://up.example:8443{PATH}"),
        (False, "https://ntfy.example/up1", f"https://up.example{PATH}"),
        (False, "https://ntfy.example/up1", f"https://ntfy.example{PATH}"),
        (False, "an opaque token", OURS),
        (False, "ftp://ntfy.example/up1", OURS),
        (False, "https://me@ntfy.example/up1", OURS),
        (False, "https://[ntfy.example/up1", OURS),
        (False, "https://ntfy.example/up1\r\nX: y", OURS),
        # A gateway would pass it on, this one to itself.
        (False, OURS, OURS),
        (False, f"https://other.example{PATH}/", OURS),
    ):
        assert endpoints.serves(pushkey, url) is serves, (pushkey, url)


async def test_operators_see_where_an_endpoint_is(
    server: Running, gateway: PushGateway, ntfy: Distributor
) -> None:
    alice, *_ = await told(server, gateway, ntfy.endpoint())
    desk = server.app.services.push.desk
    ((row,), _) = await desk.page((0, "", ""))
    assert row["to"] == ntfy.url.removeprefix("http://")
    user = await server.app.services.user_list.row(alice.user_id)
    (result,) = await desk.test(user.user_nid, alice.user_id, None)
    assert result["error"] is None
    assert ntfy.sent[0].notification["content"]["body"] == "This is a test: notifications arrive."


class TestGateway:
    """The gateway that this server is for apps, which try it, and for other servers."""

    async def test_apps_find_it(self, server: Running) -> None:
        reply = await server.request("GET", PATH)
        assert (reply.status, reply.body) == (200, {"unifiedpush": {"gateway": "matrix"}})
        assert reply.headers["Access-Control-Allow-Origin"] == "*"

    async def test_it_passes_on_to_an_endpoint_of_a_user(
        self, server: Running, gateway: PushGateway, ntfy: Distributor
    ) -> None:
        await told(server, gateway, ntfy.endpoint())
        said = {"event_id": "$test", "room_id": "!test:x", "counts": {"unread": 3}, "more": [1]}
        reply = await notify(server, ntfy.endpoint(), **said)
        assert (reply.status, reply.body) == (200, {"rejected": []})
        (sent,) = ntfy.sent
        assert sent.notification == {
            **said,
            "devices": [{"app_id": "test.app", "pushkey": ntfy.endpoint()}],
        }

    async def test_it_is_no_relay(
        self, server: Running, gateway: PushGateway, ntfy: Distributor
    ) -> None:
        """Keys that nobody here has set with this gateway are rejected, and nobody is asked."""
        alice, *_ = await told(server, gateway, ntfy.endpoint())
        other = ntfy.endpoint("up2")
        await gateway.register(alice, other)
        await gateway.register(alice, ntfy.endpoint("up3"), data={"url": OURS}, app_id="another")
        asked = [other, ntfy.endpoint("up3"), ntfy.endpoint("up4"), "a token"]
        reply = await notify(server, *asked, event_id="$x")
        assert (reply.status, reply.body) == (200, {"rejected": sorted(asked)})
        assert ntfy.tries == 0

    async def test_one_that_is_switched_off_is_neither_told_nor_rejected(
        self, server: Running, gateway: PushGateway, ntfy: Distributor
    ) -> None:
        await told(server, gateway, ntfy.endpoint(), enabled=False)
        reply = await notify(server, ntfy.endpoint(), event_id="$x")
        assert (reply.status, reply.body) == (200, {"rejected": []})
        assert ntfy.tries == 0

    async def test_it_says_what_became_of_it(
        self, server: Running, gateway: PushGateway, ntfy: Distributor
    ) -> None:
        async with distributor(PRIVATE) as inner:
            alice, *_ = await told(server, gateway, ntfy.endpoint())
            for endpoint in (ntfy.endpoint("gone"), inner.endpoint()):
                await gateway.register(alice, endpoint, data={"url": OURS})
            ntfy.answers["gone"] = 410
            gone = [inner.endpoint(), ntfy.endpoint("gone")]
            reply = await notify(server, ntfy.endpoint(), *gone, event_id="$x")
            assert (reply.status, reply.body) == (200, {"rejected": sorted(gone)})
            assert inner.tries == 0
            ntfy.status = 429
            reply = await notify(server, ntfy.endpoint(), *gone, event_id="$x")
            assert (reply.status, reply.errcode) == (502, "M_UNKNOWN")

    async def test_what_is_too_large_is_passed_on_by_its_id(
        self, server: Running, gateway: PushGateway, ntfy: Distributor
    ) -> None:
        await told(server, gateway, ntfy.endpoint())
        said = {"event_id": "$test", "room_id": "!test:x", "content": {"body": "x" * 9_000}}
        reply = await notify(server, ntfy.endpoint(), **said)
        assert reply.status == 200
        assert ntfy.sent[0].notification == {"event_id": "$test", "room_id": "!test:x"}
        reply = await notify(server, ntfy.endpoint(), event_id="$" + "x" * 9_000)
        assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")

    @pytest.mark.parametrize(
        ("errcode", "notification"),
        [
            ("M_BAD_JSON", {}),
            ("M_BAD_JSON", {"devices": []}),
            ("M_BAD_JSON", {"devices": {"app_id": "a", "pushkey": "b"}}),
            ("M_BAD_JSON", {"devices": ["b"]}),
            ("M_BAD_JSON", {"devices": [{"app_id": "a", "pushkey": 1}]}),
            ("M_BAD_JSON", {"devices": [{"pushkey": "b"}]}),
            ("M_TOO_LARGE", {"devices": [{"app_id": "a", "pushkey": "b"}] * (MOST_DEVICES + 1)}),
        ],
    )
    @on_sqlite
    async def test_it_takes_nothing_else(
        self, server: Running, errcode: str, notification: dict[str, Any]
    ) -> None:
        reply = await server.request("POST", PATH, body={"notification": notification})
        assert reply.errcode == errcode


@on_sqlite
class TestFlood:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {
            "federation": {"allow_networks": ["127.0.0.1/32"]},
            "limits": {"enabled": True, "push": "1/min, 3 at once"},
        }

    async def test_nobody_floods_an_endpoint(
        self, server: Running, gateway: PushGateway, ntfy: Distributor
    ) -> None:
        alice, *_ = await told(server, gateway, ntfy.endpoint())
        await gateway.register(alice, ntfy.endpoint("up2"), data={"url": OURS})
        replies = [await notify(server, ntfy.endpoint(), event_id="$x") for _ in range(5)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
        assert replies[-1].errcode == "M_LIMIT_EXCEEDED"
        assert len(ntfy.sent) == 3
        # Nor by naming it many times.
        again = [ntfy.endpoint("up2")] * MOST_DEVICES
        assert (await notify(server, *again, event_id="$x")).status == 200
        assert len(ntfy.sent) == 4

    async def test_endpoints_that_are_slow_hold_up_nothing_else(
        self,
        server: Running,
        gateway: PushGateway,
        ntfy: Distributor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("homeserver.push.unifiedpush.MOST_AT_ONCE", 0)
        await told(server, gateway, ntfy.endpoint())
        reply = await notify(server, ntfy.endpoint(), event_id="$x")
        assert (reply.status, reply.errcode) == (429, "M_LIMIT_EXCEEDED")
        assert ntfy.tries == 0


@on_sqlite
class TestSwitchedOff:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {
            "federation": {"allow_networks": ["127.0.0.1/32"]},
            "push": {"unified_push": False},
        }

    async def test_there_is_no_gateway(
        self, server: Running, gateway: PushGateway, ntfy: Distributor
    ) -> None:
        _, bob, room = await told(server, gateway, ntfy.endpoint())
        for reply in (await server.request("GET", PATH), await notify(server, ntfy.endpoint())):
            assert (reply.status, reply.errcode) == (404, "M_UNRECOGNIZED")
        await bob.say(room, "hi")
        await gateway.until(lambda: bool(server.app.services.push.queues.failing), 1)
        assert ntfy.tries == 0

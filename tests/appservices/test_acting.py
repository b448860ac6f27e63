"""What application services do as their users, and what only they may do."""

from typing import Any

import pytest

from homeserver.appservices.registration import BadRegistration, Registration
from tests.appservices.conftest import Bridge
from tests.serving import Running

PING = "/_matrix/client/v1/appservice/bridge/ping"


async def test_a_service_acts_as_itself_and_as_its_users(bridge: Bridge, server: Running) -> None:
    assert (await bridge.call("GET", "/account/whoami")).body["user_id"] == bridge_bot()
    user = await bridge.register("_bridge_alice")
    assert user == "@_bridge_alice:test.example"
    whoami = await bridge.call("GET", "/account/whoami", user)
    assert whoami.body == {"user_id": user}
    for stranger in ("@_bridge_nobody:test.example", "@somebody:test.example"):
        refused = await bridge.call("GET", "/account/whoami", stranger)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    unknown = await server.request("GET", "/_matrix/client/v3/account/whoami", token="wrong")
    assert (unknown.status, unknown.errcode) == (401, "M_UNKNOWN_TOKEN")


async def test_its_own_user_is_not_the_first_account(bridge: Bridge, server: Running) -> None:
    await bridge.register("_bridge_alice")
    body = {"username": "first", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    made = await server.request("POST", "/_matrix/client/v3/register", body=body)
    token = made.body["access_token"]
    users = await server.request("GET", "/_synapse/admin/v2/users", token=token)
    assert users.status == 200, "the first person is the administrator"


async def test_exclusive_names_are_for_the_service_only(bridge: Bridge, server: Running) -> None:
    body = {"username": "_bridge_eve", "password": "x", "auth": {"type": "m.login.dummy"}}
    for user in ("_bridge_eve", "_bridge_bot"):
        refused = await server.request(
            "POST", "/_matrix/client/v3/register", body={**body, "username": user}
        )
        assert refused.errcode == "M_EXCLUSIVE"
    outside = {"type": "m.login.application_service", "username": "somebody"}
    assert (await bridge.call("POST", "/register", body=outside)).errcode == "M_EXCLUSIVE"
    alice = await server.person("alice")
    room = await alice.create_room()
    await alice.refused("M_EXCLUSIVE", "POST", "/createRoom", body={"room_alias_name": "_bridge_a"})
    alias = "/directory/room/%23_bridge_a:test.example"
    await alice.refused("M_EXCLUSIVE", "PUT", alias, body={"room_id": room})
    theirs = "/directory/room/%23other:test.example"
    refused = await bridge.call("PUT", theirs, body={"room_id": room})
    assert refused.errcode == "M_EXCLUSIVE"


async def test_registering_needs_the_token_of_a_service(server: Running) -> None:
    body = {"type": "m.login.application_service", "username": "_bridge_a"}
    for token, errcode in ((None, "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")):
        for path in ("/_matrix/client/v3/register", "/_matrix/client/v3/login"):
            given = {**body, "identifier": {"type": "m.id.user", "user": "_bridge_a"}}
            refused = await server.request("POST", path, token=token, body=given)
            assert (refused.status, refused.errcode) == (401, errcode)


async def test_a_service_logs_its_users_in_without_a_password(
    bridge: Bridge, server: Running
) -> None:
    await bridge.register("_bridge_a")
    flows = await bridge.call("GET", "/login")
    assert {"type": "m.login.application_service"} in flows.body["flows"]
    body: dict[str, Any] = {
        "type": "m.login.application_service",
        "identifier": {"type": "m.id.user", "user": "_bridge_a"},
    }
    begun = await bridge.call("POST", "/login", body=body)
    assert begun.status == 200
    whoami = await server.request(
        "GET", "/_matrix/client/v3/account/whoami", token=begun.body["access_token"]
    )
    assert whoami.body["user_id"] == "@_bridge_a:test.example"
    await server.person("alice")
    body["identifier"]["user"] = "alice"
    assert (await bridge.call("POST", "/login", body=body)).errcode == "M_EXCLUSIVE"


async def test_events_may_have_another_time_and_are_sent_once(
    bridge: Bridge, server: Running
) -> None:
    user = await bridge.register("_bridge_a")
    room = (await bridge.call("POST", "/createRoom", user, body={})).body["room_id"]
    path = f"/rooms/{room}/send/m.room.message/txn1"
    body = {"msgtype": "m.text", "body": "from long ago"}
    sent = [
        await bridge.call("PUT", path, user, body=body, query={"ts": 1_234_567}) for _ in range(2)
    ]
    assert sent[0].body == sent[1].body
    event = await bridge.call("GET", f"/rooms/{room}/event/{sent[0].body['event_id']}", user)
    assert event.body["origin_server_ts"] == 1_234_567
    await bridge.call("POST", f"/rooms/{room}/invite", user, body={"user_id": bridge_bot()})
    await bridge.call("POST", f"/join/{room}")
    others = await bridge.call("PUT", path, body=body)
    assert others.body != sent[0].body, "the transaction is another user's"
    wrong = await bridge.call("PUT", path + "2", user, body=body, query={"ts": "soon"})
    assert wrong.errcode == "M_INVALID_PARAM"
    alice = await server.person("alice")
    own = await alice.create_room()
    sent_by_person = await alice.ok(
        "PUT", f"/rooms/{own}/send/m.room.message/txn1", body=body, query={"ts": 1_234_567}
    )
    shown = await alice.ok("GET", f"/rooms/{own}/event/{sent_by_person['event_id']}")
    assert shown["origin_server_ts"] != 1_234_567


async def test_devices_are_made_and_removed_without_a_log_in(bridge: Bridge) -> None:
    user = await bridge.register("_bridge_a")
    unknown = await bridge.call("GET", "/account/whoami", user, query={"device_id": "ONE"})
    assert (unknown.status, unknown.errcode) == (400, "M_UNKNOWN_DEVICE")
    made = await bridge.call("PUT", "/devices/ONE", user, body={"display_name": "One"})
    assert made.status == 201
    assert (await bridge.call("PUT", "/devices/ONE", user, body={})).status == 200
    whoami = await bridge.call("GET", "/account/whoami", user, query={"device_id": "ONE"})
    assert whoami.body["device_id"] == "ONE"
    assert (await bridge.call("DELETE", "/devices/ONE", user, body={})).status == 200
    assert (await bridge.call("GET", "/devices", user)).body == {"devices": []}


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"limits": {"enabled": "limited" in request.keywords, "send": "1/min, 1 at once"}}


@pytest.mark.parametrize("limited", [False, True])
async def test_rate_limits_hold_only_users_of_limited_services(
    bridge: Bridge, server: Running, limited: bool
) -> None:
    server.app.limits.configure(True, server.config.limits.rates)
    await server.app.services.appservices.add(bridge.registration(rate_limited=limited))
    user = await bridge.register("_bridge_a")
    for who, held in ((bridge_bot(), False), (user, limited)):
        room = (await bridge.call("POST", "/createRoom", who, body={})).body["room_id"]
        statuses = []
        for number in range(3):
            path = f"/rooms/{room}/send/m.room.message/{number}"
            statuses.append((await bridge.call("PUT", path, who, body={"body": "x"})).status)
        assert (429 in statuses) == held


async def test_ping_tells_how_long_the_service_takes_or_what_is_wrong(
    bridge: Bridge, server: Running
) -> None:
    pong = await bridge.call("POST", PING, body={"transaction_id": "meow"})
    assert pong.status == 200
    assert pong.body["duration_ms"] >= 0
    assert bridge.pings == [{"transaction_id": "meow"}]
    bridge.fail = 500
    failed = await bridge.call("POST", PING, body={})
    assert (failed.status, failed.errcode, failed.body["status"]) == (502, "M_BAD_STATUS", 500)
    await server.app.services.appservices.add(bridge.registration(url="http://127.0.0.1:1"))
    failed = await bridge.call("POST", PING, body={})
    assert (failed.status, failed.errcode) == (502, "M_CONNECTION_FAILED")
    await server.app.services.appservices.add(bridge.registration(url=None))
    assert (await bridge.call("POST", PING, body={})).errcode == "M_URL_NOT_SET"
    alice = await server.person("alice")
    await alice.refused("M_FORBIDDEN", "POST", PING, body={})


async def test_an_alias_is_made_when_it_is_asked_for(bridge: Bridge, server: Running) -> None:
    alice = await server.person("alice")
    alias = "%23_bridge_room:test.example"

    async def make(path: str) -> bool:
        assert path == "/rooms/#_bridge_room:test.example"
        user = await bridge.register("_bridge_maker")
        body = {"room_alias_name": "_bridge_room", "preset": "public_chat"}
        return (await bridge.call("POST", "/createRoom", user, body=body)).status == 200

    await alice.refused("M_NOT_FOUND", "GET", f"/directory/room/{alias}")
    bridge.makes = make
    joined = await alice.ok("POST", f"/join/{alias}", body={})
    assert (await alice.ok("GET", f"/directory/room/{alias}"))["room_id"] == joined["room_id"]


async def test_a_user_of_the_namespace_is_asked_for_when_invited(
    bridge: Bridge, server: Running
) -> None:
    alice = await server.person("alice")
    user = "@_bridge_new:test.example"
    await alice.create_room(invite=[user])
    await bridge.until(lambda: f"/users/{user}" in bridge.asked)


async def test_third_party_networks(bridge: Bridge, server: Running) -> None:
    alice = await server.person("alice")
    protocols = await alice.ok("GET", "/thirdparty/protocols")
    assert protocols["irc"]["instances"][0]["instance_id"] == "bridge|libera"
    assert await alice.ok("GET", "/thirdparty/protocol/irc") == protocols["irc"]
    assert len(bridge.asked) == 1, "the answer is kept for a while"
    await alice.refused("M_NOT_FOUND", "GET", "/thirdparty/protocol/icq")
    found = await alice.ok("GET", "/thirdparty/location/irc", query={"channel": "#a b"})
    assert found == [{"protocol": "irc", "fields": {}, "alias": "#_bridge_a:b"}]
    assert bridge.asked[-1] == "/thirdparty/location/irc?channel=#a+b"
    await alice.ok("GET", "/thirdparty/user", query={"userid": "@a:b"})
    assert bridge.asked[-1] == "/thirdparty/user?userid=@a:b"


async def test_a_service_keeps_the_directory_of_its_networks(
    bridge: Bridge, server: Running
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(preset="public_chat", name="Channel")
    path = f"/directory/list/appservice/libera/{room}"
    await alice.refused("M_FORBIDDEN", "PUT", path, body={"visibility": "public"})
    assert (await bridge.call("PUT", path, body={"visibility": "public"})).status == 200
    wanted = {"third_party_instance_id": "bridge|libera"}
    found = await alice.ok("POST", "/publicRooms", body=wanted)
    assert [one["name"] for one in found["chunk"]] == ["Channel"]
    assert (await alice.ok("POST", "/publicRooms", body={}))["chunk"] == []
    await bridge.call("PUT", path, body={"visibility": "private"})
    assert (await alice.ok("POST", "/publicRooms", body=wanted))["chunk"] == []


async def test_administrators_add_list_and_remove_services(bridge: Bridge, server: Running) -> None:
    admin = await server.person("admin", admin=True)
    path = "/_homeserver/admin/v1/appservices"
    (listed,) = (await admin.ok("GET", path))["appservices"]
    assert (listed["id"], listed["error"]) == ("bridge", "")
    wrong = {"registration": bridge.registration(id="other")}
    refused = await admin.refused("M_INVALID_PARAM", "POST", path, body=wrong)
    assert "as_token is that of bridge" in refused.body["error"]
    await server.restart()
    assert len((await admin.ok("GET", path))["appservices"]) == 1
    await admin.ok("DELETE", path + "/bridge")
    assert (await bridge.call("GET", "/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
    await admin.refused("M_NOT_FOUND", "DELETE", path + "/bridge")
    alice = await server.person("alice")
    await alice.refused("M_FORBIDDEN", "GET", path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": ""}, "id must not be empty"),
        ({"as_token": 5}, "as_token: a text is needed"),
        ({"hs_token": None}, "hs_token"),
        ({"sender_localpart": "Bot!"}, "sender_localpart"),
        ({"url": "ftp://x"}, "url must begin"),
        ({"namespaces": {"users": [{"regex": "("}]}}, "is no regex"),
        ({"namespaces": {"users": {"regex": "("}}}, "namespaces.users"),
    ],
)
async def test_a_registration_that_is_wrong_says_why(
    bridge: Bridge, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRegistration, match=reason):
        Registration.read(bridge.registration(**changes), "test.example")


def bridge_bot() -> str:
    return "@_bridge_bot:test.example"

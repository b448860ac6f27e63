"""One's account: password, closing it, login tokens, guests, addresses; what administrators do."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.test_devices import password, second_device
from tests.serving import CLIENT, PASSWORD, Person, Reply, Running

V1 = "/_matrix/client/v1"


async def log_in(server: Running, text: str = PASSWORD, name: str = "alice") -> Reply:
    body = {"type": "m.login.password", "user": name, "password": text}
    return await server.request("POST", f"{CLIENT}/login", body=body)


async def status(server: Running, token: str) -> int:
    return (await server.request("GET", f"{CLIENT}/account/whoami", token=token)).status


async def settled(person: Person, room_id: str, user_id: str, membership: str) -> None:
    """Wait, from news to news, until the user has this membership."""
    path = f"/rooms/{quote(room_id, safe='')}/state/m.room.member/{quote(user_id)}"
    while (await person.ok("GET", path))["membership"] != membership:
        await person.sync(timeout=30_000)


@pytest.mark.parametrize("log_out", [None, True, False])
async def test_a_new_password(server: Running, log_out: bool | None) -> None:
    alice = await server.person("alice")
    other = await second_device(alice)
    body: dict[str, Any] = {"new_password": "new one"}
    if log_out is not None:
        body["logout_devices"] = log_out
    assert (await alice.raw("POST", "/account/password", body=body)).body["flows"]
    body["auth"] = password("alice")
    assert await alice.ok("POST", "/account/password", body=body) == {}
    assert (await log_in(server)).status == 403
    assert (await log_in(server, "new one")).status == 200
    assert await status(server, alice.token) == 200
    assert await status(server, other) == (200 if log_out is False else 401)


@pytest.mark.parametrize(
    ("new", "errcode"),
    [(None, "M_MISSING_PARAM"), ("", "M_WEAK_PASSWORD"), ("x" * 513, "M_INVALID_PARAM")],
)
async def test_passwords_that_can_be_none(server: Running, new: Any, errcode: str) -> None:
    alice = await server.person("alice")
    body = {"auth": password("alice")} | ({} if new is None else {"new_password": new})
    await alice.refused(errcode, "POST", "/account/password", body=body)
    assert (await log_in(server)).status == 200


async def test_a_proof_for_one_thing_is_none_for_another(server: Running) -> None:
    alice = await server.person("alice")
    session = (await alice.raw("POST", "/account/deactivate", body={"erase": True})).body["session"]
    auth = {**password("alice"), "session": session}
    for path, body in (
        ("/account/password", {"new_password": "x", "auth": auth}),
        ("/account/deactivate", {"erase": False, "auth": auth}),
    ):
        await alice.refused("M_FORBIDDEN", "POST", path, body=body)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_closed_account_is_gone_for_ever(server: Running, restart: bool) -> None:
    bob, alice = await server.person("bob"), await server.person("alice")
    joined, invited = [await bob.create_room(preset="public_chat") for _ in range(2)]
    await alice.join(joined)
    invite = {"user_id": alice.user_id}
    await bob.ok("POST", f"/rooms/{quote(invited, safe='')}/invite", body=invite)
    await alice.ok("PUT", f"/profile/{alice.user_id}/m.tz", body={"m.tz": "UTC"})
    await bob.sync()
    body = {"auth": password("alice"), "erase": True}
    answer = await alice.ok("POST", "/account/deactivate", body=body)
    assert answer == {"id_server_unbind_result": "success"}
    if restart:
        await server.restart()
    assert await status(server, alice.token) == 401
    assert (await log_in(server)).errcode in ("M_USER_DEACTIVATED", "M_FORBIDDEN")
    again = {"username": "alice", "password": "x", "auth": {"type": "m.login.dummy"}}
    taken = await server.request("POST", f"{CLIENT}/register", body=again)
    assert taken.errcode == "M_USER_IN_USE"
    await bob.refused("M_NOT_FOUND", "GET", f"/profile/{alice.user_id}")
    for room_id in (joined, invited):
        await settled(bob, room_id, alice.user_id, "leave")


async def test_who_joins_after_an_erasure_gets_redacted_copies(server: Running) -> None:
    bob, carol = await server.person("bob"), await server.person("carol")
    alice = await server.person("alice")
    room_id = await bob.create_room(preset="public_chat")
    await alice.join(room_id)
    event_id = await alice.say(room_id, "secret")
    await bob.sync()
    body = {"auth": password("alice"), "erase": True}
    await alice.ok("POST", "/account/deactivate", body=body)
    await settled(bob, room_id, alice.user_id, "leave")
    await server.restart()
    await carol.join(room_id)
    path = f"/rooms/{quote(room_id, safe='')}/event/{quote(event_id)}"
    assert (await bob.ok("GET", path))["content"]["body"] == "secret"
    assert (await carol.ok("GET", path))["content"] == {}
    for person, words in ((bob, ["secret"]), (carol, [None])):
        person.since = None
        timeline = (await person.sync())["rooms"]["join"][room_id]["timeline"]["events"]
        found = [event for event in timeline if event["event_id"] == event_id]
        assert [event["content"].get("body") for event in found] == words


class TestLoginTokens:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"sessions": {"login_tokens": True}}

    async def use(self, server: Running, token: str) -> Reply:
        body = {"type": "m.login.token", "token": token}
        return await server.request("POST", f"{CLIENT}/login", body=body)

    async def made(self, alice: Person) -> str:
        path = f"{V1}/login/get_token"
        assert (await alice.raw("POST", path, body={})).status == 401
        made = await alice.ok("POST", path, body={"auth": password("alice")})
        assert made["expires_in_ms"] == 120_000
        return str(made["login_token"])

    async def test_one_logs_in_one_client_once(self, server: Running) -> None:
        alice = await server.person("alice")
        flows = (await server.request("GET", f"{CLIENT}/login")).body["flows"]
        assert {"type": "m.login.token", "get_login_token": True} in flows
        capabilities = (await alice.ok("GET", "/capabilities"))["capabilities"]
        assert capabilities["m.get_login_token"] == {"enabled": True}
        token = await self.made(alice)
        first = await self.use(server, token)
        assert (first.status, first.body["user_id"]) == (200, alice.user_id)
        assert first.body["device_id"] != alice.device_id
        assert (await self.use(server, token)).errcode == "M_FORBIDDEN"

    async def test_it_expires(self, server: Running) -> None:
        token = await self.made(await server.person("alice"))
        await server.clock.advance(120)
        assert (await self.use(server, token)).errcode == "M_FORBIDDEN"


async def test_without_the_option_there_are_no_login_tokens(server: Running) -> None:
    alice = await server.person("alice")
    await alice.refused("M_UNRECOGNIZED", "POST", f"{V1}/login/get_token", body={})
    capabilities = (await alice.ok("GET", "/capabilities"))["capabilities"]
    assert capabilities["m.get_login_token"] == {"enabled": False}
    assert capabilities["m.change_password"] == {"enabled": True}


class TestGuests:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"registration": {"guests": True, "mode": "closed"}}

    async def test_guests_may_do_a_little(self, server: Running) -> None:
        reply = await server.request("POST", f"{CLIENT}/register", query={"kind": "guest"}, body={})
        made = reply.body
        guest = Person(server, made["user_id"], made["access_token"], made["device_id"])
        assert (await guest.ok("GET", "/account/whoami"))["is_guest"] is True
        name, zone = (f"/profile/{guest.user_id}/{field}" for field in ("displayname", "m.tz"))
        await guest.ok("PUT", name, body={"displayname": "G"})
        await guest.refused("M_GUEST_ACCESS_FORBIDDEN", "PUT", zone, body={"m.tz": "UTC"})
        await guest.refused("M_GUEST_ACCESS_FORBIDDEN", "POST", "/createRoom", body={})
        alice = await server.person("alice")
        assert (await server.app.services.sessions.authenticate(alice.token, _Here())).is_admin


class TestUpgradedGuests:
    """spec: client-server-api#guest-access"""

    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"registration": {"guests": True, "mode": "open"}}

    async def guest(self, server: Running) -> Person:
        reply = await server.request("POST", f"{CLIENT}/register", query={"kind": "guest"}, body={})
        return Person(
            server, *(reply.body[key] for key in ("user_id", "access_token", "device_id"))
        )

    async def register(self, server: Running, guest: Person, **body: Any) -> Reply:
        body = {
            "guest_access_token": guest.token,
            "username": guest.user_id[1:].partition(":")[0],
            "password": "no guest",
            "auth": {"type": "m.login.dummy"},
            **body,
        }
        return await server.request("POST", f"{CLIENT}/register", body=body)

    @pytest.mark.parametrize("inhibit", [False, True])
    async def test_a_guest_who_registers_keeps_the_account(
        self, server: Running, inhibit: bool
    ) -> None:
        alice, guest = await server.person("alice"), await self.guest(server)
        room = await alice.create_room(preset="private_chat")
        await alice.ok("POST", f"/rooms/{room}/invite", body={"user_id": guest.user_id})
        await guest.join(room)
        asked = await self.register(server, guest, auth=None)
        assert (asked.status, asked.body["flows"]) == (401, [{"stages": ["m.login.dummy"]}])
        assert (await guest.ok("GET", "/account/whoami"))["is_guest"]
        made = (await self.register(server, guest, inhibit_login=inhibit)).body
        assert made["user_id"] == guest.user_id
        assert ("access_token" in made) != inhibit
        for token in {guest.token, made.get("access_token", guest.token)}:
            person = Person(server, guest.user_id, token, "")
            assert not (await person.ok("GET", "/account/whoami")).get("is_guest")
            assert room in (await person.ok("GET", "/joined_rooms"))["joined_rooms"]
            await person.create_room()
        body = {"type": "m.login.password", "user": guest.user_id, "password": "no guest"}
        assert (await server.request("POST", f"{CLIENT}/login", body=body)).status == 200
        again = await self.register(server, guest)
        assert (again.status, again.errcode) == (403, "M_FORBIDDEN")
        assert not (await server.app.services.sessions.authenticate(guest.token, _Here())).is_admin

    async def test_the_first_account_is_the_administrator_also_as_a_guest_before(
        self, server: Running
    ) -> None:
        guest = await self.guest(server)
        assert (await self.register(server, guest)).status == 200
        assert (await server.app.services.sessions.authenticate(guest.token, _Here())).is_admin
        alice = await server.person("alice")
        assert not (await server.app.services.sessions.authenticate(alice.token, _Here())).is_admin

    @pytest.mark.parametrize(
        ("errcode", "change"),
        [
            ("M_MISSING_PARAM", {"username": None}),
            ("M_INVALID_PARAM", {"username": "somebody"}),
            ("M_UNKNOWN_TOKEN", {"guest_access_token": "unknown"}),
            ("M_MISSING_PARAM", {"password": None}),
        ],
    )
    async def test_what_makes_no_account_changes_nothing(
        self, server: Running, errcode: str, change: dict[str, Any]
    ) -> None:
        guest = await self.guest(server)
        assert (await self.register(server, guest, **change)).errcode == errcode
        assert (await guest.ok("GET", "/account/whoami"))["is_guest"]

    async def test_who_is_no_guest_takes_no_account_over(self, server: Running) -> None:
        alice = await server.person("alice")
        reply = await self.register(server, alice)
        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


class _Here:
    remote = "192.0.2.1"


async def test_without_mail_no_address_can_be_added(server: Running) -> None:
    alice = await server.person("alice")
    assert await alice.ok("GET", "/account/3pid") == {"threepids": []}
    mail = {"client_secret": "s", "email": "a@example.org", "send_attempt": 1}
    phone = {"client_secret": "s", "country": "GB", "phone_number": "1", "send_attempt": 1}
    for path in ("/register", "/account/3pid", "/account/password"):
        for medium, body in (("email", mail), ("msisdn", phone)):
            url = f"{CLIENT}{path}/{medium}/requestToken"
            reply = await server.request("POST", url, body=body)
            assert (reply.status, reply.errcode) == (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
    capabilities = (await alice.ok("GET", "/capabilities"))["capabilities"]
    assert capabilities["m.3pid_changes"] == {"enabled": False}


async def test_administrators_suspend(server: Running) -> None:
    root, alice = await server.person("root"), await server.person("alice")
    path = f"{V1}/admin/suspend/{alice.user_id}"
    room_id = await alice.create_room()
    await alice.ok("GET", "/account/whoami")
    assert await root.ok("GET", path) == {"suspended": False}
    assert await root.ok("PUT", path, body={"suspended": True}) == {"suspended": True}
    assert await root.ok("GET", path) == {"suspended": True}
    await alice.refused("M_USER_SUSPENDED", "POST", "/createRoom", body={})
    name = f"/profile/{alice.user_id}/displayname"
    await alice.refused("M_USER_SUSPENDED", "PUT", name, body={"displayname": "x"})
    await alice.sync()
    assert (await log_in(server)).status == 200
    await alice.ok("POST", f"/rooms/{quote(room_id, safe='')}/leave", body={})
    await root.ok("PUT", path, body={"suspended": False})
    await alice.create_room()


async def test_administrators_lock(server: Running) -> None:
    root, alice = await server.person("root"), await server.person("alice")
    other = await second_device(alice)
    path = f"{V1}/admin/lock/{alice.user_id}"
    await alice.ok("GET", "/account/whoami")
    assert await root.ok("PUT", path, body={"locked": True}) == {"locked": True}
    locked = await alice.refused("M_USER_LOCKED", "GET", "/account/whoami")
    assert (locked.status, locked.body["soft_logout"]) == (401, True)
    assert (await log_in(server)).errcode == "M_USER_LOCKED"
    assert (await server.request("POST", f"{CLIENT}/logout", token=other)).status == 200
    await root.ok("PUT", path, body={"locked": False})
    await alice.ok("GET", "/account/whoami")
    assert await root.ok("GET", path) == {"locked": False}


@pytest.mark.parametrize("standing", ["suspend", "lock"])
async def test_who_is_out_of_reach(server: Running, standing: str) -> None:
    root, alice = await server.person("root"), await server.person("alice")
    path = f"{V1}/admin/{standing}/"
    for target in (root.user_id, alice.user_id, "@nobody:test.example"):
        await alice.refused("M_FORBIDDEN", "GET", path + target)
    await root.refused("M_FORBIDDEN", "GET", path + root.user_id)
    await root.refused("M_NOT_FOUND", "GET", path + "@nobody:test.example")
    await root.refused("M_INVALID_PARAM", "GET", path + "@a:elsewhere.example")
    await root.refused("M_MISSING_PARAM", "PUT", path + alice.user_id, body={})


async def test_whois(server: Running) -> None:
    root, alice = await server.person("root"), await server.person("alice")
    path = f"/admin/whois/{alice.user_id}"
    expected = {
        "user_id": alice.user_id,
        "devices": {alice.device_id: {"sessions": [{"connections": []}]}},
    }
    assert await alice.ok("GET", path) == expected
    assert await root.ok("GET", path) == expected
    await alice.refused("M_FORBIDDEN", "GET", f"/admin/whois/{root.user_id}")
    await root.refused("M_NOT_FOUND", "GET", "/admin/whois/@nobody:test.example")

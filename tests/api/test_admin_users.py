"""Accounts as administrators and the operator see and change them."""

from pathlib import Path
from typing import Any

import pytest

from tests.serving import PASSWORD, Person, Reply, Running

V1, V2 = "/_synapse/admin/v1", "/_synapse/admin/v2"


@pytest.fixture
async def admin(server: Running) -> Person:
    return await server.person("admin", admin=True)


async def log_in(server: Running, user: str, password: str) -> Reply:
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}}
    return await server.request(
        "POST", "/_matrix/client/v3/login", body={**body, "password": password}
    )


async def names(admin: Person, **query: Any) -> list[str]:
    body = await admin.ok("GET", f"{V2}/users", query=query)
    return [user["name"].partition(":")[0] for user in body["users"]]


class TestWhoMay:
    async def test_only_administrators(self, server: Running, admin: Person) -> None:
        ada = await server.person("ada")
        for method, path in (
            ("GET", f"{V2}/users"),
            ("GET", f"{V2}/users/{ada.user_id}"),
            ("PUT", f"{V2}/users/{ada.user_id}"),
            ("POST", f"{V1}/reset_password/{admin.user_id}"),
            ("POST", f"{V1}/deactivate/{admin.user_id}"),
            ("GET", f"{V2}/users/{ada.user_id}/devices"),
            ("POST", f"{V2}/users/{ada.user_id}/delete_devices"),
            ("DELETE", f"{V2}/users/{ada.user_id}/devices/X"),
        ):
            body: dict[str, Any] | None = {} if method != "GET" else None
            assert (await ada.raw(method, path, body=body)).status == 403, path
            assert (await server.request(method, path, body=body)).errcode == "M_MISSING_TOKEN"

    async def test_the_operator_by_the_token_in_a_private_file(
        self, server: Running, tmp_path: Path
    ) -> None:
        path = tmp_path / "admin.token"
        assert path.stat().st_mode & 0o777 == 0o600
        token = path.read_text().strip()
        assert (await server.request("GET", f"{V2}/users", token=token)).status == 200
        elsewhere = await server.request("GET", "/_matrix/client/v3/sync", token=token)
        assert elsewhere.errcode == "M_UNKNOWN_TOKEN"
        await server.restart()
        assert (await server.request("GET", f"{V2}/users", token=token)).status == 401
        assert path.read_text().strip() != token


class TestList:
    async def test_pages_filters_and_totals(self, server: Running, admin: Person) -> None:
        for name in ("ben", "ada", "cy"):
            await server.person(name)
        assert await names(admin) == ["@ada", "@admin", "@ben", "@cy"]
        assert await names(admin, name="A") == ["@ada", "@admin"]
        assert await names(admin, admins="true") == ["@admin"]
        assert await names(admin, order_by="name", dir="b", limit=1)
        page = await admin.ok("GET", f"{V2}/users", query={"from": 1, "limit": 2})
        assert [user["name"][:4] for user in page["users"]] == ["@adm", "@ben"]
        assert (page["total"], page["next_token"]) == (4, "3")
        last = await admin.ok("GET", "/_synapse/admin/v3/users", query={"from": page["next_token"]})
        assert len(last["users"]) == 1
        assert "next_token" not in last

    @pytest.mark.parametrize("query", [{"from": -1}, {"limit": 0}, {"guests": "perhaps"}])
    async def test_what_can_not_be_asked(self, admin: Person, query: dict[str, Any]) -> None:
        assert (await admin.raw("GET", f"{V2}/users", query=query)).status == 400

    async def test_one_account(self, server: Running, admin: Person) -> None:
        ada = await server.person("ada")
        await ada.ok("PUT", f"/profile/{ada.user_id}/displayname", body={"displayname": "Ada"})
        facts = await admin.ok("GET", f"{V2}/users/{ada.user_id}")
        assert facts["displayname"] == "Ada"
        assert not facts["admin"]
        assert not facts["deactivated"]
        await admin.refused("M_NOT_FOUND", "GET", f"{V2}/users/@nobody:test.example")
        await admin.refused("M_INVALID_PARAM", "GET", f"{V2}/users/@ada:elsewhere")


class TestChange:
    async def test_made_and_changed(self, server: Running, admin: Person) -> None:
        path = f"{V2}/users/@new:test.example"
        made = await admin.raw("PUT", path, body={"password": "first one", "displayname": "New"})
        assert (made.status, made.body["displayname"]) == (201, "New")
        assert (await log_in(server, "new", "first one")).status == 200
        again = await admin.raw("PUT", path, body={"admin": True})
        assert (again.status, again.body["admin"]) == (200, True)

    async def test_a_new_administrator_is_one_at_once(self, server: Running, admin: Person) -> None:
        ada = await server.person("ada")
        assert (await ada.raw("GET", f"{V2}/users")).status == 403
        await admin.ok("PUT", f"{V2}/users/{ada.user_id}", body={"admin": True})
        assert (await ada.raw("GET", f"{V2}/users")).status == 200
        await admin.ok("PUT", f"{V2}/users/{ada.user_id}", body={"admin": False})
        assert (await ada.raw("GET", f"{V2}/users")).status == 403

    async def test_a_password_with_and_without_logging_out(
        self, server: Running, admin: Person
    ) -> None:
        ada = await server.person("ada")
        path = f"{V1}/reset_password/{ada.user_id}"
        await admin.ok("POST", path, body={"new_password": "second", "logout_devices": False})
        await ada.ok("GET", "/account/whoami")
        assert (await log_in(server, "ada", PASSWORD)).status == 403
        assert (await log_in(server, "ada", "second")).status == 200
        await admin.ok("POST", path, body={"new_password": "third"})
        await ada.refused("M_UNKNOWN_TOKEN", "GET", "/account/whoami")
        await admin.refused("M_WEAK_PASSWORD", "POST", path, body={"new_password": ""})

    async def test_a_closed_account_stays_closed(self, server: Running, admin: Person) -> None:
        ada = await server.person("ada")
        await admin.ok("POST", f"{V1}/deactivate/{ada.user_id}", body={})
        await ada.refused("M_UNKNOWN_TOKEN", "GET", "/account/whoami")
        assert (await admin.ok("GET", f"{V2}/users/{ada.user_id}"))["deactivated"]
        assert await names(admin, deactivated="true") == ["@ada"]
        for method, path, body in (
            ("PUT", f"{V2}/users/{ada.user_id}", {"deactivated": False}),
            ("POST", f"{V1}/reset_password/{ada.user_id}", {"new_password": "x"}),
        ):
            await admin.refused("M_USER_DEACTIVATED", method, path, body=body)

    async def test_devices_are_listed_and_logged_out(self, server: Running, admin: Person) -> None:
        ada = await server.person("ada")
        second = (await log_in(server, "ada", PASSWORD)).body
        path = f"{V2}/users/{ada.user_id}"
        found = await admin.ok("GET", f"{path}/devices")
        ids = {device["device_id"] for device in found["devices"]}
        assert ids == {ada.device_id, second["device_id"]}
        await admin.ok("DELETE", f"{path}/devices/{ada.device_id}")
        await ada.refused("M_UNKNOWN_TOKEN", "GET", "/account/whoami")
        body = {"devices": [second["device_id"], "unknown"]}
        await admin.ok("POST", f"{path}/delete_devices", body=body)
        assert (await admin.ok("GET", f"{path}/devices"))["total"] == 0

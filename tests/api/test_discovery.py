"""What clients ask before anything else."""

from typing import Any

import pytest

from tests.serving import Running

# Another one is listed when tests show it.
FEATURES = (
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "org.matrix.msc3391",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3981",
    "org.matrix.msc4140",
    "org.matrix.msc4143",
    "org.matrix.msc4155",
    "org.matrix.msc4174",
    "org.matrix.msc4222",
    "org.matrix.msc4293",
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    "org.matrix.msc4354",
    "org.matrix.msc4380.stable",
    "org.matrix.simplified_msc3575",
)


async def test_versions(server: Running) -> None:
    reply = await server.request("GET", "/_matrix/client/versions")
    old = ["r0.0.1", *(f"r0.{minor}.0" for minor in range(1, 7)), "r0.6.1"]
    assert reply.body["versions"] == [*old, *(f"v1.{minor}" for minor in range(1, 20))]
    assert reply.body["unstable_features"] == dict.fromkeys(FEATURES, True)
    assert reply.headers["Access-Control-Allow-Origin"] == "*"


async def test_capabilities(server: Running) -> None:
    alice = await server.person("alice")
    found = (await alice.ok("GET", "/capabilities"))["capabilities"]
    # Its key is compared where it is used: tests/push/test_webpush.py
    assert found.pop("org.matrix.msc4174.webpush")["enabled"] is True
    assert found == {
        "m.3pid_changes": {"enabled": False},  # There is no mail server here.
        "m.change_password": {"enabled": True},
        "m.forget_forced_upon_leave": {"enabled": False},
        "m.get_login_token": {"enabled": False},
        "m.profile_fields": {"enabled": True},
        "m.room_versions": {
            "default": "12",
            "available": {str(number): "stable" for number in range(1, 13)},
        },
        "m.set_avatar_url": {"enabled": True},
        "m.set_displayname": {"enabled": True},
    }


async def test_without_an_address_the_name_is_it(server: Running) -> None:
    reply = await server.request("GET", "/.well-known/matrix/client")
    assert reply.body == {"m.homeserver": {"base_url": "https://test.example"}}
    reply = await server.request("GET", "/.well-known/matrix/server")
    assert reply.body == {"m.server": "test.example:443"}


class TestWithAnAddress:
    @pytest.fixture(
        params=[
            ("https://matrix.test.example:8443/", "matrix.test.example:8443"),
            ("https://[::1]", "[::1]:443"),
            ("http://localhost:8008", None),
        ]
    )
    def addresses(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    def settings(self, addresses: tuple[str, str | None]) -> dict[str, Any]:
        return {"server": {"public_base_url": addresses[0]}}

    async def test_it_is_announced(
        self, server: Running, addresses: tuple[str, str | None]
    ) -> None:
        reply = await server.request("GET", "/.well-known/matrix/client")
        assert reply.body == {"m.homeserver": {"base_url": addresses[0].rstrip("/")}}
        reply = await server.request("GET", "/.well-known/matrix/server")
        if addresses[1] is None:
            assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")
        else:
            assert reply.body == {"m.server": addresses[1]}


@pytest.mark.parametrize("settings", [{"listeners": [{"port": 0, "apis": ["federation"]}]}])
async def test_a_listener_for_servers_tells_them_where_the_server_is(server: Running) -> None:
    reply = await server.request("GET", "/.well-known/matrix/server")
    assert reply.body == {"m.server": "test.example:443"}
    assert (await server.request("GET", "/.well-known/matrix/client")).status == 404


async def test_a_server_may_keep_its_support_to_itself(server: Running) -> None:
    reply = await server.request("GET", "/.well-known/matrix/support")
    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


PAGE, ADMIN, GUARD = "https://help.example", "@admin:m.example", "guard@m.example"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"support": {"page": PAGE}}, {"support_page": PAGE}),
        (
            {"support": {"admin_user": ADMIN, "security_email": GUARD, "page": PAGE}},
            {
                "contacts": [
                    {"role": "m.role.admin", "matrix_id": ADMIN},
                    {"role": "m.role.security", "email_address": GUARD},
                ],
                "support_page": PAGE,
            },
        ),
        (
            {"support": {"security_user": ADMIN, "security_email": GUARD}},
            {"contacts": [{"role": "m.role.security", "matrix_id": ADMIN, "email_address": GUARD}]},
        ),
    ],
)
async def test_whom_to_ask(server: Running, expected: Any) -> None:
    reply = await server.request("GET", "/.well-known/matrix/support")
    assert (reply.status, reply.body) == (200, expected)

"""Relays and servers for calls, as they are configured."""

import base64
import hashlib
import hmac
from typing import Any

import pytest

from tests.serving import Running

PATH = "/voip/turnServer"
TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"
URIS = ["turn:turn.test.example?transport=udp"]


class TestWithoutRelays:
    async def test_nothing_is_told(self, server: Running) -> None:
        alice = await server.person("alice")
        assert await alice.ok("GET", PATH) == {}
        assert await alice.ok("GET", TRANSPORTS) == {"rtc_transports": []}
        found = await server.request("GET", "/.well-known/matrix/client")
        assert found.body.keys() == {"m.homeserver"}


class TestWithASecret:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {
            "calls": {
                "turn_uris": URIS,
                "turn_secret": "shared with the relay",
                "turn_seconds": 3600,
                "livekit_urls": ["https://livekit.test.example"],
            }
        }

    async def test_each_user_gets_a_password_that_ends(self, server: Running) -> None:
        alice = await server.person("alice")
        found = await alice.ok("GET", PATH)
        assert found["uris"] == URIS
        assert found["ttl"] == 3600
        _, _, user_id = found["username"].partition(":")
        assert user_id == alice.user_id
        name = found["username"].encode()
        digest = hmac.new(b"shared with the relay", name, hashlib.sha1).digest()
        assert base64.b64decode(found["password"]) == digest

    async def test_clients_are_told_of_servers_for_group_calls(self, server: Running) -> None:
        alice = await server.person("alice")
        expected = [{"type": "livekit", "livekit_service_url": "https://livekit.test.example"}]
        assert (await alice.ok("GET", TRANSPORTS))["rtc_transports"] == expected
        found = await server.request("GET", "/.well-known/matrix/client")
        assert found.body["org.matrix.msc4143.rtc_foci"] == expected


class TestWithAPassword:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"calls": {"turn_uris": URIS, "turn_username": "all", "turn_password": "of us"}}

    async def test_all_get_the_same(self, server: Running) -> None:
        alice = await server.person("alice")
        found = await alice.ok("GET", PATH)
        assert (found["username"], found["password"]) == ("all", "of us")

"""What this server tells of keys: its own, and those of others as a notary."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from federation.key_answers import read_answer
from federation.own_keys import OwnKeys
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.sign import SigningKey, verify_json
from homeserver.options import ConfigError
from homeserver.runtime import key_file
from homeserver.runtime.clock import FakeClock
from tests.federation.internet import DAY, Internet, Peer, answers
from tests.serving import SERVER_NAME, Running


async def published(server: Running) -> JsonObject:
    reply = await server.request("GET", "/_matrix/key/v2/server")
    assert reply.status == 200
    assert isinstance(reply.body, dict)
    return reply.body


class TestOwnKeys:
    async def test_are_published_and_signed_for_a_week(self, server: Running) -> None:
        answer, now = await published(server), server.clock.now_ms()
        keys = read_answer(answer, SERVER_NAME, now).keys
        (key,) = key_file.signing_keys(server.config.server.data_dir / "signing.key")
        assert keys == {key.key_id: (key.public_key, now + 7 * DAY, None)}
        assert answer["old_verify_keys"] == {}

    async def test_always_have_most_of_their_week_before_them(self) -> None:
        clock = FakeClock()
        own = OwnKeys(SERVER_NAME, [SigningKey.generate()], [], clock)
        first = own.published()
        await clock.advance(3_599)
        assert own.published() is first
        await clock.advance(10 * 86_400)
        assert own.published()["valid_until_ts"] == clock.now_ms() + 7 * DAY

    async def test_older_servers_name_a_key(self, server: Running) -> None:
        for path in ("/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519%3Aauto"):
            assert (await server.request("GET", path)).body == await published(server)

    async def test_after_rotation_the_old_one_is_published_as_expired(
        self, server: Running
    ) -> None:
        path = server.config.server.data_dir / "signing.key"
        (old,) = key_file.signing_keys(path)
        new = key_file.rotate(path)
        await server.clock.advance(60)
        await server.restart()
        for _ in range(2):
            keys = read_answer(await published(server), SERVER_NAME, server.clock.now_ms()).keys
            assert keys[new.key_id].expired_ts is None
            assert keys[old.key_id][0] == old.public_key
            assert keys[old.key_id].expired_ts == 1_700_000_060_000
            await server.clock.advance(600)
            await server.restart()

    async def test_several_may_be_current_while_rotating(self, server: Running) -> None:
        path = server.config.server.data_dir / "signing.key"
        (old,) = key_file.signing_keys(path)
        new = key_file.rotate(path, keep=True)
        await server.restart()
        answer = await published(server)
        assert set(answer["verify_keys"]) == {new.key_id, old.key_id}
        assert set(answer["signatures"][SERVER_NAME]) == {new.key_id, old.key_id}

    async def test_what_is_signed_before_rotation_stays_valid(self, server: Running) -> None:
        """Events of ours carry the old key for ever; it is ours, up to when it expired."""
        path = server.config.server.data_dir / "signing.key"
        (old,) = key_file.signing_keys(path)
        key_file.rotate(path)
        await server.restart()
        federation = server.app.federation
        now = server.clock.now_ms()
        assert await federation.keyring.keys(SERVER_NAME, [old.key_id], now)
        assert not await federation.keyring.keys(SERVER_NAME, [old.key_id], now + 1)


async def test_the_version(server: Running) -> None:
    reply = await server.request("GET", "/_matrix/federation/v1/version")
    assert reply.body["server"]["name"]
    assert reply.body["server"]["version"]


class TestAnIsland:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"federation": {"enabled": False}}

    async def test_answers_no_server(self, server: Running) -> None:
        for path in ("/_matrix/key/v2/server", "/_matrix/federation/v1/version"):
            assert (await server.request("GET", path)).errcode == "M_UNRECOGNIZED"


class TestQueries:
    @pytest.mark.parametrize(
        "body",
        [{}, {"server_keys": []}, {"server_keys": {"a": []}}, {"server_keys": {"a": {"k": 5}}}],
    )
    async def test_nonsense_is_refused(self, server: Running, body: Any) -> None:
        reply = await server.request("POST", "/_matrix/key/v2/query", body=body)
        assert reply.status == 400
        assert reply.errcode in {"M_BAD_JSON", "M_MISSING_PARAM"}

    async def test_of_this_server_itself(self, server: Running) -> None:
        path = f"/_matrix/key/v2/query/{SERVER_NAME}"
        (answer,) = (await server.request("GET", path)).body["server_keys"]
        assert read_answer(answer, SERVER_NAME, server.clock.now_ms()).keys

    async def test_of_nobody(self, server: Running) -> None:
        reply = await server.request("POST", "/_matrix/key/v2/query", body={"server_keys": {}})
        assert reply.body == {"server_keys": []}

    async def test_names_that_are_none(self, server: Running) -> None:
        path = f"/_matrix/key/v2/query/{quote('not a name')}"
        assert (await server.request("GET", path)).errcode == "M_INVALID_PARAM"
        body: JsonObject = {"server_keys": {"not a name": {}}}
        reply = await server.request("POST", "/_matrix/key/v2/query", body=body)
        assert reply.body == {"server_keys": []}


class TestNotary:
    """What is given of other servers' keys."""

    async def test_is_their_answer_with_our_signature_added(self, net: Internet) -> None:
        peer, server = await _known(net)
        federation = await net.federation()
        (answer,) = await federation.notary.of_server(peer.name, None)
        ours = federation.own_keys.valid(answer["signatures"]["ours.example"], 0)
        assert verify_json(answer, "ours.example", ours)
        assert read_answer(answer, peer.name, net.clock.now_ms()).keys.keys() == {peer.key.key_id}
        await federation.notary.of_server(peer.name, None)
        assert len(server.seen) == 1

    async def test_is_asked_for_anew_after_half_its_life(self, net: Internet) -> None:
        peer, server = await _known(net)
        federation = await net.federation()
        for hours, asked in ((0, 1), (11, 1), (2, 2)):
            await net.clock.advance(hours * 3_600)
            await federation.notary.of_server(peer.name, None)
            assert len(server.seen) == asked

    async def test_is_asked_for_when_a_key_is_wanted_for_longer(self, net: Internet) -> None:
        peer, server = await _known(net)
        federation = await net.federation()
        now = net.clock.now_ms()
        await federation.notary.answers({peer.name: {peer.key.key_id: now + DAY}})
        await net.clock.advance(3_600)
        for until, asked in ((None, 1), (now + DAY, 1), (now + DAY + 1, 2)):
            (answer,) = await federation.notary.answers({peer.name: {peer.key.key_id: until}})
            assert answer["verify_keys"]
            assert len(server.seen) == asked

    async def test_is_the_last_answer_of_a_server_that_is_gone(self, net: Internet) -> None:
        peer, server = await _known(net)
        federation = await net.federation()
        await federation.notary.of_server(peer.name, None)
        server.handler = answers(b"", 500)
        await net.clock.advance(30 * 86_400)
        (answer,) = await federation.notary.of_server(peer.name, None)
        assert answer["server_name"] == peer.name

    async def test_has_the_answer_with_a_key_that_its_server_forgot(self, net: Internet) -> None:
        peer, _ = await _known(net)
        federation = await net.federation()
        await federation.notary.of_server(peer.name, None)
        old, peer.old = peer.rotate(), {}
        await net.clock.advance(86_400)
        found = await federation.notary.answers({peer.name: {old.key_id: 0, peer.key.key_id: 0}})
        assert [list(answer["verify_keys"]) for answer in found] == [
            [peer.key.key_id],
            [old.key_id],
        ]

    async def test_is_nothing_for_servers_that_are_unknown(self, net: Internet) -> None:
        federation = await net.federation()
        assert await federation.notary.answers({"gone.example": {}, "lost.example": {}}) == []

    async def test_is_bounded(self, net: Internet) -> None:
        federation = await net.federation()
        wanted: dict[str, dict[str, int | None]] = {
            f"s{number}.example:9": {} for number in range(1_000)
        }
        assert await federation.notary.answers(wanted) == []
        assert len({name for name, _ in net.names.asked}) == 100


async def _known(net: Internet) -> tuple[Peer, Any]:
    server = await net.server("a.example")
    net.host("a.example")
    peer = Peer(f"a.example:{server.port}", net.clock)
    server.handler = peer.serve
    return peer, server


def test_a_key_file_that_cannot_be_used_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    first = key_file.signing_keys(path)[0]
    assert path.stat().st_mode & 0o777 == 0o600
    second = key_file.rotate(path, keep=True)
    assert [key.key_id for key in key_file.signing_keys(path)] == [second.key_id, first.key_id]
    third = key_file.rotate(path)
    assert [key.key_id for key in key_file.signing_keys(path)] == [third.key_id]
    path.write_text("nonsense")
    with pytest.raises(ConfigError):
        key_file.rotate(path)
    assert path.read_text() == "nonsense"

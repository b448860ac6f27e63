"""Keys are fetched when they are wanted: from their server first, then from notaries.

spec: server-server-api#retrieving-server-keys
"""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from federation.key_answers import LONGEST_LIFE_MS
from federation.keyring import ANSWERED_PAUSE, Keyring
from federation.wiring import Federation
from homeserver.matrix.canonical import decode_object, encode
from homeserver.matrix.sign import sign_json
from tests.federation.internet import DAY, Handler, Internet, Peer, TlsServer, answers

SECOND = 1_000


async def known(net: Internet, name: str) -> tuple[Peer, TlsServer]:
    """A peer that publishes its keys; its server's name gets the port."""
    server = await net.server(name)
    net.host(name)
    peer = Peer(f"{name}:{server.port}", net.clock)
    server.handler = peer.serve
    return peer, server


async def valid(keyring: Keyring, peer: Peer, at: int = 0, **options: Any) -> bool:
    found = await keyring.keys(peer.name, [peer.key.key_id], at, **options)
    return found == {peer.key.key_id: peer.key.public_key}


class TestDirectly:
    async def test_keys_are_fetched_once(self, net: Internet) -> None:
        peer, server = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        assert await valid(keyring, peer)
        assert await valid(keyring, peer)
        assert [seen.target for seen in server.seen] == ["/_matrix/key/v2/server"]
        assert "Authorization" not in server.seen[0].headers

    async def test_whoever_asks_meanwhile_waits_for_the_same_fetch(self, net: Internet) -> None:
        peer, server = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        assert all(await asyncio.gather(*(valid(keyring, peer) for _ in range(50))))
        assert len(server.seen) == 1

    async def test_they_survive_a_restart(self, net: Internet) -> None:
        peer, server = await known(net, "a.example")
        assert await valid((await net.federation()).keyring, peer)
        assert await valid((await net.federation()).keyring, peer)
        assert len(server.seen) == 1

    async def test_an_unknown_key_is_asked_for_but_not_again_and_again(self, net: Internet) -> None:
        peer, server = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        for _ in range(5):
            assert await keyring.keys(peer.name, ["ed25519:none"]) == {}
        assert len(server.seen) == 1
        await net.clock.advance(ANSWERED_PAUSE / 1000)
        assert await keyring.keys(peer.name, ["ed25519:none"]) == {}
        assert len(server.seen) == 2

    async def test_a_new_key_is_found_and_the_old_one_kept(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        assert await valid(keyring, peer)
        old = peer.rotate()
        await net.clock.advance(ANSWERED_PAUSE / 1000)
        assert await valid(keyring, peer)
        assert await keyring.keys(peer.name, [old.key_id]) == {old.key_id: old.public_key}

    async def test_keys_that_their_server_forgot_are_kept(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        assert await valid(keyring, peer)
        old = peer.rotate()
        peer.old = {}
        await net.clock.advance(ANSWERED_PAUSE / 1000)
        assert await valid(keyring, peer)
        assert await keyring.keys(peer.name, [old.key_id]) == {old.key_id: old.public_key}

    @pytest.mark.parametrize("kind", ["other", "forged", "huge", "text", "error"])
    async def test_wrong_answers_bring_nothing(self, net: Internet, kind: str) -> None:
        peer, server = await known(net, "a.example")
        forged = {**peer.published(), "signatures": Peer(peer.name, net.clock).published()}
        server.handler = {
            "other": answers(Peer("b.example", net.clock).published()),
            "forged": answers(forged),
            "huge": answers(peer.published(padding="x" * 100_000)),
            "text": answers(b"no json"),
            "error": answers({"errcode": "M_UNKNOWN"}, 500),
        }[kind]
        assert not await valid((await net.federation()).keyring, peer)
        assert server.seen


class TestValidity:
    """spec: rooms/v5#signing-key-validity-period"""

    async def test_a_key_counts_up_to_its_end(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        keyring, now = (await net.federation()).keyring, net.clock.now_ms()
        assert await valid(keyring, peer, now + DAY)
        assert not await valid(keyring, peer, now + DAY + 1)
        assert await valid(keyring, peer, 0)

    async def test_whatever_a_server_says_a_week_is_the_most(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        peer.life_ms = 400 * DAY
        keyring, now = (await net.federation()).keyring, net.clock.now_ms()
        assert await valid(keyring, peer, now + LONGEST_LIFE_MS)
        assert not await valid(keyring, peer, now + LONGEST_LIFE_MS + 1)

    async def test_a_key_past_its_end_is_asked_for_again(self, net: Internet) -> None:
        peer, server = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        assert await valid(keyring, peer)
        await net.clock.advance(2 * 86_400)
        assert await valid(keyring, peer, net.clock.now_ms())
        assert len(server.seen) == 2

    async def test_an_old_key_counts_for_events_before_it_expired(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        await net.clock.advance(100)
        old, expired = peer.rotate(), net.clock.now_ms()
        for at, found in ((0, 1), (expired, 1), (expired + 1, 0)):
            assert len(await keyring.keys(peer.name, [old.key_id], at)) == found

    async def test_an_old_key_signs_no_requests(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        old = peer.rotate()
        assert await keyring.request_keys(peer.name, [old.key_id]) == {}
        assert await keyring.request_keys(peer.name, [peer.key.key_id])

    async def test_a_key_that_came_expired_signs_only_the_past(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        peer.life_ms = -1_000
        keyring, now = (await net.federation()).keyring, net.clock.now_ms()
        assert await keyring.request_keys(peer.name, [peer.key.key_id]) == {}
        assert not await valid(keyring, peer, now)
        assert await valid(keyring, peer, now - 1_000)

    async def test_a_key_is_renewed_before_it_ends_without_making_anybody_wait(
        self, net: Internet
    ) -> None:
        peer, server = await known(net, "a.example")
        keyring = (await net.federation()).keyring
        assert await keyring.request_keys(peer.name, [peer.key.key_id])
        await net.clock.advance(86_400 - 1_800)
        held, answered = asyncio.Event(), asyncio.Event()

        async def slow(request: web.BaseRequest) -> web.StreamResponse:
            await held.wait()
            answered.set()
            return await peer.serve(request)

        server.handler = slow
        assert await keyring.request_keys(peer.name, [peer.key.key_id])
        held.set()
        await answered.wait()

    async def test_this_servers_own_keys_are_known(self, net: Internet) -> None:
        federation = await net.federation()
        (key_id,) = federation.own_keys.published()["verify_keys"]
        name = federation.own_keys.server_name
        assert list(await federation.keyring.keys(name, [key_id, "ed25519:no"])) == [key_id]
        assert list(await federation.keyring.request_keys(name, [key_id])) == [key_id]


class TestFailures:
    async def test_are_remembered_for_a_growing_pause(self, net: Internet) -> None:
        peer, server = await known(net, "a.example")
        server.handler = answers(b"no json")
        keyring = (await net.federation()).keyring
        tries = 0
        for _ in range(120):
            await valid(keyring, peer)
            await net.clock.advance(30)
            tries += 1
        assert tries > 100
        assert len(server.seen) < 15

    async def test_end_at_once_when_the_server_itself_comes(self, net: Internet) -> None:
        peer, server = await known(net, "a.example")
        server.handler = answers(b"no json")
        keyring = (await net.federation()).keyring
        for _ in range(30):
            await valid(keyring, peer)
            await net.clock.advance(60)
        server.handler = peer.serve
        await net.clock.advance(10)
        assert await keyring.request_keys(peer.name, [peer.key.key_id])

    async def test_a_slow_server_holds_up_neither_others_nor_its_own_callers(
        self, net: Internet
    ) -> None:
        slow, server = await known(net, "slow.example")
        quick, _ = await known(net, "quick.example")
        held = asyncio.Event()

        async def wait(request: web.BaseRequest) -> web.StreamResponse:
            await held.wait()
            return await slow.serve(request)

        server.handler = wait
        keyring = (await net.federation()).keyring
        waiting = asyncio.create_task(valid(keyring, slow))
        assert await valid(keyring, quick)
        assert not await valid(keyring, slow, patience=0.01)
        held.set()
        assert await waiting  # the fetch went on, and its outcome counts
        assert await valid(keyring, slow)


def notary_for(notary: Peer, *peers: Peer, **options: Any) -> Handler:
    """Publishes the notary's keys and, when queried, those of the peers."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/_matrix/key/v2/query":
            wanted = decode_object(await request.read())["server_keys"]
            signed = [
                sign_json(peer.published(), notary.name, options.get("key", notary.key))
                for peer in peers
                if peer.name in wanted
            ]
            return web.Response(body=encode({"server_keys": options.get("answer", signed)}))
        return await notary.serve(request)

    return handle


class TestNotaries:
    async def gone(self, net: Internet, name: str) -> Peer:
        net.host(name)
        return Peer(f"{name}:9", net.clock)

    async def notary(self, net: Internet, *peers: Peer, **options: Any) -> tuple[Federation, Any]:
        notary, server = await known(net, "n.example")
        server.handler = notary_for(notary, *peers, **options)
        return await net.federation(notaries=[notary.name]), server

    async def test_know_the_keys_of_servers_that_are_gone(self, net: Internet) -> None:
        gone = await self.gone(net, "gone.example")
        federation, server = await self.notary(net, gone)
        now = net.clock.now_ms()
        assert await valid(federation.keyring, gone, now)
        assert decode_object(server.seen[0].body) == {
            "server_keys": {gone.name: {gone.key.key_id: {"minimum_valid_until_ts": now}}}
        }

    async def test_are_asked_for_many_servers_at_once(self, net: Internet) -> None:
        gone = [await self.gone(net, f"gone{n}.example") for n in range(30)]
        federation, server = await self.notary(net, *gone)
        wanted = {peer.name: {peer.key.key_id: 0} for peer in gone}
        found = await federation.keyring.many(wanted)
        assert all(found[peer.name] == {peer.key.key_id: peer.key.public_key} for peer in gone)
        queries = [seen for seen in server.seen if "query" in seen.target]
        assert 1 <= len(queries) < 15

    async def test_are_not_asked_while_the_server_answers(self, net: Internet) -> None:
        peer, _ = await known(net, "a.example")
        federation, server = await self.notary(net, peer)
        assert await valid(federation.keyring, peer)
        assert not server.seen

    @pytest.mark.parametrize("kind", ["unsigned", "wrong key", "other server", "nonsense"])
    async def test_are_believed_by_their_signature_only(self, net: Internet, kind: str) -> None:
        gone, other = await self.gone(net, "gone.example"), await self.gone(net, "other.example")
        kinds: dict[str, dict[str, Any]] = {
            "unsigned": {"answer": [gone.published()]},
            "wrong key": {"key": other.key},
            "other server": {"answer": [other.published()]},
            "nonsense": {"answer": [None, 5, {"server_name": gone.name, "signatures": 1}]},
        }
        federation, server = await self.notary(net, gone, **kinds[kind])
        assert not await valid(federation.keyring, gone)
        assert server.seen

    async def test_never_change_a_key_that_is_known(self, net: Internet) -> None:
        """Key substitution: the notary has another key under the same name."""
        peer, server = await known(net, "a.example")
        impostor = Peer(peer.name, net.clock)
        impostor.key = type(peer.key)(peer.key.version, b"z" * 32)
        federation, notary = await self.notary(net, impostor)
        assert await valid(federation.keyring, peer)
        await server.stop()
        await net.clock.advance(86_400)
        key_id, now = peer.key.key_id, net.clock.now_ms()
        assert await federation.keyring.keys(peer.name, [key_id], now + SECOND) == {}
        assert [seen for seen in notary.seen if "query" in seen.target]
        assert await federation.keyring.keys(peer.name, [key_id]) == {key_id: peer.key.public_key}

"""Endpoints for other servers: what is checked before they are called, and in which order."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest
from yarl import URL

from homeserver.errors import MatrixError
from homeserver.http.dispatch import Dispatcher, ServerAuthenticator
from homeserver.http.endpoint import Call, Endpoint, NoAuth, Server, endpoint, endpoint_of
from homeserver.http.proxies import Proxies
from homeserver.http.server import Binding
from homeserver.http.server import Server as Listeners
from homeserver.http.shape import RoomID
from homeserver.matrix.canonical import JsonObject
from homeserver.options import Rate
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.health import Health
from homeserver.runtime.limits import NAMES, RateLimits
from homeserver.runtime.metrics import Metrics

if TYPE_CHECKING:
    from homeserver.services import Services

MAX_BODY = 10_000


@endpoint("PUT /federation/{room_id}", spec="", auth=Server())
async def put_thing(call: Call, room_id: RoomID, body: JsonObject) -> JsonObject:
    return {"origin": call.origin, "room_id": room_id, "body": body}


@endpoint("GET /federation/{room_id}", spec="", auth=Server())
async def get_thing(call: Call, room_id: RoomID) -> JsonObject:
    return {"origin": call.origin, "room_id": room_id}


@endpoint("GET /open", spec="", auth=NoAuth())
async def get_open(call: Call) -> JsonObject:
    return {"origin": call.origin}


class Judge:
    """Believes the header "good" and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, list[str], bytes]] = []

    def claimed(self, headers: Sequence[str]) -> str | None:
        return "A.example" if headers else None

    async def authenticate(
        self, method: str, target: str, headers: Sequence[str], body: bytes
    ) -> str:
        await asyncio.sleep(0)
        self.shown.append((method, target, list(headers), body))
        if list(headers) != ["good"]:
            raise MatrixError("M_UNAUTHORIZED", "no", 401)
        return "a.example"


async def served(judge: ServerAuthenticator | None, limits: RateLimits | None = None) -> Listeners:
    limits = limits or RateLimits(False, {}, FakeClock())

    def dispatcher(router: Any) -> Dispatcher:
        services = cast("Services", None)
        return Dispatcher(
            router,
            services,
            cast("Any", None),
            Metrics(),
            Proxies([]),
            limits,
            MAX_BODY,
            servers=judge,
        )

    endpoints: list[Endpoint] = [endpoint_of(one) for one in (put_thing, get_thing, get_open)]
    binding = Binding("127.0.0.1", 0, ("federation",))
    server = Listeners([binding], {"federation": endpoints}, dispatcher, Health())
    await server.start()
    return server


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
async def server(judge: Judge) -> AsyncIterator[Listeners]:
    started = await served(judge)
    yield started
    await started.stop()


async def send(
    server: Listeners, method: str, target: str, body: bytes | None = None, sign: str = "good"
) -> tuple[int, Any]:
    url = URL(server.addresses[0] + target, encoded=True)
    headers = {"Authorization": sign} if sign else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_the_signer_is_the_origin_of_the_call(server: Listeners, judge: Judge) -> None:
    target = "/federation/%21a%3Ab?x=%20+"
    status, reply = await send(server, "PUT", target, b'{ "a" : 1 }')
    assert (status, reply) == (200, {"origin": "a.example", "room_id": "!a:b", "body": {"a": 1}})
    assert judge.shown == [("PUT", target, ["good"], b'{ "a" : 1 }')]


async def test_without_a_body(server: Listeners, judge: Judge) -> None:
    assert (await send(server, "GET", "/federation/!a:b"))[0] == 200
    assert judge.shown == [("GET", "/federation/!a:b", ["good"], b"")]


async def test_a_body_that_nobody_reads_is_signed_all_the_same(
    server: Listeners, judge: Judge
) -> None:
    assert (await send(server, "GET", "/federation/!a:b", b"{}"))[0] == 200
    assert judge.shown[0][3] == b"{}"


@pytest.mark.parametrize("sign", ["", "bad"])
async def test_whoever_has_not_signed_learns_nothing_else(server: Listeners, sign: str) -> None:
    for target, body in (("/federation/nonsense", b"{}"), ("/federation/!a:b", b"{")):
        status, reply = await send(server, "PUT", target, body, sign)
        assert (status, reply["errcode"]) == (401, "M_UNAUTHORIZED")


async def test_parameters_and_body_are_checked_after_the_signature(server: Listeners) -> None:
    status, reply = await send(server, "PUT", "/federation/nonsense", b"{}")
    assert (status, reply["errcode"]) == (400, "M_INVALID_PARAM")
    status, reply = await send(server, "PUT", "/federation/!a:b", b"[]")
    assert (status, reply["errcode"]) == (400, "M_BAD_JSON")


async def test_long_bodies_are_refused_before_anything_is_verified(
    server: Listeners, judge: Judge
) -> None:
    status, reply = await send(server, "PUT", "/federation/!a:b", b" " * (MAX_BODY + 1))
    assert (status, reply["errcode"]) == (413, "M_TOO_LARGE")
    assert not judge.shown


async def test_only_calls_by_servers_have_an_origin(server: Listeners) -> None:
    assert (await send(server, "GET", "/open"))[0] == 500


async def test_an_island_answers_no_server() -> None:
    server = await served(None)
    status, reply = await send(server, "GET", "/federation/!a:b")
    assert (status, reply["errcode"]) == (401, "M_UNAUTHORIZED")
    await server.stop()


async def test_who_asks_too_much_is_refused_before_anything_is_verified(judge: Judge) -> None:
    """Only what is signed counts: nobody uses up the requests of another."""
    clock = FakeClock()
    rates: dict[str, Rate] = dict.fromkeys(NAMES, Rate.of("1/s, 3 at once"))
    server = await served(judge, RateLimits(True, rates, clock))
    for _ in range(9):
        assert (await send(server, "GET", "/federation/!a:b", sign="bad"))[0] == 401
    statuses = [(await send(server, "GET", "/federation/!a:b"))[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    shown = len(judge.shown)
    status, reply = await send(server, "PUT", "/federation/!a:b", b" " * 9_000)
    assert (status, reply["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    assert 0 < reply["retry_after_ms"] <= 1_000
    assert len(judge.shown) == shown
    await clock.advance(1)
    assert (await send(server, "GET", "/federation/!a:b"))[0] == 200
    await server.stop()


async def test_the_limits_of_servers_can_be_off_alone(judge: Judge) -> None:
    rates: dict[str, Rate] = dict.fromkeys(NAMES, Rate.of("1/s, 1 at once"))
    server = await served(judge, RateLimits(True, rates, FakeClock(), servers=False))
    statuses = [(await send(server, "GET", "/federation/!a:b"))[0] for _ in range(5)]
    assert statuses == [200] * 5
    await server.stop()

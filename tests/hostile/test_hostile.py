"""Hostile clients: each costs the others little, and the server a bounded amount.

Every attack is tried in a small form, and in its whole size where that is marked `long`. What it
costs the others in time is measured by `python -m bench --scenario hostile`.
"""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from homeserver.http import bodies
from homeserver.matrix.filters import MAX_ENTRIES, MAX_GLOBS
from tests.serving import CLIENT, Person, Running

Streams = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
SECONDS = 10.0
"""Generous for a busy machine: what is bounded takes a few hundredths of it."""


@pytest.fixture
async def alice(server: Running) -> Person:
    """An ordinary user; the first account would be an administrator."""
    await server.person("admin")
    return await server.person("alice")


@asynccontextmanager
async def connections(server: Running, count: int) -> AsyncIterator[Streams]:
    """Plain connections to the server, opened some at a time."""
    host, _, port = server.url.rpartition("//")[2].rpartition(":")
    opened: Streams = []
    try:
        for start in range(0, count, 100):
            number = min(100, count - start)
            opened += await asyncio.gather(
                *(asyncio.open_connection(host, int(port)) for _ in range(number))
            )
        yield opened
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def quickly(person: Person) -> None:
    """An ordinary request is answered in time."""
    began = time.monotonic()
    await person.ok("GET", "/account/whoami")
    assert time.monotonic() - began < SECONDS


def head(person: Person, method: str, path: str, length: int) -> bytes:
    return (
        f"{method} {CLIENT}{path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n"
        f"Authorization: Bearer {person.token}\r\n\r\n"
    ).encode()


async def test_bodies_that_hardly_come_are_given_up_and_hold_up_nobody(
    server: Running, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.5)
    async with connections(server, 200) as slow:
        for _, writer in slow:
            writer.write(head(alice, "POST", "/createRoom", 100_000) + b'{"name":"')
        await quickly(alice)
        for reader, _ in slow:
            assert b" 408 " in await reader.readline()
    assert await alice.ok("GET", "/joined_rooms") == {"joined_rooms": []}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'{"name":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
        b'{"initial_state":[' + b"{}," * 300_000 + b"{}]}",
        b'{"name":' + b"9" * 1_000_000 + b"}",
        b'{"name":1e' + b"9" * 1_000_000 + b"}",
        b'{"name":"' + b"\\u0000" * 160_000 + b'"}',
        b'{"name":"' + b"x" * 1_000_000 + b'"}',
        b"{" + b",".join(b'"%d":1' % number for number in range(80_000)) + b"}",
        b'{"invite":[' + b'"@a:b",' * 140_000 + b'"@a:b"]}',
        b'{"power_level_content_override":{"users":{'
        + b",".join(b'"@%d:b":1' % number for number in range(60_000))
        + b"}}}",
    ],
    ids=lambda body: f"{body[:24]!r}",
)
async def test_huge_and_deep_json_is_answered_soon(
    server: Running, alice: Person, body: bytes
) -> None:
    began = time.monotonic()
    reply = await alice.raw("POST", "/createRoom", data=body)
    assert time.monotonic() - began < SECONDS
    assert reply.status in {200, 400, 413}, reply.body
    await quickly(alice)


async def test_huge_events_are_refused(server: Running, alice: Person) -> None:
    room_id = await alice.create_room()
    wide = {str(number): number for number in range(50_000)}
    path = f"/rooms/{room_id}/send/m.room.message/1"
    await alice.refused("M_TOO_LARGE", "PUT", path, body=wide)


async def many_idle(server: Running, alice: Person, count: int) -> None:
    async with connections(server, count):
        await quickly(alice)
        room_id = await alice.create_room()
        await alice.say(room_id, "everybody else is idle")
    await quickly(alice)


async def test_idle_connections_hold_up_nobody(server: Running, alice: Person) -> None:
    await many_idle(server, alice, 300)


@pytest.mark.long
async def test_ten_thousand_idle_connections_hold_up_nobody(server: Running, alice: Person) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Both ends are in this process.
    await many_idle(server, alice, min(10_000, (hard - 500) // 2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_rooms_created_at_once_are_limited(server: Running, alice: Person) -> None:
    server.app.limits.configure(True, server.config.limits.rates)
    replies = await asyncio.gather(
        *(alice.raw("POST", "/createRoom", body={"name": "flood"}) for _ in range(60))
    )
    made = [reply for reply in replies if reply.status == 200]
    refused = {reply.errcode for reply in replies if reply.status != 200}
    assert (len(made), refused) == (server.config.limits.create_room.burst, {"M_LIMIT_EXCEEDED"})
    assert len((await alice.ok("GET", "/joined_rooms"))["joined_rooms"]) == len(made)


@pytest.mark.long
async def test_a_thousand_rooms_at_once_come_to_be_and_hold_up_nobody(
    server: Running, alice: Person
) -> None:
    bob = await server.person("bob")
    flood = [
        asyncio.create_task(alice.raw("POST", "/createRoom", body={"name": "flood"}))
        for _ in range(1_000)
    ]
    while not all(task.done() for task in flood):
        await quickly(bob)
        await asyncio.wait(flood, timeout=0.05)
    assert {task.result().status for task in flood} <= {200, 429}
    made = [task.result() for task in flood if task.result().status == 200]
    assert len((await alice.ok("GET", "/joined_rooms"))["joined_rooms"]) == len(made)


def expensive() -> list[dict[str, Any]]:
    """Filters that are as long and as wild as they may be."""
    wild = ["*".join("abcdefgh" * 14) + str(number) for number in range(MAX_GLOBS)]
    long = [f"org.example.{number}" for number in range(1_000)]
    ids = [f"@{number}:test.example" for number in range(700)]
    return [
        {"room": {"timeline": {"types": wild, "limit": 10**9}}},
        {"room": {"timeline": {"not_types": wild}}},
        {"room": {"timeline": {"types": long, "not_types": long, "senders": ids}}},
        {"event_fields": ["content." + "a." * 110 + str(number) for number in range(256)]},
    ]


@pytest.mark.parametrize("number", range(4))
async def test_expensive_filters_are_bounded(server: Running, alice: Person, number: int) -> None:
    room_id = await alice.create_room()
    for index in range(30):
        await alice.send(room_id, "a" * 250, {"body": str(index)})
    path = f"/user/{alice.user_id}/filter"
    stored = await alice.ok("POST", path, body=expensive()[number])
    for since in (None, (await alice.sync())["next_batch"]):
        began = time.monotonic()
        await alice.sync(since=since, filter=stored["filter_id"], remember=False)
        assert time.monotonic() - began < SECONDS
    await quickly(alice)


async def test_filters_beyond_the_bounds_are_refused(alice: Person) -> None:
    path = f"/user/{alice.user_id}/filter"
    for part, errcode in (
        ({"types": ["*"] * (MAX_GLOBS + 1)}, "M_BAD_JSON"),
        ({"types": ["x" * 2_000]}, "M_BAD_JSON"),
        ({"senders": ["@a:b"] * (MAX_ENTRIES + 1)}, "M_TOO_LARGE"),
    ):
        source = {"room": {"timeline": part}}
        await alice.refused(errcode, "POST", path, body=source)
        if errcode == "M_BAD_JSON":
            await alice.refused(errcode, "GET", "/sync", query={"filter": json.dumps(source)})


async def test_search_terms_made_to_be_expensive_are_bounded(
    server: Running, alice: Person
) -> None:
    for _ in range(20):
        await alice.create_room(name="a" * 200, visibility="public")
    for term in ("a" * 100_000, "%" * 50_000, "_" * 1_000, "\\" * 1_000, "a% " * 30_000):
        began = time.monotonic()
        body = {"filter": {"generic_search_term": term}, "limit": 10**6}
        reply = await alice.raw("POST", "/publicRooms", body=body)
        assert time.monotonic() - began < SECONDS
        assert reply.status in {200, 400}, reply.body

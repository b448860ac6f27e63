"""Subscriptions to threads: told by sliding sync, and page by page (MSC4308)."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running
from tests.sliding.client import Sliding

NAME = "io.element.msc4308.thread_subscriptions"
PAGES = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"


def _asking(**more: Any) -> dict[str, Any]:
    return {NAME: {"enabled": True, **more}}


def _path(room: str, root: str) -> str:
    base = "/_matrix/client/unstable/io.element.msc4306/rooms"
    return f"{base}/{quote(room, safe='')}/thread/{quote(root, safe='')}/subscription"


async def _subscribe(person: Person, room: str, number: int = 1) -> list[str]:
    """Subscribe to so many new threads; their roots."""
    roots = [await person.say(room, f"root {n}") for n in range(number)]
    for root in roots:
        await person.ok("PUT", _path(room, root), body={})
    return roots


def _roots(told: Any, room: str) -> set[str]:
    return set(told.get("subscribed", {}).get(room, {}))


async def test_they_are_told_as_they_are_made_and_ended(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    (first,) = await _subscribe(alice, room)
    await _subscribe(bob, room)
    client = Sliding(alice, extensions=_asking())
    told = (await client.sync())["extensions"][NAME]
    stamp = told["subscribed"][room][first]["bump_stamp"]
    assert told == {"subscribed": {room: {first: {"automatic": False, "bump_stamp": stamp}}}}
    assert (await client.sync())["extensions"] == {}

    await alice.ok("DELETE", _path(room, first))
    answer = await client.sync()
    ended = answer["extensions"][NAME]["unsubscribed"][room][first]
    assert answer["extensions"][NAME] == {"unsubscribed": {room: {first: ended}}}
    assert ended["bump_stamp"] > stamp

    waiting = asyncio.create_task(client.sync(timeout=30_000))
    await server.parked()
    await _subscribe(bob, room)
    await server.parked()
    assert not waiting.done(), "what others say of threads is theirs"
    await alice.ok("PUT", _path(room, first), body={})
    assert _roots((await waiting)["extensions"][NAME], room) == {first}


async def test_who_did_not_ask_is_told_nothing_until_it_asks(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    roots = await _subscribe(alice, room, 2)
    client = Sliding(alice)
    assert (await client.sync())["extensions"] == {}
    client.extensions = {NAME: {"enabled": False}}
    assert (await client.sync())["extensions"] == {}
    client.extensions = _asking()
    assert _roots((await client.sync())["extensions"][NAME], room) == set(roots)


async def test_an_answer_that_is_lost_is_told_again(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    client = Sliding(alice, extensions=_asking())
    await client.sync()
    (root,) = await _subscribe(alice, room)
    for _ in range(2):
        lost = (await client.ask()).body
        assert _roots(lost["extensions"][NAME], room) == {root}


@pytest.mark.parametrize("restart", [False, True])
async def test_what_was_too_much_comes_in_pages(server: Running, restart: bool) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await _subscribe(alice, room)
    client = Sliding(alice, extensions=_asking(limit=2))
    to = (await client.sync())["pos"]
    roots = await _subscribe(alice, room, 5)
    told = (await client.sync())["extensions"][NAME]
    assert _roots(told, room) == set(roots[3:])
    if restart:
        await server.restart()
    query = {"dir": "b", "limit": 2, "from": told["prev_batch"], "to": to}
    page = await alice.ok("GET", PAGES, query=query)
    assert _roots(page, room) == set(roots[1:3])
    page = await alice.ok("GET", PAGES, query={**query, "from": page["end"]})
    assert _roots(page, room) == {roots[0]}
    assert "end" not in page
    everything = await alice.ok("GET", PAGES, query={"dir": "b"})
    assert len(_roots(everything, room)) == 6


@pytest.mark.parametrize(
    "query",
    [
        {"dir": "f"},
        {},
        {"dir": "b", "limit": 0},
        {"dir": "b", "from": "x"},
        {"dir": "b", "to": "x"},
    ],
)
async def test_bad_pages_are_refused(server: Running, query: dict[str, Any]) -> None:
    alice = await server.person("alice")
    reply = await alice.raw("GET", PAGES, query=query)
    assert (reply.status, reply.errcode) in (
        (400, "M_INVALID_PARAM"),
        (400, "M_MISSING_PARAM"),
    )


@pytest.mark.parametrize("limit", [0, -3, 10**9])
async def test_strange_limits_are_bounded(server: Running, limit: int) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await _subscribe(alice, room, 2)
    client = Sliding(alice, extensions=_asking(limit=limit))
    told = (await client.sync())["extensions"][NAME]
    assert len(_roots(told, room)) == min(max(limit, 1), 2)

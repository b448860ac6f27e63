"""Long polls: woken by what concerns them and by nothing else.

spec: client-server-api#syncing
"""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.api.test_devices import password, second_device
from tests.serving import CLIENT, Person, Running
from tests.sliding.client import Sliding, window
from tests.streams.reading import (
    ephemeral,
    filtered,
    ignore,
    invite,
    joined,
    keep,
    left,
    moved,
    read,
    redact,
    said,
    told,
    typing,
)

Poll = asyncio.Task[Any]


async def pair(server: Running) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.sync()
    await bob.sync()
    return alice, bob, room


async def park(server: Running, person: Person, **query: Any) -> Poll:
    """A long poll that is parked when this returns."""
    waiting = server.app.notifier.waiting
    poll = asyncio.create_task(person.sync(timeout=30_000, **query))
    await server.parked(waiting + 1)
    return poll


@pytest.mark.parametrize("way", ["sync", "sliding", "events"])
async def test_who_was_logged_out_meanwhile_hears_nothing_more(server: Running, way: str) -> None:
    """By another device of one's own, as people do who have lost one."""
    alice, bob, room = await pair(server)
    lost = Person(server, bob.user_id, await second_device(bob), "TWO")
    start = (await lost.sync())["next_batch"]
    if way == "sync":
        request = lost.raw("GET", "/sync", query={"since": start, "timeout": 30_000})
    elif way == "events":
        request = lost.raw("GET", "/events", query={"from": start, "timeout": 30_000})
    else:
        client = Sliding(lost, {"all": window()})
        await client.sync()
        request = client.ask(timeout=30_000)
    poll = asyncio.create_task(request)
    await server.parked()
    body = {"devices": ["TWO"], "auth": password(bob.user_id)}
    await bob.ok("POST", "/delete_devices", body=body)
    await alice.say(room, "not for thieves")
    reply = await poll
    assert (reply.status, reply.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")


async def test_without_a_timeout_the_answer_comes_at_once(server: Running) -> None:
    alice, _, _ = await pair(server)
    assert told(await alice.sync(timeout=0)) == set()


async def test_each_kind_of_news_wakes(server: Running) -> None:
    alice, bob, room = await pair(server)
    event_id = await bob.say(room, "first")
    await alice.sync()

    poll = await park(server, alice)
    heard = await bob.say(room, "message")
    assert said(joined(await poll, room)) == [heard]

    poll = await park(server, alice)
    redaction = await redact(bob, room, event_id)
    assert said(joined(await poll, room)) == [redaction]

    poll = await park(server, alice)
    await typing(bob, room)
    assert ephemeral(joined(await poll, room), "m.typing") == [{"user_ids": [bob.user_id]}]
    poll = await park(server, alice)
    await server.clock.advance(29)
    assert not poll.done()
    poll.cancel()
    poll = await park(server, alice)
    await typing(bob, room, False)
    assert ephemeral(joined(await poll, room), "m.typing") == [{"user_ids": []}]

    poll = await park(server, alice)
    await read(bob, room, heard)
    assert ephemeral(joined(await poll, room), "m.receipt")

    poll = await park(server, alice)
    await keep(alice, "test.data", {"v": 1})
    assert "account_data" in await poll

    poll = await park(server, alice)
    await keep(alice, "test.data", {"v": 1}, room)
    assert "account_data" in joined(await poll, room)

    poll = await park(server, alice)
    invited = await bob.create_room(invite=[alice.user_id])
    assert invited in (await poll)["rooms"]["invite"]

    poll = await park(server, alice)
    await alice.join(invited)
    assert invited in (await poll)["rooms"]["join"]
    # Whoever has joined while it waited hears of that room, too.
    poll = await park(server, alice)
    heard = await bob.say(invited, "welcome")
    assert said(joined(await poll, invited)) == [heard]

    poll = await park(server, alice)
    await moved(bob, invited, "kick", alice)
    assert left(await poll, invited)


async def test_what_doesnt_concern_it_wakes_nobody(server: Running) -> None:
    alice, bob, room = await pair(server)
    carol = await server.person("carol")
    other = await bob.create_room(preset="public_chat")
    event_id = await bob.say(room, "x")
    await ignore(alice, carol)
    await carol.join(room)
    await alice.sync()
    poll = await park(server, alice)
    await bob.say(other, "elsewhere")
    await typing(bob, other)
    await read(bob, room, event_id, "m.read.private")
    await keep(bob, "test.data", {"v": 1})
    await carol.say(room, "ignored")
    await read(carol, room, event_id)
    foreign = await carol.create_room()
    await invite(carol, foreign, bob)
    await server.clock.advance(1)
    assert not poll.done()
    heard = await bob.say(room, "now")
    answer = await poll
    assert set(answer["rooms"]["join"]) == {room}
    assert said(joined(answer, room)) == [heard]


async def test_a_filter_decides_what_wakes(server: Running) -> None:
    alice, bob, room = await pair(server)
    quiet = '{"room":{"ephemeral":{"types":[]},"timeline":{"not_types":["m.reaction"]}}}'
    poll = await park(server, alice, filter=quiet)
    await typing(bob, room)
    await bob.send(room, "m.reaction", {})
    await server.clock.advance(1)
    assert not poll.done()
    heard = await bob.say(room, "x")
    assert said(joined(await poll, room)) == [heard]


async def test_a_burst_is_one_answer(server: Running) -> None:
    alice, bob, room = await pair(server)
    poll = await park(server, alice)
    sent = await asyncio.gather(*(bob.say(room, str(number)) for number in range(5)))
    heard = said(joined(await poll, room))
    while len(heard) < 5:
        heard += said(joined(await alice.sync(), room))
    assert sorted(heard) == sorted(sent)
    assert told(await alice.sync()) == set()


async def test_two_polls_of_one_device_both_get_the_answer(server: Running) -> None:
    alice, bob, room = await pair(server)
    polls = [await park(server, alice, remember=False) for _ in range(2)]
    heard = await bob.say(room, "x")
    for answer in await asyncio.gather(*polls):
        assert said(joined(answer, room)) == [heard]


async def test_a_client_that_goes_away_leaves_nothing_behind(server: Running) -> None:
    alice, bob, room = await pair(server)
    async with aiohttp.ClientSession() as http:
        query = {"since": str(alice.since), "timeout": "30000"}
        headers = {"Authorization": f"Bearer {alice.token}"}
        request = http.get(f"{server.url}{CLIENT}/sync", params=query, headers=headers)
        poll = asyncio.create_task(request.__aenter__())
        await server.parked()
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
    for _ in range(10_000):
        if not server.app.notifier.waiting:
            break
        await asyncio.sleep(0)
    assert server.app.notifier.waiting == 0
    heard = await bob.say(room, "x")
    assert said(joined(await alice.sync(), room)) == [heard]


async def test_when_its_time_is_over_the_answer_is_empty_and_the_token_good(
    server: Running,
) -> None:
    alice, bob, room = await pair(server)
    elsewhere = await bob.create_room()
    await alice.sync()
    before = alice.since
    poll = await park(server, alice)
    await bob.say(elsewhere, "x")
    await server.clock.advance(29)
    assert not poll.done()
    await server.clock.advance(2)
    answer = await poll
    assert told(answer) == set()
    heard = await bob.say(room, "x")
    for since in (before, answer["next_batch"]):
        assert said(joined(await alice.sync(since=since), room)) == [heard]


async def test_the_server_stops_and_every_poll_is_answered_with_its_token(
    server: Running,
) -> None:
    alice, bob, room = await pair(server)
    before = alice.since
    poll = await park(server, alice)
    await server.restart()
    answer = await poll
    assert told(answer) == set()
    assert answer["next_batch"] == before
    heard = await bob.say(room, "x")
    assert said(joined(await alice.sync(), room)) == [heard]


async def test_news_between_two_polls_are_not_missed(server: Running) -> None:
    alice, bob, room = await pair(server)
    heard: list[str] = []

    async def listen() -> None:
        while len(heard) < 30:
            # However slow: what came between two polls is whole.
            answer = await alice.sync(timeout=30_000, filter=filtered(limit=50))
            heard.extend(said(joined(answer, room)))

    listening = asyncio.create_task(listen())
    sent = [await bob.say(room, str(number)) for number in range(30)]
    await listening
    assert heard == sent

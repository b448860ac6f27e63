"""To-device messages: each comes down, in order, until it was surely received."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from homeserver.users import parcels, to_device
from tests.api.test_devices import second_device
from tests.e2ee.keyed import messages, write
from tests.federation.neighbours import neighbours
from tests.serving import Person, Running


@pytest.fixture(params=["ring", "tables"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """From memory, and from the tables alone."""
    return {"sync": {"ring_bytes": 0}} if request.param == "tables" else {}


def texts(answer: Any) -> list[Any]:
    return [event["content"]["text"] for event in messages(answer)]


async def test_a_message_wakes_its_device(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.sync()
    waiting = asyncio.create_task(bob.sync(timeout=30_000))
    await server.parked()
    await write(alice, bob, 1, "t1", bob.device_id)
    (event,) = messages(await waiting)
    assert event == {
        "type": "test.message", "sender": alice.user_id, "content": {"text": 1},
    }  # fmt: skip


async def test_messages_stay_until_the_next_token_is_presented(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.sync()
    start = bob.since
    await write(alice, bob, 1, "t1")
    for _ in range(2):
        assert texts(await bob.sync(since=start)) == [1]
    await server.restart()
    assert texts(await bob.sync(since=start)) == [1]
    assert texts(await bob.sync()) == []
    assert texts(await bob.sync(since=start)) == []  # it was received


async def test_all_devices_are_reached_and_a_transaction_counts_once(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    other = Person(server, bob.user_id, await second_device(bob), "TWO")
    await bob.sync()
    await other.sync()
    for _ in range(2):
        await write(alice, bob, 1, "t1")
    assert texts(await bob.sync()) == texts(await other.sync()) == [1]
    both = {"messages": {bob.user_id: {"*": {"text": "all"}, "TWO": {"text": "two"}}}}
    await alice.ok("PUT", "/sendToDevice/test.message/t2", body=both)
    assert texts(await bob.sync()) == ["all"]
    assert texts(await other.sync()) == ["two"]


async def test_what_comes_while_an_inbox_is_read_is_not_missed(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.sync()
    await server.restart()  # nothing of inboxes is in memory
    sort, began, over = parcels.Parcels.sort, False, asyncio.Event()

    async def slow(of: parcels.Parcels) -> None:
        nonlocal began
        await sort(of)
        if not began:
            began = True
            await write(alice, bob, "meanwhile", "t1")
            over.set()

    monkeypatch.setattr(parcels.Parcels, "sort", slow)
    told = texts(await bob.sync()) + texts(await bob.sync())
    await over.wait()
    await write(alice, bob, "after", "t2")
    while "after" not in told:
        told += texts(await bob.sync(timeout=30_000))
    assert told == ["meanwhile", "after"]


async def test_a_message_to_all_is_not_multiplied_without_bound(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has very many devices can't have the server write a long message to each."""
    monkeypatch.setattr(to_device, "MAX_SENT", 1_000)
    alice, bob = await server.person("alice"), await server.person("bob")
    other = Person(server, bob.user_id, await second_device(bob), "TWO")
    for number, length, status in ((1, 300, 200), (2, 600, 413)):
        content = {"text": "x" * length}
        body = {"messages": {bob.user_id: {"*": content}}}
        answer = await alice.raw("PUT", f"/sendToDevice/test.message/{number}", body=body)
        assert answer.status == status
    assert answer.body["errcode"] == "M_TOO_LARGE"
    for device in (bob, other):
        assert [len(text) for text in texts(await device.sync())] == [300]


async def test_a_long_queue_comes_in_pages_of_a_hundred(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.sync()
    for n in range(250):
        await write(alice, bob, n, f"t{n}", bob.device_id)
    told = []
    for expected in (100, 100, 50, 0):
        page = texts(await bob.sync(timeout=0))
        assert len(page) == expected
        told += page
    assert told == list(range(250))


async def test_who_syncs_for_the_first_time_gets_what_waits(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    for n in range(101):
        await write(alice, bob, n, f"t{n}", bob.device_id)
    assert texts(await bob.sync()) == list(range(100))
    assert texts(await bob.sync()) == [100]


async def test_the_messages_go_with_the_device(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    other = Person(server, bob.user_id, await second_device(bob), "TWO")
    await write(alice, bob, 1, "t1", "TWO")
    await other.ok("POST", "/logout")
    again = Person(server, bob.user_id, await second_device(bob), "TWO")
    assert texts(await again.sync()) == []


async def test_a_full_inbox_loses_its_oldest_with_an_alarm(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(to_device, "MAX_INBOX", 5)
    monkeypatch.setattr(parcels, "_COUNT_EVERY", 1)
    alice, bob = await server.person("alice"), await server.person("bob")
    for n in range(7):
        await write(alice, bob, n, f"t{n}", bob.device_id)
    await server.app.services.encryption.inboxes.tidy()
    assert "7 to-device messages wait" in caplog.text
    assert server.app.services.encryption.inboxes.cut == 2
    await server.restart()  # memory may still have them
    assert texts(await bob.sync()) == [2, 3, 4, 5, 6]


async def test_who_floods_an_inbox_pushes_out_nothing_of_others(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "MAX_INBOX", 10)
    monkeypatch.setattr(to_device, "_READ_AT_ONCE", 4)
    monkeypatch.setattr(parcels, "_COUNT_EVERY", 1)
    alice, bob, carol, mallory = [
        await server.person(name) for name in ("alice", "bob", "carol", "mallory")
    ]
    for n in range(3):
        await write(alice, bob, f"a{n}", f"t{n}", bob.device_id)
    for n in range(20):
        await write(mallory, bob, f"m{n}", f"t{n}", bob.device_id)
    await write(carol, bob, "c", "t", bob.device_id)
    await server.app.services.encryption.inboxes.tidy()
    await server.restart()  # memory may still have them
    kept = [f"m{n}" for n in range(14, 20)]
    assert texts(await bob.sync()) == ["a0", "a1", "a2", *kept, "c"]


async def test_what_another_server_sends_to_all_is_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much is taken for nothing, and nothing else waits for it."""
    monkeypatch.setattr(to_device, "MAX_SENT", 1_000)
    async with neighbours(tmp_path, "a.example", "b.example") as two:
        alice = await two.servers["a.example"].person("alice")
        bob = await two.servers["b.example"].person("bob")
        await second_device(bob)
        await bob.sync()
        for number, length in ((1, 600), (2, 300)):
            messages = {bob.user_id: {"*": {"text": "x" * length}}}
            path = f"/sendToDevice/test.message/{number}"
            await two.passing(alice.ok("PUT", path, body={"messages": messages}))
        told = texts(await two.passing(bob.sync(timeout=30_000)))
        assert [len(text) for text in told] == [300]

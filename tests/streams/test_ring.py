"""The ring: the last stretch of the stream, bounded by bytes.

What it promises: whoever stands at or above its floor finds in it all that has happened since.
"""

from collections.abc import Collection
from typing import Any

import pytest

from homeserver.streams.news import RingNews
from homeserver.streams.ring import AccountDataEntry, ReceiptEntry, Ring
from tests.serving import Running
from tests.streams.reading import filtered, joined, said


def receipt(pos: int, room_nid: int) -> ReceiptEntry:
    return ReceiptEntry(pos, room_nid, 1, "@a:b", False, "", "$e", 0)


def test_what_is_dropped_raises_the_floor() -> None:
    ring = Ring(3_000, 100)
    for pos in range(101, 121):
        ring.add_receipt(receipt(pos, 1 + pos % 3))
    assert ring.pos == 120
    assert 100 < ring.floor < 120
    kept = [
        entry.pos
        for room_nid in range(1, 4)
        for entry in ring.room_entries(room_nid, ring.floor, ring.pos)
    ]
    assert sorted(kept) == list(range(ring.floor + 1, 121))


def test_a_large_entry_pushes_out_many_small_ones() -> None:
    ring = Ring(5_000, 0)
    for pos in range(1, 5):
        ring.add_receipt(receipt(pos, 1))
    ring.add_account_data(AccountDataEntry(5, 7, 0, "test", b"x" * 4_000))
    assert ring.floor == 4
    assert [entry.pos for entry in ring.account_data(7, 4, 5)] == [5]
    assert ring.room_entries(1, ring.floor, 5) == []
    # One that is larger than all there is leaves nothing, and says so.
    ring.add_account_data(AccountDataEntry(6, 7, 0, "test", b"x" * 6_000))
    assert (ring.floor, ring.pos) == (6, 6)


def test_the_rooms_that_have_something_new() -> None:
    ring = Ring(1_000_000, 0)
    for pos, room_nid in enumerate((5, 6, 5, 7), 1):
        ring.add_receipt(receipt(pos, room_nid))
    for rooms in ({5, 6}, set(range(5, 50))):
        assert ring.rooms_since(0, rooms) == rooms & {5, 6, 7}
        assert ring.rooms_since(2, rooms) == rooms & {5, 7}
        assert ring.rooms_since(4, rooms) == set()


def test_an_empty_ring_follows_the_stream() -> None:
    ring = Ring(0, 10)
    ring.add_receipt(receipt(11, 1))
    assert (ring.floor, ring.pos) == (11, 11)
    ring.advance(15)
    assert (ring.floor, ring.pos) == (15, 15)


def test_what_could_not_be_published_empties_it() -> None:
    ring = Ring(1_000_000, 0)
    ring.add_receipt(receipt(1, 1))
    ring.drop(3)
    assert (ring.floor, ring.pos) == (3, 3)
    assert ring.room_entries(1, 0, 3) == []


@pytest.fixture
def settings() -> dict[str, Any]:
    """A ring that holds a few events only."""
    return {"sync": {"ring_bytes": 3_000}}


async def test_who_is_behind_the_floor_is_answered_from_the_tables(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    tokens = [(await alice.sync())["next_batch"]]
    sent = []
    for number in range(6):
        sent.append(await bob.say(room, str(number)))
        tokens.append((await alice.sync())["next_batch"])
    for index, since in enumerate(tokens[:-1]):
        answer = await alice.sync(since=since, filter=filtered(limit=50))
        assert said(joined(answer, room)) == sent[index:]


async def test_what_is_dropped_while_an_answer_is_made_is_read_from_the_tables(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.sync()
    sent = [await bob.say(room, "first")]
    look = RingNews.rooms

    async def look_slowly(news: RingNews, rooms: Collection[int]) -> set[int]:
        monkeypatch.undo()
        found = await look(news, rooms)
        sent.extend([await bob.say(room, str(number)) for number in range(9)])
        return found

    monkeypatch.setattr(RingNews, "rooms", look_slowly)
    heard = said(joined(await alice.sync(), room))
    assert heard == sent[: len(heard)]
    assert heard
    if len(heard) < len(sent):
        heard += said(joined(await alice.sync(), room))
    assert heard == sent

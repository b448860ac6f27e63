"""A room goes on after a commit of it has failed: verbs are run again, the graph stays whole.

The real database is made to refuse single items. That the graph is whole is checked by the fixture
`server` when the test is over. spec: server-server-api#pdus
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from homeserver.rooms.actor import Room
from homeserver.rooms.append import Txn
from homeserver.rooms.posting import Posting
from homeserver.rooms.relations import Relating
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import Views
from homeserver.streams.numbers import Names
from storage.changes import Change, CommitFailed, Conflict, DatabaseGone, Insert, Item
from storage.compression import unpack_json
from storage.engine import Database
from storage.postgresql import PostgresDatabase
from storage.schema import EventJsonRow
from storage.sqlite import SQLiteDatabase
from tests.rooms.paths import at
from tests.serving import Person, Running


class Poisoned:
    """Makes the database refuse each item whose events hold the word "poison"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: CommitFailed = Conflict("events")
        self.database: Database | None = None
        for kind in (SQLiteDatabase, PostgresDatabase):
            self._wrap(kind, monkeypatch)

    def _wrap(self, kind: type[Database], monkeypatch: pytest.MonkeyPatch) -> None:
        commit = kind.commit

        async def refusing(database: Database, items: Sequence[Item]) -> list[int]:
            self.database = database
            await asyncio.sleep(0)
            if any(is_poison(change) for item in items for change in item.changes):
                raise self.error
            return await commit(database, items)

        monkeypatch.setattr(kind, "commit", refusing)


def is_poison(change: Change) -> bool:
    if not isinstance(change, Insert) or not isinstance(change.row, EventJsonRow):
        return False
    return b"poison" in unpack_json(change.row.json)


@pytest.fixture
def poisoned(server: Running, monkeypatch: pytest.MonkeyPatch) -> Poisoned:
    return Poisoned(monkeypatch)


async def texts(person: Person, room_id: str) -> list[str]:
    query = {"dir": "f", "limit": 500, "filter": '{"types":["m.room.message"]}'}
    page = await person.ok("GET", at(room_id, "messages"), query=query)
    return [event["content"]["body"] for event in page["chunk"]]


async def say(person: Person, room_id: str, text: str) -> int:
    body = {"msgtype": "m.text", "body": text}
    path = at(room_id, "send", "m.room.message", text)
    return (await person.raw("PUT", path, body=body)).status


async def test_those_behind_a_failed_event_get_in(server: Running, poisoned: Poisoned) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    words = [f"word {n}" if n % 6 else f"poison {n}" for n in range(20)]
    statuses = await asyncio.gather(*(say(alice, room, word) for word in words))
    assert statuses == [200 if n % 6 else 500 for n in range(20)]
    expected = sorted(word for word in words if "poison" not in word)
    assert sorted(await texts(alice, room)) == expected
    await server.restart()
    assert await say(alice, room, "after") == 200
    assert (await texts(alice, room))[-1] == "after"


async def test_what_asks_only_is_answered_after_a_failure(
    server: Running, poisoned: Poisoned
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    assert await say(alice, room, "poison") == 500
    await alice.join(room)
    await alice.ok("PUT", at(room, "state", "m.room.name"), body={"name": "N"})
    assert await say(alice, room, "poison again") == 500
    await alice.refused("M_NOT_FOUND", "PUT", at(room, "redact", "$x", "1"), body={})


async def test_nobody_is_refused_for_what_never_was(server: Running, poisoned: Poisoned) -> None:
    """Bob's ban fails to be stored: what he says meanwhile gets in."""
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    body = {"user_id": bob.user_id, "reason": "poison"}
    ban = asyncio.create_task(alice.raw("POST", at(room, "ban"), body=body))
    replies = await asyncio.gather(*(say(bob, room, f"word {n}") for n in range(10)))
    assert (await ban).status == 500
    assert replies == [200] * 10
    member = await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert member == {"membership": "join"}


async def test_failed_state_is_not_built_upon(server: Running, poisoned: Poisoned) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    first = await alice.put_state(room, "m.room.topic", {"topic": "first"})
    await asyncio.gather(
        *(
            alice.raw("PUT", at(room, "state", "m.room.topic"), body={"topic": topic})
            for topic in ("poison 1", "second", "poison 2")
        )
    )
    event = await alice.ok("GET", at(room, "state", "m.room.topic"), query={"format": "event"})
    assert event["content"] == {"topic": "second"}
    assert event["unsigned"]["replaces_state"] == first
    listed = await alice.sync(remember=False)
    assert "poison" not in str(listed)


async def test_a_database_that_was_away_is_used_again(server: Running, poisoned: Poisoned) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    poisoned.error = DatabaseGone()
    assert await say(alice, room, "poison") == 503
    assert await say(alice, room, "fine") == 200
    assert await texts(alice, room) == ["fine"]


async def test_a_room_that_could_not_be_stored_does_not_exist(
    server: Running, poisoned: Poisoned
) -> None:
    alice = await server.person("alice")
    reply = await alice.raw("POST", "/createRoom", body={"name": "poison"})
    assert reply.status == 500
    assert (await alice.ok("GET", "/joined_rooms"))["joined_rooms"] == []
    await alice.create_room(name="fine")


async def test_a_transaction_stored_by_somebody_else_is_found(
    server: Running, poisoned: Poisoned
) -> None:
    """Two processes, or a request whose client has gone: the row decides, not the memory."""
    alice = await server.person("alice")
    room_id = await alice.create_room()
    services = server.app.services
    room = await services.rooms.find(room_id)
    assert room is not None
    database = poisoned.database
    assert database is not None
    names = Names(database)
    relating = Relating(database, Timeline(database, Views(database, names)), names)
    others = [Posting(services.rooms, database, relating, server.clock) for _ in range(4)]
    txn = Txn(1, 2, "t")
    content: dict[str, Any] = {"msgtype": "m.text", "body": "once"}

    async def post(posting: Posting, room: Room) -> str:
        return await posting.send(alice.user_id, room, "m.room.message", content, txn)

    sent = await asyncio.gather(
        *(post(posting, room) for posting in others),
        *(say(alice, room_id, f"x{n}") for n in (1, 2)),
    )
    assert len(set(sent[:4])) == 1
    assert sent[4:] == [200, 200]
    assert sorted(await texts(alice, room_id)) == ["once", "x1", "x2"]

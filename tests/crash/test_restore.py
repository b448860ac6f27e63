"""An older copy of the database is put back: clients from its lost future get everything again."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from bench.client import Client, Json
from tests.processes import Server

pytestmark = pytest.mark.skipif(
    os.environ.get("HOMESERVER_TEST_SERVER") == "synapse", reason="a promise of ours"
)


class Copy:
    """A copy of a stopped server's database, which can be put back."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._file = server.folder / "copy"
        self._name = ""
        if server.database.startswith("sqlite:"):
            self._file.mkdir()
            for part in self._files():
                shutil.copy(part, self._file / part.name)
        else:
            with psycopg.connect(server.database) as connection:
                self._name = connection.info.dbname
            self._postgresql("CREATE DATABASE {copy} TEMPLATE {name}")

    def put_back(self) -> None:
        """Replace the database by the copy."""
        if self._server.database.startswith("sqlite:"):
            for part in self._files():
                part.unlink()
            for part in self._file.iterdir():
                shutil.copy(part, self._server.folder / part.name)
        else:
            self._postgresql("DROP DATABASE {name}")
            self._postgresql("CREATE DATABASE {name} TEMPLATE {copy}")

    def _files(self) -> list[Path]:
        database = Path(self._server.database.removeprefix("sqlite:"))
        return list(database.parent.glob(f"{database.name}*"))

    def _postgresql(self, statement: str) -> None:
        parts = {"name": Identifier(self._name), "copy": Identifier(f"{self._name}_copy")}
        with psycopg.connect(
            self._server.database, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(SQL(statement).format(**parts))


def _timeline(reply: Json, room_id: str) -> list[str]:
    room = reply.get("rooms", {}).get("join", {}).get(room_id, {})
    return [event["event_id"] for event in room.get("timeline", {}).get("events", [])]


async def _sync(client: Client, since: str | None) -> Json:
    async with asyncio.timeout(30):
        return await client.sync(since)


async def test_clients_get_everything_again_after_an_older_copy_was_put_back(
    server: Server, client: Callable[[], Client]
) -> None:
    alice, bob = client(), client()
    await alice.register("alice")
    await bob.register("bob")
    rooms = [await alice.create_room(preset="public_chat") for _ in range(3)]
    for room_id in rooms:
        await bob.join(room_id)
    kept = await alice.say(rooms[0], "in the copy")
    before_copy = (await _sync(bob, None))["next_batch"]
    after_token = await alice.say(rooms[1], "in the copy, after the token")

    await asyncio.to_thread(server.stop)
    copy = Copy(server)
    await asyncio.to_thread(server.start)

    lost = [await alice.say(rooms[0], f"lost {number}") for number in range(5)]
    lost_room = await alice.create_room(preset="public_chat")
    future = (await _sync(bob, before_copy))["next_batch"]
    assert lost[-1] in _timeline(await _sync(bob, before_copy), rooms[0])

    await asyncio.to_thread(server.stop)
    copy.put_back()
    await asyncio.to_thread(server.start)

    async def everything_again() -> str:
        reply = await _sync(bob, future)
        joined = reply["rooms"]["join"]
        assert set(joined) == set(rooms), "a room of the lost future is shown, or one is missing"
        for room_id, room in joined.items():
            assert room["timeline"]["limited"], f"{room_id} looks as if nothing were missing"
            events = room["timeline"]["events"] + room["state"]["events"]
            state = {(e["type"], e["state_key"]) for e in events if "state_key" in e}
            assert ("m.room.create", "") in state
            assert ("m.room.member", alice.user_id) in state
            assert ("m.room.member", bob.user_id) in state
        assert kept in _timeline(reply, rooms[0])
        assert not set(lost) & set(_timeline(reply, rooms[0]))
        token: str = reply["next_batch"]
        return token

    token = await everything_again()
    fresh = await alice.say(rooms[2], "a new future")
    assert _timeline(await _sync(bob, token), rooms[2]) == [fresh]

    resumed = await _sync(bob, before_copy)
    assert _timeline(resumed, rooms[1]) == [after_token], "a token from before the copy is good"
    assert not resumed["rooms"]["join"][rooms[1]]["timeline"]["limited"]

    for number in range(40):
        await alice.say(rooms[0], f"past the old position {number}")
    joined = (await _sync(bob, future))["rooms"]["join"]
    assert set(joined) == set(rooms)
    assert all(room["timeline"]["limited"] for room in joined.values()), (
        "the lost future's token is taken for one of the new positions, which have passed it"
    )
    assert lost_room not in joined

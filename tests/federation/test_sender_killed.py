"""kill -9 in the middle of sending: what a client was told is sent arrives, and in order."""

import asyncio
import contextlib
import random
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from homeserver.matrix.canonical import JsonObject
from tests.databases import PostgresServer
from tests.federation.house import house, until
from tests.processes import postgresql_url
from tests.serving import Person


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def test_every_acknowledged_event_arrives(
    authority: trustme.CA, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    """The other server fails now and then, so that some are sent and not acknowledged."""
    chance = random.Random(kind)
    async with house(authority, tmp_path) as made:
        database = None
        if kind == "postgresql":
            postgres: PostgresServer = request.getfixturevalue("postgres")
            database = postgresql_url(postgres.blank_database())
        server = made.server("a.example", database)
        await made.start("a.example")
        guest = await made.guest("guest.example")
        alice = await server.person("alice")
        room_id = await alice.create_room(preset="public_chat")
        await guest.join(server, room_id, guest.user("bob"))

        def refuse(_: JsonObject) -> web.StreamResponse | None:
            return web.json_response({}, status=500) if chance.random() < 0.2 else None

        guest.refuse = refuse
        acknowledged: list[str] = []
        for life in range(3):
            talking = asyncio.create_task(talk(alice, room_id, acknowledged, life))
            before = len(acknowledged)
            await until(lambda: enough(acknowledged, before + 20))  # noqa: B023
            server.kill()
            with contextlib.suppress(aiohttp.ClientError):
                await talking
            await made.start("a.example")
        guest.refuse = None
        last = await alice.say(room_id, "last")
        acknowledged.append("last")
        assert last

        async def all_there() -> bool:
            return set(acknowledged) <= {text(pdu) for pdu in guest.pdus}

        await until(all_there)
        first: dict[str, int] = {}
        for pdu in guest.pdus:
            first.setdefault(text(pdu), pdu["depth"])
        depths = [first[one] for one in acknowledged]
        assert depths == sorted(depths)


async def talk(alice: Person, room_id: str, acknowledged: list[str], life: int) -> None:
    number = 0
    while True:
        said = f"{life}.{number}"
        await alice.say(room_id, said)
        acknowledged.append(said)
        number += 1
        await asyncio.sleep(0.01)  # of a room that is very far ahead only the end is sent


async def enough(acknowledged: list[str], count: int) -> bool:
    return len(acknowledged) >= count


def text(pdu: JsonObject) -> str:
    return str(pdu["content"].get("body"))

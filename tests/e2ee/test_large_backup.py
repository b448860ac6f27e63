"""A large backup is stored and read in little memory, by several devices at once."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2ee.test_backup import ALGORITHM, session
from tests.processes import OurServer, resident_bytes, running
from tests.serving import PASSWORD

MEGABYTE = 1_048_576
ROOMS = 20
AT_ONCE = 500
"""Sessions in one upload; clients send 100 or 200."""
DATA = "x" * 1_500
MOST = 40 * MEGABYTE
"""What all of it may take beyond what the server takes in any case."""


@pytest.mark.parametrize(
    "sessions",
    [20_000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])],
)
async def test_a_backup_is_not_held_in_memory(tmp_path: Path, sessions: int) -> None:
    with running(OurServer(tmp_path / "server")) as server:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(server.url, timeout=timeout) as http:
            account = {"username": "a", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
            async with http.post("/_matrix/client/v3/register", json=account) as answer:
                token = (await answer.json())["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            base = "/_matrix/client/v3/room_keys"
            made = {"algorithm": ALGORITHM, "auth_data": {"public_key": "abc"}}
            async with http.post(f"{base}/version", json=made) as answer:
                keys = f"{base}/keys?version={(await answer.json())['version']}"

            async def store(first: int) -> None:
                rooms: dict[str, dict[str, dict[str, Any]]] = {}
                for number in range(first, first + AT_ONCE):
                    own = rooms.setdefault(f"!{number % ROOMS}:x", {"sessions": {}})
                    own["sessions"][f"{number}"] = session(number, data=DATA)
                async with http.put(keys, json={"rooms": rooms}) as answer:
                    assert answer.status == 200, await answer.text()

            async def read() -> dict[str, Any]:
                async with http.get(keys) as answer:
                    return dict((await answer.json())["rooms"])

            async def store_all() -> None:
                for first in range(0, sessions, AT_ONCE):
                    await store(first)

            async def peak(*work: Coroutine[Any, Any, Any]) -> tuple[int, list[Any]]:
                """The most that the server took meanwhile, and what came out."""
                most = 0
                tasks = [asyncio.ensure_future(one) for one in work]
                while not all(task.done() for task in tasks):
                    most = max(most, resident_bytes(server.pid))
                    await asyncio.sleep(0.02)
                return most, [task.result() for task in tasks]

            idle = resident_bytes(server.pid)
            storing, _ = await peak(store_all())
            reading, found = await peak(read(), read(), read())
        for rooms in found:
            assert sum(len(room["sessions"]) for room in rooms.values()) == sessions
        most = max(storing, reading)
        said = f"{idle / MEGABYTE:.0f} MiB before, {most / MEGABYTE:.0f} at most"
        print(said)
        assert most - idle < MOST, said

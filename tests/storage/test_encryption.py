"""Encryption at rest: after real traffic no file of the database shows a word of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from homeserver.app import App
from homeserver.runtime.clock import FakeClock
from storage.engine import DatabaseSettings
from storage.sqlite_copies import new_key_file
from tests.serving import Running, configure

WORDS = ("Zanzibar lounge", "perigee-phone", "quixotic-user", "a topic of marzipan", "flugelhorn")


@asynccontextmanager
async def running(folder: Path, database: dict[str, Any]) -> AsyncIterator[Running]:
    clock = FakeClock()
    config = configure(DatabaseSettings(path=folder / "test.db"), folder, {"database": database})
    app = App(config, clock)
    await app.start()
    async with aiohttp.ClientSession() as http:
        server = Running(app, config, clock, http)
        try:
            yield server
        finally:
            await server.app.stop()


def shown(folder: Path) -> set[str]:
    """The words that can be read in any file of the folder."""
    contents = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    return {word for word in WORDS if any(word.encode() in content for content in contents)}


@pytest.mark.parametrize("encrypted", [True, False])
async def test_no_file_holds_plain_text(tmp_path: Path, encrypted: bool) -> None:
    key_file = tmp_path / "key"
    new_key_file(key_file)
    folder = tmp_path / "data"
    await asyncio.to_thread(folder.mkdir)
    database = {"key_file": str(key_file)} if encrypted else {}
    async with running(folder, database) as server:
        ada = await server.person(WORDS[2])
        room_id = await ada.create_room(name=WORDS[0], topic=WORDS[3])
        for n in range(30):
            await ada.say(room_id, f"{WORDS[4]} {n}")
        await ada.ok("PUT", f"/devices/{ada.device_id}", body={"display_name": WORDS[1]})
        await ada.ok(
            "PUT", f"/user/{ada.user_id}/account_data/org.example", body={"said": WORDS[4]}
        )
        await ada.sync()
        log = folder / "test.db-wal"
        assert (await asyncio.to_thread(log.stat)).st_size > 0
        assert await asyncio.to_thread(shown, folder) == (set() if encrypted else set(WORDS))
    assert await asyncio.to_thread(shown, folder) == (set() if encrypted else set(WORDS))

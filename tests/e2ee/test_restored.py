"""An older copy of the database is put back: keys that it has were given out in what was lost.

Each device that comes back knows of the lost future, and has its own keys dropped; `homeserver
restored` drops those of all.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.engine import DatabaseSettings
from tests.e2ee.keyed import SIGNED, keyed
from tests.serving import Person, Running, served
from tests.sliding.client import Sliding

EXTENSIONS = {name: {"enabled": True} for name in ("to_device", "e2ee")}


def again(server: Running, person: Person) -> Person:
    """The same session on another run of the server."""
    return Person(server, person.user_id, person.token, person.device_id, person.since)


@pytest.mark.parametrize("way", ["sync", "sliding"])
async def test_a_device_that_knows_of_it_has_its_keys_dropped(tmp_path: Path, way: str) -> None:
    path, copy = tmp_path / "test.db", tmp_path / "copy.db"
    database = DatabaseSettings(path=path, durable=False)
    async with served(database, tmp_path, {}) as server:
        alice, bob = await server.person("alice"), await server.person("bob")
        device, other = await keyed(alice, 3), await keyed(bob)
        await device.upload(fallback_keys={f"{SIGNED}:F": device.key(fallback=True)})
    shutil.copy(path, copy)

    async with served(database, tmp_path, {}) as server:
        alice, other.person = again(server, alice), again(server, bob)
        given = await other.claim(device)
        sliding = Sliding(alice, extensions=EXTENSIONS)
        for _ in range(2):
            await (sliding.sync() if way == "sliding" else alice.sync())
    path.unlink()
    shutil.copy(copy, path)

    async with served(database, tmp_path, {}) as server:
        alice, other.person = again(server, alice), again(server, bob)
        device.person = alice
        anew = Sliding(alice, extensions=sliding.extensions)

        async def pool() -> Any:
            if way == "sync":
                return await alice.sync()
            return (await anew.sync())["extensions"]["e2ee"]

        told = await pool()
        assert told["device_one_time_keys_count"] == {SIGNED: 0}
        assert told["device_unused_fallback_key_types"] == []
        assert await device.upload(2) == 2
        told = await pool()
        assert told["device_one_time_keys_count"] == {SIGNED: 2}
        assert given != [None]
        assert not set(given) & {*(await other.claim(device)), *(await other.claim(device))}

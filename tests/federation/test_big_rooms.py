"""Rooms of ten and of fifty thousand members are joined within bounds of time and memory."""

import asyncio
import time
from pathlib import Path

import pytest
import trustme

from tests.federation.generated import GeneratedRoom
from tests.federation.house import house


@pytest.mark.long
@pytest.mark.parametrize("members", [10_000, 50_000])
async def test_many_members_are_joined_whole(
    authority: trustme.CA, tmp_path: Path, members: int
) -> None:
    async with house(authority, tmp_path) as made:
        (a,) = await made.start("a.example")
        guest = await made.guest("big.example")
        room = GeneratedRoom(guest, "11", members)
        guest.answer = room.answer
        alice, bob = await a.person("alice"), await a.person("bob")
        other = await bob.create_room()
        await bob.sync()
        before, cpu = a.resident(), a.cpu()
        most, slowest = 0, 0.0

        async def others() -> None:
            nonlocal most, slowest
            while True:
                began = time.monotonic()
                await bob.say(other, "and we go on")
                await bob.sync(timeout=10_000)
                slowest = max(slowest, time.monotonic() - began)
                most = max(most, a.resident())

        watching = asyncio.create_task(others())
        began = time.monotonic()
        await alice.ok("POST", f"/join/{room.room_id}?via=big.example", body={})
        assert time.monotonic() - began < members * 6 / 1000
        watching.cancel()
        assert a.cpu() - cpu < members * 2 / 1000
        assert most - before < 200_000_000
        assert slowest < 2
        joined = (await alice.sync())["rooms"]["join"][room.room_id]
        assert joined["summary"]["m.joined_member_count"] == members + 2
        assert len(joined["state"]["events"]) == members + 5
        a.stop()
        checked = a.check()
        assert checked.returncode == 0, checked.stdout

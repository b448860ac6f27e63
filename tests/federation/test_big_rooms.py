"""A room of ten thousand members is joined within bounds of time and memory."""

import asyncio
import time
from pathlib import Path

import pytest
import trustme

from tests.federation.generated import GeneratedRoom
from tests.federation.house import house

MEMBERS = 10_000


@pytest.mark.long
async def test_ten_thousand_members_are_joined_whole(authority: trustme.CA, tmp_path: Path) -> None:
    async with house(authority, tmp_path) as made:
        (a,) = await made.start("a.example")
        guest = await made.guest("big.example")
        room = GeneratedRoom(guest, "11", MEMBERS)
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
        assert time.monotonic() - began < 60
        watching.cancel()
        assert a.cpu() - cpu < 20
        assert most - before < 200_000_000
        assert slowest < 2
        joined = (await alice.sync())["rooms"]["join"][room.room_id]
        assert joined["summary"]["m.joined_member_count"] == MEMBERS + 2
        assert len(joined["state"]["events"]) == MEMBERS + 5
        a.stop()
        checked = a.check()
        assert checked.returncode == 0, checked.stdout

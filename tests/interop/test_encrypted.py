"""Encrypted rooms of ours and Synapse: everybody on both reads everything that was for them.

On each side is a program of matrix-nio (vodozemac) and one of matrix-js-sdk (the Rust cryptography
of Element); all are in a room of ours and in one of theirs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.encrypting import (
    Device,
    People,
    Programs,
    acquainted,
    device_gone,
    enter,
    knows,
    reads,
    sees,
)
from tests.clients.js_person import JsPerson
from tests.federation.house import until
from tests.federation.servers import Peer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def programs(peers: dict[str, Peer], tmp_path: Path) -> AsyncIterator[Programs]:
    async with AsyncExitStack() as stack:
        yield Programs(peers, tmp_path, stack)


@pytest_asyncio.fixture(loop_scope="module")
async def people(peers: dict[str, Peer], tmp_path: Path) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        yield People(peers, tmp_path / "programs", stack)


async def together(inviter: JsPerson, other: JsPerson, devices: list[Device]) -> str:
    """An encrypted room that the first has made and all are in.

    Who is on its server comes first: where joins of two servers cross, Synapse's syncs give old
    memberships as new state.
    """
    room_id = await inviter.create_encrypted_room("Secrets")
    for user_id in (other.user_id, *(device.user_id for device in devices)):
        await inviter.invite(room_id, user_id)
    for device in devices:
        await enter(device, room_id)
    await other.until(room_id, lambda view: view.membership == "invite")
    await other.join(room_id)
    for device in devices:
        await device.in_room(room_id, 4)
    for program in (inviter, other):
        await sees(program, room_id, 4)
    return room_id


async def acquaint(programs: list[JsPerson], devices: list[Device]) -> None:
    """Wait until all know each other's devices."""
    await acquainted(*devices)
    ids = [str(device.client.device_id) for device in devices]
    for program in programs:
        device_id = await program.device_id()
        for device, other_id in zip(devices, ids, strict=True):
            await knows(program, device.user_id, other_id)
            await device.knows_device(program.user_id, device_id)
        for other in programs:
            if other is not program:
                await knows(other, program.user_id, device_id)


async def all_read(
    rooms: list[str], subject: str, programs: list[JsPerson], devices: list[Device]
) -> None:
    """Each says something in each room, and all read everything."""
    speakers: list[JsPerson | Device] = [*programs, *devices]
    for room_id in rooms:
        said = [f"{number} on {subject} in {room_id}" for number in range(len(speakers))]
        await asyncio.gather(
            *(one.say(room_id, text) for one, text in zip(speakers, said, strict=True))
        )
        for program in programs:
            await reads(program, room_id, *said)
        for device in devices:
            for text in said:
                await device.reads(text)


async def test_everybody_reads_everything(programs: Programs, people: People) -> None:
    """Devices that come and go are known on both; signed identities are seen on both."""
    alice, carol, bob, dave = await asyncio.gather(
        programs.device("alice", "ours"),
        programs.device("carol", "synapse"),
        people.device("bob", "ours"),
        people.device("dave", "synapse"),
    )
    staying = [bob, dave]
    rooms = [await together(alice, carol, staying), await together(carol, alice, staying[::-1])]
    await acquaint([alice, carol], staying)
    await all_read(rooms, "who is here", [alice, carol], staying)

    for one, other in ((alice, carol), (carol, alice)):
        await one.set_up()
        device_id = await one.device_id()

        async def signed(
            user_id: str = one.user_id, device_id: str = device_id, other: JsPerson = other
        ) -> bool:
            return await other.is_signed(user_id, device_id)

        await until(signed)

    tablets = await asyncio.gather(
        people.device("alice", "ours", new=False), people.device("carol", "synapse", new=False)
    )
    for tablet in tablets:
        for room_id in rooms:
            await tablet.in_room(room_id, 4)
    await acquaint([alice, carol], [*staying, *tablets])
    await all_read(rooms, "tablets", [alice, carol], [*staying, *tablets])

    for tablet in tablets:
        gone = str(tablet.client.device_id)
        await tablet.log_out()
        for device in staying:
            await device_gone(device, tablet.user_id, gone)
        for program in (alice, carol):

            async def forgotten(
                program: JsPerson = program, user_id: str = tablet.user_id, gone: str = gone
            ) -> bool:
                return gone not in await program.devices_of(user_id)

            await until(forgotten)
    await all_read(rooms, "who is left", [alice, carol], staying)

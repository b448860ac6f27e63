"""Encrypted rooms of people whose programs really encrypt: matrix-nio with vodozemac.

Owns no claim on the cryptography: what is asserted is that every message is read by everybody in
the room, so no key, list of devices or one-time key was lost, late, or given out twice.
"""

import asyncio

import pytest

from tests.clients.encrypting import People, acquainted, all_heard, enter, together
from tests.federation.house import House


@pytest.mark.parametrize("server", ["a.example", "b.example"])
async def test_everybody_reads_everything(made: House, people: People, server: str) -> None:
    """Through a new member, a new device, a program's restart and a server's death."""
    alice = await people.device("alice", "a.example")
    bob = await people.device("bob", server)
    room_id = await together(alice, bob)
    await acquainted(alice, bob)
    await all_heard(room_id, alice, bob)
    carol = await people.device("carol", "a.example")
    await alice.client.room_invite(room_id, carol.user_id)
    await enter(carol, room_id)
    for device in (alice, bob, carol):
        await device.in_room(room_id, 3)
    await acquainted(alice, bob, carol)
    await all_heard(room_id, alice, bob, carol)
    tablet = await people.device("bob", server, new=False)
    await tablet.in_room(room_id, 3)
    await acquainted(alice, carol, tablet)
    await bob.knows(tablet)
    await all_heard(room_id, alice, bob, carol, tablet)
    await alice.restart()
    await asyncio.to_thread(made.servers[server].kill)
    await asyncio.to_thread(made.servers[server].start)
    await all_heard(room_id, bob, alice, tablet, carol)

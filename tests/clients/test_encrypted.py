"""Encrypted rooms of people whose programs really encrypt: matrix-nio with vodozemac.

Owns no claim on the cryptography: what is asserted is that every message is read by everybody in
the room, so no key, list of devices or one-time key was lost, late, or given out twice.
"""

import asyncio

import nio
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
    tablet, watch = [await people.device("bob", server, new=False) for _ in range(2)]
    for device in (tablet, watch):
        await device.in_room(room_id, 3)
    await acquainted(alice, carol, bob, tablet, watch)
    await all_heard(room_id, alice, bob, carol, tablet, watch)
    await alice.restart()
    await asyncio.to_thread(made.servers[server].kill)
    await asyncio.to_thread(made.servers[server].start)
    await all_heard(room_id, bob, alice, tablet, carol, watch)


async def test_a_key_is_asked_for_and_given(people: People) -> None:
    """A new device asks another of its user for the key of what was said before."""
    alice = await people.device("alice", "a.example")
    bob = await people.device("bob", "b.example")
    room_id = await together(alice, bob)
    await acquainted(alice, bob)
    await bob.say(room_id, "before")
    await alice.reads("before")
    tablet = await people.device("alice", "a.example", new=False)
    await tablet.in_room(room_id, 2)
    await acquainted(alice, tablet)
    for one, other in ((alice, tablet), (tablet, alice)):
        one.client.verify_device(one.client.device_store[other.user_id][other.client.device_id])
    page = await tablet.client.room_messages(room_id, tablet.client.next_batch, limit=20)
    (event,) = [one for one in page.chunk if isinstance(one, nio.MegolmEvent)]
    answer = await tablet.client.request_room_key(event)
    assert isinstance(answer, nio.RoomKeyRequestResponse), answer

    def readable() -> bool:
        try:
            return bool(tablet.client.decrypt_event(event).body == "before")
        except nio.EncryptionError:
            return False

    # matrix-nio looks after requests when a sync has brought something.
    async with asyncio.timeout(90):
        while not readable():
            await bob.say(room_id, "more")
            await asyncio.gather(alice.client.synced.wait(), tablet.client.synced.wait())

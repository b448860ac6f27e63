"""Encrypted rooms of matrix-js-sdk (the Rust cryptography of Element) and matrix-nio.

Owns no claim on the cryptography: what is asserted is that every device reads everything that was
said while its account was in the room, and that identity, secrets and backup come back from the
server whole.
"""

import asyncio

import pytest

from tests.clients.encrypting import People, Programs, device_gone, enter, knows, reads, sees
from tests.clients.js_person import JsPerson
from tests.federation.house import House, until


@pytest.mark.parametrize(
    ("server", "many"),
    [
        ("a.example", 200),
        ("b.example", 200),
        pytest.param("b.example", 1_000, marks=[pytest.mark.long, pytest.mark.timeout(1_800)]),
    ],
)
async def test_two_sdks(
    made: House, programs: Programs, people: People, server: str, many: int
) -> None:
    """A device that is off for many messages, then another that has only what the server kept."""
    alice = await programs.device("alice", "a.example")
    bob = await people.device("bob", server)
    recovery_key = await alice.set_up()
    room_id = await alice.create_encrypted_room("Secrets")
    await alice.invite(room_id, bob.user_id)
    await enter(bob, room_id)
    await bob.in_room(room_id, 2)
    await sees(alice, room_id, 2)
    assert bob.client.device_id is not None
    await knows(alice, bob.user_id, bob.client.device_id)
    await alice.say(room_id, "from alice")
    await bob.reads("from alice")
    await bob.say(room_id, "from bob")
    await reads(alice, room_id, "from bob")

    await alice.go_offline()
    said = [f"{number}" for number in range(many)]
    for text in said:
        await bob.say(room_id, text)
    await alice.go_online()
    # Of many messages the next sync has the last ones alone.
    await reads(alice, room_id, said[-1])
    await alice.page_back(room_id)
    await reads(alice, room_id, *said)
    await alice.say(room_id, "all read")
    await bob.reads("all read")

    async def backed_up() -> bool:
        known, stored = await alice.sessions()
        return known == stored

    await until(backed_up, 90)
    known, _ = await alice.sessions()
    first = await alice.device_id()
    phone = await programs.device("alice", "a.example", new=False)
    await alice.log_out()
    assert await phone.recover(recovery_key) == (known, known)
    await phone.page_back(room_id)
    await reads(phone, room_id, "from alice", "from bob", *said, "all read")
    assert await phone.trusts(phone.user_id, await phone.device_id())
    await device_gone(bob, phone.user_id, first)
    await phone.say(room_id, "from the phone")
    await bob.reads("from the phone")
    await bob.say(room_id, "to the phone")
    await reads(phone, room_id, "to the phone")


async def test_verification(programs: Programs) -> None:
    """Two devices of one account compare short strings; then both know that the new one
    is signed."""
    laptop = await programs.device("alice", "a.example")
    await laptop.set_up()
    phone = await programs.device("alice", "a.example", new=False)
    names = {await laptop.device_id(), await phone.device_id()}
    for one in (laptop, phone):
        await knows(one, one.user_id, *names)
    new = await phone.device_id()
    assert not await laptop.trusts(laptop.user_id, new)
    shown = await asyncio.gather(phone.verify_other(), laptop.be_verified())
    assert shown[0] == shown[1]
    for device in (laptop, phone):

        async def trusted(device: JsPerson = device) -> bool:
            return await device.trusts(device.user_id, new)

        await until(trusted, 60)


@pytest.mark.parametrize("server", ["a.example", "b.example"])
async def test_who_is_invited_reads_what_was_said_before(
    made: House, programs: Programs, server: str
) -> None:
    """Its keys come as a file that is encrypted, named by a message to the device.

    spec: client-server-api#sharing-keys-between-users
    """
    alice = await programs.device("alice", "a.example")
    await alice.set_up()
    bob = await programs.device("bob", server)
    await bob.set_up()
    room_id = await alice.create_encrypted_room("Secrets", history="shared")
    await sees(alice, room_id, 1)
    said = [f"{number}" for number in range(3)]
    for text in said:
        await alice.say(room_id, text)
    await alice.invite(room_id, bob.user_id)
    await bob.until(room_id, lambda view: view.membership == "invite")
    await bob.join(room_id)
    await sees(bob, room_id, 2)
    await bob.page_back(room_id)
    await reads(bob, room_id, *said)


async def test_what_is_said_while_no_device_is_there(programs: Programs, people: People) -> None:
    """A dehydrated device takes the keys, which the next device finds in it."""
    alice = await programs.device("alice", "a.example")
    bob = await people.device("bob", "b.example")
    recovery_key = await alice.set_up()
    await alice.dehydrate()
    room_id = await alice.create_encrypted_room("Secrets")
    await alice.invite(room_id, bob.user_id)
    await enter(bob, room_id)
    await bob.in_room(room_id, 2)
    await bob.until(
        lambda: len(list(bob.client.device_store.active_user_devices(alice.user_id))) == 2
    )
    first = await alice.device_id()
    await alice.log_out()
    await device_gone(bob, alice.user_id, first)
    said = [f"{number}" for number in range(3)]
    for text in said:
        await bob.say(room_id, text)
    phone = await programs.device("alice", "a.example", new=False)
    await phone.recover(recovery_key)
    await phone.rehydrate()
    await phone.page_back(room_id)
    await reads(phone, room_id, *said)

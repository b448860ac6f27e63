"""Keys and messages of devices between servers.

spec: server-server-api#end-to-end-encryption, server-server-api#send-to-device-messaging
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import trustme

from tests.api.test_keys import Device, claim
from tests.federation.house import House, house, until
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

_count = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("devices")) as house_made:
        await house_made.start("a.example", "b.example")
        yield house_made


async def pair(made: House) -> tuple[Person, Person]:
    number = next(_count)
    alice = await made.servers["a.example"].person(f"alice{number}")
    bob = await made.servers["b.example"].person(f"bob{number}")
    return alice, bob


async def numbers(person: Person, enough: int) -> list[int]:
    """What the messages to the person's device hold, in order, once there are so many."""
    found: list[int] = []

    async def all_there() -> bool:
        answer = await person.sync(timeout=1_000)
        events = answer.get("to_device", {}).get("events", ())
        found.extend(event["content"]["number"] for event in events)
        return len(found) >= enough

    await until(all_there)
    return found


async def test_keys_are_queried_and_each_claimed_once(made: House) -> None:
    alice, bob = await pair(made)
    device = Device(bob)
    await device.upload(device_keys=device.keys, one_time_keys=device.one_time("A", "B"))
    wanted: dict[str, Any] = {"device_keys": {bob.user_id: []}}
    answer = await alice.ok("POST", "/keys/query", body=wanted)
    shown = answer["device_keys"][bob.user_id][bob.device_id]
    assert {key: shown[key] for key in device.keys} == device.keys
    claimed = [next(iter(await claim(alice, bob))) for _ in range(2)]
    assert claimed == ["signed_curve25519:A", "signed_curve25519:B"]
    assert await claim(alice, bob) == {}


async def test_a_server_that_is_down_is_a_failure_soon(made: House) -> None:
    alice, _ = await pair(made)
    gone = {"device_keys": {"@x:nowhere.example": [], alice.user_id: []}, "timeout": 10_000}
    answer = await alice.ok("POST", "/keys/query", body=gone)
    assert set(answer["failures"]) == {"nowhere.example"}
    assert alice.user_id in answer["device_keys"]


async def test_messages_arrive_once_and_in_order_through_a_kill(made: House) -> None:
    alice, bob = await pair(made)
    await bob.sync()

    async def send(number: int) -> None:
        body = {"messages": {bob.user_id: {bob.device_id: {"number": number}}}}
        await alice.ok("PUT", f"/sendToDevice/m.test/t{number}", body=body)

    for number in range(20):
        await send(number)
    assert await numbers(bob, 20) == list(range(20))
    server = made.servers["b.example"]
    await asyncio.to_thread(server.kill)
    for number in range(20, 60):
        await send(number)
    await asyncio.to_thread(made.servers["a.example"].kill)
    await asyncio.to_thread(made.servers["a.example"].start)
    await asyncio.to_thread(server.start)
    assert await numbers(bob, 40) == list(range(20, 60))


async def test_a_server_speaks_for_its_own_users_only(made: House) -> None:
    alice, bob = await pair(made)
    await alice.sync()
    guest = await made.guest(f"guest{next(_count)}.example")
    content = {
        "message_id": "m1",
        "type": "m.test",
        "sender": bob.user_id,
        "messages": {alice.user_id: {"*": {"number": 1}}},
    }
    a = made.servers["a.example"]
    await guest.send(a, edus=[{"edu_type": "m.direct_to_device", "content": content}])
    own = {**content, "sender": guest.user("g"), "messages": {alice.user_id: {"*": {"number": 2}}}}
    for _ in range(2):
        await guest.send(a, edus=[{"edu_type": "m.direct_to_device", "content": own}])
    assert await numbers(alice, 1) == [2]


async def test_what_makes_no_sense_holds_up_nothing(made: House) -> None:
    """Of a transaction, what can be taken is; nothing of it is a fault of this server."""
    alice, _ = await pair(made)
    guest = await made.guest(f"guest{next(_count)}.example")
    a = made.servers["a.example"]
    user, nul = guest.user("g"), "a\0b"
    await guest.join(a, await alice.create_room(preset="public_chat"), user)
    await alice.sync()

    def message(number: int, **odd: Any) -> dict[str, Any]:
        sound = {
            "message_id": f"m{number}",
            "type": "m.test",
            "sender": user,
            "messages": {alice.user_id: {"*": {"number": number}}},
        }
        return {"edu_type": "m.direct_to_device", "content": {**sound, **odd}}

    def change(edu_type: str, **odd: Any) -> dict[str, Any]:
        return {"edu_type": edu_type, "content": {"user_id": user, **odd}}

    devices, signing = "m.device_list_update", "m.signing_key_update"
    edus = [
        message(1, message_id=nul),
        message(2, message_id="m" * 300),
        message(3, messages={f"@x{nul}:a.example": {"*": {}}, alice.user_id: {nul: {}}}),
        message(4, messages={alice.user_id: {"*": []}, "@x:a.example": []}),
        message(5, messages=[]),
        message(6, sender=alice.user_id),
        message(7, type=1),
        change(devices, device_id=nul, stream_id=1, prev_id=[]),
        change(devices, device_id={}, stream_id="x", prev_id={}),
        change(devices, device_id="D", stream_id=10**30, prev_id=[10**30]),
        change(signing, master_key=[], self_signing_key=5),
        change(signing, master_key={"user_id": user, "usage": ["master"], "keys": {nul: nul}}),
        message(8),
        message(9, messages={alice.user_id: {"*": {"number": 9, "odd": [1.5, 10**40, nul]}}}),
    ]
    for _ in range(2):
        assert (await guest.send(a, edus=edus)).status == 200
    assert await numbers(alice, 2) == [8, 9]
    assert "could not be handled" not in a.log_end()


async def test_a_change_of_a_list_elsewhere_reaches_who_shares_a_room(made: House) -> None:
    alice, bob = await pair(made)
    guest = await made.guest(f"guest{next(_count)}.example")
    a = made.servers["a.example"]
    room = await alice.create_room(preset="public_chat")
    user = guest.user("g")
    await guest.join(a, room, user)
    await alice.sync()
    content = {"user_id": user, "device_id": "D", "stream_id": 5, "prev_id": [4]}
    forged = {**content, "user_id": bob.user_id}
    for one in (forged, content):
        await guest.send(a, edus=[{"edu_type": "m.device_list_update", "content": one}])
    answer = await alice.sync(timeout=5_000)
    assert answer["device_lists"]["changed"] == [user]

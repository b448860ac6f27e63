"""Dehydrated devices (MSC3814): they take messages while nobody is logged in."""

from typing import Any

from tests.api.test_devices import password, second_device
from tests.e2ee.keyed import Keyed, changed, keyed, query, write
from tests.serving import Person, Running

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


async def test_it_takes_messages_and_gives_them_page_by_page(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await alice.refused("M_NOT_FOUND", "GET", PATH)
    other = await keyed(bob)
    device = Keyed(Person(server, alice.user_id, "", "DEHYDRATED"))
    body = {
        "device_id": "DEHYDRATED",
        "device_data": {"algorithm": "test", "pickle": "..."},
        "device_keys": device.device,
        "one_time_keys": device.keys(1),
    }
    await alice.ok("PUT", PATH, body=body)
    found = await alice.ok("GET", PATH)
    assert found == {"device_id": "DEHYDRATED", "device_data": body["device_data"]}
    assert set((await query(bob, alice))["device_keys"][alice.user_id]) == {"DEHYDRATED"}
    assert await other.claim(device) == [*body["one_time_keys"]]
    for n in range(120):
        await write(bob, alice, n, f"t{n}")
    await alice.ok("POST", "/logout/all")
    alice.token = await second_device(alice)
    events = f"{PATH}/DEHYDRATED/events"
    for limit in (1_000, 7):
        # A client that broke off begins anew.
        told: list[int] = []
        asked: dict[str, Any] = {"limit": limit}
        while asked:
            page = await alice.ok("GET", events, query=asked)
            assert len(page["events"]) <= min(limit, 100)
            told += [event["content"]["text"] for event in page["events"]]
            asked = {"limit": limit, "from": page["next_batch"]} if "next_batch" in page else {}
        assert told == list(range(120))
    await alice.refused("M_INVALID_PARAM", "GET", events, query={"from": "nonsense"})
    # As it was before, until a page is empty.
    told = []
    page = await alice.ok("POST", events, body={})
    while page["events"]:
        told += [event["content"]["text"] for event in page["events"]]
        page = await alice.ok("POST", events, body={"next_batch": page["next_batch"]})
    assert told == list(range(120))
    await alice.refused("M_FORBIDDEN", "POST", f"{PATH}/TWO/events", body={})
    assert await alice.ok("DELETE", PATH) == {"device_id": "DEHYDRATED"}
    assert (await query(bob, alice))["device_keys"][alice.user_id] == {}


async def dehydrate(server: Running, person: Person, device_id: str) -> Keyed:
    """Leave a device with a one-time key behind."""
    device = Keyed(Person(server, person.user_id, "", device_id))
    body: dict[str, Any] = {
        "device_id": device_id,
        "device_data": {"algorithm": "test"},
        "device_keys": device.device,
        "one_time_keys": device.keys(1),
    }
    await person.ok("PUT", PATH, body=body)
    return device


async def test_another_takes_its_place(server: Running) -> None:
    """Nothing of the one before is left, also where they have the same name."""
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.join(await alice.create_room(preset="public_chat"))
    other = await keyed(bob)
    first = await dehydrate(server, alice, "ONE")
    await write(bob, alice, "for the first", "t1", "ONE")
    await bob.sync()
    for device_id in ("TWO", "TWO"):
        latest = await dehydrate(server, alice, device_id)
        assert changed(await bob.sync()) == {alice.user_id}
        told = (await query(bob, alice))["device_keys"][alice.user_id]
        assert {one: keys["keys"] for one, keys in told.items()} == {"TWO": latest.device["keys"]}
        page = await alice.ok("POST", f"{PATH}/TWO/events", body={})
        assert page["events"] == []
        await write(bob, alice, "for the second", f"t{len(told)}", "TWO")
    assert await other.claim(first) == [None]
    await alice.refused("M_FORBIDDEN", "POST", f"{PATH}/ONE/events", body={})


async def test_another_device_is_not_made_one(server: Running) -> None:
    alice = await server.person("alice")
    device = await keyed(alice)
    body = {
        "device_id": alice.device_id,
        "device_data": {"algorithm": "test"},
        "device_keys": device.device,
    }
    await alice.refused("M_INVALID_PARAM", "PUT", PATH, body=body)
    await alice.refused("M_FORBIDDEN", "POST", f"{PATH}/{alice.device_id}/events", body={})


async def test_it_goes_with_the_account(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.join(await alice.create_room(preset="public_chat"))
    other, awake = await keyed(bob), await keyed(alice, 1)
    asleep = await dehydrate(server, alice, "ASLEEP")
    await bob.sync()
    await alice.ok("POST", "/account/deactivate", body={"auth": password("alice")})
    assert (await query(bob, alice))["device_keys"][alice.user_id] == {}
    assert await other.claim(awake, asleep) == [None, None]
    body: dict[str, Any] = {"messages": {alice.user_id: {"*": {}}}}
    await bob.ok("PUT", "/sendToDevice/m.test/t", body=body)

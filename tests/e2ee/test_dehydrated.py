"""Dehydrated devices (MSC3814): they take messages while nobody is logged in."""

from tests.api.test_devices import second_device
from tests.e2ee.keyed import Keyed, keyed, query, write
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
    told = []
    page = await alice.ok("POST", events, body={})
    while page["events"]:
        told += [event["content"]["text"] for event in page["events"]]
        page = await alice.ok("POST", events, body={"next_batch": page["next_batch"]})
    assert told == list(range(120))
    await alice.refused("M_FORBIDDEN", "POST", f"{PATH}/TWO/events", body={})
    assert await alice.ok("DELETE", PATH) == {"device_id": "DEHYDRATED"}
    assert (await query(bob, alice))["device_keys"][alice.user_id] == {}

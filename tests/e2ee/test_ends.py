"""What goes when a device ends, or comes with another identity: nothing of the old one is left."""

import asyncio
from pathlib import Path
from typing import Any

from storage.engine import Database, DatabaseSettings, open_database
from tests.api.test_devices import second_device
from tests.e2ee.keyed import SIGNED, Keyed, keyed, messages, query, write
from tests.e2ee.test_cross_signing import SIGN, identified
from tests.serving import Person, Running, served


async def ownerless(database: Database) -> dict[str, int]:
    """How many devices that are no more have rows, by table."""
    found = {}
    for table in ("to_device", "device_keys", "one_time_keys", "fallback_keys"):
        sql: Any = f"SELECT device_nid FROM {table} EXCEPT SELECT device_nid FROM devices"
        found[table] = len(await database.scan(sql))
    return {table: count for table, count in found.items() if count}


async def test_a_device_with_another_identity_has_none_of_the_old_keys(server: Running) -> None:
    """Its program has lost what it knew, begins anew and gives its keys the same names again."""
    alice, bob = await server.person("alice"), await server.person("bob")
    before, other = await keyed(alice, 5), await keyed(bob)
    one, two, spare = (f"{SIGNED}:{name}" for name in ("ONE", "TWO", "SPARE"))
    await before.upload(
        one_time_keys={one: before.key()}, fallback_keys={spare: before.key(fallback=True)}
    )
    after = Keyed(alice)
    assert await after.upload(one_time_keys={one: after.key(), two: after.key()}) == 2
    assert (await alice.sync())["device_unused_fallback_key_types"] == []
    assert [*(await other.claim(after)), *(await other.claim(after))] == [one, two]
    assert await other.claim(after) == [None]
    refused = {"one_time_keys": {one: after.key()}}
    await alice.refused("M_INVALID_PARAM", "POST", "/keys/upload", body=refused)
    assert (await query(bob, alice))["device_keys"][alice.user_id][alice.device_id][
        "keys"
    ] == after.device["keys"]


async def test_what_vouched_for_an_identity_goes_with_it(server: Running) -> None:
    alice = await server.person("alice")
    before, mine = await keyed(alice), await identified(alice)
    signed = mine.self_signing.sign(before.device, alice.user_id)
    given = {alice.user_id: {alice.device_id: signed}}
    assert await alice.ok("POST", SIGN, body=given) == {"failures": {}}
    after = await keyed(alice)
    told = (await query(alice, alice))["device_keys"][alice.user_id][alice.device_id]
    assert told["signatures"] == after.device["signatures"]


async def test_the_same_identity_keeps_its_keys(server: Running) -> None:
    """Another name of an algorithm, or a further key, makes no other device."""
    alice, bob = await server.person("alice"), await server.person("bob")
    device, other = await keyed(alice, 2), await keyed(bob)
    device.device["algorithms"].append("other")
    device.device["keys"][f"other:{alice.device_id}"] = "further"
    del device.device["signatures"]
    device.device = device.signer.sign(device.device, alice.user_id)
    assert await device.upload() == 2
    assert await other.claim(device) != [None]


async def test_who_is_logged_out_meanwhile_leaves_nothing(
    database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    """Keys and messages that come at the moment of the log-out are not kept for nobody."""
    async with served(database_settings, tmp_path, {}) as server:
        alice, bob = await server.person("alice"), await server.person("bob")
        for number in range(5):
            device_id = f"D{number}"
            token = await second_device(bob, device_id)
            device = Keyed(Person(server, bob.user_id, token, device_id))

            async def publish(device: Keyed = device) -> int:
                body = {"device_keys": device.device, "one_time_keys": device.keys(2)}
                return (await device.person.raw("POST", "/keys/upload", body=body)).status

            async with asyncio.TaskGroup() as group:
                uploads = [group.create_task(publish())]
                for text in range(5):
                    group.create_task(write(alice, bob, text, f"a{number}-{text}"))
                group.create_task(device.person.ok("POST", "/logout"))
                uploads.append(group.create_task(publish()))
                for text in range(5):
                    group.create_task(write(alice, bob, text, f"b{number}-{text}"))
            assert {upload.result() for upload in uploads} <= {200, 401}
        await server.app.services.encryption.inboxes.tidy()
        assert messages(await bob.sync())
    database = await open_database(database_settings)
    try:
        assert await ownerless(database) == {}
    finally:
        await database.close()

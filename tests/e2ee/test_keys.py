"""Keys of devices: what is taken, what others are told, and that no key is given out twice."""

import asyncio

import pytest

from storage.changes import Item
from storage.device_keys import claimed, taken
from storage.engine import Database
from storage.schema import OneTimeKeyRow
from tests.api.test_devices import password, second_device
from tests.e2ee.keyed import SIGNED, Keyed, Signer, keyed, query
from tests.serving import Running


async def test_uploaded_keys_are_what_others_are_told(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device = await keyed(alice)
    await alice.ok("PUT", f"/devices/{alice.device_id}", body={"display_name": "Phone"})
    answer = await query(bob, alice, bob)
    told = answer["device_keys"][alice.user_id][alice.device_id]
    assert told.pop("unsigned") == {"device_display_name": "Phone"}
    assert told == device.device
    assert answer["device_keys"][bob.user_id] == {}
    assert answer["failures"] == {}


async def test_who_does_not_exist_is_not_told_of(server: Running) -> None:
    alice = await server.person("alice")
    body: dict[str, dict[str, list[str]]] = {"device_keys": {"@nobody:test.example": []}}
    assert (await alice.ok("POST", "/keys/query", body=body))["device_keys"] == {}


async def test_servers_that_are_not_asked_are_told_as_failures(server: Running) -> None:
    alice = await server.person("alice")
    query_body: dict[str, dict[str, list[str]]] = {"device_keys": {"@bob:far.example": []}}
    claim_body = {"one_time_keys": {"@bob:far.example": {"DEVICE": SIGNED}}}
    for verb, body in (("query", query_body), ("claim", claim_body)):
        answer = await alice.ok("POST", f"/keys/{verb}", body=body)
        assert set(answer["failures"]) == {"far.example"}


async def test_keys_that_are_not_the_devices_own_are_refused(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    theirs = Keyed(bob)
    body = {"device_keys": theirs.device}
    await alice.refused("M_BAD_JSON", "POST", "/keys/upload", body=body)
    forged = Keyed(alice)
    forged.device["algorithms"] = ["other"]
    body = {"device_keys": forged.device}
    await alice.refused("M_INVALID_SIGNATURE", "POST", "/keys/upload", body=body)
    device = await keyed(alice)
    body = {"one_time_keys": theirs.keys(1)}
    await alice.refused("M_INVALID_SIGNATURE", "POST", "/keys/upload", body=body)
    assert await device.upload() == 0


async def test_keys_are_given_out_once_in_the_order_of_their_upload(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device, other = await keyed(alice), await keyed(bob)
    names = [f"{SIGNED}:{name}" for name in "ZA"]
    for name in names:
        await device.upload(one_time_keys={name: device.key()})
    assert [*(await other.claim(device)), *(await other.claim(device))] == names
    assert await other.claim(device) == [None]


async def test_an_id_that_was_used_is_never_used_again(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device, other = await keyed(alice), await keyed(bob)
    name, key = f"{SIGNED}:AAAA", device.key()
    assert await device.upload(one_time_keys={name: key}) == 1
    assert await device.upload(one_time_keys={name: key}) == 1  # the answer was lost
    changed = {"one_time_keys": {name: device.key()}}
    refused = await alice.refused("M_INVALID_PARAM", "POST", "/keys/upload", body=changed)
    assert name in refused.body["error"]
    assert await other.claim(device) == [name]
    assert await device.upload(one_time_keys={name: key}) == 0
    await alice.refused("M_INVALID_PARAM", "POST", "/keys/upload", body=changed)
    assert await other.claim(device) == [None]


async def test_a_fallback_key_stays_until_it_is_replaced(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device, other = await keyed(alice, 1), await keyed(bob)
    fallback = {f"{SIGNED}:F1": device.key(fallback=True)}
    await device.upload(fallback_keys=fallback)
    assert (await alice.sync())["device_unused_fallback_key_types"] == [SIGNED]
    await other.claim(device)
    assert (await alice.sync())["device_unused_fallback_key_types"] == [SIGNED]
    assert await other.claim(device) == await other.claim(device) == [f"{SIGNED}:F1"]
    assert (await alice.sync())["device_unused_fallback_key_types"] == []
    await device.upload(fallback_keys=fallback)
    assert (await alice.sync())["device_unused_fallback_key_types"] == []
    await device.upload(fallback_keys={f"{SIGNED}:F2": device.key(fallback=True)})
    assert (await alice.sync())["device_unused_fallback_key_types"] == [SIGNED]
    assert await other.claim(device) == [f"{SIGNED}:F2"]


async def test_sync_tells_how_many_keys_are_left(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    assert (await alice.sync())["device_one_time_keys_count"] == {SIGNED: 0}
    device, other = await keyed(alice, 5), await keyed(bob)
    assert (await alice.sync())["device_one_time_keys_count"] == {SIGNED: 5}
    await other.claim(device)
    assert (await alice.sync())["device_one_time_keys_count"] == {SIGNED: 4}


async def test_the_keys_go_with_the_device(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device, other = await keyed(alice, 2), await keyed(bob)
    await second_device(alice)
    auth = {"auth": password("alice")}
    token, alice.token = alice.token, (await second_token(server, alice.user_id))
    await alice.ok("DELETE", f"/devices/{alice.device_id}", body=auth)
    assert token
    assert (await query(bob, alice))["device_keys"][alice.user_id] == {}
    assert await other.claim(device) == [None]


async def second_token(server: Running, user_id: str) -> str:
    body = {**password(user_id), "device_id": "TWO"}
    return str(
        (await server.request("POST", "/_matrix/client/v3/login", body=body)).body["access_token"]
    )


@pytest.mark.long
async def test_a_thousand_claims_from_twenty_connections_never_repeat_a_key(
    server: Running,
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device, other = await keyed(alice), await keyed(bob)
    for _ in range(5):
        await device.upload(200)
    found: list[str | None] = []

    async def claimant() -> None:
        for _ in range(50):
            found.extend(await other.claim(device))

    await asyncio.gather(*(claimant() for _ in range(20)))
    assert None not in found
    assert len(set(found)) == len(found) == 1_000
    assert await other.claim(device) == [None]


async def test_claims_in_one_transaction_take_different_keys(database: Database) -> None:
    from storage.changes import Insert

    rows = [OneTimeKeyRow(n, 1, SIGNED, f"k{n}", b"", b"{}", None) for n in range(1, 4)]
    await database.commit([Item([Insert(row) for row in rows])])
    await database.commit([Item(claimed(claim, [1], SIGNED)) for claim in range(1, 5)])
    got = [[key for _, _, key, _ in await taken(database, claim)] for claim in range(1, 5)]
    assert got == [["k1"], ["k2"], ["k3"], []]


async def test_signing_keys_are_published_and_vouch(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device = await keyed(alice)
    master, own, users = Signer(), Signer(), Signer()

    def key(usage: str, signer: Signer) -> dict[str, object]:
        named = {f"ed25519:{signer.public}": signer.public}
        return {"user_id": alice.user_id, "usage": [usage], "keys": named}

    body = {
        "master_key": key("master", master),
        "self_signing_key": master.sign(key("self_signing", own), alice.user_id),
        "user_signing_key": master.sign(key("user_signing", users), alice.user_id),
    }
    path = "/keys/device_signing/upload"
    only = {"self_signing_key": body["self_signing_key"]}
    await alice.refused("M_MISSING_PARAM", "POST", path, body=only)
    forged = {**body, "self_signing_key": users.sign(key("self_signing", own), alice.user_id)}
    await alice.refused("M_INVALID_SIGNATURE", "POST", path, body=forged)
    await alice.ok("POST", path, body=body)  # the first keys need no password
    await alice.ok("POST", path, body=body)  # nor do the same again
    other = {"master_key": key("master", Signer())}
    assert (await alice.raw("POST", path, body=other)).status == 401

    sign = "/keys/signatures/upload"
    vouched = own.sign(device.device, alice.user_id)
    by_device = device.signer.sign(body["master_key"], alice.user_id)
    given = {alice.user_id: {alice.device_id: vouched, master.public: by_device}}
    assert await alice.ok("POST", sign, body=given) == {"failures": {}}
    for asker in (alice, bob):
        answer = await query(asker, alice)
        told = answer["device_keys"][alice.user_id][alice.device_id]
        assert told["signatures"] == vouched["signatures"]
        assert answer["master_keys"][alice.user_id] == by_device
        assert (alice.user_id in answer["user_signing_keys"]) == (asker is alice)
    wrong = {alice.user_id: {alice.device_id: users.sign(device.device, alice.user_id)}}
    failures = (await alice.ok("POST", sign, body=wrong))["failures"]
    assert failures[alice.user_id][alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"

    theirs = Signer()
    named = {f"ed25519:{theirs.public}": theirs.public}
    bobs = {"user_id": bob.user_id, "usage": ["master"], "keys": named}
    await bob.ok("POST", path, body={"master_key": bobs})
    await alice.sync()
    mine = {bob.user_id: {theirs.public: users.sign(bobs, alice.user_id)}}
    assert await alice.ok("POST", sign, body=mine) == {"failures": {}}
    assert (await alice.sync())["device_lists"]["changed"] == [bob.user_id]
    assert alice.user_id in (await query(alice, bob))["master_keys"][bob.user_id]["signatures"]
    assert "signatures" not in bobs
    assert not (await query(bob, bob))["master_keys"][bob.user_id].get("signatures")

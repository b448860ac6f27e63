"""Keys of devices: uploaded, queried, claimed; counts in sync; cross-signing; key backup.

spec: client-server-api#end-to-end-encryption
"""

import asyncio
from typing import Any

from nacl.signing import SigningKey

from homeserver.matrix.canonical import encode, encode_unpadded
from tests.serving import PASSWORD, Person, Running

ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


def encoded(key: SigningKey) -> str:
    return encode_unpadded(bytes(key.verify_key))


def signed_by(value: dict[str, Any], user_id: str, key_id: str, key: SigningKey) -> dict[str, Any]:
    """The object with one more signature."""
    bare = {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
    signature = encode_unpadded(key.sign(encode(bare)).signature)
    before = value.get("signatures", {})
    return {**value, "signatures": {user_id: {**before.get(user_id, {}), key_id: signature}}}


class Device:
    """The keys of a person's client."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.key = SigningKey.generate()

    @property
    def keys(self) -> dict[str, Any]:
        person = self.person
        return self.signed(
            {
                "user_id": person.user_id,
                "device_id": person.device_id,
                "algorithms": ALGORITHMS,
                "keys": {
                    f"ed25519:{person.device_id}": encoded(self.key),
                    f"curve25519:{person.device_id}": "a" * 43,
                },
            }
        )

    def signed(self, value: dict[str, Any]) -> dict[str, Any]:
        person = self.person
        return signed_by(value, person.user_id, f"ed25519:{person.device_id}", self.key)

    def one_time(self, *names: str) -> dict[str, Any]:
        return {
            f"signed_curve25519:{name}": self.signed({"key": (name * 43)[:43]}) for name in names
        }

    async def upload(self, **keys: Any) -> dict[str, int]:
        answer = await self.person.ok("POST", "/keys/upload", body=keys)
        return dict(answer["one_time_key_counts"])


async def claim(person: Person, other: Person) -> dict[str, Any]:
    wanted = {other.user_id: {other.device_id: "signed_curve25519"}}
    answer = await person.ok("POST", "/keys/claim", body={"one_time_keys": wanted})
    found = answer["one_time_keys"].get(other.user_id, {}).get(other.device_id, {})
    return dict(found)


async def test_device_keys_are_shown_as_they_were_signed(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device = Device(alice)
    assert await device.upload(device_keys=device.keys) == {"signed_curve25519": 0}
    wanted: dict[str, Any] = {"device_keys": {alice.user_id: [], "@nobody:test.example": []}}
    answer = await bob.ok("POST", "/keys/query", body=wanted)
    shown = answer["device_keys"][alice.user_id][alice.device_id]
    assert {key: shown[key] for key in device.keys} == device.keys
    forged = {**device.keys, "algorithms": ["other"]}
    await alice.refused("M_INVALID_SIGNATURE", "POST", "/keys/upload", body={"device_keys": forged})


async def test_a_key_is_given_out_once_then_the_fallback(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device = Device(alice)
    fallback = {"signed_curve25519:F": device.signed({"key": "F" * 43, "fallback": True})}
    counts = await device.upload(
        device_keys=device.keys, one_time_keys=device.one_time("A", "B"), fallback_keys=fallback
    )
    assert counts == {"signed_curve25519": 2}
    first = await alice.sync()
    assert first["device_one_time_keys_count"] == {"signed_curve25519": 2}
    assert first["device_unused_fallback_key_types"] == ["signed_curve25519"]
    claimed = [await claim(bob, alice) for _ in range(4)]
    assert [next(iter(one)) for one in claimed] == [
        "signed_curve25519:A",
        "signed_curve25519:B",
        "signed_curve25519:F",
        "signed_curve25519:F",
    ]
    later = await alice.sync()
    assert later["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert later["device_unused_fallback_key_types"] == []
    # A key that was given out does not come back, and an id means one key for ever.
    assert await device.upload(one_time_keys=device.one_time("A")) == {"signed_curve25519": 0}
    other = {"signed_curve25519:A": device.signed({"key": "X" * 43})}
    await alice.refused("M_INVALID_PARAM", "POST", "/keys/upload", body={"one_time_keys": other})


async def test_many_claims_at_once_never_get_the_same_key_nor_go_empty(server: Running) -> None:
    alice = await server.person("alice")
    device = Device(alice)
    names = [f"K{number:03}" for number in range(100)]
    await device.upload(device_keys=device.keys, one_time_keys=device.one_time(*names))
    others = [await server.person(f"user{number}") for number in range(5)]
    claimed = await asyncio.gather(
        *(claim(others[number % 5], alice) for number in range(len(names)))
    )
    found = [next(iter(one)) for one in claimed if one]
    assert len(found) == len(set(found)) == len(names)
    assert await claim(others[0], alice) == {}


async def test_messages_to_devices_come_in_order_until_the_next_token(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.sync()
    for number in range(120):
        body = {"messages": {bob.user_id: {"*": {"number": number}}}}
        for _ in range(2):  # a request that is sent again has its effect once
            await alice.ok("PUT", f"/sendToDevice/m.test/t{number}", body=body)
    since = bob.since
    first = await bob.sync()
    again = await bob.sync(since=since)
    assert again["to_device"] == first["to_device"]
    second = await bob.sync()
    numbers = [
        event["content"]["number"]
        for answer in (first, second)
        for event in answer["to_device"]["events"]
    ]
    assert numbers == list(range(120))
    assert len(first["to_device"]["events"]) == 100
    assert {event["sender"] for event in first["to_device"]["events"]} == {alice.user_id}
    assert "to_device" not in await bob.sync()


async def test_device_lists_tell_whose_keys_changed_and_who_left(server: Running) -> None:
    alice, bob, eve = [await server.person(name) for name in ("alice", "bob", "eve")]
    room = await alice.create_room(preset="public_chat")
    await bob.sync()
    await bob.join(room)
    assert alice.user_id in (await bob.sync())["device_lists"]["changed"]
    assert "device_lists" not in await bob.sync()
    start = bob.since
    device = Device(alice)
    await device.upload(device_keys=device.keys)
    await Device(eve).upload(device_keys=Device(eve).keys)
    answer = await bob.sync()
    assert answer["device_lists"]["changed"] == [alice.user_id]
    await alice.ok("POST", f"/rooms/{room}/leave", body={})
    answer = await bob.sync()
    assert answer["device_lists"]["left"] == [alice.user_id]
    query = {"from": start, "to": bob.since}
    changes = await bob.ok("GET", "/keys/changes", query=query)
    assert changes == {"changed": [], "left": [alice.user_id]}


async def test_cross_signing_keys_vouch_for_devices(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device = Device(alice)
    await device.upload(device_keys=device.keys)
    keys = {usage: SigningKey.generate() for usage in ("master", "self_signing", "user_signing")}
    ids = {usage: f"ed25519:{encoded(key)}" for usage, key in keys.items()}
    body: dict[str, Any] = {}
    for usage, key in keys.items():
        value = {
            "user_id": alice.user_id,
            "usage": [usage],
            "keys": {ids[usage]: encoded(key)},
        }
        if usage != "master":
            value = signed_by(value, alice.user_id, ids["master"], keys["master"])
        body[f"{usage}_key"] = value
    await alice.ok("POST", "/keys/device_signing/upload", body=body)
    vouched = signed_by(device.keys, alice.user_id, ids["self_signing"], keys["self_signing"])
    given = {alice.user_id: {alice.device_id: vouched}}
    assert await alice.ok("POST", "/keys/signatures/upload", body=given) == {"failures": {}}
    for wrong in ([alice.device_id], "key", 7, None):
        keyless = {alice.user_id: wrong}
        await alice.refused("M_BAD_JSON", "POST", "/keys/signatures/upload", body=keyless)
    wanted: dict[str, Any] = {"device_keys": {alice.user_id: []}}
    theirs = await bob.ok("POST", "/keys/query", body=wanted)
    ours = await alice.ok("POST", "/keys/query", body=wanted)
    assert alice.user_id in theirs["master_keys"]
    assert alice.user_id in ours["user_signing_keys"]
    assert alice.user_id not in theirs["user_signing_keys"]
    shown = theirs["device_keys"][alice.user_id][alice.device_id]["signatures"][alice.user_id]
    assert ids["self_signing"] in shown
    # Others in the place of what is there need the password.
    other = SigningKey.generate()
    new = {
        "master_key": {**body["master_key"], "keys": {f"ed25519:{encoded(other)}": encoded(other)}}
    }
    challenge = await alice.raw("POST", "/keys/device_signing/upload", body=new)
    assert challenge.status == 401
    auth = {
        "type": "m.login.password",
        "password": PASSWORD,
        "identifier": {"type": "m.id.user", "user": "alice"},
        "session": challenge.body["session"],
    }
    await alice.ok("POST", "/keys/device_signing/upload", body={**new, "auth": auth})
    theirs = await bob.ok("POST", "/keys/query", body=wanted)
    assert alice.user_id not in theirs["self_signing_keys"], "the old key vouched for it"


async def test_a_backup_keeps_the_better_session(server: Running) -> None:
    alice = await server.person("alice")
    made = await alice.ok(
        "POST", "/room_keys/version", body={"algorithm": "m.x", "auth_data": {"public_key": "p"}}
    )
    version = made["version"]
    good = {
        "first_message_index": 1,
        "forwarded_count": 0,
        "is_verified": True,
        "session_data": {"ciphertext": "good"},
    }
    path = "/room_keys/keys/!r:test.example/s"
    stored = await alice.ok("PUT", path, body=good, query={"version": version})
    assert stored["count"] == 1
    worse = {**good, "is_verified": False, "session_data": {"ciphertext": "worse"}}
    same = await alice.ok("PUT", path, body=worse, query={"version": version})
    assert same == stored
    found = await alice.ok("GET", path, query={"version": version})
    assert found["session_data"] == {"ciphertext": "good"}
    await alice.refused(
        "M_WRONG_ROOM_KEYS_VERSION", "PUT", path, body=good, query={"version": "99"}
    )
    await alice.ok("DELETE", f"/room_keys/version/{version}")
    await alice.refused("M_NOT_FOUND", "GET", "/room_keys/version")


async def test_what_belongs_to_a_device_goes_with_it(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device = Device(alice)
    await device.upload(device_keys=device.keys, one_time_keys=device.one_time("A"))
    await alice.ok("POST", "/logout", body={})
    answer = await bob.ok("POST", "/keys/query", body={"device_keys": {alice.user_id: []}})
    assert answer["device_keys"].get(alice.user_id, {}) == {}
    assert await claim(bob, alice) == {}


async def test_a_restored_database_gives_no_key_out_again(server: Running) -> None:
    admin = await server.person("admin", admin=True)
    alice, bob = await server.person("alice"), await server.person("bob")
    device = Device(alice)
    await device.upload(device_keys=device.keys, one_time_keys=device.one_time("A", "B"))
    await alice.sync()
    await admin.ok("POST", "/_homeserver/admin/v1/restored", body={})
    assert (await alice.sync())["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert await claim(bob, alice) == {}

"""Keys that a device uploads are signed by it: what a client that does this wrongly is told.

spec: client-server-api#key-algorithms
"""

from typing import Any

import pytest

from homeserver.matrix.canonical import JsonObject
from tests.e2ee.keyed import SIGNED, Keyed, Signer, keyed
from tests.serving import Running


def wrong(device: Keyed) -> JsonObject:
    """A key that another device has signed in this one's name."""
    other = Signer(device.person.device_id)
    return other.sign({"key": device.key()["key"]}, device.person.user_id)


async def refused(device: Keyed, **keys: JsonObject) -> str:
    """The name of the key for which an upload is refused."""
    reply = await device.person.refused("M_INVALID_SIGNATURE", "POST", "/keys/upload", body=keys)
    name, _, reason = reply.body["error"].partition(" ")
    assert reason == f"is not signed by the device's key ed25519:{device.person.device_id}"
    assert await device.upload() == 0, "something was taken of a refused upload"
    return str(name)


async def test_a_client_that_signs_wrongly_is_told_at_once(server: Running) -> None:
    device = await keyed(await server.person("alice"))
    keys = {f"{SIGNED}:K{number}": wrong(device) for number in range(50)}
    for _ in range(3):
        assert await refused(device, one_time_keys=keys) in keys


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        {},
        {"@bob:test.example": {"ed25519:DEVICE": "A" * 86}},
        {"@alice:test.example": "A" * 86},
        {"@alice:test.example": {"ed25519:OTHER": "A" * 86}},
        {"@alice:test.example": {"ed25519:DEVICE": 7}},
        {"@alice:test.example": {"ed25519:DEVICE": "A" * 43}},
    ],
)
async def test_every_key_carries_a_signature_of_its_device(
    server: Running, signatures: Any
) -> None:
    device = await keyed(await server.person("alice"))
    if isinstance(signatures, dict):
        own = f"ed25519:{device.person.device_id}"
        signatures = {
            user_id: {own if name == "ed25519:DEVICE" else name: one for name, one in by.items()}
            if isinstance(by, dict)
            else by
            for user_id, by in signatures.items()
        }
    bad = f"{SIGNED}:BAD"
    keys = {**device.keys(50), bad: {"key": "A" * 43, "signatures": signatures}, **device.keys(9)}
    assert await refused(device, one_time_keys=keys) == bad


@pytest.mark.parametrize("number", [1, 50, 200])
async def test_every_signature_is_verified(server: Running, number: int) -> None:
    device = await keyed(await server.person("alice"))
    for place in {0, number // 2, number - 1}:
        keys = device.keys(number)
        bad = [*keys][place]
        keys[bad] = wrong(device)
        assert await refused(device, one_time_keys=keys) == bad


async def test_a_fallback_key_is_verified_too(server: Running) -> None:
    device = await keyed(await server.person("alice"))
    bad = f"{SIGNED}:FALLBACK"
    spare = {bad: wrong(device)}
    assert await refused(device, one_time_keys=device.keys(50), fallback_keys=spare) == bad
    assert await refused(device, fallback_keys=spare) == bad

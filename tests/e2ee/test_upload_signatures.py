"""Keys that a device uploads are signed by it: what a client that does this wrongly is told.

spec: client-server-api#key-algorithms
"""

from typing import Any

import pytest

from homeserver.matrix.canonical import JsonObject
from homeserver.users.one_time_keys import VERIFIED
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


@pytest.mark.parametrize("place", range(VERIFIED))
async def test_of_few_keys_all_signatures_are_verified(server: Running, place: int) -> None:
    device = await keyed(await server.person("alice"))
    keys = device.keys(VERIFIED)
    bad = [*keys][place]
    keys[bad] = wrong(device)
    assert await refused(device, one_time_keys=keys) == bad


async def test_a_fallback_key_is_always_verified(server: Running) -> None:
    device = await keyed(await server.person("alice"))
    bad = f"{SIGNED}:FALLBACK"
    spare = {bad: wrong(device)}
    assert await refused(device, one_time_keys=device.keys(50), fallback_keys=spare) == bad
    assert await refused(device, fallback_keys=spare) == bad


async def test_nobody_can_foresee_which_of_many_are_verified(server: Running) -> None:
    """Not the first, nor the last: one wrong key of some is found sooner or later, in any place."""
    device = await keyed(await server.person("alice"))
    for place in range(VERIFIED + 1):
        answers: set[int] = set()
        for _ in range(100):  # a third of them is accepted
            keys = device.keys(VERIFIED + 1)
            keys[[*keys][place]] = wrong(device)
            body = {"one_time_keys": keys}
            answers.add((await device.person.raw("POST", "/keys/upload", body=body)).status)
            if len(answers) > 1:
                break
        assert answers == {200, 400}

"""What is believed of another server's words about its users' keys.

Owns their form: a device counts when it is named as it says and signs for itself, a self-signing
key when the master key vouches for it. What is not so is left out. It neither asks nor keeps.
spec: server-server-api#device-management, server-server-api#end-to-end-encryption
"""

from collections.abc import Iterable
from typing import TypeGuard

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.devicekeys import (
    check_device_keys,
    check_signing_key,
    is_signed,
    signs_itself,
)
from homeserver.matrix.errors import Malformed
from homeserver.users.public_keys import UserKeys

MAX_DEVICES = 1_000
MAX_NAME = 100
MAX_ID = 255


def keys_of(user_id: str, answer: JsonObject) -> UserKeys:
    """One user's keys in an answer to `/user/keys/query`.

    spec: server-server-api#post_matrixfederationv1userkeysquery
    """
    told = object_of(object_of(answer.get("device_keys")).get(user_id))
    devices = []
    for device_id, keys in told.items():
        unsigned = object_of(keys.get("unsigned")) if isinstance(keys, dict) else {}
        devices.append((device_id, keys, unsigned.get("device_display_name")))
    return _keys(
        user_id,
        devices,
        object_of(answer.get("master_keys")).get(user_id),
        object_of(answer.get("self_signing_keys")).get(user_id),
    )


def list_of(user_id: str, answer: JsonObject) -> tuple[int, UserKeys]:
    """The stream id (0 when it is none) and the keys in an answer to `/user/devices`.

    spec: server-server-api#get_matrixfederationv1userdevicesuserid
    """
    stream_id, told = answer.get("stream_id"), answer.get("devices")
    devices = [
        (one.get("device_id"), one.get("keys"), one.get("device_display_name"))
        for one in (told if isinstance(told, list) else ())
        if isinstance(one, dict)
    ]
    keys = _keys(user_id, devices, answer.get("master_key"), answer.get("self_signing_key"))
    known = type(stream_id) is int and 0 < stream_id < 2**53
    return stream_id if known and isinstance(stream_id, int) else 0, keys


def device_of(user_id: str, device_id: object, keys: object) -> bytes | None:
    """A device's keys as canonical JSON without what is unsigned; None unless they are good."""
    if not isinstance(keys, dict) or not is_device_id(device_id):
        return None
    try:
        check_device_keys(keys, user_id, device_id)
    except Malformed:
        return None
    if not signs_itself(keys):
        return None
    return canonical.encode({name: value for name, value in keys.items() if name != "unsigned"})


def signing_of(user_id: str, master: object, own: object) -> tuple[bytes | None, bytes | None]:
    """The master and the self-signing key as canonical JSON, None for what is not good."""
    if not isinstance(master, dict):
        return None, None
    try:
        trusted = dict([check_signing_key(master, user_id, "master")])
        found = canonical.encode(master)
    except Malformed:
        return None, None
    if not isinstance(own, dict):
        return found, None
    try:
        check_signing_key(own, user_id, "self_signing")
    except Malformed:
        return found, None
    return found, canonical.encode(own) if is_signed(own, user_id, trusted) else None


def is_device_id(value: object) -> TypeGuard[str]:
    """Whether this can be kept as the id of a device."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and _is_text(value)


def name_of(value: object) -> str | None:
    """A device's name, cut short; None where there is none."""
    return value[:MAX_NAME] if isinstance(value, str) and _is_text(value) else None


def _is_text(value: str) -> bool:
    """Whether both databases can hold it; nothing that can't be printed is of any use."""
    return value.isprintable()


def object_of(value: object) -> JsonObject:
    """The value, if it is an object; an empty one otherwise."""
    return value if isinstance(value, dict) else {}


def _keys(
    user_id: str, told: Iterable[tuple[object, object, object]], master: object, own: object
) -> UserKeys:
    devices: dict[str, bytes] = {}
    names: dict[str, str] = {}
    for device_id, keys, name in told:
        made = device_of(user_id, device_id, keys)
        if made is None or not is_device_id(device_id) or len(devices) >= MAX_DEVICES:
            continue
        devices[device_id] = made
        shown = name_of(name)
        if shown is not None:
            names[device_id] = shown
    return UserKeys(devices, names, *signing_of(user_id, master, own))

"""What other servers are told of local users' devices and keys.

Owns the form of those answers. What may be seen is `public_keys.py`'s.
spec: server-server-api#device-management, server-server-api#end-to-end-encryption
"""

from collections.abc import Collection, Mapping

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.streams.numbers import Names
from homeserver.users.e2e_keys import MAX_QUERIED, E2EKeys
from homeserver.users.public_keys import UserKeys
from storage.device_lists import lists
from storage.engine import Database


class ShownDevices:
    """See the module."""

    def __init__(self, keys: E2EKeys, names: Names, database: Database) -> None:
        self._keys = keys
        self._names = names
        self._database = database

    async def devices(self, user_id: str) -> JsonObject:
        """All devices of a user with keys. Raises `MatrixError` M_NOT_FOUND for a stranger.

        spec: server-server-api#get_matrixfederationv1userdevicesuserid
        """
        nids = await self._names.find([user_id])
        rows = await lists(self._database, nids.values())
        # Read behind the version: what changes meanwhile is told by an update that follows it.
        found = await self._keys.local([user_id], stored=True)
        if user_id not in found:
            raise MatrixError.not_found("There is no such user")
        keys, row = found[user_id], rows.get(nids[user_id])
        answer: JsonObject = {
            "user_id": user_id,
            "stream_id": row.version if row is not None else 0,
            "devices": [
                _named({"device_id": device_id, "keys": _shown(keys, device_id)}, keys, device_id)
                for device_id in keys.devices
            ],
        }
        return {**answer, **_signing(keys, "master_key", "self_signing_key")}

    async def keys(self, wanted: Mapping[str, Collection[str]]) -> JsonObject:
        """Keys of users and their devices; who does not exist is absent.

        Raises `MatrixError` M_TOO_LARGE.
        spec: server-server-api#post_matrixfederationv1userkeysquery
        """
        if len(wanted) > MAX_QUERIED:
            raise MatrixError.too_large(f"At most {MAX_QUERIED} at once")
        answer: JsonObject = {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}}
        for user_id, keys in (await self._keys.local(wanted)).items():
            ids = wanted[user_id] or keys.devices
            answer["device_keys"][user_id] = {
                device_id: _shown(keys, device_id) for device_id in ids if device_id in keys.devices
            }
            for name, key in _signing(keys, "master_keys", "self_signing_keys").items():
                answer[name][user_id] = key
        return answer


def _shown(keys: UserKeys, device_id: str) -> JsonObject:
    return canonical.decode_object(keys.shown(device_id))


def _named(device: JsonObject, keys: UserKeys, device_id: str) -> JsonObject:
    name = keys.names.get(device_id)
    return device if name is None else {**device, "device_display_name": name}


def _signing(keys: UserKeys, master: str, self_signing: str) -> JsonObject:
    found: JsonObject = {}
    if keys.master is not None:
        found[master] = canonical.decode_object(keys.master)
    if keys.self_signing is not None:
        found[self_signing] = canonical.decode_object(keys.self_signing)
    return found

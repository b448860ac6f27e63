"""What others may see of users' keys: the answer to a query, without the asking.

Owns the public form of a user's devices and signing keys, with the signatures that everybody sees,
in memory for users who were asked about lately. Invariant: what is in memory is what the last
commit of the user's list left. Keys of other servers' users are copies, whose freshness is not
judged here.
spec: client-server-api#post_matrixclientv3keysquery
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.devicekeys import with_signatures
from homeserver.streams.numbers import Names
from storage import device_keys as store
from storage.device_lists import remote_devices
from storage.engine import Database
from storage.schema import MASTER, SELF_SIGNING, USER_SIGNING, KeySignatureRow

_MAX_CACHED = 5_000


@dataclass(slots=True)
class UserKeys:
    """A user's keys: devices as JSON by id, names beside them; signing keys with signatures.

    Never changed once made.
    """

    devices: Mapping[str, bytes] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    master: bytes | None = None
    self_signing: bytes | None = None
    user_signing: bytes | None = None
    _every: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def any(self) -> bool:
        """Whether there is a key at all."""
        return bool(self.devices) or self.master is not None

    def every(self) -> bytes:
        """All devices for a client: a JSON object by id, made once."""
        if self._every is None:
            self._every = self.among(self.devices)
        return self._every

    def among(self, device_ids: Collection[str]) -> bytes:
        """Those of these devices that there are, for a client: a JSON object by id."""
        shown = [
            b"%b:%b" % (canonical.encode(device_id), self.shown(device_id))
            for device_id in device_ids
            if device_id in self.devices
        ]
        return b"{%b}" % b",".join(shown)

    def shown(self, device_id: str, *, named: bool = True) -> bytes:
        """A device for a client, with its name beside the signed part, if that is wanted."""
        keys = self.devices[device_id]
        name = self.names.get(device_id) if named else None
        unsigned = b"{}"
        if name is not None:
            unsigned = b'{"device_display_name":%b}' % canonical.encode(name)
        return b'%b,"unsigned":%b}' % (keys[:-1], unsigned)


_NOTHING = UserKeys()


class PublicKeys:
    """See the module."""

    def __init__(self, database: Database, names: Names, server_name: str) -> None:
        self._database = database
        self._names = names
        self._suffix = ":" + server_name
        self._users: OrderedDict[int, UserKeys] = OrderedDict()
        self._changes = 0

    def forget(self, user_nid: int) -> None:
        """The user's keys have changed."""
        self._changes += 1
        self._users.pop(user_nid, None)

    def clear(self) -> None:
        """Drop everything."""
        self._changes += 1
        self._users.clear()

    async def of(self, users: Mapping[int, str]) -> dict[int, UserKeys]:
        """The keys of users (number to id); who has none is there without any."""
        found = {nid: self._users[nid] for nid in users if nid in self._users}
        missing = {nid: user_id for nid, user_id in users.items() if nid not in found}
        for nid in found:
            self._users.move_to_end(nid)
        if missing:
            changes = self._changes
            read = await self.stored(missing)
            found |= read
            if changes == self._changes:
                self._users.update(read)
                while len(self._users) > _MAX_CACHED:
                    self._users.popitem(last=False)
        return found

    async def signed_by(
        self, signer_nid: int, users: Mapping[int, UserKeys], signer_id: str
    ) -> dict[int, UserKeys]:
        """The keys whose master key one user has signed, with these signatures."""
        others = [nid for nid, keys in users.items() if keys.master and nid != signer_nid]
        rows = await store.signatures_by(self._database, signer_nid, others) if others else {}
        changed = {}
        for nid, signatures in rows.items():
            keys = users[nid]
            master = canonical.decode_object(keys.master or b"{}")
            (name,) = master["keys"].values()
            mine = {row.signer_key: row.signature for row in signatures if row.key_name == name}
            signed = canonical.encode(with_signatures(master, {signer_id: mine}))
            changed[nid] = UserKeys(
                keys.devices, keys.names, signed, keys.self_signing, keys.user_signing
            )
        return changed

    async def stored(self, users: Mapping[int, str]) -> dict[int, UserKeys]:
        """As `of`, from the tables, which may be ahead of what is in memory."""
        local = [nid for nid, user_id in users.items() if user_id.endswith(self._suffix)]
        remote = [nid for nid in users if nid not in set(local)]
        devices: dict[int, dict[str, bytes]] = {nid: {} for nid in users}
        names: dict[int, dict[str, str]] = {nid: {} for nid in users}
        for row in await store.keyed_devices(self._database, local) if local else ():
            devices[row.user_nid][row.device_id] = row.json
            if row.name is not None:
                names[row.user_nid][row.device_id] = row.name
        copies = await remote_devices(self._database, remote) if remote else {}
        for nid, by_id in copies.items():
            for device_id, copy in by_id.items():
                if copy.json is not None:
                    devices[nid][device_id] = copy.json
                    if copy.name is not None:
                        names[nid][device_id] = copy.name
        signing = await store.signing_keys(self._database, list(users))
        signatures = await store.own_signatures(self._database, local) if local else {}
        found = {}
        for nid, user_id in users.items():
            own = signing.get(nid, {})
            if not devices[nid] and not own:
                found[nid] = _NOTHING
                continue
            rows = signatures.get(nid, ())
            signed = {
                device_id: _signed(json, device_id, user_id, rows)
                for device_id, json in devices[nid].items()
            }
            found[nid] = UserKeys(
                signed,
                names[nid],
                _signing_key(own[MASTER].json, user_id, rows) if MASTER in own else None,
                own[SELF_SIGNING].json if SELF_SIGNING in own else None,
                own[USER_SIGNING].json if USER_SIGNING in own else None,
            )
        return found


def _signed(json: bytes, key_name: str, user_id: str, rows: Collection[KeySignatureRow]) -> bytes:
    """The key with the uploaded signatures, without what is not signed."""
    keys: JsonObject = canonical.decode_object(json)
    keys.pop("unsigned", None)
    mine = {row.signer_key: row.signature for row in rows if row.key_name == key_name}
    return canonical.encode(with_signatures(keys, {user_id: mine} if mine else {}))


def _signing_key(json: bytes, user_id: str, rows: Collection[KeySignatureRow]) -> bytes:
    (name,) = canonical.decode_object(json)["keys"].values()
    return _signed(json, name, user_id, rows)

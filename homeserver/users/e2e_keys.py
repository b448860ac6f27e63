"""Keys of devices: uploaded by their device, queried and claimed by everybody.

Owns what a device may upload, and the answers to queries and claims for local users and, through
`Elsewhere`, for those of other servers. Keys that were uploaded are signed by the device that they
belong to, or refused. Cross-signing is `cross_signing.py`'s.
spec: client-server-api#device-keys
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Protocol

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.devicekeys import check_device_keys, device_key, same_key, signs_itself
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.users.access_tokens import unknown_token
from homeserver.users.device_lists import DeviceLists, Told
from homeserver.users.inbox import UserInbox
from homeserver.users.one_time_keys import OneTimeKeys
from homeserver.users.public_keys import PublicKeys, UserKeys
from homeserver.users.sessions import Session
from storage import accounts as accounts_store
from storage import device_keys as store
from storage.changes import Change, Put
from storage.device_lists import own_versions_raised
from storage.engine import Database
from storage.schema import DeviceKeysRow

MAX_QUERIED = 10_000
"""Users in one query; more devices than this in one claim are refused too."""
VERSIONS_LOST = 1_000_000
"""More than the changes of one list that a copy of the database may lack."""
Wanted = Mapping[str, Collection[str]]
Claims = Mapping[str, Mapping[str, str]]


class Elsewhere(Protocol):
    """Keys of users of other servers. Both answer within their bounds, with what there is.

    `failures` names the servers that could not be asked.
    """

    async def query(
        self, asker: Session, wanted: Wanted, timeout: float
    ) -> tuple[dict[str, UserKeys], JsonObject]:
        """By user what is known of the keys, and the failures."""

    async def claim(self, wanted: Claims, timeout: float) -> tuple[JsonObject, JsonObject]:
        """By user and device the claimed keys, and the failures."""


class E2EKeys:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        names: Names,
        inbox: UserInbox,
        lists: DeviceLists,
        one_time: OneTimeKeys,
        public: PublicKeys,
        server_name: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._names = names
        self._inbox = inbox
        self._lists = lists
        self._one_time = one_time
        self._public = public
        self._suffix = ":" + server_name
        self._elsewhere: Elsewhere | None = None

    def ask_elsewhere(self, elsewhere: Elsewhere) -> None:
        """Have this answer for users of other servers."""
        self._elsewhere = elsewhere

    async def upload(
        self,
        session: Session,
        device_keys: JsonObject | None,
        one_time: JsonObject,
        fallback: JsonObject,
    ) -> Mapping[str, int]:
        """Take keys of the session's device; how many one-time keys it has by algorithm then.

        Raises `Malformed`, and `MatrixError`: M_INVALID_SIGNATURE, M_INVALID_PARAM for what can't
        be taken, M_TOO_LARGE.
        spec: client-server-api#post_matrixclientv3keysupload
        """
        device_nid, device_id = own_device(session)

        async def turn() -> None:
            await not_ended(self._database, session)
            told = await self.uploading(
                session.user_nid,
                session.user_id,
                device_nid,
                device_id,
                device_keys,
                one_time,
                fallback,
            )
            if told.changes:
                await self._commits.commit(told.changes, told.positions, told.publish)

        await self._inbox.run(session.user_nid, turn)
        return (await self._one_time.pool(device_nid)).counts

    async def uploading(
        self,
        user_nid: int,
        user_id: str,
        device_nid: int,
        device_id: str,
        device_keys: JsonObject | None,
        one_time: JsonObject,
        fallback: JsonObject,
        ahead: int = 0,
    ) -> Told:
        """The changes of an upload for a device, to be committed in the user's turn.

        A device that comes with another identity has none of the one-time keys that it had, which
        nobody could use. `ahead` are the changes of the user's list that the same commit makes
        before.
        """
        stored = (await store.device_keys(self._database, [device_nid])).get(device_nid)
        present = canonical.decode_object(stored) if stored is not None else None
        changes: list[Change] = []
        listed = Told()
        anew = False
        if device_keys is not None:
            check_device_keys(device_keys, user_id, device_id)
            if not signs_itself(device_keys):
                raise MatrixError("M_INVALID_SIGNATURE", "device_keys are not signed by the device")
            if present is not None and not same_key(present, device_keys):
                # What was signed is no more.
                changes.append(store.signatures_gone(user_nid, [device_id]))
                anew = any(
                    device_keys["keys"].get(name) != key for name, key in present["keys"].items()
                )
            present = device_keys
            json = canonical.encode(device_keys)
            if json != stored:
                changes.append(Put(DeviceKeysRow(device_nid, json)))
                listed = await self._lists.changed(user_nid, [device_id], ahead=ahead)
        signer = device_key(present) if present is not None else None
        added = await self._one_time.added(
            device_nid, user_id, signer, one_time, fallback, anew=anew
        )

        def publish(pos: int) -> None:
            for told in (added, listed):
                if told.publish is not None:
                    told.publish(pos)

        return Told([*changes, *added.changes, *listed.changes], listed.positions, publish)

    async def restored(self) -> None:
        """An older copy of the database was put back: what it says was overtaken.

        One-time keys that it has may have been given out: all are dropped, clients see that there
        are none and upload others. Versions of lists that it would give again were given with
        another content: other servers must see a gap.
        """
        changes = [*store.pools_emptied(), own_versions_raised(VERSIONS_LOST)]
        await self._commits.commit(changes, 0, lambda _: self._one_time.clear())

    async def query(self, session: Session, wanted: Wanted, timeout: float) -> bytes:
        """The answer to a client's query as JSON; asks other servers for at most `timeout` s.

        Raises `MatrixError` M_TOO_LARGE.
        spec: client-server-api#post_matrixclientv3keysquery
        """
        _check_number(len(wanted))
        local, remote = self._apart(wanted)
        nids = await self._names.find(local)
        found = await self._here(nids)
        failures: JsonObject = {} if self._elsewhere is not None else _unasked(remote)
        if remote and self._elsewhere is not None:
            there, failures = await self._elsewhere.query(
                session, {user_id: wanted[user_id] for user_id in remote}, timeout
            )
            found |= there
            nids |= await self._names.find([*there])
        masters = {
            nids[user_id]: user_id
            for user_id, keys in found.items()
            if keys.master is not None and user_id in nids
        }
        if masters:
            others = {nid: found[user_id] for nid, user_id in masters.items()}
            signed = await self._public.signed_by(session.user_nid, others, session.user_id)
            found |= {masters[nid]: keys for nid, keys in signed.items()}
        return _answer(session.user_id, wanted, found, failures)

    async def local(
        self, user_ids: Collection[str], *, stored: bool = False
    ) -> dict[str, UserKeys]:
        """What other servers may see of local users; those who don't exist are absent.

        `stored` reads the tables whatever is in memory.
        """
        nids = await self._names.find([one for one in user_ids if one.endswith(self._suffix)])
        return await self._here(nids, stored=stored)

    async def _here(self, nids: Mapping[str, int], *, stored: bool = False) -> dict[str, UserKeys]:
        """The keys of those local users who exist."""
        users = {nid: user_id for user_id, nid in nids.items()}
        keys = await (self._public.stored(users) if stored else self._public.of(users))
        keyless = [nid for nid, own in keys.items() if not own.any]
        exist = await accounts_store.users(self._database, keyless) if keyless else {}
        return {
            user_id: keys[nid] for user_id, nid in nids.items() if keys[nid].any or nid in exist
        }

    async def claim(self, wanted: Claims, timeout: float) -> JsonObject:
        """The answer to a client's claim: `one_time_keys` and `failures`.

        Raises `MatrixError` M_TOO_LARGE.
        spec: client-server-api#post_matrixclientv3keysclaim
        """
        _check_number(sum(len(devices) for devices in wanted.values()))
        local, remote = self._apart(wanted)
        here = self.claim_local({user_id: wanted[user_id] for user_id in local})
        if not remote or self._elsewhere is None:
            return {"one_time_keys": await here, "failures": _unasked(remote)}
        there = self._elsewhere.claim({user_id: wanted[user_id] for user_id in remote}, timeout)
        mine, (theirs, failures) = await asyncio.gather(here, there)
        return {"one_time_keys": {**mine, **theirs}, "failures": failures}

    async def claim_local(self, wanted: Claims) -> JsonObject:
        """By local user and device, the claimed key by its name."""
        _check_number(sum(len(devices) for devices in wanted.values()))
        nids = await self._names.find([one for one in wanted if one.endswith(self._suffix)])
        devices = await accounts_store.devices_of(self._database, [*nids.values()])
        claims: dict[int, str] = {}
        owners: dict[int, tuple[str, str]] = {}
        for user_id, nid in nids.items():
            for device_id, algorithm in wanted[user_id].items():
                row = devices.get(nid, {}).get(device_id)
                if row is not None:
                    claims[row.device_nid] = algorithm
                    owners[row.device_nid] = (user_id, device_id)
        found: JsonObject = {}
        for device_nid, (name, json) in (await self._one_time.claim(claims)).items():
            user_id, device_id = owners[device_nid]
            found.setdefault(user_id, {})[device_id] = {name: canonical.decode(json)}
        return found

    def _apart(self, user_ids: Collection[str]) -> tuple[list[str], list[str]]:
        local = [user_id for user_id in user_ids if user_id.endswith(self._suffix)]
        return local, [user_id for user_id in user_ids if not user_id.endswith(self._suffix)]


def own_device(session: Session) -> tuple[int, str]:
    """The number and id of the session's device; `MatrixError` M_INVALID_PARAM without one."""
    if session.device_nid is None or session.device_id is None:
        raise MatrixError.invalid_param("This needs an access token that belongs to a device")
    return session.device_nid, session.device_id


async def not_ended(database: Database, session: Session) -> None:
    """Raise `MatrixError` M_UNKNOWN_TOKEN if the session's device has ended; in the user's turn."""
    nid = session.device_nid
    if nid is not None and nid not in await accounts_store.devices(database, [nid]):
        raise unknown_token("The device was logged out")


def _unasked(user_ids: Collection[str]) -> JsonObject:
    """The failures when no other server is asked."""
    servers = sorted({user_id.partition(":")[2] for user_id in user_ids})
    error = {"errcode": "M_UNKNOWN", "error": "Keys of other servers' users can't be had"}
    return dict.fromkeys(servers, error)


def _check_number(count: int) -> None:
    if count > MAX_QUERIED:
        raise MatrixError.too_large(f"At most {MAX_QUERIED} at once")


def _answer(
    asker: str, wanted: Wanted, found: Mapping[str, UserKeys], failures: JsonObject
) -> bytes:
    """The answer, put together from JSON that is ready."""
    devices = []
    signing: dict[bytes, list[bytes]] = {b"master": [], b"self_signing": [], b"user_signing": []}
    for user_id, keys in found.items():
        ids = wanted[user_id]
        name = canonical.encode(user_id)
        devices.append(b"%b:%b" % (name, keys.among(ids) if ids else keys.every()))
        if keys.master is not None:
            signing[b"master"].append(b"%b:%b" % (name, keys.master))
        if keys.self_signing is not None:
            signing[b"self_signing"].append(b"%b:%b" % (name, keys.self_signing))
        if keys.user_signing is not None and user_id == asker:
            signing[b"user_signing"].append(b"%b:%b" % (name, keys.user_signing))
    parts = [b'"device_keys":{%b}' % b",".join(devices)]
    parts += [b'"%b_keys":{%b}' % (usage, b",".join(keys)) for usage, keys in signing.items()]
    parts.append(b'"failures":%b' % canonical.encode(failures))
    return b"{%b}" % b",".join(parts)

"""Cross-signing: a user's own keys that vouch for devices and for other users.

Owns the upload of the three keys and of signatures made with them. Invariants: the master key
vouches for the other two; a signature is kept only when it is good and of a kind that the
specification knows (own master by own device, own device by self-signing key, another's master by
user-signing key); keys are replaced only by who has given the password. Signatures on others' keys
are seen by their maker alone.
spec: client-server-api#cross-signing
"""

from collections.abc import Mapping, Sequence

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.devicekeys import (
    check_signing_key,
    device_key,
    is_signed,
    same_key,
    signatures_of,
    signing_key,
)
from homeserver.matrix.errors import Malformed
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.streams.publish import Publisher
from homeserver.streams.ring import DeviceListEntry
from homeserver.users.device_lists import DeviceLists
from homeserver.users.e2e_keys import not_ended
from homeserver.users.inbox import UserInbox
from homeserver.users.public_keys import PublicKeys
from homeserver.users.sessions import Session
from homeserver.users.uia import PASSWORD, Interactive, Operation
from storage import accounts as accounts_store
from storage import device_keys as store
from storage.changes import Change, Pos, Put
from storage.engine import Database
from storage.schema import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    KeySignatureRow,
    SigningKeyRow,
)

MAX_SIGNATURES = 5_000
"""Keys that may be signed in one request."""
_NAMES = {MASTER: "master", SELF_SIGNING: "self_signing", USER_SIGNING: "user_signing"}
_USAGES = {name: usage for usage, name in _NAMES.items()}


class CrossSigning:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        names: Names,
        inbox: UserInbox,
        lists: DeviceLists,
        public: PublicKeys,
        publisher: Publisher,
        interactive: Interactive,
    ) -> None:
        self._database = database
        self._commits = commits
        self._names = names
        self._inbox = inbox
        self._lists = lists
        self._public = public
        self._publisher = publisher
        self._interactive = interactive

    async def upload(
        self, session: Session, keys: Mapping[str, JsonObject], auth: JsonObject | None
    ) -> None:
        """Publish keys by the name of their usage, once `auth` has given the password where wanted.

        It is wanted of people, unless there is no master key yet, or nothing is new. Raises
        `Malformed`, those of `Interactive.check`, and `MatrixError`: M_MISSING_PARAM without a
        master key, M_INVALID_SIGNATURE, M_FORBIDDEN for a key named like a device.
        spec: client-server-api#post_matrixclientv3keysdevice_signingupload
        """
        given = {_USAGES[name]: key for name, key in keys.items()}
        named = {
            usage: check_signing_key(key, session.user_id, _NAMES[usage])
            for usage, key in given.items()
        }
        proven: Sequence[Change] | None = None if session.service is None else ()

        async def turn() -> bool:
            """Whether that was possible without a proof."""
            await not_ended(self._database, session)
            present = await self._present(session.user_nid)
            new = {
                usage
                for usage, key in given.items()
                if usage not in present or not same_key(present[usage], key)
            }
            if MASTER in present and new and proven is None:
                return False
            if MASTER not in given and MASTER not in present:
                raise MatrixError.missing_param("master_key: there is none yet")
            devices = (await accounts_store.devices_of(self._database, [session.user_nid])).get(
                session.user_nid, {}
            )
            if any(name.partition(":")[2] in devices for name, _ in named.values()):
                raise MatrixError.forbidden("A key is named like one of your devices")
            master = dict([named[MASTER] if MASTER in named else signing_key(present[MASTER])])
            for usage, key in given.items():
                if usage != MASTER and not is_signed(key, session.user_id, master):
                    raise MatrixError(
                        "M_INVALID_SIGNATURE",
                        f"{_NAMES[usage]}_key is not signed by the master key",
                    )
            # What a new master key does not vouch for ends with the old one.
            replaced = MASTER in new and MASTER in present
            kept = {} if replaced else present
            if all(usage in kept and kept[usage] == key for usage, key in given.items()):
                return True
            changes: list[Change] = [*(proven or ())]
            if replaced:
                changes += store.signing_gone(session.user_nid)
            changes += [
                Put(SigningKeyRow(session.user_nid, usage, canonical.encode(key)))
                for usage, key in given.items()
            ]
            told = await self._lists.changed(session.user_nid, signing=True)
            await self._commits.commit([*changes, *told.changes], told.positions, told.publish)
            return True

        while not await self._inbox.run(session.user_nid, turn):
            proven = await self._proof(session, auth)

    async def _proof(self, session: Session, auth: JsonObject | None) -> Sequence[Change]:
        users = await accounts_store.users(self._database, [session.user_nid])
        operation = Operation("upload signing keys", [(PASSWORD,)], users[session.user_nid])
        return (await self._interactive.check(operation, auth)).changes

    async def sign(self, session: Session, given: Mapping[str, JsonObject]) -> JsonObject:
        """Take signatures on keys, by user and key; `failures` by user and key.

        Raises `MatrixError` M_TOO_LARGE.
        spec: client-server-api#post_matrixclientv3keyssignaturesupload
        """
        if sum(len(keys) for keys in given.values()) > MAX_SIGNATURES:
            raise MatrixError.too_large(f"At most {MAX_SIGNATURES} keys are signed at once")
        failures: JsonObject = {}

        async def turn() -> None:
            own: list[KeySignatureRow] = []
            others: list[KeySignatureRow] = []
            signer = await self._present(session.user_nid)
            nids = await self._names.find([*given])
            known = await self._public.of({nid: user_id for user_id, nid in nids.items()})
            for user_id, keys in given.items():
                for name, key in keys.items():
                    nid = nids.get(user_id)
                    try:
                        if nid is None or not isinstance(key, dict):
                            raise MatrixError.not_found("There is no such key")
                        target = _target(known[nid].devices, known[nid].master, name, key)
                        found = self._made(session, signer, user_id, known[nid].devices, name, key)
                    except (MatrixError, Malformed) as error:
                        failures.setdefault(user_id, {})[name] = _failure(error)
                        continue
                    before = signatures_of(target).get(session.user_id, {})
                    rows = own if user_id == session.user_id else others
                    rows += [
                        KeySignatureRow(session.user_nid, nid, name, key_id, text, Pos(0))
                        for key_id, text in found.items()
                        if before.get(key_id) != text
                    ]
            mine = known.get(session.user_nid)
            await self._keep(session, mine.devices if mine is not None else {}, own, others)

        await self._inbox.run(session.user_nid, turn)
        return failures

    def _made(
        self,
        session: Session,
        signer: Mapping[int, JsonObject],
        user_id: str,
        devices: Mapping[str, bytes],
        name: str,
        key: JsonObject,
    ) -> dict[str, str]:
        """The signatures by the user on a key, all of them good and of a kind that is allowed."""
        made = signatures_of(key).get(session.user_id, {})
        trusted: dict[str, bytes] = {}
        if user_id != session.user_id:
            if USER_SIGNING in signer and name not in devices:
                trusted = dict([signing_key(signer[USER_SIGNING])])
        elif name in devices:
            if SELF_SIGNING in signer:
                trusted = dict([signing_key(signer[SELF_SIGNING])])
            # Clients send along the signature that the device has made itself.
            mine = device_key(canonical.decode_object(devices[name]))
            trusted |= dict([mine]) if mine is not None else {}
        else:
            for json in devices.values():
                signing = device_key(canonical.decode_object(json))
                if signing is not None:
                    trusted[signing[0]] = signing[1]
        wrong = made.keys() - trusted.keys()
        if not made or wrong or not is_signed(key, session.user_id, trusted):
            raise MatrixError(
                "M_INVALID_SIGNATURE", "This is not signed by a key that may sign it, or wrongly"
            )
        return made

    async def _keep(
        self,
        session: Session,
        devices: Mapping[str, bytes],
        own: list[KeySignatureRow],
        others: list[KeySignatureRow],
    ) -> None:
        if own:
            names = {row.key_name for row in own}
            signed = sorted(names & devices.keys())
            told = await self._lists.changed(
                session.user_nid, signed, signing=len(signed) < len(names)
            )
            changes: list[Change] = [*map(Put, own), *told.changes]
            await self._commits.commit(changes, told.positions, told.publish)
        if others:
            targets = {row.user_nid for row in others}

            def publish(pos: int) -> None:
                for nid in targets:
                    entry = DeviceListEntry(pos, nid, only_for=session.user_nid)
                    self._publisher.device_list(entry, ())

            await self._commits.commit([*map(Put, others)], 1, publish)

    async def _present(self, user_nid: int) -> dict[int, JsonObject]:
        rows = (await store.signing_keys(self._database, [user_nid])).get(user_nid, {})
        return {usage: canonical.decode_object(row.json) for usage, row in rows.items()}


def _target(
    devices: Mapping[str, bytes], master: bytes | None, name: str, key: JsonObject
) -> JsonObject:
    """The key that is to be signed, which must be the one that is known."""
    json = devices.get(name)
    if json is None and master is not None:
        decoded = canonical.decode_object(master)
        if name in decoded["keys"].values():
            json = master
    if json is None:
        raise MatrixError.not_found("There is no such key")
    target = canonical.decode_object(json)
    if not same_key(target, key):
        raise MatrixError.invalid_param("The key that was signed is not the one that is known")
    return target


def _failure(error: MatrixError | Malformed) -> JsonObject:
    if isinstance(error, MatrixError):
        return {"errcode": error.errcode, "error": error.message}
    return {"errcode": "M_BAD_JSON", "error": str(error)}

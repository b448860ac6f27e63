"""Key backups: encrypted sessions that a user's devices keep on the server.

Owns versions, their sessions, and which of two copies of a session stays. Invariants: `count` and
`etag` of a version are those of its sessions, as they are changed in the user's turn by the same
commit; a version's number is never used again; only the latest version is written to. A backup of
any size is read page by page. What the sessions hold is not known here.
spec: client-server-api#server-side-key-backups
"""

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import fits
from homeserver.streams.commit import CommitQueue
from homeserver.users.inbox import UserInbox
from storage import key_backup as store
from storage.changes import Change, Delete, Insert, Put
from storage.engine import Database
from storage.schema import BackupKeyRow, BackupRow

MAX_SESSION_BYTES = 65_536
MAX_AUTH_DATA = 65_536
PAGE = 100
_MAX_INDEX = 2**53 - 1


class Session(NamedTuple):
    """A session as a client gives it: what its replacement goes by, and its data.

    spec: client-server-api#backup-algorithm-mmegolm_backupv1curve25519-aes-sha2
    """

    first_index: int
    forwarded: int
    verified: bool
    data: JsonObject


Rooms = Mapping[str, Mapping[str, Session]]


class KeyBackup:
    """See the module."""

    def __init__(self, database: Database, commits: CommitQueue, inbox: UserInbox) -> None:
        self._database = database
        self._commits = commits
        self._inbox = inbox

    async def create(self, user_nid: int, algorithm: str, auth_data: JsonObject) -> str:
        """Begin a new version; its number. Raises `MatrixError` M_TOO_LARGE, M_INVALID_PARAM."""
        if not fits(algorithm):
            raise MatrixError.invalid_param("algorithm: more than 255 bytes")
        auth = _auth(auth_data)

        async def turn() -> str:
            number = await store.last_number(self._database, user_nid) + 1
            row = BackupRow(user_nid, number, algorithm, auth, 0, 0, 0)
            await self._commits.commit([Insert(row)])
            return str(number)

        return await self._inbox.run(user_nid, turn)

    async def info(self, user_nid: int, version: str | None = None) -> JsonObject:
        """A version, or the latest; `MatrixError` M_NOT_FOUND."""
        if version is None:
            row = await store.latest(self._database, user_nid)
            if row is None:
                raise MatrixError.not_found("There is no current backup version")
        else:
            row = await self._version(user_nid, version)
        return {
            "version": str(row.version),
            "algorithm": row.algorithm,
            "auth_data": canonical.decode_object(row.auth_data),
            "count": row.sessions,
            "etag": str(row.etag),
        }

    async def update(
        self, user_nid: int, version: str, named: str | None, algorithm: str, auth_data: JsonObject
    ) -> None:
        """Change the `auth_data` of a version; nothing else of it can be changed.

        Raises `MatrixError`: M_NOT_FOUND, M_INVALID_PARAM for another algorithm or version.
        spec: client-server-api#put_matrixclientv3room_keysversionversion
        """
        auth = _auth(auth_data)

        async def turn() -> None:
            row = await self._version(user_nid, version)
            if named is not None and named != version:
                raise MatrixError.invalid_param("version: not the one of the path")
            if algorithm != row.algorithm:
                raise MatrixError.invalid_param("algorithm: it can't be changed")
            await self._commits.commit([Put(row._replace(auth_data=auth))])

        await self._inbox.run(user_nid, turn)

    async def delete(self, user_nid: int, version: str) -> None:
        """Delete a version with its sessions; `MatrixError` M_NOT_FOUND."""

        async def turn() -> None:
            row = await self._version(user_nid, version)
            gone = row._replace(deleted=1, sessions=0, auth_data=b"{}")
            await self._commits.commit([store.emptied(user_nid, row.version), Put(gone)])

        await self._inbox.run(user_nid, turn)

    async def put(self, user_nid: int, version: str, rooms: Rooms) -> JsonObject:
        """Store sessions by room and id, each where it is better than what is there.

        `count` and `etag` then. Raises `MatrixError`: M_WRONG_ROOM_KEYS_VERSION unless it is the
        latest version, M_NOT_FOUND, M_TOO_LARGE.
        """
        rows = {
            (room_id, session_id): _row(user_nid, room_id, session_id, session)
            for room_id, sessions in rooms.items()
            for session_id, session in sessions.items()
        }

        async def turn() -> JsonObject:
            row = await self._latest(user_nid, version)
            changes: list[Change] = []
            added = 0
            for room_id, sessions in rooms.items():
                present = await store.keys_in(
                    self._database, user_nid, row.version, room_id, [*sessions]
                )
                for session_id in sessions:
                    new = rows[room_id, session_id]._replace(version=row.version)
                    old = present.get(session_id)
                    if old is None or _better(new, old):
                        changes.append(Put(new))
                        added += old is None
            return await self._changed(row, changes, added)

        return await self._inbox.run(user_nid, turn)

    async def one(self, user_nid: int, version: str, room_id: str, session_id: str) -> bytes:
        """One session as JSON; `MatrixError` M_NOT_FOUND."""
        row = await self._version(user_nid, version)
        found = await store.keys_in(self._database, user_nid, row.version, room_id, [session_id])
        if session_id not in found:
            raise MatrixError.not_found("There is no such key in the backup")
        return _shown(found[session_id])

    async def room(self, user_nid: int, version: str, room_id: str) -> AsyncIterator[bytes]:
        """The sessions of a room as JSON, in pieces; `MatrixError` M_NOT_FOUND at once."""
        row = await self._version(user_nid, version)

        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"sessions":{'
            after, first = "", True
            while page := await store.page_of_room(
                self._database, user_nid, row.version, room_id, after, PAGE
            ):
                after = page[-1].session_id
                yield (b"" if first else b",") + b",".join(map(_named, page))
                first = False
            yield b"}}"

        return pieces()

    async def all(self, user_nid: int, version: str) -> AsyncIterator[bytes]:
        """All sessions by room as JSON, in pieces; `MatrixError` M_NOT_FOUND at once."""
        row = await self._version(user_nid, version)

        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"rooms":{'
            room_id: str | None = None
            after = ("", "")
            while page := await store.page(self._database, user_nid, row.version, after, PAGE):
                parts = []
                for key in page:
                    if key.room_id != room_id:
                        end = b"" if room_id is None else b"}},"
                        parts.append(b'%b%b:{"sessions":{' % (end, canonical.encode(key.room_id)))
                        room_id = key.room_id
                    else:
                        parts.append(b",")
                    parts.append(_named(key))
                after = (page[-1].room_id, page[-1].session_id)
                yield b"".join(parts)
            yield b"}}" if room_id is None else b"}}}}"

        return pieces()

    async def remove(
        self, user_nid: int, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> JsonObject:
        """Remove all sessions, those of a room, or one; `count` and `etag` then.

        Raises `MatrixError` M_NOT_FOUND for a version that does not exist.
        """

        async def turn() -> JsonObject:
            row = await self._version(user_nid, version)
            if room_id is not None and session_id is not None:
                key = (user_nid, row.version, room_id, session_id)
                change: Change = Delete(BackupKeyRow, key)
                count = len(
                    await store.keys_in(
                        self._database, user_nid, row.version, room_id, [session_id]
                    )
                )
            else:
                change = store.emptied(user_nid, row.version, room_id)
                count = await store.count(self._database, user_nid, row.version, room_id)
            return await self._changed(row, [change] if count else [], -count)

        return await self._inbox.run(user_nid, turn)

    async def _changed(self, row: BackupRow, changes: list[Change], added: int) -> JsonObject:
        if changes:
            row = row._replace(sessions=row.sessions + added, etag=row.etag + 1)
            await self._commits.commit([*changes, Put(row)])
        return {"count": row.sessions, "etag": str(row.etag)}

    async def _latest(self, user_nid: int, version: str) -> BackupRow:
        row = await store.latest(self._database, user_nid)
        if row is None:
            raise MatrixError.not_found("There is no backup")
        if version != str(row.version):
            raise MatrixError(
                "M_WRONG_ROOM_KEYS_VERSION",
                "Only the latest version of the backup is written to",
                403,
                extra={"current_version": str(row.version)},
            )
        return row

    async def _version(self, user_nid: int, version: str) -> BackupRow:
        row = None
        if version.isascii() and version.isdigit() and len(version) < 16:
            row = await store.version(self._database, user_nid, int(version))
        if row is None or str(row.version) != version:
            raise MatrixError.not_found("There is no such version of the backup")
        return row


def _better(new: BackupKeyRow, old: BackupKeyRow) -> bool:
    """Whether the new copy of a session takes the old one's place.

    spec: client-server-api#put_matrixclientv3room_keyskeysroomidsessionid
    """
    if bool(new.verified) != bool(old.verified):
        return bool(new.verified)
    if new.first_index != old.first_index:
        return new.first_index < old.first_index
    return new.forwarded < old.forwarded


def _row(user_nid: int, room_id: str, session_id: str, session: Session) -> BackupKeyRow:
    if not fits(room_id) or not fits(session_id):
        raise MatrixError.invalid_param("Room ids and session ids have at most 255 bytes")
    data = canonical.encode(session.data)
    if len(data) > MAX_SESSION_BYTES:
        raise MatrixError.too_large(f"session_data has at most {MAX_SESSION_BYTES} bytes")
    first, forwarded = min(session.first_index, _MAX_INDEX), min(session.forwarded, _MAX_INDEX)
    return BackupKeyRow(
        user_nid, 0, room_id, session_id, first, forwarded, int(session.verified), data
    )


def _auth(auth_data: JsonObject) -> bytes:
    auth = canonical.encode(auth_data)
    if len(auth) > MAX_AUTH_DATA:
        raise MatrixError.too_large(f"auth_data has at most {MAX_AUTH_DATA} bytes")
    return auth


def _shown(row: BackupKeyRow) -> bytes:
    return b'{"first_message_index":%d,"forwarded_count":%d,"is_verified":%b,"session_data":%b}' % (
        row.first_index,
        row.forwarded,
        b"true" if row.verified else b"false",
        row.json,
    )


def _named(row: BackupKeyRow) -> bytes:
    return b"%b:%b" % (canonical.encode(row.session_id), _shown(row))

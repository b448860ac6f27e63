"""The backup of sessions.

spec: client-server-api#server-side-key-backups
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Natural, Raw, Shape, Streamed
from homeserver.matrix.canonical import JsonObject
from homeserver.users.key_backup import Session


class Key(Shape):
    first_message_index: Natural
    forwarded_count: Natural
    is_verified: bool
    session_data: JsonObject

    @property
    def session(self) -> Session:
        return Session(
            self.first_message_index, self.forwarded_count, self.is_verified, self.session_data
        )


class RoomKeys(Shape):
    sessions: dict[str, Key]

    @property
    def by_id(self) -> dict[str, Session]:
        return {session_id: key.session for session_id, key in self.sessions.items()}


class AllKeys(Shape):
    rooms: dict[str, RoomKeys]


class VersionQuery(Shape):
    version: str


class NewVersion(Shape):
    algorithm: str
    auth_data: JsonObject


class Version(Shape):
    version: str


class ChangedVersion(NewVersion):
    version: str | None = None


@endpoint(
    "POST /_matrix/client/v3/room_keys/version",
    spec="client-server-api#post_matrixclientv3room_keysversion",
    auth=Client(),
)
async def create_version(call: Call, body: NewVersion) -> Version:
    """Begin a new version."""
    backup = call.app.encryption.backup
    return Version(await backup.create(call.session.user_nid, body.algorithm, body.auth_data))


@endpoint(
    "GET /_matrix/client/v3/room_keys/version",
    spec="client-server-api#get_matrixclientv3room_keysversion",
    auth=Client(),
)
async def get_latest_version(call: Call) -> JsonObject:
    """The latest version."""
    return await call.app.encryption.backup.info(call.session.user_nid)


@endpoint(
    "GET /_matrix/client/v3/room_keys/version/{version}",
    spec="client-server-api#get_matrixclientv3room_keysversionversion",
    auth=Client(),
)
async def get_version(call: Call, version: str) -> JsonObject:
    """One version."""
    return await call.app.encryption.backup.info(call.session.user_nid, version)


@endpoint(
    "PUT /_matrix/client/v3/room_keys/version/{version}",
    spec="client-server-api#put_matrixclientv3room_keysversionversion",
    auth=Client(),
)
async def put_version(call: Call, version: str, body: ChangedVersion) -> Empty:
    """Change what is said of a version."""
    await call.app.encryption.backup.update(
        call.session.user_nid, version, body.version, body.algorithm, body.auth_data
    )
    return Empty()


@endpoint(
    "DELETE /_matrix/client/v3/room_keys/version/{version}",
    spec="client-server-api#delete_matrixclientv3room_keysversionversion",
    auth=Client(),
)
async def delete_version(call: Call, version: str) -> Empty:
    """Delete a version with its keys."""
    await call.app.encryption.backup.delete(call.session.user_nid, version)
    return Empty()


@endpoint(
    "PUT /_matrix/client/v3/room_keys/keys",
    spec="client-server-api#put_matrixclientv3room_keyskeys",
    auth=Client(),
)
async def put_keys(call: Call, query: VersionQuery, body: AllKeys) -> JsonObject:
    """Store keys of several rooms."""
    rooms = {room_id: keys.by_id for room_id, keys in body.rooms.items()}
    return await call.app.encryption.backup.put(call.session.user_nid, query.version, rooms)


@endpoint(
    "PUT /_matrix/client/v3/room_keys/keys/{room_id}",
    spec="client-server-api#put_matrixclientv3room_keyskeysroomid",
    auth=Client(),
)
async def put_room_keys(
    call: Call, room_id: str, query: VersionQuery, body: RoomKeys
) -> JsonObject:
    """Store keys of a room."""
    rooms = {room_id: body.by_id}
    return await call.app.encryption.backup.put(call.session.user_nid, query.version, rooms)


@endpoint(
    "PUT /_matrix/client/v3/room_keys/keys/{room_id}/{session_id}",
    spec="client-server-api#put_matrixclientv3room_keyskeysroomidsessionid",
    auth=Client(),
)
async def put_key(
    call: Call, room_id: str, session_id: str, query: VersionQuery, body: Key
) -> JsonObject:
    """Store one key."""
    rooms = {room_id: {session_id: body.session}}
    return await call.app.encryption.backup.put(call.session.user_nid, query.version, rooms)


@endpoint(
    "GET /_matrix/client/v3/room_keys/keys",
    spec="client-server-api#get_matrixclientv3room_keyskeys",
    auth=Client(),
    limit="read_heavy",
)
async def get_keys(call: Call, query: VersionQuery) -> Streamed:
    """All keys."""
    return Streamed(await call.app.encryption.backup.all(call.session.user_nid, query.version))


@endpoint(
    "GET /_matrix/client/v3/room_keys/keys/{room_id}",
    spec="client-server-api#get_matrixclientv3room_keyskeysroomid",
    auth=Client(),
    limit="read_heavy",
)
async def get_room_keys(call: Call, room_id: str, query: VersionQuery) -> Streamed:
    """The keys of a room."""
    backup = call.app.encryption.backup
    return Streamed(await backup.room(call.session.user_nid, query.version, room_id))


@endpoint(
    "GET /_matrix/client/v3/room_keys/keys/{room_id}/{session_id}",
    spec="client-server-api#get_matrixclientv3room_keyskeysroomidsessionid",
    auth=Client(),
)
async def get_key(call: Call, room_id: str, session_id: str, query: VersionQuery) -> Raw:
    """One key."""
    backup = call.app.encryption.backup
    return Raw(await backup.one(call.session.user_nid, query.version, room_id, session_id))


@endpoint(
    "DELETE /_matrix/client/v3/room_keys/keys",
    spec="client-server-api#delete_matrixclientv3room_keyskeys",
    auth=Client(),
)
async def delete_keys(call: Call, query: VersionQuery) -> JsonObject:
    """Delete all keys."""
    return await call.app.encryption.backup.remove(call.session.user_nid, query.version)


@endpoint(
    "DELETE /_matrix/client/v3/room_keys/keys/{room_id}",
    spec="client-server-api#delete_matrixclientv3room_keyskeysroomid",
    auth=Client(),
)
async def delete_room_keys(call: Call, room_id: str, query: VersionQuery) -> JsonObject:
    """Delete the keys of a room."""
    backup = call.app.encryption.backup
    return await backup.remove(call.session.user_nid, query.version, room_id)


@endpoint(
    "DELETE /_matrix/client/v3/room_keys/keys/{room_id}/{session_id}",
    spec="client-server-api#delete_matrixclientv3room_keyskeysroomidsessionid",
    auth=Client(),
)
async def delete_key(call: Call, room_id: str, session_id: str, query: VersionQuery) -> JsonObject:
    """Delete one key."""
    backup = call.app.encryption.backup
    return await backup.remove(call.session.user_nid, query.version, room_id, session_id)

"""Profiles: what users show of themselves.

Owns the fields of local users and telling their rooms. A change is answered when it is stored; the
rooms follow by a job that was stored with it, so they do so also after a crash.
spec: client-server-api#profiles
"""

import logging
import re

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode, encode
from homeserver.matrix.errors import Rejected
from homeserver.matrix.ids import fits, split_user_id
from homeserver.rooms.actor import Rooms
from homeserver.rooms.members import Members
from homeserver.runtime.jobs import Jobs
from homeserver.streams.commit import CommitQueue
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from homeserver.users.inbox import UserInbox
from storage import accounts as store
from storage.changes import Change, Delete, Put
from storage.engine import Database
from storage.schema import DEACTIVATED, ProfileRow

log = logging.getLogger(__name__)

DISPLAYNAME = "displayname"
AVATAR_URL = "avatar_url"
_IN_ROOMS = (DISPLAYNAME, AVATAR_URL)
JOB = "profile"

MAX_DISPLAYNAME = 256
MAX_AVATAR_URL = 1_000
MAX_PROFILE = 65_536
_FIELD = re.compile(r"displayname|avatar_url|m\.tz|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


class Profiles:
    """The profiles of the users of this server."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        names: Names,
        inbox: UserInbox,
        jobs: Jobs,
        server_name: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._names = names
        self._inbox = inbox
        self._jobs = jobs
        self._server_name = server_name

    async def of(self, user_id: str) -> JsonObject:
        """All fields of a user; `MatrixError` M_NOT_FOUND when there is no such user."""
        user_nid = await self._local(user_id)
        return {field: decode(value) for field, value in (await self._stored(user_nid)).items()}

    async def field(self, user_id: str, field: str) -> JsonObject:
        """`{field: value}`; `MatrixError` M_NOT_FOUND when the user has no such field."""
        _check_field(field)
        profile = await self.of(user_id)
        if field not in profile:
            raise MatrixError.not_found(f"The profile has no {field}")
        return {field: profile[field]}

    async def in_rooms(self, user_id: str) -> JsonObject:
        """What the user's member events show; empty for users who are not ours."""
        user_nid = (await self._names.nids([user_id]))[user_id]
        stored = await self._stored(user_nid)
        return {field: decode(stored[field]) for field in _IN_ROOMS if field in stored}

    async def put(self, user_nid: int, field: str, body: JsonObject) -> None:
        """Set a field to the value that the body holds under its name.

        Null or an empty text takes a display name or avatar away. Raises `MatrixError`
        M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM, M_KEY_TOO_LARGE, M_PROFILE_TOO_LARGE.
        spec: client-server-api#put_matrixclientv3profileuseridkeyname
        """
        _check_field(field)
        if field not in body:
            raise MatrixError.missing_param(f"{field} is missing")
        value = body[field]
        if field in _IN_ROOMS:
            _check_shown(field, value)
            await self._set(user_nid, field, encode(value) if value else None)
        else:
            await self._set(user_nid, field, encode(value))

    async def delete(self, user_nid: int, field: str) -> None:
        """Take a field away; nothing happens when it is not there."""
        _check_field(field)
        await self._set(user_nid, field, None)

    async def _set(self, user_nid: int, field: str, value: bytes | None) -> None:
        async def turn() -> None:
            profile = await self._stored(user_nid)
            if profile.get(field) == value:
                return
            change: Change = Delete(ProfileRow, (user_nid, field))
            if value is not None:
                change = Put(ProfileRow(user_nid, field, value))
                profile[field] = value
                if sum(len(name) + len(text) for name, text in profile.items()) >= MAX_PROFILE:
                    raise MatrixError("M_PROFILE_TOO_LARGE", "The profile would be too large", 400)
            changes = [change]
            if field in _IN_ROOMS:
                changes.append(await self._jobs.new(JOB, {"user_nid": user_nid}))
            await self._commits.commit(changes)
            self._jobs.wake()

        await self._inbox.run(user_nid, turn)

    async def _stored(self, user_nid: int) -> dict[str, bytes]:
        return (await store.profiles(self._database, [user_nid])).get(user_nid, {})

    async def _local(self, user_id: str) -> int:
        localpart, server = split_user_id(user_id)
        if server != self._server_name:
            raise MatrixError.not_found("This server does not know that user")
        user = (await store.users_by_localpart(self._database, [localpart])).get(localpart)
        if user is None or user.flags & DEACTIVATED:
            raise MatrixError.not_found("There is no such user")
        return user.user_nid


class ProfileSpread:
    """Brings a changed profile to the rooms that the user is in; the handler of `JOB`."""

    def __init__(
        self, rooms: Rooms, members: Members, memberships: Memberships, names: Names
    ) -> None:
        self._rooms = rooms
        self._members = members
        self._memberships = memberships
        self._names = names

    async def run(self, args: JsonObject) -> None:
        """Update the user's member event in every joined room that shows something older.

        A room that refuses does not keep the others from being told.
        """
        user_nid: int = args["user_nid"]
        user_id = (await self._names.names([user_nid]))[user_nid]
        joined = sorted((await self._memberships.of(user_nid)).joined)
        for room in (await self._rooms.by_nids(joined)).values():
            try:
                await self._members.update_profile(user_id, room)
            except (MatrixError, Rejected) as error:
                if isinstance(error, MatrixError) and error.status >= 500:
                    raise
                log.info("%s keeps the old profile of %s: %s", room.room_id, user_id, error)


def _check_field(field: str) -> None:
    if not fits(field):
        raise MatrixError("M_KEY_TOO_LARGE", "Names of profile fields have at most 255 bytes", 400)
    if _FIELD.fullmatch(field) is None:
        raise MatrixError.invalid_param(f"{field!r} cannot be the name of a profile field")


def _check_shown(field: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise MatrixError.bad_json(f"{field} must be a string")
    most = MAX_DISPLAYNAME if field == DISPLAYNAME else MAX_AVATAR_URL
    if value is not None and len(value) > most:
        raise MatrixError.invalid_param(f"{field} has more than {most} characters")
    if field == AVATAR_URL and value and not value.startswith("mxc://"):
        raise MatrixError.invalid_param("avatar_url must be an mxc:// URI")

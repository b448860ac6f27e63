"""Profiles: what users show of themselves.

Owns the fields of local users. A change is answered when it is stored; the rooms follow by a job
that was stored with it (`profile_spread.py`), so they do so also after a crash. What they may still
show is remembered until all have followed: a room that shows something else has a name of its own,
which stays.
spec: client-server-api#profiles
"""

import re
import secrets
from dataclasses import dataclass

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode, encode
from homeserver.matrix.ids import fits, server_of, split_user_id
from homeserver.matrix.mxc import named_in
from homeserver.ports import RemoteDirectory
from homeserver.rooms.known_users import known_user
from homeserver.runtime.clock import Clock
from homeserver.runtime.jobs import Jobs
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.users.inbox import UserInbox
from storage import accounts as store
from storage.changes import Change, Delete, Put
from storage.engine import Database
from storage.schema import (
    DEACTIVATED,
    SHOWN_BY_PROFILE,
    MediaLeftRow,
    MediaShownRow,
    ProfileChangeRow,
    ProfileRow,
)

DISPLAYNAME = "displayname"
AVATAR_URL = "avatar_url"
_IN_ROOMS = (DISPLAYNAME, AVATAR_URL)
JOB = "profile"

MAX_DISPLAYNAME = 256
MAX_AVATAR_URL = 1_000
MAX_PROFILE = 65_536
MAX_FORMER = 100
"""Former values of a field that are remembered; rooms that show an older one keep it."""
_FIELD = re.compile(r"displayname|avatar_url|m\.tz|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


@dataclass(frozen=True, slots=True)
class Spreading:
    """A change on its way to the rooms: its number, and by field which values give way to what."""

    number: int
    former: JsonObject
    profile: JsonObject

    def followed(self, content: JsonObject) -> JsonObject | None:
        """What a member event is to hold in place of `content`; None: it may stay."""
        changed = {
            field: self.profile.get(field)
            for field, values in self.former.items()
            if content.get(field) in values and content.get(field) != self.profile.get(field)
        }
        if not changed:
            return None
        kept = {field: value for field, value in content.items() if field not in changed}
        return {**kept, **{field: value for field, value in changed.items() if value is not None}}


class Profiles:
    """The profiles of this server's users; others are asked of their servers."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        names: Names,
        inbox: UserInbox,
        jobs: Jobs,
        remote: RemoteDirectory,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._names = names
        self._inbox = inbox
        self._jobs = jobs
        self._remote = remote
        self._clock = clock
        self._server_name = server_name

    async def of(self, user_id: str) -> JsonObject:
        """All fields of a user, of another server's as that tells them.

        Raises `MatrixError` M_NOT_FOUND when there is no such user.
        """
        if server_of(user_id) != self._server_name:
            return await self._remote.profile(user_id)
        user_nid = await self._local(user_id)
        return {field: decode(value) for field, value in (await self._stored(user_nid)).items()}

    async def field(self, user_id: str, field: str) -> JsonObject:
        """`{field: value}`; `MatrixError` M_NOT_FOUND when the user has no such field."""
        _check_field(field)
        if server_of(user_id) != self._server_name:
            return await self._remote.profile(user_id, field)
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
            before = profile.get(field)
            if before == value:
                return
            change: Change = Delete(ProfileRow, (user_nid, field))
            if value is not None:
                change = Put(ProfileRow(user_nid, field, value))
                profile[field] = value
                if sum(len(name) + len(text) for name, text in profile.items()) >= MAX_PROFILE:
                    raise MatrixError("M_PROFILE_TOO_LARGE", "The profile would be too large", 400)
            changes = [change, *self._files_shown(user_nid, field, before or b"", value or b"")]
            if field in _IN_ROOMS:
                changes += await self._spread(user_nid, field, before)
                shown = {**profile, field: value}
                user_id = (await self._names.names([user_nid]))[user_nid]
                texts = [decode(text) if (text := shown.get(key)) else None for key in _IN_ROOMS]
                changes.append(known_user(user_nid, user_id, *texts))
            await self._commits.commit(changes)
            self._jobs.wake()

        await self._inbox.run(user_nid, turn)

    def _files_shown(self, user_nid: int, field: str, before: bytes, after: bytes) -> list[Change]:
        """The rows of files that a field shows, and of those that the user has left with it."""
        then, now = (
            {name.media_id for name in named_in(value) if name.server == self._server_name}
            for value in (before, after)
        )
        ts = self._clock.now_ms()
        left: list[Change] = []
        for media_id in then - now:
            left.append(Delete(MediaShownRow, (media_id, SHOWN_BY_PROFILE, user_nid, field)))
            left.append(Put(MediaLeftRow(self._server_name, media_id, user_nid, ts)))
        return left + [
            Put(MediaShownRow(media_id, SHOWN_BY_PROFILE, user_nid, field))
            for media_id in now - then
        ]

    async def _spread(self, user_nid: int, field: str, before: bytes | None) -> list[Change]:
        """The changes that let the rooms follow a field that was `before`."""
        pending = await self._pending(user_nid)
        former: JsonObject = decode(pending.former) if pending is not None else {}
        value = decode(before) if before is not None else None
        values = [other for other in former.get(field, []) if other != value]
        former[field] = [*values, value][-MAX_FORMER:]
        number = secrets.randbits(62)
        job = await self._jobs.new(JOB, {"user_nid": user_nid, "number": number})
        return [Put(ProfileChangeRow(user_nid, number, encode(former))), job]

    async def spreading(self, user_nid: int) -> Spreading | None:
        """The change that is on its way to the user's rooms; None when all have followed."""
        pending = await self._pending(user_nid)
        if pending is None:
            return None
        stored = await self._stored(user_nid)
        profile = {field: decode(stored[field]) for field in _IN_ROOMS if field in stored}
        return Spreading(pending.number, decode(pending.former), profile)

    async def spread(self, user_nid: int, number: int) -> None:
        """All rooms have followed the change of this number."""

        async def turn() -> None:
            pending = await self._pending(user_nid)
            if pending is not None and pending.number == number:
                await self._commits.commit([Delete(ProfileChangeRow, (user_nid,))])

        await self._inbox.run(user_nid, turn)

    async def _pending(self, user_nid: int) -> ProfileChangeRow | None:
        return (await store.profile_changes(self._database, [user_nid])).get(user_nid)

    async def _stored(self, user_nid: int) -> dict[str, bytes]:
        return (await store.profiles(self._database, [user_nid])).get(user_nid, {})

    async def _local(self, user_id: str) -> int:
        localpart, _ = split_user_id(user_id)
        user = (await store.users_by_localpart(self._database, [localpart])).get(localpart)
        if user is None or user.flags & DEACTIVATED:
            raise MatrixError.not_found("There is no such user")
        return user.user_nid


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

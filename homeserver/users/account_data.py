"""Account data: what clients keep for their user, globally and by room.

Owns writing and reading it, tags included, which are the account data `m.tag` of a room. A write
takes one position of the stream and reaches the user's own devices only. Content is JSON bytes as
stored; only what is changed in place is ever parsed. What was
deleted, or set to `{}`, keeps a row that says so: devices that know what was there are told, new
ones are told nothing.
spec: client-server-api#client-config, client-server-api#room-tagging and MSC3391
"""

from collections.abc import Callable

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.matrix.ids import fits
from homeserver.matrix.mxc import named_in
from homeserver.matrix.pushrules import push_rules_content
from homeserver.streams.commit import CommitQueue
from homeserver.streams.publish import Publisher
from homeserver.streams.ring import AccountDataEntry
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session
from storage import user_data as store
from storage.changes import Change, Pos, Put
from storage.engine import Database
from storage.media_shown import account_data_replaced
from storage.schema import SHOWN_BY_ACCOUNT_DATA, AccountDataRow, MediaShownRow

GLOBAL = 0
DELETED = b"{}"
"""The content of what is there no more (MSC3391)."""
MAX_CONTENT = 262_144
MAX_TAGS = 500

TAGS = "m.tag"
FULLY_READ = "m.fully_read"
PUSH_RULES = "m.push_rules"
_SERVERS_OWN = (FULLY_READ, PUSH_RULES)


class AccountData:
    """The account data of all users. `room_nid` is `GLOBAL` for what belongs to no room."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        publisher: Publisher,
        inbox: UserInbox,
        server_name: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._publisher = publisher
        self._inbox = inbox
        self._server_name = server_name

    async def stored(self, user_nid: int, room_nid: int, type_: str) -> bytes | None:
        """The content as stored, None when there is none."""
        found = await store.account_data_of(self._database, [user_nid], room_nid, type_)
        return found[user_nid].content if user_nid in found else None

    async def get(self, session: Session, room_nid: int, type_: str) -> bytes:
        """The content for its user as JSON; `MatrixError` M_NOT_FOUND when there is none."""
        content = await self.stored(session.user_nid, room_nid, type_)
        if (room_nid, type_) == (GLOBAL, PUSH_RULES):
            return push_rules_content(session.user_id, content)
        if content is None or content == DELETED:
            raise MatrixError.not_found("There is no account data of this type")
        return content

    async def put(self, user_nid: int, room_nid: int, type_: str, content: JsonObject) -> None:
        """Store what a client sent; an empty object deletes what is there.

        Raises `MatrixError` M_BAD_JSON (405) for types that the server keeps itself, M_TOO_LARGE,
        and M_INVALID_PARAM for a type that is too long.
        """
        if type_ in _SERVERS_OWN:
            raise MatrixError("M_BAD_JSON", f"{type_} cannot be set through this API", 405)
        if not fits(type_):
            raise MatrixError.invalid_param("type: more than 255 bytes")
        data = encode(content)

        # An emote pack shows files that no event has to show.
        part = f"{room_nid} {type_}"
        shown: tuple[Change, ...] = tuple(
            Put(MediaShownRow(name.media_id, SHOWN_BY_ACCOUNT_DATA, user_nid, part))
            for name in named_in(data)
            if name.server == self._server_name
        )

        async def turn() -> None:
            replaced = account_data_replaced(user_nid, part)
            await self.write(user_nid, room_nid, type_, data, (replaced, *shown))

        await self._inbox.run(user_nid, turn)

    async def delete(self, user_nid: int, room_nid: int, type_: str) -> None:
        """Delete what a client has stored, if there is any; raises as `put` does."""
        stored = await self.stored(user_nid, room_nid, type_)
        if stored not in (None, DELETED) or type_ in _SERVERS_OWN:
            await self.put(user_nid, room_nid, type_, {})

    async def tags(self, user_nid: int, room_nid: int) -> JsonObject:
        """The tags of a room, by name."""
        return _tags_in(await self.stored(user_nid, room_nid, TAGS))

    async def put_tag(self, user_nid: int, room_nid: int, tag: str, content: JsonObject) -> None:
        """Put a tag on a room, or replace what is said of it.

        Raises `MatrixError` M_INVALID_PARAM for a name that is too long or too many tags,
        M_BAD_JSON for an order that is no number.
        """
        if not fits(tag):
            raise MatrixError.invalid_param("tag: more than 255 bytes")
        order = content.get("order")
        if order is not None and (not isinstance(order, int | float) or isinstance(order, bool)):
            raise MatrixError.bad_json("order must be a number")

        def change(tags: JsonObject) -> None:
            tags[tag] = content
            if len(tags) > MAX_TAGS:
                raise MatrixError.invalid_param(f"A room has at most {MAX_TAGS} tags")

        await self._change_tags(user_nid, room_nid, change)

    async def delete_tag(self, user_nid: int, room_nid: int, tag: str) -> None:
        """Take a tag off a room; nothing happens when it has none of that name."""
        await self._change_tags(user_nid, room_nid, lambda tags: tags.pop(tag, None))

    async def write(
        self,
        user_nid: int,
        room_nid: int,
        type_: str,
        content: bytes,
        also: tuple[Change, ...] = (),
    ) -> None:
        """Write content with other changes in one transaction; for callers in the user's turn."""
        if len(content) > MAX_CONTENT:
            raise MatrixError.too_large(f"Account data has at most {MAX_CONTENT} bytes")
        row = AccountDataRow(user_nid, room_nid, type_, content, Pos(0))

        def publish(pos: int) -> None:
            entry = AccountDataEntry(pos, user_nid, room_nid, type_, content)
            self._publisher.account_data(entry)

        await self._commits.commit([Put(row), *also], 1, publish)

    async def _change_tags(
        self, user_nid: int, room_nid: int, change: Callable[[JsonObject], object]
    ) -> None:
        async def turn() -> None:
            stored = await self.stored(user_nid, room_nid, TAGS)
            before, tags = _tags_in(stored), _tags_in(stored)
            change(tags)
            if tags != before:
                await self.write(user_nid, room_nid, TAGS, encode({"tags": tags}))

        await self._inbox.run(user_nid, turn)


def _tags_in(content: bytes | None) -> JsonObject:
    tags = decode_object(content).get("tags") if content is not None else None
    return tags if isinstance(tags, dict) else {}

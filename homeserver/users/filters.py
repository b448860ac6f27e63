"""Filters that clients have stored, and filters given inline.

Owns their ids and the parsed ones in memory. An id is a number made from the filter's text, so a
filter that is stored twice is stored once and no counter is needed.
spec: client-server-api#filtering
"""

import hashlib
from collections import OrderedDict

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.matrix.errors import Malformed
from homeserver.matrix.filters import Filter
from homeserver.streams.commit import CommitQueue
from storage import user_data as store
from storage.changes import Put
from storage.engine import Database
from storage.schema import FilterRow

MAX_BYTES = 65_536
MAX_CACHED = 2_000

Key = tuple[int, int] | str


class Filters:
    """The filters of all users."""

    def __init__(self, database: Database, commits: CommitQueue) -> None:
        self._database = database
        self._commits = commits
        self._parsed: OrderedDict[Key, Filter] = OrderedDict()

    async def store(self, user_nid: int, source: JsonObject) -> str:
        """The id under which the user finds this filter from now on.

        Raises `MatrixError` M_BAD_JSON naming the field that is wrong, M_TOO_LARGE.
        """
        data = encode(source)
        parsed = _parse(source, data)
        filter_nid = int.from_bytes(hashlib.sha256(data).digest()[:6], "big")
        if not await store.filters(self._database, user_nid, [filter_nid]):
            await self._commits.commit([Put(FilterRow(user_nid, filter_nid, data))])
        self._remember((user_nid, filter_nid), parsed)
        return str(filter_nid)

    async def source(self, user_nid: int, filter_id: str) -> bytes:
        """A stored filter as JSON; `MatrixError` M_NOT_FOUND."""
        filter_nid = _number(filter_id)
        rows = await store.filters(self._database, user_nid, [filter_nid])
        if filter_nid not in rows:
            raise _not_found()
        return rows[filter_nid]

    async def get(self, user_nid: int, text: str) -> Filter:
        """The filter that a `filter` parameter means: the id of a stored one, or inline JSON.

        Raises `MatrixError` M_NOT_FOUND for an unknown id, M_BAD_JSON or M_NOT_JSON for bad JSON.
        """
        key: Key = text if text.startswith("{") else (user_nid, _number(text))
        found = self._parsed.get(key)
        if found is not None:
            self._parsed.move_to_end(key)
            return found
        if isinstance(key, str):
            try:
                parsed = _parse(decode_object(key), key.encode())
            except Malformed as error:
                raise MatrixError("M_NOT_JSON", f"filter: {error}", 400) from None
        else:
            parsed = Filter.parse(decode_object(await self.source(user_nid, text)))
        return self._remember(key, parsed)

    def _remember(self, key: Key, parsed: Filter) -> Filter:
        self._parsed[key] = parsed
        if len(self._parsed) > MAX_CACHED:
            self._parsed.popitem(last=False)
        return parsed


def _parse(source: JsonObject, data: bytes) -> Filter:
    if len(data) > MAX_BYTES:
        raise MatrixError.too_large(f"Filters have at most {MAX_BYTES} bytes")
    try:
        return Filter.parse(source)
    except Malformed as error:
        raise MatrixError.bad_json(str(error)) from None


def _number(filter_id: str) -> int:
    if not (filter_id.isascii() and filter_id.isdecimal() and len(filter_id) <= 15):
        raise _not_found()
    return int(filter_id)


def _not_found() -> MatrixError:
    return MatrixError.not_found("There is no such filter")

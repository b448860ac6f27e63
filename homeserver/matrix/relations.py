"""What an event says of its relation to another one.

Owns the reading of `m.relates_to` out of a content that anybody may have written. A relation that
is no relation (wrong types, texts beyond measure) is none.
spec: client-server-api#forming-relationships-between-events
"""

import hashlib
from typing import Final, NamedTuple

from homeserver.matrix.canonical import JsonObject

ANNOTATION: Final = "m.annotation"
REFERENCE: Final = "m.reference"
REPLACE: Final = "m.replace"
THREAD: Final = "m.thread"
_MOST_BYTES = 255


class Relation(NamedTuple):
    """A relation to the event `parent_id`; `key` is an annotation's."""

    rel_type: str
    parent_id: str
    key: str | None

    @property
    def key_hash(self) -> int | None:
        """A signed 64-bit number in place of the key, which may be of any length."""
        if self.key is None:
            return None
        digest = hashlib.blake2b(self.key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)


def relation_of(content: JsonObject) -> Relation | None:
    """The relation that a content speaks of."""
    relates = content.get("m.relates_to")
    if not isinstance(relates, dict):
        return None
    rel_type, parent_id, key = (relates.get(name) for name in ("rel_type", "event_id", "key"))
    if not _is_name(rel_type) or not _is_name(parent_id):
        return None
    is_key = rel_type == ANNOTATION and isinstance(key, str)
    return Relation(str(rel_type), str(parent_id), key if is_key else None)


def thread_of(content: JsonObject) -> str | None:
    """The id of the root of the thread that a content says to stand in."""
    if "m.relates_to" not in content:
        return None
    relation = relation_of(content)
    return relation.parent_id if relation is not None and relation.rel_type == THREAD else None


def _is_name(text: object) -> bool:
    return (
        isinstance(text, str)
        and 0 < len(text) <= _MOST_BYTES
        and "\0" not in text
        and len(text.encode()) <= _MOST_BYTES
    )

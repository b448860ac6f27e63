"""The words by which an event can be found.

Owns which texts of which events have words, and the marks that stand among them: of the room, the
sender and the field. Looking them up is in `search.py`, what a word is, in `words.py`.
"""

from collections.abc import Mapping

from homeserver.matrix.event import Event
from homeserver.rooms import words
from storage.changes import Change, Insert
from storage.schema import WaitingWordsRow
from storage.search import forgotten

KEYS: Mapping[str, tuple[str, str]] = {
    "content.body": ("m.room.message", "body"),
    "content.name": ("m.room.name", "name"),
    "content.topic": ("m.room.topic", "topic"),
}
FIELDS = {type_: (name, f"k{name}") for type_, name in KEYS.values()}


def indexed(room_nid: int, event: Event, nid: int, sender_nid: int) -> list[Change]:
    """The row under which an accepted event can be found; most state has none."""
    known = FIELDS.get(event.type)
    text = event.content.get(known[0]) if known is not None else None
    if known is None or not isinstance(text, str):
        return []
    found = words.written(text)
    if not found:
        return []
    tokens = " ".join((f"r{room_nid}", f"s{sender_nid}", known[1], *found))
    return [Insert(WaitingWordsRow(nid, tokens))]


def unindexed(nid: int, event: Event) -> list[Change]:
    """A redacted event (as it was before) can't be found any more."""
    return forgotten(nid) if event.type in FIELDS else []

"""The JSON of an event, and the rows that say which of this server's files it names.

Owns both, for they go together. Invariant: an event that is stored and not redacted has exactly
the rows of the files that its JSON names, whatever became of it, for to keep a file for too many
is better than for too few. When a file goes is decided in `media/leaving.py`.
"""

from homeserver.matrix.canonical import encode
from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.matrix.mxc import named_in
from storage.changes import Change, Delete, Insert, Put
from storage.compression import pack_json
from storage.media_shown import may_be_shown_no_more
from storage.schema import SHOWN_BY_EVENT, EventJsonRow, MediaLeftRow, MediaShownRow


def stored_json(nid: int, pdu: bytes, server: str, *, redacted: bool = False) -> list[Change]:
    """The rows of an event's canonical JSON on this `server`; one that is redacted shows nothing.

    Their number is bounded by the size of an event.
    """
    rows: list[Change] = [Insert(EventJsonRow(nid, pack_json(pdu)))]
    if not redacted:
        rows.extend(
            Insert(MediaShownRow(name.media_id, SHOWN_BY_EVENT, nid, ""))
            for name in named_in(pdu)
            if name.server == server
        )
    return rows


def shown_no_more(nid: int, event: Event, sender_nid: int, server: str, now: int) -> list[Change]:
    """What it means for files that a stored event (as it was before) is redacted.

    Its sender has left them, from `now` (ms) on. Of other servers' files only what their own users
    leave counts.
    """
    changes: list[Change] = []
    for name in named_in(encode(event.pdu)):
        if name.server == server:
            changes.append(Delete(MediaShownRow, (name.media_id, SHOWN_BY_EVENT, nid, "")))
        if name.server in (server, server_of(event.sender)):
            changes.append(Put(MediaLeftRow(name.server, name.media_id, sender_nid, now)))
    if event.type == "m.room.encrypted" and server_of(event.sender) == server:
        changes.extend(may_be_shown_no_more(nid, server, sender_nid, now))
    return changes


def renumbered(old_nid: int, pdu: bytes, server: str) -> list[Change]:
    """The rows of a stored event that is written again under another number go."""
    return [
        Delete(MediaShownRow, (name.media_id, SHOWN_BY_EVENT, old_nid, ""))
        for name in named_in(pdu)
        if name.server == server
    ]

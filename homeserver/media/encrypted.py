"""Encrypted files: which events of their uploaders may be those that show them.

Owns what was uploaded of late and is shown by nothing that can be read. Invariant: a file that is
tied to an encrypted event is tied to the one that really shows it, too, if its uploader has sent
that within `WINDOW_MS` of the first that could, or of the first after the content was there; so it
has been taken back when all of them are redacted. To tie it to too many keeps it for too long, to
none keeps it for ever, as every file was before.
docs/decisions/019-files-that-encrypted-events-show.md
"""

from homeserver.matrix.event import Event
from homeserver.matrix.mxc import named_in
from homeserver.runtime.clock import Clock
from storage import media_shown as store
from storage.changes import Change, Insert
from storage.engine import Database
from storage.schema import MAY_BE_SHOWN, MEDIA_OF_SERVICE, MediaRow, MediaShownRow

UNKNOWN_TYPE = "application/octet-stream"
"""What is said of files whose type is not told, as of all that are encrypted."""
LATE_MS = 24 * 3_600_000
"""How long after an upload the first event may come that could show it."""
WINDOW_MS = 60_000
"""How long after that others may come which could, too: other rooms, other files, a retry."""
LEAST_CIPHERTEXT = 500
"""An event with a shorter one shows no file: an `EncryptedFile` within it takes some 570."""
OF_A_USER = 50
USERS = 10_000
MOST_TIES = 30
"""A file with more stays for good, so that nobody writes many rows with each event."""
_FOR_GOOD = 0


class _Waiting:
    """A file that an event is awaited for, `until` (ms), and the events it is tied to.

    `is_open` is whether one has come, so that only those soon after it may show the file, too.
    """

    __slots__ = ("is_open", "ties", "until")

    def __init__(self, until: int, ties: int = 0) -> None:
        self.until = until
        self.ties = ties
        self.is_open = ties > 0


class EncryptedFiles:
    """See the module."""

    def __init__(self, clock: Clock, *, enabled: bool) -> None:
        self._clock = clock
        self._enabled = enabled
        self._waiting: dict[int, dict[str, _Waiting]] = {}

    async def open(self, database: Database) -> None:
        """Take up what was uploaded before a restart."""
        if not self._enabled:
            return
        now = self._clock.now_ms()
        rows = await store.unseen(database, now - LATE_MS, UNKNOWN_TYPE, USERS)
        # Of the last minute before the restart, whenever that was.
        open_since = max((tied for *_, tied in rows), default=0) - WINDOW_MS
        for user_nid, media_id, ts, tied in rows:
            if not tied:
                self._await(user_nid, media_id, _Waiting(ts + LATE_MS))
            elif tied >= open_since:
                self._await(user_nid, media_id, _Waiting(now + WINDOW_MS, 1))

    def announced(self, row: MediaRow) -> None:
        """A user has made a URI, which an event may show before it has its content."""
        if self._enabled and row.uploader_nid is not None and not row.flags & MEDIA_OF_SERVICE:
            waiting = _Waiting(row.created_ts + LATE_MS)
            self._await(row.uploader_nid, row.media_id, waiting)

    def uploaded(self, row: MediaRow) -> None:
        """A user has uploaded a file; one that says what it is is not encrypted."""
        if _is_opaque(row):
            self.announced(row)

    def filled(self, row: MediaRow) -> None:
        """A URI that was announced has its content, whether an event was there before or not."""
        uploader_nid = row.uploader_nid or 0
        if not _is_opaque(row):
            self._forget(uploader_nid, [row.media_id])
            return
        waiting = self._waiting.get(uploader_nid, {}).get(row.media_id)
        if waiting is None:
            self.announced(row)
        else:
            # Of those that came meanwhile none need have shown it.
            waiting.is_open = False
            waiting.until = self._clock.now_ms() + LATE_MS

    def shown_by(self, sender_nid: int, nid: int, event: Event, pdu: bytes) -> list[Change]:
        """The rows for the files that an event (`nid`) of a local user's may show unseen."""
        waiting = self._waiting.get(sender_nid)
        if waiting is None:
            return []
        now = self._clock.now_ms()
        # What is shown in the open is not encrypted.
        over = [name.media_id for name in named_in(pdu)]
        over += [media_id for media_id, one in waiting.items() if one.until <= now]
        self._forget(sender_nid, over)
        if not may_show_files(event):
            return []
        ties: list[Change] = []
        for media_id, one in list(waiting.items()):
            if not one.is_open:
                one.is_open = True
                one.until = now + WINDOW_MS
            one.ties += 1
            there = nid
            if one.ties > MOST_TIES:
                there = _FOR_GOOD
                self._forget(sender_nid, [media_id])
            ties.append(Insert(MediaShownRow(media_id, MAY_BE_SHOWN, there, "")))
        return ties

    def _await(self, user_nid: int, media_id: str, one: _Waiting) -> None:
        if user_nid not in self._waiting and len(self._waiting) >= USERS:
            self._tidy()
            if len(self._waiting) >= USERS:
                return
        waiting = self._waiting.setdefault(user_nid, {})
        if len(waiting) < OF_A_USER:
            waiting[media_id] = one

    def _tidy(self) -> None:
        now = self._clock.now_ms()
        for user_nid, waiting in list(self._waiting.items()):
            over = [media_id for media_id, one in waiting.items() if one.until <= now]
            self._forget(user_nid, over)

    def _forget(self, user_nid: int, media_ids: list[str]) -> None:
        waiting = self._waiting.get(user_nid, {})
        for media_id in media_ids:
            waiting.pop(media_id, None)
        if not waiting:
            self._waiting.pop(user_nid, None)


def may_show_files(event: Event) -> bool:
    """Whether an event is encrypted, and long enough to name a file together with its key."""
    if event.type != "m.room.encrypted":
        return False
    ciphertext = event.content.get("ciphertext")
    return not isinstance(ciphertext, str) or len(ciphertext) >= LEAST_CIPHERTEXT


def _is_opaque(row: MediaRow) -> bool:
    return row.content_type.partition(";")[0] == UNKNOWN_TYPE

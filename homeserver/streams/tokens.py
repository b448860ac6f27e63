"""Sync and pagination tokens.

Owns their text form. A token is opaque to clients, versioned, and names the timeline of the
database in which its position was handed out. The database gets a new timeline at every start and
keeps the list, so a token is good exactly as long as its stretch of history is: after an older copy
of the database was put back, tokens from the lost stretch are recognised by themselves.
"""

import re
from typing import Literal, NamedTuple

from homeserver.errors import MatrixError

_SYNC_FIELDS = r"_(\d{1,15})_([0-9a-f]{1,16})_(\d{1,18})_([0-9a-f]{1,16})_(\d{1,18})(t?)"
_SYNC = re.compile("s2" + _SYNC_FIELDS + r"_(\d{1,18})(?:_d(\d{1,15}))?", re.ASCII)
_SYNC_1 = re.compile("s1" + _SYNC_FIELDS + "()()", re.ASCII)
_SLIDING = re.compile(
    r"c1_(\d{1,15})_([0-9a-f]{1,16})_(\d{1,18})_([0-9a-f]{1,16})_(\d{1,15})", re.ASCII
)
_MESSAGES = re.compile(r"d1_(\d{1,15})_([0-9a-f]{1,16})_(\d{1,18})", re.ASCII)
_ROOM = re.compile(r"t1_(\d{1,15})_([0-9a-f]{1,16})_(-?\d{1,18})", re.ASCII)


class SyncToken(NamedTuple):
    """Where a client's sync stands.

    `pos` is the last durable stream position it has seen; `incarnation` and `ephemeral` say the
    same of what is kept only in this process's memory (typing); `typing` says that the client shows
    somebody as typing, which only that process could take back; `presence` is the number of the
    last change of presence that it has seen of that process. `to_device` is the position up to
    which it has its to-device messages, None when that is `pos`. `pos` is -1 for a token of a lost
    timeline: everything has to be sent again.
    """

    pos: int
    incarnation: str
    ephemeral: int
    typing: bool = False
    presence: int = 0
    to_device: int | None = None

    @property
    def messages(self) -> int:
        """The position up to which the client has its to-device messages, 0 for none."""
        return max(self.pos if self.to_device is None else self.to_device, 0)


class SlidingToken(NamedTuple):
    """The `pos` of a sliding sync answer: the process that gave it, and its number there."""

    incarnation: str
    number: int


class Timelines:
    """The database's timelines, the current one last."""

    def __init__(self, rows: list[tuple[int, str, int]]) -> None:
        """`rows`: (number, id, first position after which it holds), in order."""
        self._rows = {
            nid: (id_, start, rows[index + 1][2] if index + 1 < len(rows) else None)
            for index, (nid, id_, start) in enumerate(rows)
        }
        self._nid, self._id, _ = rows[-1]

    def sync_token(self, token: SyncToken) -> str:
        """The text form of a token of the current timeline."""
        mark = "t" if token.typing else ""
        return (
            f"s2_{self._nid}_{self._id}_{token.pos}_{token.incarnation}_{token.ephemeral}{mark}"
            f"_{token.presence}{f'_d{token.to_device}' if token.to_device is not None else ''}"
        )

    def sliding_token(self, pos: int, token: SlidingToken) -> str:
        """The text form of a `pos` of sliding sync, which stands at position `pos`."""
        return f"c1_{self._nid}_{self._id}_{pos}_{token.incarnation}_{token.number}"

    def parse_sliding(self, text: str, applied: int) -> SlidingToken | None:
        """A client's `pos`; None for one of a lost timeline, or that is none of ours."""
        found = _SLIDING.fullmatch(text)
        if found is None:
            return None
        nid, id_, pos, incarnation, number = found.groups()
        if not self._holds(int(nid), id_, int(pos), applied):
            return None
        return SlidingToken(incarnation, int(number))

    def messages_token(self, pos: int) -> str:
        """Up to where a device has its to-device messages."""
        return f"d1_{self._nid}_{self._id}_{pos}"

    def parse_messages(self, text: str, applied: int) -> int | None:
        """A device's token, up to where it has its messages; None for one of a lost timeline.

        Raises `MatrixError` M_INVALID_PARAM when it was never a token of ours.
        """
        found = _MESSAGES.fullmatch(text)
        if found is None:
            raise MatrixError.invalid_param("since: this is not a token of this server")
        nid, id_, pos = found.groups()
        return int(pos) if self._holds(int(nid), id_, int(pos), applied) else None

    def room_token(self, pos: int) -> str:
        """A point between two events of a room: after position `pos`."""
        return f"t1_{self._nid}_{self._id}_{pos}"

    def parse_sync(self, text: str, applied: int) -> SyncToken:
        """A client's `since`; `applied` is the position this process has applied.

        Raises `MatrixError` M_INVALID_PARAM when it was never a token of ours.
        """
        found = _SYNC.fullmatch(text) or _SYNC_1.fullmatch(text)
        if found is None:
            raise MatrixError.invalid_param("since: this is not a token of this server")
        nid, id_, pos, incarnation, ephemeral, typing, presence, messages = found.groups()
        if not self._holds(int(nid), id_, int(pos), applied):
            return SyncToken(-1, "", 0)
        return SyncToken(
            int(pos),
            incarnation,
            int(ephemeral),
            bool(typing),
            int(presence or 0),
            int(messages) if messages else None,
        )

    def parse_room(self, text: str, name: Literal["from", "to", "at"]) -> int:
        """A pagination token, or a sync token used as one; the position after which it points.

        A token of a lost timeline is taken by its position: in a room's history that is at worst a
        few events off. Raises `MatrixError` M_INVALID_PARAM, naming the parameter `name`.
        """
        found = next(
            filter(None, (form.fullmatch(text) for form in (_ROOM, _SYNC, _SYNC_1, _SLIDING))), None
        )
        if found is None:
            raise MatrixError.invalid_param(f"{name}: this is not a token of this server")
        return int(found.group(3))

    def _holds(self, nid: int, id_: str, pos: int, applied: int) -> bool:
        row = self._rows.get(nid)
        if row is None or row[0] != id_ or pos < row[1]:
            return False
        end = row[2] if row[2] is not None else applied
        return pos <= end

"""What a mail says of the messages that a user has not read.

Owns the choice and the words: of each room the newest unread notifications after a position,
found on read (`walks.py`), so what was read, redacted or ignored meanwhile isn't there. Of
encrypted rooms nothing is said but that there are messages, also where somebody wrote there in the
clear. Invariant: a digest is of bounded size and reads a bounded number of events.
"""

import re
import unicodedata
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.pushmatch import outcome_of
from homeserver.push.walks import Found, Walk, Walker, Walks
from homeserver.rooms.actor import Rooms
from homeserver.rooms.head import Head
from homeserver.users.sessions import Session
from storage.engine import Database
from storage.rooms import summaries

MOST_ROOMS = 10
MOST_LINES = 5
MOST_TEXT = 300
_MOST_NAME = 80
_MOST_READS = 40
_MOST_READS_OF_ROOM = 4
_BIDIRECTIONAL = re.compile("[\u202a-\u202e\u2066-\u2069]")
_KINDS = {
    "m.image": "an image",
    "m.file": "a file",
    "m.audio": "an audio message",
    "m.video": "a video",
    "m.location": "a place",
}
_TYPES = {
    "m.sticker": "a sticker",
    "m.call.invite": "a call",
    "m.room.tombstone": "the room goes on elsewhere",
    "m.poll.start": "a poll",
}


class Line(NamedTuple):
    """One message as a mail shows it."""

    sender: str
    text: str
    time: str
    highlight: bool


class RoomPart(NamedTuple):
    """What is said of a room; `more` messages are not shown, and all of them if `hidden`."""

    name: str
    link: str
    lines: list[Line]
    more: int
    hidden: bool
    invite: bool

    @property
    def messages(self) -> int:
        """How many messages were found."""
        return len(self.lines) + self.more


class Digest(NamedTuple):
    """All up to position `until`; `more_rooms` have something and are not told of."""

    until: int
    rooms: list[RoomPart]
    more_rooms: int

    @property
    def subject(self) -> str:
        """What a mail of it is about, in one line."""
        named = [room for room in self.rooms if any(line.highlight for line in room.lines)]
        if named:
            line = next(line for line in named[0].lines if line.highlight)
            return f"{line.sender} has mentioned you in {named[0].name}"
        if len(self.rooms) > 1:
            count = sum(room.messages for room in self.rooms)
            return f"{count} unread messages in {len(self.rooms) + self.more_rooms} rooms"
        (room,) = self.rooms
        if room.invite:
            return f"{room.lines[0].sender} invites you to {room.name}"
        if room.messages == 1:
            return f"An unread message in {room.name}"
        return f"{room.messages} unread messages in {room.name}"

    def values(self) -> dict[str, Any]:
        """What the template of the mail is filled with."""
        return {"rooms": self.rooms, "more_rooms": self.more_rooms}


class Digests:
    """See the module."""

    def __init__(self, database: Database, walks: Walks, rooms: Rooms, server_name: str) -> None:
        self._database = database
        self._walks = walks
        self._rooms = rooms
        self._server_name = server_name

    @property
    def now(self) -> int:
        """The position up to which a digest goes that is made now."""
        return self._walks.now

    async def of(self, user_nid: int, user_id: str, after: int) -> Digest:
        """What a user has not read of what came after a position; no rooms if it is nothing."""
        session = Session(user_id, user_nid, None, None, False, False, b"")
        until = self._walks.now
        walker = await self._walks.walker(session)
        walks = [
            walk for walk in (await self._walks.begin(walker, until)).values() if walk.end > after
        ]
        walks.sort(key=lambda walk: walk.end, reverse=True)
        parts: list[RoomPart] = []
        reads = more_rooms = 0
        for walk in walks:
            if reads >= _MOST_READS:
                break
            reads += await self._read(walker, walk, until, after)
            unread = [found for found in walk.waiting if not found.read and found.pos > after]
            if not unread:
                continue
            if len(parts) == MOST_ROOMS:
                more_rooms += 1
            else:
                parts.append(await self._part(walk, unread))
        return Digest(until, parts, more_rooms)

    async def _read(self, walker: Walker, walk: Walk, until: int, after: int) -> int:
        """Read the newest of a room's events; how many reads it took."""
        for reads in range(1, _MOST_READS_OF_ROOM + 1):
            await self._walks.read(walker, walk, walk.end, until, after)
            if walk.last or walk.end <= after:
                return reads
        return _MOST_READS_OF_ROOM

    async def _part(self, walk: Walk, unread: list[Found]) -> RoomPart:
        room = walk.room
        link = f"https://matrix.to/#/{quote(room.room_id, safe='!:')}?via={self._server_name}"
        summary = (await summaries(self._database, [room.nid])).get(room.nid)
        named = (summary.name or summary.alias) if summary is not None else None
        name = clean(named or "", _MOST_NAME)
        newest = unread[:MOST_LINES][::-1]
        if walk.invited:
            names = {found.view.sender: found.view.sender for found in newest}
        else:
            senders = {found.view.sender for found in newest}
            names = await self._rooms.read(room, lambda head: _names(head, senders))
        hidden = not walk.invited and summary is not None and summary.encryption is not None
        hidden = hidden or any(found.view.type == "m.room.encrypted" for found in unread)
        if not name:
            with_ = names[newest[-1].view.sender]
            name = "a room" if walk.invited or hidden else f"a room with {with_}"
        lines = [] if hidden else [_line(found, names[found.view.sender]) for found in newest]
        return RoomPart(
            name=name,
            link=link,
            lines=lines,
            more=len(unread) - len(lines),
            hidden=hidden,
            invite=walk.invited,
        )


def clean(text: str, most: int) -> str:
    """A text of strangers as one line of at most so many characters, without what could mislead."""
    shown = "".join(
        " " if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character
        for character in _BIDIRECTIONAL.sub("", text[: 4 * most])
    )
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _names(head: Head, senders: Collection[str]) -> dict[str, str]:
    """What senders are called in the room."""
    names: dict[str, str] = {}
    for sender in senders:
        member = head.event("m.room.member", sender)
        name = member.content.get("displayname") if member is not None else None
        names[sender] = (clean(name, _MOST_NAME) if isinstance(name, str) else "") or sender
    return names


def _line(found: Found, sender: str) -> Line:
    written = datetime.fromtimestamp(max(0, min(found.view.ts, 2**41)) / 1_000, UTC)
    return Line(
        sender=sender,
        text=_text(found.view.type, found.event["content"]),
        time=written.strftime("%Y-%m-%d %H:%M UTC"),
        highlight=bool(outcome_of(found.actions).highlight),
    )


def _text(type_: str, content: JsonObject) -> str:
    """What an event says, in one line."""
    if type_ == "m.room.member":
        return "an invitation" if content.get("membership") == "invite" else "a change of a member"
    if type_ != "m.room.message":
        return _TYPES.get(type_, "an event of another kind")
    kind = content.get("msgtype")
    if isinstance(kind, str) and kind in _KINDS:
        return _KINDS[kind]
    body = content.get("body")
    shown = clean(body, MOST_TEXT) if isinstance(body, str) else ""
    return shown or "a message without words"

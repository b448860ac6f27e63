"""Whom an event concerns more than others, when it is appended.

Owns what the default push rules make of an event for everybody in the room, which are the flags
NOTIFIES and HIGHLIGHTS, and the rows of the few local members whom it mentions. It is the same
work in a room of two as in one of thousands. Users' own rules are looked at when they count
(`push/unread.py`).
spec: client-server-api#default-override-rules and client-server-api#user-and-room-mentions
"""

from homeserver.matrix.event import Event
from homeserver.rooms.head import Head, Needs
from storage.changes import Change, Insert, Pos
from storage.schema import HIGHLIGHTS, NOTIFIES, MentionRow

MAX_MENTIONED = 100
"""So many of the mentions of an event count, the first ones."""
_MAX_STRANGERS = 1_000
_MEMBER = "m.room.member"


def default_flags(head: Head, event: Event) -> int:
    """NOTIFIES and HIGHLIGHTS as the default rules have it for members who aren't mentioned.

    Raises `NamesMissing` or `EventsMissing`.
    """
    content = event.content
    if content.get("msgtype") == "m.notice" or event.type == _MEMBER:
        return 0
    mentions = content.get("m.mentions")
    if isinstance(mentions, dict) and mentions.get("room") is True:
        levels = head.power_levels()
        if levels.user_level(event.sender) >= levels.notification_level("room"):
            return NOTIFIES | HIGHLIGHTS
    if event.type == "m.room.tombstone" and event.state_key == "":
        return NOTIFIES | HIGHLIGHTS
    relates = content.get("m.relates_to")
    if isinstance(relates, dict) and relates.get("rel_type") == "m.replace":
        return 0
    return NOTIFIES if event.type in _NOTIFYING else 0


def mentioned(head: Head, event: Event, local_server: str) -> frozenset[int]:
    """The local members (numbers) whom the event mentions so that the default rules tell them.

    Raises `Needs`, `NamesMissing` or `EventsMissing`.
    """
    mentions = event.content.get("m.mentions")
    if not isinstance(mentions, dict):
        return _NOBODY
    listed = mentions.get("user_ids")
    if not isinstance(listed, list) or not listed:
        return _NOBODY
    if event.type == _MEMBER or event.content.get("msgtype") == "m.notice":
        return _NOBODY
    ending = ":" + local_server
    users = [user for user in listed if isinstance(user, str) and user.endswith(ending)]
    users = list(dict.fromkeys(users))[:MAX_MENTIONED]
    keys = [(_MEMBER, user) for user in users if user != event.sender]
    unknown = [key for key in keys if head.names.known_key(*key) is None]
    if unknown := [key for key in unknown if key[1] not in head.strangers]:

        async def load() -> None:
            # Strangers get no number for being mentioned.
            found = await head.names.find_keys(unknown)
            if len(head.strangers) > _MAX_STRANGERS:
                head.strangers.clear()
            head.strangers.update(user for type_, user in unknown if (type_, user) not in found)

        raise Needs(load)
    return frozenset(
        head.names.nid(user)
        for type_, user in keys
        if head.names.known_key(type_, user) is not None and head.membership(user) == "join"
    )


def mention_rows(room_nid: int, index: int, user_nids: frozenset[int]) -> list[Change]:
    """The rows that say so, for the event at the item's position `index`."""
    return [Insert(MentionRow(user_nid, room_nid, Pos(index))) for user_nid in user_nids]


_NOBODY: frozenset[int] = frozenset()
_NOTIFYING = frozenset(("m.room.message", "m.room.encrypted", "m.call.invite"))

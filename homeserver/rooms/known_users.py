"""The rows by which users are found by their names.

Owns what is kept of a user for that: of ours what their profile says, of others what the last join
said that came to our knowledge. Who finds whom is in `users/user_directory.py`.
"""

from homeserver.matrix.event import Event
from homeserver.rooms.words import folded
from storage.changes import Change, Put
from storage.schema import KnownUserRow

_MOST_BYTES = 1_000


def joined_user(user_nid: int, event: Event | None) -> list[Change]:
    """The row of a user of another server who has joined a room by this event."""
    if event is None or event.state_key is None:
        return []
    content = event.content
    return [
        known_user(user_nid, event.state_key, content.get("displayname"), content.get("avatar_url"))
    ]


def known_user(user_nid: int, user_id: str, name: object, avatar: object) -> Change:
    """The row of a user who shows this name and this picture."""
    shown, picture = _text(name), _text(avatar)
    found = f"{folded(user_id)}\n{folded(shown or '')}"
    return Put(KnownUserRow(user_nid, user_id, shown, picture, found))


def _text(value: object) -> str | None:
    if not isinstance(value, str) or "\0" in value or len(value.encode()) > _MOST_BYTES:
        return None
    return value

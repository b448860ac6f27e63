"""Paths below a room."""

from urllib.parse import quote


def at(room_id: str, *parts: str) -> str:
    """`/rooms/{room_id}/part/part`, each part encoded."""
    return "/rooms/" + "/".join(quote(part, safe="") for part in (room_id, *parts))

"""`homeserver notice ...` says and does the same whether the server runs or not."""

from pathlib import Path

from tests.test_cli_users import done, folder, place, refused, told

__all__ = ["folder", "place"]


def test_a_user_is_told_something_which_ends(place: Path) -> None:
    room, event = done(place, "notice", "send", "bob", "The server moves tonight", "--pin").split()
    assert room.startswith("!")
    again = told(place, "notice", "send", "@bob:example.org", "soon", "--type", "org.example.move")
    assert again["room_id"] == room
    assert again["event_id"] != event
    assert done(place, "notice", "unpin", "bob", event) == f"{event} is pinned no more.\n"
    assert "no such pinned notice" in refused(place, "notice", "unpin", "bob", event)
    assert "User not found" in refused(place, "notice", "send", "nobody", "hello")

"""The directory of users: finding people by a part of their name or id.

Owns who is found by whom: users of this server who aren't deactivated, and users of other servers
who share a room with who asks, or are in a room that anybody may join or read; never anybody else.
The names of ours are those of their profiles, not what a single room knows them by.
spec: client-server-api#user-directory
"""

from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.words import folded
from homeserver.streams.ignored import Ignored
from homeserver.users.sessions import Session
from storage import user_directory as store
from storage.engine import Database

_MOST_SHOWN = 50
_MOST_TERM = 200


class UserDirectory:
    """See the module."""

    def __init__(self, database: Database, ignored: Ignored) -> None:
        self._database = database
        self._ignored = ignored

    async def search(self, session: Session, term: str, limit: int) -> JsonObject:
        """At most `limit` users whose id or name holds the term; those that begin with it first.

        spec: client-server-api#post_matrixclientv3user_directorysearch
        """
        wanted = folded(term.strip())[:_MOST_TERM]
        most = min(limit, _MOST_SHOWN)
        if not wanted or not most:
            return {"results": [], "limited": False}
        ignored = await self._ignored.by(session.user_nid, session.user_id)
        patterns, looked_at = _patterns(wanted), most + 1 + len(ignored)
        ours = await store.local_users(self._database, patterns, looked_at)
        theirs = await store.remote_users(self._database, session.user_nid, patterns, looked_at)
        found = [_entry(*row) for row in (*ours, *theirs)]
        found = [entry for entry in found if entry["user_id"] not in ignored]
        found.sort(key=lambda entry: _place(entry, wanted))
        return {"results": found[:most], "limited": len(found) > most}


def _entry(user_id: str, name: str | None, avatar: str | None) -> JsonObject:
    entry: JsonObject = {"user_id": user_id}
    if name:
        entry["display_name"] = name
    if avatar:
        entry["avatar_url"] = avatar
    return entry


def _place(entry: JsonObject, wanted: str) -> tuple[int, str]:
    name = folded(entry.get("display_name", ""))
    localpart = folded(entry["user_id"][1:])
    if wanted in (name, localpart.partition(":")[0]):
        return 0, entry["user_id"]
    begins = name.startswith(wanted) or localpart.startswith(wanted)
    return (1 if begins else 2), entry["user_id"]


def _patterns(wanted: str) -> store.Patterns:
    for special in ("\\", "%", "_"):
        wanted = wanted.replace(special, "\\" + special)
    return store.Patterns(
        f"%{wanted}%", f"@{wanted}:%", f"%\n{wanted}", f"@{wanted}%", f"%\n{wanted}%"
    )

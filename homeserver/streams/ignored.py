"""Whom each user ignores.

Owns the cache of `m.ignored_user_list`, kept current by publication.
spec: client-server-api#ignoring-users
"""

from collections import OrderedDict

from homeserver.matrix import canonical
from homeserver.matrix.errors import Malformed
from storage.engine import Database
from storage.user_data import account_data_of

IGNORED_USERS = "m.ignored_user_list"
_CACHED = 20_000


class Ignored:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users: OrderedDict[int, frozenset[str]] = OrderedDict()
        self._cleared = 0

    async def by(self, user_nid: int, user_id: str) -> frozenset[str]:
        """The ids of the users whom the user ignores; nobody ignores themselves."""
        known = self._users.get(user_nid)
        while known is None:
            cleared = self._cleared
            rows = await account_data_of(self._database, [user_nid], 0, IGNORED_USERS)
            content = rows[user_nid].content if user_nid in rows else None
            if cleared == self._cleared:
                # A change that was published meanwhile is newer than what was read.
                known = self._users.setdefault(user_nid, _users(content))
        while len(self._users) > _CACHED:
            self._users.popitem(last=False)
        return known - {user_id} if user_id in known else known

    def changed(self, user_nid: int, content: bytes) -> None:
        """The user's list is now `content` (JSON)."""
        self._users[user_nid] = _users(content)

    def clear(self) -> None:
        """Drop everything: publications were lost."""
        self._users.clear()
        self._cleared += 1


_NOBODY: frozenset[str] = frozenset()


def _users(content: bytes | None) -> frozenset[str]:
    if content is None:
        return _NOBODY
    try:
        users = canonical.decode_object(content).get("ignored_users")
    except Malformed:
        return _NOBODY
    # Most ignore nobody, and an empty set is not small.
    return frozenset(users) if isinstance(users, dict) and users else _NOBODY

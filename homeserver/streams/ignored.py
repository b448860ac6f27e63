"""Whom each user ignores.

Owns the cache of `m.ignored_user_list`, kept current by publication.
spec: client-server-api#ignoring-users
"""

from collections import OrderedDict
from collections.abc import Collection

from homeserver.matrix import canonical
from homeserver.matrix.errors import Malformed
from storage.engine import Database
from storage.user_data import account_data_of

IGNORED_USERS = "m.ignored_user_list"
_CACHED = 20_000
_LOADED_AT_ONCE = 100


class Ignored:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users: OrderedDict[int, frozenset[str]] = OrderedDict()
        self._cleared = 0

    async def by(self, user_nid: int, user_id: str) -> frozenset[str]:
        """The ids of the users whom the user ignores; nobody ignores themselves."""
        known = self._users.get(user_nid)
        if known is None:
            known = (await self._load([user_nid]))[user_nid]
        return known - {user_id} if user_id in known else known

    async def who(self, user_nids: Collection[int], sender: str) -> set[int]:
        """Those of the users, the sender aside, who ignore this one."""
        lists = {nid: self._users[nid] for nid in user_nids if nid in self._users}
        missing = [nid for nid in user_nids if nid not in lists]
        for start in range(0, len(missing), _LOADED_AT_ONCE):
            lists |= await self._load(missing[start : start + _LOADED_AT_ONCE])
        return {nid for nid, ignored in lists.items() if sender in ignored}

    async def _load(self, user_nids: Collection[int]) -> dict[int, frozenset[str]]:
        """Learn what is stored."""
        while True:
            cleared = self._cleared
            rows = await account_data_of(self._database, user_nids, 0, IGNORED_USERS)
            if cleared == self._cleared:
                break
        stored = {nid: _users(rows[nid].content if nid in rows else None) for nid in user_nids}
        # A change that was published meanwhile is newer than what was read.
        known = {nid: self._users.setdefault(nid, users) for nid, users in stored.items()}
        while len(self._users) > _CACHED:
            self._users.popitem(last=False)
        return known

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

"""Which rooms the users who are looking are in, as of the last published position.

Owns, for every user with a recent request, the current membership in each room, and for every room
the users among them who are joined. Invariant: what is here agrees with the stream up to the ring's
position; it moves only by publication. Users who have been quiet for long are dropped.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from storage.engine import Database
from storage.memberships import of_user
from storage.schema import FORGOTTEN, JOIN

_MAX_USERS = 20_000
_NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Membership:
    """A user's membership of a room: its number (JOIN, ...), event, and since which position."""

    membership: int
    event_nid: int
    pos: int
    forgotten: bool = False


class UserRooms(NamedTuple):
    """The rooms a user was ever in, as of one position; never changed, only replaced.

    `latest` is the last position at which any of the memberships moved.
    """

    rooms: Mapping[int, Membership] = MappingProxyType({})
    joined: frozenset[int] = frozenset()
    latest: int = 0

    def moved(self, changes: Mapping[int, Membership]) -> "UserRooms":
        """The rooms after these changes; what is older than what is known is left out."""
        newer = {
            nid: change
            for nid, change in changes.items()
            if nid not in self.rooms or self.rooms[nid].pos <= change.pos
        }
        if not newer:
            return self
        rooms = {**self.rooms, **newer}
        gone = {nid for nid, change in newer.items() if change.membership != JOIN}
        return UserRooms(
            rooms,
            (self.joined - gone) | (newer.keys() - gone),
            max(self.latest, *(change.pos for change in newer.values())),
        )


class Memberships:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users: OrderedDict[int, UserRooms] = OrderedDict()
        self._loading: dict[int, dict[int, Membership]] = {}
        self._rooms: dict[int, set[int]] = {}

    async def of(self, user_nid: int) -> UserRooms:
        """The user's rooms as of the ring's position."""
        known = self._users.get(user_nid)
        if known is not None:
            self._users.move_to_end(user_nid)
            return known
        # What is published while the tables are read is put on top of what they say.
        published = self._loading.setdefault(user_nid, {})
        rows = await of_user(self._database, user_nid)
        self._loading.pop(user_nid, None)
        known = self._users.get(user_nid)
        if known is None:
            stored = {
                nid: Membership(row.membership, row.event_nid, row.pos, bool(row.flags & FORGOTTEN))
                for nid, row in rows.items()
            }
            known = self._users[user_nid] = UserRooms().moved(stored).moved(published)
            for room_nid in known.joined:
                self._rooms.setdefault(room_nid, set()).add(user_nid)
            while len(self._users) > _MAX_USERS:
                self._drop(next(iter(self._users)))
        return known

    def looking(self, room_nid: int) -> "frozenset[int] | set[int]":
        """Users joined to the room who are in memory (numbers)."""
        return self._rooms.get(room_nid, _NOBODY)

    def moved(self, user_nid: int, room_nid: int, membership: Membership) -> None:
        """A membership event was published."""
        if user_nid in self._loading:
            self._loading[user_nid][room_nid] = membership
        known = self._users.get(user_nid)
        if known is None:
            return
        now = self._users[user_nid] = known.moved({room_nid: membership})
        if room_nid in now.joined:
            self._rooms.setdefault(room_nid, set()).add(user_nid)
        else:
            self._left(user_nid, room_nid)

    def forgotten(self, user_nid: int, room_nid: int) -> None:
        """The user has forgotten a room that was left."""
        known = self._users.get(user_nid)
        if known is not None and room_nid in known.rooms:
            member = replace(known.rooms[room_nid], forgotten=True)
            self._users[user_nid] = known.moved({room_nid: member})

    def clear(self) -> None:
        """Drop everything: publications were lost."""
        self._users.clear()
        self._rooms.clear()

    def _drop(self, user_nid: int) -> None:
        for room_nid in self._users.pop(user_nid).joined:
            self._left(user_nid, room_nid)

    def _left(self, user_nid: int, room_nid: int) -> None:
        users = self._rooms.get(room_nid)
        if users is not None:
            users.discard(user_nid)
            if not users:
                del self._rooms[room_nid]

"""Which rooms the users who are looking are in, as of the last published position.

Owns, for every user with a recent request, the current membership in each room, and for every room
the users among them who are joined. Invariant: what is here agrees with the stream up to the ring's
position; it moves only by publication. Users who have been quiet for long are dropped.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from storage.engine import Database
from storage.memberships import of_user, of_user_at
from storage.schema import BAN, FORGOTTEN, JOIN, LEAVE

_MAX_USERS = 20_000
# How many of the longest quiet users are looked at to find one who may be dropped.
_MOST_PASSED_OVER = 100
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

    def __init__(
        self,
        database: Database,
        position: Callable[[], int],
        is_waiting: Callable[[int], bool],
        *,
        forget_on_leave: bool,
    ) -> None:
        """`position()` is the last one published; who `is_waiting` for news is never dropped.

        With `forget_on_leave` every room that a user has left is one that they have forgotten.
        spec: client-server-api#mforget_forced_upon_leave-capability
        """
        self._database = database
        self._position = position
        self._is_waiting = is_waiting
        self._forget_on_leave = forget_on_leave
        self._users: OrderedDict[int, UserRooms] = OrderedDict()
        self._loading: dict[int, dict[int, Membership]] = {}
        self._rooms: dict[int, set[int]] = {}

    async def of(self, user_nid: int) -> UserRooms:
        """The user's rooms as of the ring's position."""
        known = self._users.get(user_nid)
        if known is not None:
            self._users.move_to_end(user_nid)
            return known
        while True:
            # What is published while the tables are read is put on top of what they said before.
            published = self._loading.setdefault(user_nid, {})
            stored = await self._stored(user_nid, self._position())
            known = self._users.get(user_nid)
            if known is not None:
                return known
            if self._loading.get(user_nid) is published:
                del self._loading[user_nid]
                break
        known = self._users[user_nid] = UserRooms().moved(stored).moved(published)
        for room_nid in known.joined:
            self._rooms.setdefault(room_nid, set()).add(user_nid)
        self._make_room()
        return known

    def known(self, user_nid: int) -> UserRooms | None:
        """`of`, if it is in memory; who is only asked about is not kept for it."""
        return self._users.get(user_nid)

    def looking(self, room_nid: int) -> "frozenset[int] | set[int]":
        """Users joined to the room who are in memory (numbers)."""
        return self._rooms.get(room_nid, _NOBODY)

    def moved(self, user_nid: int, room_nid: int, membership: Membership) -> None:
        """A membership event was published."""
        membership = self._seen(membership)
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
        self._loading.clear()

    async def _stored(self, user_nid: int, pos: int) -> dict[int, Membership]:
        """The user's memberships as of position `pos`: the tables may be ahead of publication."""
        rows = await of_user(self._database, user_nid)
        stored = {
            nid: Membership(row.membership, row.event_nid, row.pos, bool(row.flags & FORGOTTEN))
            for nid, row in rows.items()
            if row.pos <= pos
        }
        ahead = rows.keys() - stored.keys()
        if ahead:
            earlier = await of_user_at(self._database, user_nid, ahead, pos)
            for nid, was in earlier.items():
                stored[nid] = Membership(was.membership, was.event_nid, was.pos)
        return {nid: self._seen(member) for nid, member in stored.items()}

    def _seen(self, member: Membership) -> Membership:
        left = self._forget_on_leave and member.membership in (LEAVE, BAN)
        return replace(member, forgotten=True) if left else member

    def _make_room(self) -> None:
        for _ in range(_MOST_PASSED_OVER):
            if len(self._users) <= _MAX_USERS:
                break
            oldest = next(iter(self._users))
            if self._is_waiting(oldest):
                self._users.move_to_end(oldest)
            else:
                self._drop(oldest)

    def _drop(self, user_nid: int) -> None:
        for room_nid in self._users.pop(user_nid).joined:
            self._left(user_nid, room_nid)

    def _left(self, user_nid: int, room_nid: int) -> None:
        users = self._rooms.get(room_nid)
        if users is not None:
            users.discard(user_nid)
            if not users:
                del self._rooms[room_nid]

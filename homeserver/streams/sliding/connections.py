"""What each sliding sync connection has been told.

Owns the connections of all devices, in memory. Of each it keeps what the client had by the last
`pos` that it presented, and what it will have if it presents the `pos` it was given for it; nothing
earlier. Both are never changed, only replaced, so a request that is repeated finds what it found
before. Any connection may be forgotten at any time: its client is told M_UNKNOWN_POS and begins
anew. What all connections keep is bounded, and their number for each device.
spec: MSC4186 (connections)
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.streams.required import NOTHING, Required
from homeserver.streams.sliding.asked import Asked, Extensions
from homeserver.streams.sliding.matched import Matched
from homeserver.streams.tokens import SlidingToken

MAX_PER_DEVICE = 10
MAX_ROOMS = 500_000
"""Rooms of all connections together; one takes some hundred bytes."""
MAX_CONNECTIONS = 50_000
_MAX_MEMBERS = 200
"""Of one room, that a connection is known to know; who knows more is told some again."""
NOTHING_ASKED = Asked({}, {}, Extensions())


class Shown(NamedTuple):
    """What a client shows of a room beside its events; None where it was told nothing of it.

    `heroes` is JSON.
    """

    name: str | None = None
    avatar: str | None = None
    heroes: bytes = b"[]"
    is_dm: bool = False
    joined: int | None = None
    invited: int | None = None
    notifications: int | None = None
    highlights: int | None = None
    bump_stamp: int | None = None


class Sent(NamedTuple):
    """What was told of a room.

    `membership` is the user's as it was told, of the event at `member_pos`. `until` is the
    position up to which the room was told, None for that of the connection. `limit` is the number
    of last events that were told for certain, `required` what was required of the state, `members`
    the users whose member events were told, `extensions` those that told of the room (bits).
    """

    membership: int
    member_pos: int
    until: int | None = None
    limit: int = 0
    required: Required = NOTHING
    members: frozenset[str] = frozenset()
    extensions: int = 0
    shown: Shown = Shown()


class State(NamedTuple):
    """What a client knows when it presents the `pos` of this number, which no other has.

    `pos` is the position in the stream, `typing` that of typing; `counts` are those of the lists.
    `complete` unless rooms were put off to the next answer. `matched` is what the request matched,
    where the same request may match the same again.
    """

    number: int = 0
    pos: int = -1
    typing: int = 0
    rooms: Mapping[int, Sent] = {}
    asked: Asked = NOTHING_ASKED
    counts: Mapping[str, int] = {}
    complete: bool = False
    matched: Matched | None = None


NEW = State()


@dataclass(slots=True)
class Connection:
    """One connection; `turn` is the number of the last request for it, `waiting` how many wait."""

    known: State = NEW
    offered: State | None = None
    turn: int = 0
    waiting: int = 0

    @property
    def size(self) -> int:
        """How many rooms are kept for it."""
        return len(self.known.rooms) + (len(self.offered.rooms) if self.offered else 0)


_Key = tuple[int, int, str]


@dataclass(slots=True)
class Connections:
    """See the module."""

    incarnation: str
    max_rooms: int = MAX_ROOMS
    _all: OrderedDict[_Key, Connection] = field(default_factory=OrderedDict)
    _of_device: dict[tuple[int, int], OrderedDict[str, None]] = field(default_factory=dict)
    _rooms: int = 0
    _last_number: int = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def rooms(self) -> int:
        """How many rooms are kept for all connections."""
        return self._rooms

    def of(self, key: _Key) -> Connection | None:
        """The connection that there is."""
        return self._all.get(key)

    def begin(self, key: _Key) -> Connection:
        """A new connection of (user, device, conn_id), instead of the one there was."""
        self._drop(key)
        made = self._all[key] = Connection()
        own = self._of_device.setdefault(key[:2], OrderedDict())
        own[key[2]] = None
        while len(own) > MAX_PER_DEVICE:
            self._drop((*key[:2], next(iter(own))))
        if len(self._all) > MAX_CONNECTIONS:
            self._drop(next(iter(self._all)))
        return made

    def resume(self, key: _Key, token: SlidingToken | None) -> Connection:
        """The connection, its client having got what came with the token.

        Raises `MatrixError` M_UNKNOWN_POS when it isn't known any more.
        """
        found = self._all.get(key)
        if found is None or token is None or token.incarnation != self.incarnation:
            raise _unknown_pos()
        if found.offered is not None and found.offered.number == token.number:
            self._rooms -= len(found.known.rooms)
            found.known, found.offered = found.offered, None
        elif found.known.number != token.number:
            raise _unknown_pos()
        self._all.move_to_end(key)
        self._of_device[key[:2]].move_to_end(key[2])
        return found

    def offer(self, key: _Key, connection: Connection, state: State) -> State:
        """Remember what a client will know that gets an answer; its state with a number."""
        self._last_number += 1
        state = state._replace(number=self._last_number)
        before = connection.size
        connection.offered = state
        if self._all.get(key) is connection:
            self._rooms += connection.size - before
            while self._rooms > self.max_rooms and len(self._all) > 1:
                self._drop(next(iter(self._all)))
        return state

    def _drop(self, key: _Key) -> None:
        gone = self._all.pop(key, None)
        if gone is None:
            return
        self._rooms -= gone.size
        own = self._of_device[key[:2]]
        del own[key[2]]
        if not own:
            del self._of_device[key[:2]]


class RoomMembers:
    """The members that one connection knows of one room, while an answer is made."""

    __slots__ = ("users",)

    def __init__(self, users: frozenset[str]) -> None:
        self.users = users

    def known(self, room_nid: int, since: int) -> AbstractSet[str]:
        return self.users

    def sent(self, room_nid: int, until: int, users: Iterable[str]) -> None:
        told = frozenset(users)
        if not told <= self.users:
            known = self.users | told
            self.users = (
                known if len(known) <= _MAX_MEMBERS else frozenset(list(told)[:_MAX_MEMBERS])
            )

    def forget(self, room_nid: int) -> None:
        self.users = frozenset()


def _unknown_pos() -> MatrixError:
    return MatrixError("M_UNKNOWN_POS", "This connection is not known any more; begin anew", 400)

"""Which members a lazily loading client has been told of.

Owns, by device and room, the users whose member events were sent, with the position of the token
that went with them. A user counts as known only to a request that presents that token or a later
one: what went out in an answer that never arrived is owed still. All of it may be forgotten at any
time; then members are sent once more.
spec: client-server-api#lazy-loading-room-members
"""

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

_MAX_DEVICES_AND_ROOMS = 20_000
_MAX_USERS = 2_000
_NOBODY: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Sent:
    """Users with the position at which each was sent first, and the highest of these."""

    users: dict[str, int] = field(default_factory=dict)
    last: int = 0


class KnownMembers(Protocol):
    """What one client knows of the members of its rooms."""

    def known(self, room_nid: int, since: int) -> AbstractSet[str]:
        """Users of whom the client was told by the time it got the token at `since`."""

    def sent(self, room_nid: int, until: int, users: Iterable[str]) -> None:
        """Member events of these users go out with the token at `until`."""

    def forget(self, room_nid: int) -> None:
        """The client begins anew with the room and knows none of its members."""


class LazyMembers:
    """See the module."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[int, int], _Sent] = OrderedDict()

    def of(self, device_nid: int) -> "DeviceMembers":
        """What a device knows."""
        return DeviceMembers(self, device_nid)

    def known(self, device_nid: int, room_nid: int, since: int) -> AbstractSet[str]:
        """See `KnownMembers`, as the next ones.

        A client that presents it has got nothing that was sent later: that is forgotten.
        """
        sent = self._sent.get((device_nid, room_nid))
        if sent is None:
            return _NOBODY
        if sent.last > since:
            sent.users = {user: pos for user, pos in sent.users.items() if pos <= since}
            sent.last = max(sent.users.values(), default=0)
        return sent.users.keys()

    def sent(self, device_nid: int, room_nid: int, until: int, users: Iterable[str]) -> None:
        key = (device_nid, room_nid)
        sent = self._sent.get(key)
        if sent is None or len(sent.users) > _MAX_USERS:
            sent = self._sent[key] = _Sent()
        for user in users:
            sent.users.setdefault(user, until)
        sent.last = max(sent.last, until)
        self._sent.move_to_end(key)
        if len(self._sent) > _MAX_DEVICES_AND_ROOMS:
            self._sent.popitem(last=False)

    def forget(self, device_nid: int, room_nid: int) -> None:
        self._sent.pop((device_nid, room_nid), None)


class DeviceMembers(NamedTuple):
    """`KnownMembers` of a device."""

    lazy: LazyMembers
    device_nid: int

    def known(self, room_nid: int, since: int) -> AbstractSet[str]:
        return self.lazy.known(self.device_nid, room_nid, since)

    def sent(self, room_nid: int, until: int, users: Iterable[str]) -> None:
        self.lazy.sent(self.device_nid, room_nid, until, users)

    def forget(self, room_nid: int) -> None:
        self.lazy.forget(self.device_nid, room_nid)

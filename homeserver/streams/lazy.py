"""Which members a lazily loading client has been told of.

Owns, by device and room, the users whose member events were sent, with the position of the token
that went with them. A user counts as known only to a request that presents that token or a later
one: what went out in an answer that never arrived is owed still. All of it may be forgotten at any
time; then members are sent once more.
spec: client-server-api#lazy-loading-room-members
"""

from collections import OrderedDict
from collections.abc import Iterable

_MAX_DEVICES_AND_ROOMS = 20_000
_MAX_USERS = 2_000


class LazyMembers:
    """See the module."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[int, int], dict[str, int]] = OrderedDict()

    def known(self, device_nid: int, room_nid: int, since: int) -> set[str]:
        """Users of whom the client was told by the time it got the token at `since`."""
        sent = self._sent.get((device_nid, room_nid))
        if not sent:
            return set()
        return {user for user, pos in sent.items() if pos <= since}

    def sent(self, device_nid: int, room_nid: int, until: int, users: Iterable[str]) -> None:
        """Member events of these users go out with the token at `until`."""
        key = (device_nid, room_nid)
        sent = self._sent.get(key)
        if sent is None or len(sent) > _MAX_USERS:
            sent = self._sent[key] = {}
        for user in users:
            if sent.get(user, until) >= until:
                sent[user] = until
        self._sent.move_to_end(key)
        if len(self._sent) > _MAX_DEVICES_AND_ROOMS:
            self._sent.popitem(last=False)

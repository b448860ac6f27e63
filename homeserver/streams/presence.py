"""Presence in sync answers: who may see whose, and who is woken for it.

Owns the rule that presence is shown to those who share a room, and to oneself. Presence never costs
more than it is worth: changes are gathered for a second, and then wake at most so many parked
requests; whoever is not woken learns of them with the next answer.
"""

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock
from homeserver.streams.asker import Asker
from homeserver.streams.memberships import Memberships, UserRooms
from homeserver.streams.notifier import Notifier
from homeserver.users.presence import Presence
from homeserver.users.sessions import Session

GATHER_SECONDS = 1.0
FEW = 16
"""Up to so many changed users are looked at one by one."""
WAKES = 100
"""How many parked requests the changes of that time may wake."""


class PresenceNews:
    """See the module."""

    def __init__(
        self, presence: Presence, memberships: Memberships, notifier: Notifier, clock: Clock
    ) -> None:
        self._presence = presence
        self._memberships = memberships
        self._notifier = notifier
        self._clock = clock
        self._changed: set[int] = set()
        # Insertion order is the order in which they are woken.
        self._waiting: dict[int, None] = {}
        self._planned = False
        # The rooms that know of whoever is shown.
        self._rooms: dict[int, frozenset[int]] = {}
        presence.on_change(self._note)

    @property
    def counter(self) -> int:
        """The number of the latest change of anybody's presence."""
        return self._presence.counter

    async def events(
        self, asker: Asker, user: UserRooms, since: int, *, afresh: bool
    ) -> list[bytes]:
        """The `m.presence` events of changes after number `since` that concern the asker.

        `user` are the asker's rooms; `afresh` adds everybody who is not offline.
        """
        wanted = asker.filter.presence
        presence = self._presence
        changed = presence.changed_since(since)
        near: set[int] | None = None
        if afresh or len(changed) > FEW:
            # Those in memory who share a room, once: asking for each of many would take long.
            near = {asker.user_nid}.union(*map(self._memberships.looking, user.joined))
        if afresh and near is not None:
            changed = [*dict.fromkeys([*filter(presence.is_shown, near), *changed])]
        found: list[bytes] = []
        for nid in changed:
            user_id = presence.user_id(nid)
            if (
                user_id is not None
                and user_id not in asker.ignored
                and wanted.matches("m.presence", sender=user_id)
                and await self._concerns(asker, user, nid, near)
                and presence.user_id(nid) is not None
            ):
                found.append(presence.event(nid))
        return found

    async def content(self, session: Session, user_id: str) -> JsonObject:
        """The presence of a user, for one who shares a room with them.

        Raises `MatrixError` M_FORBIDDEN for others and for users who don't exist, alike.
        """
        if user_id == session.user_id:
            return await self._presence.content(session.user_nid)
        other_nid = await self._presence.number_of(user_id)
        if other_nid is not None:
            rooms = await self._memberships.of(session.user_nid)
            if await self._shares(rooms, other_nid):
                return await self._presence.content(other_nid)
        raise MatrixError.forbidden("You share no room with this user")

    def wake_later(self, user_nid: int) -> None:
        """There is presence to be told to a user whose request is about to be parked."""
        self._waiting[user_nid] = None
        self._plan()

    def moved(self, user_nid: int) -> None:
        """A user's membership of a room has changed; new rooms must hear of who is there."""
        before = self._rooms.get(user_nid)
        known = self._memberships.known(user_nid)
        if before is not None and known is not None and not known.joined <= before:
            self._presence.touch(user_nid)

    async def _concerns(
        self, asker: Asker, user: UserRooms, nid: int, near: set[int] | None
    ) -> bool:
        if nid == asker.user_nid or (near is not None and nid in near):
            return True
        if near is not None and self._memberships.known(nid) is not None:
            return False
        return await self._shares(user, nid)

    async def _shares(self, user: UserRooms, other_nid: int) -> bool:
        other = self._memberships.known(other_nid) or await self._memberships.of(other_nid)
        return not user.joined.isdisjoint(other.joined)

    def _note(self, user_nid: int) -> None:
        self._changed.add(user_nid)
        if self._presence.is_shown(user_nid):
            known = self._memberships.known(user_nid)
            self._rooms[user_nid] = known.joined if known is not None else frozenset()
        else:
            self._rooms.pop(user_nid, None)
        self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._clock.call_later(GATHER_SECONDS, self._wake)

    def _wake(self) -> None:
        self._planned = False
        rooms: set[int] = set()
        for nid in self._changed:
            self._waiting[nid] = None
            known = self._memberships.known(nid)
            if known is not None:
                rooms |= known.joined
        self._changed.clear()
        for room_nid in rooms:
            for nid in self._memberships.looking(room_nid):
                if self._notifier.is_waiting(nid):
                    self._waiting[nid] = None
        left = WAKES
        while self._waiting and left:
            nid = next(iter(self._waiting))
            del self._waiting[nid]
            if self._notifier.is_waiting(nid):
                left -= 1
                self._notifier.wake((nid,))
        if self._waiting:
            self._plan()

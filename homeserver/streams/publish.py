"""From a commit to everybody who must hear of it.

Owns what is done with an item after its commit: the ring, the memberships in memory, the views and
the wake-ups, in stream order. It runs on the loop and never waits.
"""

from collections.abc import Callable, Collection

from homeserver.rooms.append import Appended
from homeserver.rooms.views import EventView, Views, replaced_extra
from homeserver.streams.ignored import IGNORED_USERS, Ignored
from homeserver.streams.memberships import Membership, Memberships
from homeserver.streams.notifier import Notifier
from homeserver.streams.ring import AccountDataEntry, EventEntry, ReceiptEntry, Ring
from storage.schema import JOIN


class Publisher:
    """See the module."""

    def __init__(
        self,
        ring: Ring,
        views: Views,
        memberships: Memberships,
        ignored: Ignored,
        notifier: Notifier,
    ) -> None:
        self._ring = ring
        self._views = views
        self._memberships = memberships
        self._ignored = ignored
        self._notifier = notifier
        self._left: Callable[[int, str], None] = _nothing

    def on_leave(self, left: Callable[[int, str], None]) -> None:
        """Have `left(room number, user id)` called when a user is no longer in a room."""
        self._left = left

    def events(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events of one room, at consecutive positions from `first_pos` on."""
        if not events:
            return
        concerned: list[int] = []
        for pos, appended in enumerate(events, first_pos):
            view = self._view(room_nid, pos, appended)
            self._ring.add_event(EventEntry(pos, view, appended.state_changes))
            if appended.redacted is not None:
                self._views.redacted(
                    *appended.redacted, appended.nid, appended.event, self._ring.views()
                )
            if appended.member_nid is not None and appended.membership is not None:
                concerned.append(appended.member_nid)
                self._memberships.moved(
                    appended.member_nid,
                    room_nid,
                    Membership(appended.membership, appended.nid, pos),
                )
                if appended.membership != JOIN and appended.event.state_key is not None:
                    self._left(room_nid, appended.event.state_key)
        self._notifier.wake(concerned)
        self._notifier.wake_among(self._memberships.looking(room_nid))
        self._notifier.wake_room(room_nid)

    def receipt(self, entry: ReceiptEntry) -> None:
        """A receipt that moved; its user's own other devices hear of private ones."""
        self._ring.add_receipt(entry)
        if entry.private:
            self._notifier.wake((entry.user_nid,))
        else:
            self._notifier.wake_among(self._memberships.looking(entry.room_nid))

    def account_data(self, entry: AccountDataEntry) -> None:
        """Account data that changed."""
        self._ring.add_account_data(entry)
        if entry.type == IGNORED_USERS and not entry.room_nid:
            self._ignored.changed(entry.user_nid, entry.content)
        self._notifier.wake((entry.user_nid,))

    def typing(self, room_nid: int) -> None:
        """Who is typing in a room has changed."""
        self._notifier.wake_among(self._memberships.looking(room_nid))

    def lost(self, pos: int) -> None:
        """Something up to `pos` could not be published: everybody reads the database."""
        self._ring.drop(pos)
        self._views.clear()
        self._memberships.clear()
        self._ignored.clear()
        # Those who wait are known to nobody now: they must look for themselves.
        self._notifier.wake_all()

    def _view(self, room_nid: int, pos: int, appended: Appended) -> EventView:
        old = appended.replaced
        view = EventView(
            nid=appended.nid,
            pos=pos,
            room_nid=room_nid,
            event=appended.event,
            flags=appended.flags,
            extra=replaced_extra(old) if old is not None else b"",
            replaces=appended.state_changes[0].old_nid if appended.state_changes else None,
            txn=(appended.txn.device_nid, appended.txn.txn_id) if appended.txn else None,
        )
        self._views.remember(view)
        return view


def _nothing(room_nid: int, user_id: str) -> None:
    """Nobody wants to know who leaves."""

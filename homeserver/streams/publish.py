"""From a commit to everybody who must hear of it.

Owns what is done with an item after its commit: the ring, the memberships in memory, the views and
the wake-ups, in stream order. It runs on the loop and never waits.
"""

from collections.abc import Callable, Collection, Mapping

from homeserver.matrix.event import Event
from homeserver.matrix.relations import thread_of
from homeserver.rooms.append import Appended, MemberChange
from homeserver.rooms.views import EventView, Views, redacted_event, replaced_extra
from homeserver.streams.ignored import IGNORED_USERS, Ignored
from homeserver.streams.memberships import Membership, Memberships
from homeserver.streams.notifier import Notifier
from homeserver.streams.ring import (
    AccountDataEntry,
    DeviceListEntry,
    EventEntry,
    MessagesEntry,
    Move,
    ReceiptEntry,
    Ring,
)
from storage.schema import JOIN

Follower = Callable[[int, int, Collection[Appended]], None]
OutsideFollower = Callable[[int, int, MemberChange, Event], None]
"""Told of a room (number) and its events at consecutive positions from the second argument on."""


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
        self._moved: Callable[[int], None] = _nobody
        self._followers: list[Follower] = []
        self._outside: list[OutsideFollower] = []
        self._receipts: list[Callable[[ReceiptEntry], None]] = []
        self._account_data: list[Callable[[int, str], None]] = []
        self._messages: list[Callable[[Mapping[int, int]], None]] = []
        self._device_lists: list[Callable[[DeviceListEntry, Collection[int]], None]] = []
        self._subscriptions: list[Callable[[int, int], None]] = []
        self._typing: list[Callable[[int], None]] = []
        self._lost: list[Callable[[], None]] = []

    def on_leave(self, left: Callable[[int, str], None]) -> None:
        """Have `left(room number, user id)` called when a user is no longer in a room."""
        self._left = left

    def on_events(self, happened: Follower) -> None:
        """Have `happened` called with the events of a room after everybody else was told."""
        self._followers.append(happened)

    def on_outside(self, happened: OutsideFollower) -> None:
        """Have `happened` called with memberships of rooms that we are not in."""
        self._outside.append(happened)

    def on_lost(self, lost: Callable[[], None]) -> None:
        """Have `lost` called when events could not be published: others were not told of them."""
        self._lost.append(lost)

    def on_receipt(self, moved: Callable[[ReceiptEntry], None]) -> None:
        """Have `moved` called with every receipt that has moved."""
        self._receipts.append(moved)

    def on_messages(self, arrived: Callable[[Mapping[int, int]], None]) -> None:
        """Have `arrived` called with the owners of the devices for which messages came."""
        self._messages.append(arrived)

    def on_device_list(self, changed: Callable[[DeviceListEntry, Collection[int]], None]) -> None:
        """Have `changed(change, the user's rooms)` called when a user's devices have changed."""
        self._device_lists.append(changed)

    def on_account_data(self, changed: Callable[[int, str], None]) -> None:
        """Have `changed(user number, type)` called when account data has changed."""
        self._account_data.append(changed)

    def on_subscription(self, changed: Callable[[int, int], None]) -> None:
        """Have `changed(user number, position)` called when somebody spoke on a thread."""
        self._subscriptions.append(changed)

    def on_typing(self, changed: Callable[[int], None]) -> None:
        """Have `changed(room number)` called when those who type in a room are others."""
        self._typing.append(changed)

    def on_move(self, moved: Callable[[int], None]) -> None:
        """Have `moved(user number)` called when a user's membership of a room has changed."""
        self._moved = moved

    def events(self, room_nid: int, first_pos: int, events: Collection[Appended]) -> None:
        """Events of one room, at consecutive positions from `first_pos` on."""
        if not events:
            return
        concerned: list[int] = []
        for pos, appended in enumerate(events, first_pos):
            view = self._view(room_nid, pos, appended)
            thread = thread_of(appended.event.content)
            moves = tuple(
                Move(room_nid, member.user_nid, member.was, member.membership)
                for member in appended.members
            )
            self._ring.add_event(
                EventEntry(pos, view, appended.state_changes, moves, appended.mentioned, thread)
            )
            if appended.redacted is not None:
                self._views.redacted(
                    *appended.redacted, appended.nid, appended.event, self._ring.views
                )
            for member in appended.members:
                concerned.append(member.user_nid)
                self._memberships.moved(
                    member.user_nid, room_nid, Membership(member.membership, member.event_nid, pos)
                )
                if member.membership != JOIN:
                    self._left(room_nid, member.user_id)
        for user_nid in concerned:
            self._moved(user_nid)
        self._notifier.wake(concerned)
        self._notifier.wake_among(self._memberships.looking(room_nid))
        self._notifier.wake_room(room_nid)
        for happened in self._followers:
            happened(room_nid, first_pos, events)

    def redacted(self, events: Mapping[int, Event], by: int, because: Event) -> None:
        """Events (by number, as they were before) were redacted by `because`, of number `by`."""
        for nid, event in events.items():
            self._views.redacted(nid, event, by, because, self._ring.views)

    def outside(self, room_nid: int, pos: int, member: MemberChange, event: Event) -> None:
        """A user's membership of a room that we are not in: it is in nobody's timeline."""
        change = Membership(member.membership, member.event_nid, pos)
        self._memberships.moved(member.user_nid, room_nid, change)
        self._notifier.wake((member.user_nid,))
        for happened in self._outside:
            happened(room_nid, pos, member, event)

    def receipt(self, entry: ReceiptEntry) -> None:
        """A receipt that moved; its user's own other devices hear of private ones."""
        self._ring.add_receipt(entry)
        if entry.private:
            self._notifier.wake((entry.user_nid,))
        else:
            self._notifier.wake_among(self._memberships.looking(entry.room_nid))
        for moved in self._receipts:
            moved(entry)

    def account_data(self, entry: AccountDataEntry) -> None:
        """Account data that changed."""
        self._ring.add_account_data(entry)
        if entry.type == IGNORED_USERS and not entry.room_nid:
            self._ignored.changed(entry.user_nid, entry.content)
        for changed in self._account_data:
            changed(entry.user_nid, entry.type)
        self._notifier.wake((entry.user_nid,))

    def subscription(self, user_nid: int, pos: int) -> None:
        """A user subscribed to a thread, or does no more."""
        for changed in self._subscriptions:
            changed(user_nid, pos)
        self._notifier.wake((user_nid,))

    def messages(self, entry: MessagesEntry, users: Mapping[int, int]) -> None:
        """To-device messages; `users` are the owners of the devices (numbers)."""
        self._ring.add_messages(entry)
        self._notifier.wake(users.values())
        for arrived in self._messages:
            arrived(users)

    def device_list(self, entry: DeviceListEntry, room_nids: Collection[int]) -> None:
        """A user's devices changed; `room_nids` are the rooms that the user is in."""
        self._ring.add_device_list(entry)
        self._notifier.wake((entry.only_for or entry.user_nid,))
        for room_nid in room_nids:
            self._notifier.wake_among(self._memberships.looking(room_nid))
        for changed in self._device_lists:
            changed(entry, room_nids)

    def sticky(self, room_nid: int) -> None:
        """A sticky event that was held back is told now."""
        self._notifier.wake_among(self._memberships.looking(room_nid))

    def typing(self, room_nid: int) -> None:
        """Who is typing in a room has changed."""
        self._notifier.wake_among(self._memberships.looking(room_nid))
        for changed in self._typing:
            changed(room_nid)

    def lost(self, pos: int) -> None:
        """Something up to `pos` could not be published: everybody reads the database."""
        self._ring.drop(pos)
        self._views.clear()
        self._memberships.clear()
        self._ignored.clear()
        # Those who wait are known to nobody now: they must look for themselves.
        self._notifier.wake_all()
        for lost in self._lost:
            lost()

    def _view(self, room_nid: int, pos: int, appended: Appended) -> EventView:
        old = appended.replaced
        view = EventView(
            nid=appended.nid,
            pos=pos,
            room_nid=room_nid,
            event=appended.event,
            flags=appended.flags,
            extra=replaced_extra(old) if old is not None else b"",
            replaces=appended.replaced_nid,
            txn=(appended.txn.device_nid, appended.txn.txn_id) if appended.txn else None,
            sticky_until=appended.sticky_until,
        )
        if appended.because is not None:
            view.redact(redacted_event(appended.event), *appended.because)
        self._views.remember(view)
        return view


def _nothing(room_nid: int, user_id: str) -> None:
    """Nobody wants to know who leaves."""


def _nobody(user_nid: int) -> None:
    """Nobody wants to know who moves."""

"""What stands beside the rooms of a sliding sync answer: the extensions.

Owns their JSON: to-device messages, devices and keys, account data, receipts, typing, threads and
sticky events. Messages and sticky events have places of their own, which their client names and
which outlive connections: one is told until a request says that it has arrived. Receipts of a room
that is told afresh are the user's own and those on the events told, as MSC3960 has it; of several
of one user at one event that without a thread is told, which stands for all.
spec: MSC4186, MSC3884, MSC3885, MSC3959, MSC3960, MSC3961, MSC4308, MSC4480
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from homeserver.matrix import canonical
from homeserver.rooms.actor import Room
from homeserver.rooms.sticky import StickyEvents
from homeserver.streams.answer import RoomAnswers
from homeserver.streams.asker import Asker
from homeserver.streams.device_news import DeviceNews
from homeserver.streams.extras import RoomExtras, account_data_event, receipt_events
from homeserver.streams.memberships import UserRooms
from homeserver.streams.news import News
from homeserver.streams.ring import AccountDataEntry, ReceiptEntry
from homeserver.streams.sliding.asked import Messages, Sticky
from homeserver.streams.tokens import Timelines
from homeserver.users.account_data import DELETED
from homeserver.users.sessions import Session
from homeserver.users.thread_subscriptions import SubscriptionNews
from homeserver.users.to_device import PAGE, Inboxes
from homeserver.users.typing import Typing


@dataclass(slots=True)
class Extended:
    """The extensions of one answer; by room id the events of each."""

    messages: list[bytes] = field(default_factory=list)
    next_batch: str | None = None
    e2ee: bool = False
    changed: Collection[str] = ()
    left: Collection[str] = ()
    pool: bytes = b""
    own: list[bytes] = field(default_factory=list)
    account_data: dict[str, bytes] = field(default_factory=dict)
    receipts: dict[str, bytes] = field(default_factory=dict)
    typing: dict[str, bytes] = field(default_factory=dict)
    threads: bytes | None = None
    sticky: dict[str, bytes] = field(default_factory=dict)
    sticky_next: str | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to say at once."""
        return bool(
            self.messages
            or self.changed
            or self.left
            or self.own
            or self.account_data
            or self.receipts
            or self.typing
            or self.threads
            or self.sticky
        )

    def json(self) -> bytes:
        """The `extensions` object."""
        parts: list[bytes] = []
        if self.next_batch is not None:
            parts.append(
                b'"to_device":{"events":[%b],"next_batch":"%b"}'
                % (b",".join(self.messages), self.next_batch.encode())
            )
        if self.e2ee:
            inner = [self.pool] if self.pool else []
            if self.changed or self.left:
                lists = {"changed": sorted(self.changed), "left": sorted(self.left)}
                inner.append(b'"device_lists":' + canonical.encode(lists))
            parts.append(b'"e2ee":{%b}' % b",".join(inner))
        if self.own or self.account_data:
            parts.append(
                b'"account_data":{"global":[%b],"rooms":%b}'
                % (b",".join(self.own), _by_room(self.account_data))
            )
        for name, rooms in ((b"receipts", self.receipts), (b"typing", self.typing)):
            if rooms:
                parts.append(b'"%b":{"rooms":%b}' % (name, _by_room(rooms)))
        if self.threads is not None:
            parts.append(b'"io.element.msc4308.thread_subscriptions":' + self.threads)
        if self.sticky_next is not None:
            parts.append(
                b'"org.matrix.msc4354.sticky_events":{"next_batch":"%b","rooms":%b}'
                % (self.sticky_next.encode(), _by_room(self.sticky))
            )
        return b"{%b}" % b",".join(parts)


class Extending:
    """Makes them."""

    def __init__(
        self,
        answers: RoomAnswers,
        extras: RoomExtras,
        typing: Typing,
        devices: DeviceNews,
        inboxes: Inboxes,
        subscriptions: SubscriptionNews,
        timelines: Timelines,
        sticky: StickyEvents,
    ) -> None:
        self._answers = answers
        self._extras = extras
        self._typing = typing
        self._devices = devices
        self._inboxes = inboxes
        self._subscriptions = subscriptions
        self._timelines = timelines
        self._sticky = sticky

    async def received(self, session: Session, wanted: Messages, applied: int) -> int:
        """After which position the device lacks its messages; those before it are done with.

        Raises `MatrixError` M_INVALID_PARAM for what is no token.
        """
        if wanted.since is None:
            return 0
        after = self._timelines.parse_messages(wanted.since, applied)
        if session.device_nid is not None:
            await self._devices.received_up_to(session.device_nid, after)
        return after or 0

    async def messages(
        self,
        told: Extended,
        session: Session,
        wanted: Messages,
        after: int,
        until: int,
        *,
        stored: bool,
    ) -> None:
        """The messages after a position."""
        upto: int | None = None
        if session.device_nid is not None:
            most = min(max(wanted.limit, 1), PAGE)
            told.messages, upto = await self._inboxes.waiting(
                session.device_nid, after, until, most=most, stored=stored
            )
        # A position is never taken back, as the one given before may have been ahead.
        told.next_batch = self._timelines.messages_token(
            max(until if upto is None else upto, after)
        )

    def sticky_after(self, wanted: Sticky, applied: int) -> int:
        """After which position the client lacks sticky events; raises as `received` does."""
        if wanted.since is None:
            return 0
        return self._timelines.parse_messages(wanted.since, applied) or 0

    async def sticky(
        self,
        told: Extended,
        asker: Asker,
        user: UserRooms,
        wanted: Sticky,
        passing: Collection[int],
        after: int,
        until: int,
        without: Collection[str],
    ) -> None:
        """The sticky events of these of the user's rooms in (after, until]."""
        members = {
            nid: user.rooms[nid].pos
            for nid in self._sticky.rooms_since(passing, 0)
            if nid in user.joined
        }
        if not members:
            return
        page = await self._sticky.page(
            asker.user_nid, members, after, until, wanted.limit, without, asker.ignored
        )
        for room_id, views in page.events.items():
            events = [view.render(asker.now, device_nid=asker.device_nid) for view in views]
            told.sticky[room_id] = b'{"events":[%b]}' % b",".join(events)
        if page.upto is not None:
            told.sticky_next = self._timelines.messages_token(page.upto)

    async def lists(self, told: Extended, asker: Asker, news: News, user: UserRooms) -> None:
        """Whose devices have changed."""
        if news.since >= 0:
            told.changed, told.left = await self._devices.lists(asker, news, user)

    async def threads(
        self, told: Extended, asker: Asker, after: int, until: int, limit: int
    ) -> None:
        """What the user said of threads in (after, until], the latest of it."""
        told.threads = await self._subscriptions.between(asker.user_nid, after, until, limit)

    async def pool(self, told: Extended, session: Session, *, stored: bool) -> None:
        """The device's own keys."""
        told.e2ee = True
        told.pool = await self._devices.pool(session, stored=stored)

    def own_account_data(
        self, told: Extended, asker: Asker, entries: Collection[AccountDataEntry], *, afresh: bool
    ) -> None:
        """The account's own data."""
        own = [
            entry
            for entry in entries
            if not entry.room_nid and not (afresh and entry.content == DELETED)
        ]
        told.own = self._extras.own_account_data(asker, own, afresh=afresh)

    async def room_account_data(
        self, told: Extended, asker: Asker, room: Room, news: News, *, afresh: bool
    ) -> None:
        """The account data of a room: all of it `afresh`, else what has changed."""
        entries: Collection[AccountDataEntry]
        if afresh:
            entries = await self._answers.account_data(asker, room, news.until)
        else:
            changed = await news.account_data(asker.user_nid)
            entries = [entry for entry in changed if entry.room_nid == room.nid]
        if entries:
            events = [account_data_event(entry.type, entry.content) for entry in entries]
            told.account_data[room.room_id] = b"[%b]" % b",".join(events)

    async def room_receipts(
        self, told: Extended, asker: Asker, room: Room, news: News, events: Collection[str] | None
    ) -> None:
        """The receipts of a room in the news; with `events` those on them and own ones only."""
        found = await news.receipts(room.nid, asker.user_nid)
        shown = [
            entry
            for entry in found
            if entry.user_id not in asker.ignored
            and (events is None or entry.event_id in events or entry.user_nid == asker.user_nid)
        ]
        if shown:
            (told.receipts[room.room_id],) = receipt_events(_one_each(shown))

    def room_typing(self, told: Extended, asker: Asker, room: Room, *, afresh: bool) -> None:
        """Who types in a room; `afresh` it goes without saying that nobody does."""
        if not afresh or self._typing.users(room.nid):
            told.typing[room.room_id] = self._typing.event(room.nid, asker.ignored)


def _one_each(entries: Collection[ReceiptEntry]) -> list[ReceiptEntry]:
    """Of each user and kind at most one receipt at an event, that without a thread if there is."""
    found: dict[tuple[str, bool, str], ReceiptEntry] = {}
    for entry in entries:
        key = (entry.event_id, entry.private, entry.user_id)
        if key not in found or found[key].thread:
            found[key] = entry
    return list(found.values())


def _by_room(rooms: Mapping[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(
        b"%b:%b" % (canonical.encode(room), json) for room, json in rooms.items()
    )

"""Which rooms stand in a sync answer, and in which section.

Owns the walk over the rooms that concern a user between two positions, and the answer's JSON. What
a section holds is made by `sections.py` and `extras.py`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from homeserver.matrix import canonical
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.readable import Readers
from homeserver.rooms.state import RoomState
from homeserver.rooms.sticky import StickyEvents
from homeserver.rooms.timeline import OLDEST
from homeserver.streams.asker import Asker
from homeserver.streams.extras import RoomExtras
from homeserver.streams.invite_permissions import InvitePermissions, Rule
from homeserver.streams.memberships import Membership, UserRooms
from homeserver.streams.news import News
from homeserver.streams.ring import AccountDataEntry
from homeserver.streams.sections import Sections, Told
from homeserver.users.account_data import DELETED
from storage.engine import Database
from storage.memberships import log_between, of_user_at
from storage.schema import INVITE, JOIN, KNOCK
from storage.user_data import account_data_in


@dataclass(slots=True)
class Answer:
    """The sections of one answer: room id to JSON."""

    join: dict[str, bytes] = field(default_factory=dict)
    invite: dict[str, bytes] = field(default_factory=dict)
    knock: dict[str, bytes] = field(default_factory=dict)
    leave: dict[str, bytes] = field(default_factory=dict)
    account_data: list[bytes] = field(default_factory=list)
    presence: list[bytes] = field(default_factory=list)
    to_device: list[bytes] = field(default_factory=list)
    changed_devices: Collection[str] = ()
    left_devices: Collection[str] = ()
    pool: bytes = b""

    def __bool__(self) -> bool:
        """Whether there is anything to say at once; presence and counts of keys can wait."""
        return bool(
            self.join
            or self.invite
            or self.knock
            or self.leave
            or self.account_data
            or self.to_device
            or self.changed_devices
            or self.left_devices
        )

    def json(self, token: str) -> bytes:
        """The answer's body; `token` is its `next_batch`."""
        parts = [b'"next_batch":"%b"' % token.encode()]
        rooms = [
            b'"%b":{%b}'
            % (
                name,
                b",".join(
                    [b"%b:%b" % (canonical.encode(room), json) for room, json in found.items()]
                ),
            )
            for name, found in (
                (b"join", self.join),
                (b"invite", self.invite),
                (b"knock", self.knock),
                (b"leave", self.leave),
            )
            if found
        ]
        if rooms:
            parts.append(b'"rooms":{%b}' % b",".join(rooms))
        if self.account_data:
            parts.append(b'"account_data":{"events":[%b]}' % b",".join(self.account_data))
        if self.presence:
            parts.append(b'"presence":{"events":[%b]}' % b",".join(self.presence))
        if self.to_device:
            parts.append(b'"to_device":{"events":[%b]}' % b",".join(self.to_device))
        if self.changed_devices or self.left_devices:
            lists = {"changed": sorted(self.changed_devices), "left": sorted(self.left_devices)}
            parts.append(b'"device_lists":%b' % canonical.encode(lists))
        if self.pool:
            parts.append(self.pool)
        return b"{%b}" % b",".join(parts)


class RoomAnswers:
    """Fills answers."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        sections: Sections,
        extras: RoomExtras,
        readers: Readers,
        state: RoomState,
        permissions: InvitePermissions,
        everything: Callable[[int], News],
        sticky: StickyEvents,
    ) -> None:
        """`everything(until)` are the news since the beginning, for rooms told afresh."""
        self._database = database
        self._rooms = rooms
        self._sections = sections
        self._extras = extras
        self._readers = readers
        self._state = state
        self._permissions = permissions
        self._everything = everything
        self._sticky = sticky

    async def fill(
        self, answer: Answer, asker: Asker, news: News, user: UserRooms, typing: Collection[int]
    ) -> None:
        """Add what happened in (news.since, news.until].

        `user` are the user's rooms at `news.until`; `typing` the rooms whose typing is to be told.
        `news.since` is -1 for a client that knows nothing.
        """
        by_room: dict[int, list[AccountDataEntry]] = {}
        own: list[AccountDataEntry] = []
        for entry in await news.account_data(asker.user_nid):
            if news.since >= 0 or entry.content != DELETED:
                (by_room.setdefault(entry.room_nid, []) if entry.room_nid else own).append(entry)
        answer.account_data = self._extras.own_account_data(asker, own, afresh=news.since < 0)
        told = {*by_room, *typing} & user.joined
        moves = NO_MOVES
        moved: set[int] = set()
        if user.latest > news.since:
            moved = {nid for nid, member in user.rooms.items() if member.pos > news.since}
            if news.since >= 0:
                moves = await self.moves(asker.user_nid, news, moved)
        wanted: Collection[int]
        if news.since < 0 or asker.full_state:
            wanted = user.joined | moved
        else:
            wanted = told | moved | await news.rooms(user.joined)
            wanted |= self._sticky.rooms_since(user.joined, news.since)
        if not wanted:
            return
        rooms = await self._rooms.by_nids(wanted)
        for nid in sorted(wanted):
            room, member = rooms[nid], user.rooms[nid]
            if not asker.filter.room.admits_room(room.room_id):
                continue
            if member.membership == JOIN:
                section = await self._joined(
                    asker,
                    room,
                    member,
                    news,
                    by_room.get(nid, ()),
                    typing=nid in typing,
                    stayed=news.since >= 0 and (nid not in moved or nid in moves.stayed),
                    was_joined=nid in moves.was_joined,
                )
                if section is not None:
                    answer.join[room.room_id] = section
            elif member.membership in (INVITE, KNOCK):
                await self._stripped(answer, asker, room, member)
            elif (
                news.since >= 0
                or asker.misled
                or (asker.filter.room.include_leave and not member.forgotten)
            ):
                answer.leave[room.room_id] = await self._left(
                    asker, room, member, news, moves, by_room.get(nid, ())
                )

    async def moves(self, user_nid: int, news: News, moved: Collection[int]) -> "Moves":
        """How a user came to and went from the rooms `moved` in (news.since, news.until]."""
        before = await of_user_at(self._database, user_nid, moved, news.since)
        log = await log_between(self._database, user_nid, news.since, news.until)
        joined = {nid for nid, row in before.items() if row.membership == JOIN}
        broken = {row.room_nid for row in log if row.membership != JOIN}
        joins = {row.room_nid for row in log if row.membership == JOIN}
        return Moves(frozenset(joined - broken), frozenset(joined), frozenset(joined | joins))

    async def _joined(
        self,
        asker: Asker,
        room: Room,
        member: Membership,
        news: News,
        account_data: Collection[AccountDataEntry],
        *,
        typing: bool,
        stayed: bool,
        was_joined: bool,
    ) -> bytes | None:
        """A room that the user is in; None when nothing in it concerns this client.

        `was_joined`: the user was in it at `news.since`, up to which the client knows it; `stayed`:
        and never left.
        """
        if stayed:
            told = await self._sections.update(asker, room, news, None, news.until)
            receipts = await news.receipts(room.nid, asker.user_nid)
        else:
            reader = await self._readers.of(asker.user_nid, room)
            told = await self._sections.afresh(
                asker,
                room,
                reader,
                news.until,
                known=news.since if reader.was_joined_at(news.since) else None,
                after=news.since if was_joined else OLDEST,
            )
            receipts = await self._everything(news.until).receipts(room.nid, asker.user_nid)
            if news.since >= 0:
                account_data = await self.account_data(asker, room, news.until)
            typing = True
        sticky = await self._sticky.told(
            room, news.since if stayed else -1, news.until, {view.nid for view in told.views}
        )
        extras = (
            self._extras.ephemeral(asker, room, receipts, typing=typing, stayed=stayed),
            self._extras.account_data(asker, room, account_data),
            self._extras.sticky(asker, sticky),
        )
        if (
            told.silent
            and not any(extras)
            and not asker.full_state
            and not any(entry.user_nid == asker.user_nid for entry in receipts)
        ):
            return None
        unread = await self._extras.unread(asker, room, member, news.until)
        parts = [*told.parts, *filter(None, extras), unread]
        return b"{%b}" % b",".join(parts)

    async def account_data(
        self, asker: Asker, room: Room, until: int
    ) -> Collection[AccountDataEntry]:
        """All of the user's account data of a room; what was written after `until` comes later."""
        found = await account_data_in(self._database, asker.user_nid, [room.nid])
        return [
            AccountDataEntry(row.pos, row.user_nid, row.room_nid, row.type, row.content)
            for row in sorted(found.get(room.nid, {}).values(), key=lambda row: row.pos)
            if row.pos <= until and row.content != DELETED
        ]

    async def shows_invite(self, asker: Asker, room: Room, member: Membership) -> bool:
        """Whether an invite comes from somebody of whom the user wants some."""
        permissions = await self._permissions.of(asker.user_nid)
        if permissions.everybody and not asker.ignored:
            return True
        sender = (await self._sections.view(room, member.event_nid)).sender
        return sender not in asker.ignored and permissions.rule(sender) is Rule.ALLOW

    async def _stripped(self, answer: Answer, asker: Asker, room: Room, member: Membership) -> None:
        """An invite, if it is to be shown, or a knock."""
        if member.membership == INVITE:
            if await self.shows_invite(asker, room, member):
                stripped = await self._state.stripped(room, asker.user_id)
                answer.invite[room.room_id] = b'{"invite_state":{"events":%b}}' % stripped
        else:
            stripped = await self._state.stripped(room, asker.user_id)
            answer.knock[room.room_id] = b'{"knock_state":{"events":%b}}' % stripped

    async def _left(
        self,
        asker: Asker,
        room: Room,
        member: Membership,
        news: News,
        moves: "Moves",
        account_data: Collection[AccountDataEntry],
    ) -> bytes:
        """The section of a room that the user has left."""
        told = await self.left(asker, room, member, news, moves)
        part = self._extras.account_data(asker, room, account_data)
        return b"{%b}" % b",".join([*told.parts, *filter(None, (part,))])

    async def left(
        self, asker: Asker, room: Room, member: Membership, news: News, moves: "Moves"
    ) -> Told:
        """A room that the user has left, up to and with the leaving."""
        told: Told | None = None
        if not asker.misled and (news.since < 0 or room.nid in moves.was_in):
            reader = await self._readers.of(asker.user_nid, room)
            if reader.was_member:
                left_at = reader.left_at
                # A ban or the end of an invite may have come after the stay.
                own = member.event_nid if member.pos > left_at else None
                if room.nid in moves.was_joined:
                    told = await self._sections.update(asker, room, news, reader, left_at, own=own)
                else:
                    told = await self._sections.afresh(
                        asker,
                        room,
                        reader,
                        left_at,
                        known=news.since if reader.was_joined_at(news.since) else None,
                        own=own,
                    )
        if told is None:
            told = await self._sections.farewell(asker, room, member.event_nid)
        return told


@dataclass(frozen=True, slots=True)
class Moves:
    """How a user moved in a stretch.

    Rooms the user was in all along; was joined to at the start; was joined to at any time.
    """

    stayed: frozenset[int] = frozenset()
    was_joined: frozenset[int] = frozenset()
    was_in: frozenset[int] = frozenset()


NO_MOVES = Moves()

"""What a sync tells a device of devices: messages to it, whose keys changed, its own keys' pool.

Owns who stands in `device_lists`. Invariant: a client that queries every user of `changed` and
forgets every user of `left` holds, for each user it shares a room with, the keys that the user has.
So whoever comes into a room with the user is told, also one who had only been away; and whoever
shares none any more is told as left, but nobody whom the user never met. The tables may be ahead of
`news.until`; what they say too early is said again by the next answer.
spec: client-server-api#extensions-to-sync-1
"""

from collections.abc import Collection

from homeserver.streams.answer import Answer
from homeserver.streams.asker import Asker
from homeserver.streams.memberships import UserRooms
from homeserver.streams.news import News
from homeserver.streams.numbers import Names
from homeserver.streams.ring import Move
from homeserver.streams.tokens import SyncToken
from homeserver.users.one_time_keys import OneTimeKeys
from homeserver.users.sessions import Session
from homeserver.users.to_device import Inboxes
from storage.device_lists import members_or_leavers
from storage.engine import Database
from storage.memberships import joined_rooms, log_between, of_user_at
from storage.schema import JOIN

_FEW = 64
_NEVER = 2**53


class DeviceNews:
    """See the module."""

    def __init__(
        self, database: Database, names: Names, inboxes: Inboxes, one_time: OneTimeKeys
    ) -> None:
        self._database = database
        self._names = names
        self._inboxes = inboxes
        self._one_time = one_time

    async def received(self, session: Session, token: SyncToken) -> None:
        """The client has presented this token: the messages that it was told are done with.

        One of a lost timeline says that an older copy of the database was put back, and that keys
        of the device may have been given out which the copy still has.
        """
        if session.device_nid is None:
            return
        await self.received_up_to(session.device_nid, token.messages if token.pos >= 0 else None)

    async def received_up_to(self, device_nid: int, pos: int | None) -> None:
        """As `received`, for a token that says only up to where the device has its messages.

        None for one of a lost timeline.
        """
        if pos is not None:
            await self._inboxes.received(device_nid, pos)
        else:
            await self._one_time.doubted(device_nid)

    async def pool(self, session: Session, *, stored: bool) -> bytes:
        """The members of the answer that tell of the device's own keys."""
        if session.device_nid is None:
            return b""
        return (await self._one_time.pool(session.device_nid, stored=stored)).json

    async def fill(
        self, answer: Answer, asker: Asker, news: News, user: UserRooms, token: SyncToken
    ) -> int | None:
        """Add messages and lists; the position of the last message when there are more."""
        upto = None
        if asker.device_nid is not None:
            answer.to_device, upto = await self._inboxes.waiting(
                asker.device_nid, token.messages, news.until, stored=asker.stored
            )
        if news.since >= 0:
            answer.changed_devices, answer.left_devices = await self.lists(asker, news, user)
        elif asker.misled:
            names = await self._names.names(await self.everybody(asker.user_nid, user))
            answer.changed_devices = list(names.values())
        return upto

    async def lists(
        self, asker: Asker, news: News, user: UserRooms
    ) -> tuple[Collection[str], Collection[str]]:
        """The users in `changed` and in `left` for who knows all up to `news.since`."""
        if not news.stirred:
            return (), ()
        changed, left = await self.moved(asker.user_nid, news, user)
        names = await self._names.names(changed | left)
        return [names[nid] for nid in changed], [names[nid] for nid in left]

    async def everybody(self, user_nid: int, user: UserRooms) -> set[int]:
        """Whoever shares a room with the user, who is told nothing else."""
        return await self._members(user.joined, _NEVER) | {user_nid}

    async def moved(self, user_nid: int, news: News, user: UserRooms) -> tuple[set[int], set[int]]:
        """The users (numbers) whose keys must be fetched anew, and those to be forgotten."""
        entered: set[int] = set()
        gone: set[int] = set()
        if user.latest > news.since:
            entered, gone = await self._own_moves(user_nid, news, user)
        listed = await news.device_lists()
        moves = await news.moves(user.joined | gone)
        changed = set(await news.signed(user_nid))
        away: set[int] = set()
        for move in moves:
            if move.now == JOIN:
                if move.room_nid in user.joined:
                    changed.add(move.user_nid)
            elif move.was == JOIN and move.room_nid not in gone:
                away.add(move.user_nid)
        if entered:
            changed |= await self._members(entered, news.until)
        for room_nid in gone:
            away |= await self._met(user_nid, room_nid, moves, news.until)
        for nid in listed:
            if nid not in changed and not user.joined.isdisjoint(await news.rooms_of(nid)):
                changed.add(nid)
        away.discard(user_nid)
        left = away - await self._sharing(away, user.joined) if away else away
        changed -= left
        # Nobody shares a room with oneself alone; own devices are told of each other anyway.
        changed.discard(user_nid)
        if user_nid in listed:
            changed.add(user_nid)
        return changed, left

    async def _own_moves(
        self, user_nid: int, news: News, user: UserRooms
    ) -> tuple[set[int], set[int]]:
        """The rooms that the user has come into, once or again, and those that it is out of."""
        moved = {nid for nid, member in user.rooms.items() if member.pos > news.since}
        before = await of_user_at(self._database, user_nid, moved, news.since)
        was_joined = {nid for nid, row in before.items() if row.membership == JOIN}
        log = await log_between(self._database, user_nid, news.since, news.until)
        broken = {row.room_nid for row in log if row.membership != JOIN}
        entered = (moved & user.joined) - (was_joined - broken)
        return entered, was_joined - user.joined

    async def _members(self, room_nids: Collection[int], until: int) -> set[int]:
        return await members_or_leavers(self._database, room_nids, until)

    async def _met(
        self, user_nid: int, room_nid: int, moves: Collection[Move], until: int
    ) -> set[int]:
        """Who was in a room that the user is out of, up to the moment when that was so."""
        there = await self._members({room_nid}, until)
        here = [move for move in moves if move.room_nid == room_nid]
        while here and here[-1].user_nid != user_nid:
            undone = here.pop()
            if undone.now == JOIN:
                there.discard(undone.user_nid)
            elif undone.was == JOIN:
                there.add(undone.user_nid)
        return there | {move.user_nid for move in here if move.was == JOIN}

    async def _sharing(self, user_nids: Collection[int], joined: Collection[int]) -> set[int]:
        """Those of the users who are in one of the rooms."""
        found: set[int] = set()
        wanted = frozenset(joined)
        waiting = list(user_nids)
        while waiting:
            some, waiting = waiting[:_FEW], waiting[_FEW:]
            rooms = await joined_rooms(self._database, some)
            found |= {nid for nid, theirs in rooms.items() if not wanted.isdisjoint(theirs)}
        return found

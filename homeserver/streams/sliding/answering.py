"""The making of one answer: which rooms have something to tell, and what stands beside them.

Owns the choice among the rooms that are asked for, and what their client knows afterwards.
Invariants: a room that is not told of keeps the position up to which it was, and is told from there
when it is asked for; every answer is bounded, and rooms beyond its bound come with the next one.
spec: MSC4186
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from homeserver.matrix import canonical
from homeserver.matrix.filters import Filter
from homeserver.streams.answer import NO_MOVES, Moves, RoomAnswers
from homeserver.streams.asker import Asker
from homeserver.streams.memberships import UserRooms
from homeserver.streams.news import News, RingNews
from homeserver.streams.sliding.asked import ACCOUNT_DATA, RECEIPTS, TYPING, Asked, Extensions
from homeserver.streams.sliding.connections import Sent, State
from homeserver.streams.sliding.extensions import Extended, Extending
from homeserver.streams.sliding.lists import Lists
from homeserver.streams.sliding.matched import Match, Matched
from homeserver.streams.sliding.rooms import RoomTeller, RoomTold, Stretch
from homeserver.streams.sync import NewsDesk
from homeserver.users.account_data import TAGS
from homeserver.users.typing import Typing
from storage.engine import Database
from storage.rooms import summaries
from storage.schema import JOIN, RoomSummaryRow

MAX_ROOMS = 500
"""Rooms of one answer."""
MAX_EVENTS = 10_000
"""Events of one answer; the room that reaches it is the last."""
EAGER = Filter.parse({})
_LAZY = Filter.parse({"room": {"state": {"lazy_load_members": True}}})


class Makers(NamedTuple):
    """What answers are made with."""

    database: Database
    desk: NewsDesk
    answers: RoomAnswers
    lists: Lists
    teller: RoomTeller
    extending: Extending
    typing: Typing


@dataclass(slots=True)
class SlidingAnswer:
    """One answer: rooms by id as JSON.

    `events` are the ids of those in it, `matched` what the request has matched.
    """

    counts: Mapping[str, int]
    rooms: dict[str, bytes] = field(default_factory=dict)
    extended: Extended = field(default_factory=Extended)
    events: set[str] = field(default_factory=set)
    matched: Matched | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to say at once."""
        return bool(self.rooms or self.extended)

    def json(self, pos: str) -> bytes:
        """The answer's body."""
        lists = {name: {"count": count} for name, count in self.counts.items()}
        rooms = b",".join(
            b"%b:%b" % (canonical.encode(room_id), json) for room_id, json in self.rooms.items()
        )
        return b'{"pos":"%b","lists":%b,"rooms":{%b},"extensions":%b}' % (
            pos.encode(),
            canonical.encode(lists),
            rooms,
            self.extended.json(),
        )


class Answering:
    """The making of one answer."""

    def __init__(
        self,
        makers: Makers,
        asker: Asker,
        user: UserRooms,
        news: News,
        base: State,
        asked: Asked,
        typing: int,
    ) -> None:
        self._makers = makers
        self._asker = asker
        self._user = user
        self._until = news.until
        self._base = base
        self._asked = asked
        self._typing_until = typing
        self.news: dict[int, News] = {base.pos: news}
        self._moves: dict[int, Moves] = {}
        self._rooms: dict[int, Sent] = _still_told(base, asked.extensions)
        self._answer = SlidingAnswer({})
        self._stirred: Collection[int] = ()
        self._typing: Collection[int] = ()
        self._busy: set[int] = set()

    async def answer(self) -> tuple[SlidingAnswer, State]:
        """The answer, and what its client knows then."""
        makers, asked = self._makers, self._asked
        await self._beside()
        await self._find_busy()
        matched = self._base.matched
        lasting = True
        matches: Iterable[Match]
        if matched is not None and await self._holds(matched):
            # Only of rooms in which something has happened can there be anything to tell.
            busy = [matched.rooms[nid] for nid in self._busy if nid in matched.rooms]
            matches = await makers.lists.newest(busy)
        else:
            matched = await makers.lists.matched(
                asked, self._asker, self._user, self._rooms, self._until
            )
            matches = matched.rooms.values()
            lasting = matched.lasting
        self._answer.counts = matched.counts
        self._answer.matched = matched
        due = [(match, sent) for match in matches for sent in self._due(match, matched)]
        read = await self._read([match for match, sent in due if sent is None])
        events = 0
        told = 0
        for match, sent in due:
            if told == MAX_ROOMS or events >= MAX_EVENTS:
                break
            events += await self._tell(match, sent, matched.direct, read.get(match.room.nid))
            told += 1
        late = {match.room.nid for match, _ in due[told:]}
        self._put_off({nid for nid in self._busy if nid not in matched.rooms} | late)
        return self._answer, State(
            pos=self._until,
            typing=self._typing_until,
            rooms=self._rooms,
            asked=asked,
            counts=matched.counts,
            complete=not late,
            matched=matched if not late and lasting else None,
        )

    async def _holds(self, matched: Matched) -> bool:
        """Whether what the last request matched is what this one matches."""
        base, news = self._base, self.news[self._base.pos]
        if base.asked != self._asked or self._user.latest > base.pos:
            return False
        if not isinstance(news, RingNews):
            return False
        entries = await news.account_data(self._asker.user_nid)
        if any(not entry.room_nid or entry.type == TAGS for entry in entries):
            return False
        return await self._makers.lists.hold(matched, self._asked, self._user, base.pos)

    async def _beside(self) -> None:
        """What stands beside the rooms."""
        makers, told, before = self._makers, self._answer.extended, self._base.asked.extensions
        news = self.news[self._base.pos]
        if self._asked.extensions.e2ee and before.e2ee:
            await makers.extending.lists(told, self._asker, news, self._user)
        threads = self._asked.extensions.threads
        if threads is not None:
            after = -1 if before.threads is None else self._base.pos
            await makers.extending.threads(told, self._asker, after, self._until, threads)
        if self._asked.extensions.account_data is not None:
            afresh = before.account_data is None
            source = self._since(-1) if afresh else news
            entries = await source.account_data(self._asker.user_nid)
            makers.extending.own_account_data(told, self._asker, entries, afresh=afresh)
            if self._base.pos >= 0:
                self._busy.update(entry.room_nid for entry in entries)

    async def _find_busy(self) -> None:
        """The rooms in which something may have happened."""
        base, user = self._base, self._user
        if base.pos < 0:
            return
        self._stirred = await self.news[base.pos].rooms(user.joined)
        self._busy.update(self._stirred)
        if user.latest > base.pos:
            self._busy.update(nid for nid, member in user.rooms.items() if member.pos > base.pos)
        if self._asked.extensions.typing is not None:
            self._typing = self._makers.typing.changed_since(base.typing, user.joined)
            if base.typing < self._makers.typing.floor:
                self._typing = user.joined
            self._busy.update(self._typing)

    def _due(self, match: Match, matched: Matched) -> "list[Sent | None]":
        """What was sent of a room, as one item, if there may be anything to tell of it."""
        sent = self._rooms.get(match.room.nid)
        if sent is None:
            return [None]
        config = match.config
        if (
            sent.until is None
            and match.room.nid not in self._busy
            and sent.extensions == self._bits(match)
            and sent.shown.is_dm == (match.room.room_id in matched.direct)
            and (
                sent.membership != JOIN
                or (sent.limit >= config.limit and sent.required.covers(config.required))
            )
        ):
            return []
        return [sent]

    def _bits(self, match: Match) -> int:
        return self._asked.extensions.of_room(
            match.room.room_id, match.lists, subscribed=match.subscribed
        )

    async def _read(self, matches: list[Match]) -> Mapping[int, RoomSummaryRow]:
        """The summaries of rooms that are told for the first time, in one statement."""
        joined = [match.room.nid for match in matches if match.member.membership == JOIN]
        if not joined:
            return {}
        return await summaries(self._makers.database, joined[:MAX_ROOMS])

    async def _tell(
        self,
        match: Match,
        sent: Sent | None,
        direct: Collection[str],
        summary: RoomSummaryRow | None,
    ) -> int:
        """Tell of one room; how many events that were."""
        nid = match.room.nid
        since = -1
        if sent is not None:
            since = self._base.pos if sent.until is None else sent.until
        news = self._since(since)
        moves = NO_MOVES
        if sent is not None and match.member.pos > since:
            moves = await self._moved(since, news)
        filter_ = _LAZY if match.config.required.lazy else EAGER
        told = await self._makers.teller.tell(
            self._asker._replace(filter=filter_),
            match,
            sent,
            Stretch(news, moves, self._base.pos),
            direct,
            summary,
        )
        bits = self._bits(match)
        if told.json is not None:
            self._answer.rooms[match.room.room_id] = told.json
            self._answer.events.update(told.events)
        await self._extend(match, sent, told, news, bits)
        self._rooms[nid] = told.sent._replace(extensions=bits)
        return len(told.events)

    async def _extend(
        self, match: Match, sent: Sent | None, told: RoomTold, news: News, bits: int
    ) -> None:
        """What the extensions tell of a room."""
        extending, extended, room = self._makers.extending, self._answer.extended, match.room
        new = sent is None or told.afresh
        known = 0 if sent is None or told.afresh else sent.extensions
        back = sent is not None and sent.until is not None
        if bits & ACCOUNT_DATA:
            await extending.room_account_data(
                extended, self._asker, room, news, afresh=not known & ACCOUNT_DATA
            )
        if match.member.membership != JOIN:
            return
        if bits & RECEIPTS:
            if not known & RECEIPTS:
                # With the room come those on its events; later, to a client that knows it, all.
                events = told.events if new else None
                everything = self._since(-1)
                await extending.room_receipts(extended, self._asker, room, everything, events)
            elif back or room.nid in self._stirred:
                await extending.room_receipts(extended, self._asker, room, news, None)
        if bits & TYPING and (not known & TYPING or back or room.nid in self._typing):
            extending.room_typing(extended, self._asker, room, afresh=not known & TYPING)

    def _since(self, since: int) -> News:
        found = self.news.get(since)
        if found is None:
            found = self._makers.desk.between(since, self._until, stored=self._asker.stored)
            self.news[since] = found
        return found

    async def _moved(self, since: int, news: News) -> Moves:
        found = self._moves.get(since)
        if found is None:
            moved = {nid for nid, member in self._user.rooms.items() if member.pos > since}
            found = await self._makers.answers.moves(self._asker.user_nid, news, moved)
            self._moves[since] = found
        return found

    def _put_off(self, room_nids: Collection[int]) -> None:
        """These rooms may have news that are not told: they stay where they are."""
        for nid in room_nids:
            sent = self._rooms.get(nid)
            if sent is not None and sent.until is None:
                self._rooms[nid] = sent._replace(until=self._base.pos)


def _still_told(base: State, extensions: Extensions) -> dict[int, Sent]:
    """The rooms; those extensions that are not asked for any more know nothing of them."""
    before = base.asked.extensions
    lost = 0
    for bit, was, now in (
        (ACCOUNT_DATA, before.account_data, extensions.account_data),
        (RECEIPTS, before.receipts, extensions.receipts),
        (TYPING, before.typing, extensions.typing),
    ):
        if was is not None and now is None:
            lost |= bit
    if not lost:
        return dict(base.rooms)
    return {
        nid: sent._replace(extensions=sent.extensions & ~lost) for nid, sent in base.rooms.items()
    }

"""One room in a sliding sync answer.

Owns the fields of a room result and what must be told of a room to a client that was told of it
before, or wasn't. Timeline and state are those of /sync (`sections.py`, `answer.py`); which rooms
there are to tell of is decided elsewhere. Invariant: a client that applies what it is told holds
the required state, and the last events, of the room at the answer's position.
spec: MSC4186 (room results)
"""

from collections.abc import Collection
from typing import NamedTuple

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.push.unread import Counted, UnreadCounts, total
from homeserver.rooms.actor import Room
from homeserver.rooms.history import content_of
from homeserver.rooms.membership import NAME_OF
from homeserver.rooms.readable import Readers
from homeserver.rooms.state import RoomState
from homeserver.rooms.timeline import NEWEST, Timeline
from homeserver.streams.answer import NO_MOVES, Moves, RoomAnswers
from homeserver.streams.asker import Asker
from homeserver.streams.news import News
from homeserver.streams.numbers import Names
from homeserver.streams.sections import Sections, Told
from homeserver.streams.sliding.connections import RoomMembers, Sent, Shown
from homeserver.streams.sliding.matched import Match
from storage.engine import Database
from storage.events import last_of_types
from storage.rooms import summaries
from storage.schema import INVITE, JOIN, KNOCK, RoomSummaryRow

# What moves a room up in a client's list.
_BUMPING = frozenset(
    (
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
        "org.matrix.msc3672.beacon_info",
    )
)
# So far back a bumping event is looked for.
_AMONG = 500


class Stretch(NamedTuple):
    """What one room is told of: the news since it was told, and how its user moved in them.

    What came after `live` has just happened; it is -1 for who begins.
    """

    news: News
    moves: Moves
    live: int


class RoomTold(NamedTuple):
    """A room's result as JSON, None where nothing is to be told; what was sent then.

    `events` are the ids of those told; `afresh` when the client is to forget what it knew.
    """

    json: bytes | None
    sent: Sent
    events: Collection[str] = ()
    afresh: bool = False


class RoomTeller:
    """See the module."""

    def __init__(
        self,
        database: Database,
        names: Names,
        sections: Sections,
        answers: RoomAnswers,
        readers: Readers,
        state: RoomState,
        timeline: Timeline,
        unread: UnreadCounts,
    ) -> None:
        self._database = database
        self._names = names
        self._sections = sections
        self._answers = answers
        self._readers = readers
        self._state = state
        self._timeline = timeline
        self._unread = unread

    async def tell(
        self,
        asker: Asker,
        match: Match,
        sent: Sent | None,
        stretch: Stretch,
        direct: Collection[str],
        summary: RoomSummaryRow | None,
    ) -> RoomTold:
        """What a client that was sent `sent` must know of a room now.

        `summary` is the room's, where it has been read already.
        """
        membership = match.member.membership
        members = RoomMembers(sent.members if sent is not None else frozenset())
        asker = asker._replace(
            members=members, most=match.config.limit, required=match.config.required
        )
        if membership == JOIN:
            told = await self._joined(asker, match, sent, stretch, direct, summary)
        elif sent is not None and sent.member_pos == match.member.pos:
            told = RoomTold(None, sent)
        elif membership in (INVITE, KNOCK):
            told = await self._stripped(asker, match, direct)
        else:
            told = await self._left(asker, match, sent, stretch)
        return told._replace(sent=told.sent._replace(members=members.users, until=None))

    async def _joined(
        self,
        asker: Asker,
        match: Match,
        sent: Sent | None,
        stretch: Stretch,
        direct: Collection[str],
        summary: RoomSummaryRow | None,
    ) -> RoomTold:
        room, member, config, news = match.room, match.member, match.config, stretch.news
        stayed = (
            sent is not None
            and sent.membership == JOIN
            and (member.pos <= news.since or room.nid in stretch.moves.stayed)
        )
        known: Sent | None = sent if stayed else None
        expanded = False
        if known is None:
            reader = await self._readers.of(asker.user_nid, room)
            told = await self._sections.afresh(asker, room, reader, news.until)
            limit = config.limit if told.limited else NEWEST
        else:
            expanded = config.limit > known.limit
            more = await self._readers.of(asker.user_nid, room) if expanded else None
            if not known.required.covers(config.required):
                asker = asker._replace(had=known.required)
            told = await self._sections.update(asker, room, news, None, news.until, more=more)
            limit = known.limit
            if told.limited:
                limit = config.limit
            elif expanded:
                limit = NEWEST
        shown = known.shown if known is not None else Shown()
        now = shown._replace(
            is_dm=room.room_id in direct,
            bump_stamp=await self._bump_stamp(room, told, shown.bump_stamp, member.pos, news.until),
        )
        if known is None or told.changed:
            now = await self._described(asker, room, told, now, summary)
        counted = Counted(asker.user_nid, asker.user_id, asker.ignored)
        unread = await self._unread.count(
            counted, room, member.pos, news.until, recount=asker.stored
        )
        # Threads are told nowhere else.
        all_of_it = total(unread)
        now = now._replace(notifications=all_of_it.notifications, highlights=all_of_it.highlights)
        # What is not required any more may have changed unsaid: it is told whole when it is again.
        now_sent = Sent(JOIN, member.pos, None, limit, config.required, extensions=0, shown=now)
        fields = _difference(shown, now, afresh=known is None)
        if known is None or told.events or told.limited or expanded:
            fields += _timeline(told, stretch.live, expanded=expanded)
        fields += _state(told)
        if not fields and known is not None:
            return RoomTold(None, now_sent)
        head = _head(match, afresh=known is None)
        events = [view.event_id for view in told.views]
        return RoomTold(
            b"{%b}" % b",".join([*head, *fields]), now_sent, events, afresh=known is None
        )

    async def _left(
        self, asker: Asker, match: Match, sent: Sent | None, stretch: Stretch
    ) -> RoomTold:
        room, member, news = match.room, match.member, stretch.news
        was_told = sent is not None and sent.membership == JOIN
        moves = stretch.moves
        if not was_told and sent is not None:
            moves = NO_MOVES
        told = await self._answers.left(asker, room, member, news, moves)
        afresh = not was_told or room.nid not in moves.was_joined
        fields = [
            *_head(match, afresh=afresh),
            b'"bump_stamp":%d' % member.pos,
            *_timeline(told, stretch.live, expanded=False),
            *_state(told),
        ]
        now_sent = Sent(member.membership, member.pos)
        events = [view.event_id for view in told.views]
        return RoomTold(b"{%b}" % b",".join(fields), now_sent, events, afresh=afresh)

    async def _stripped(self, asker: Asker, match: Match, direct: Collection[str]) -> RoomTold:
        """An invite or a knock; clients still look for its state by another name, too."""
        member = match.member
        stripped = await self._state.stripped(match.room, asker.user_id)
        fields = [
            *_head(match, afresh=True),
            b'"bump_stamp":%d' % member.pos,
            b'"stripped_state":' + stripped,
            b'"invite_state":' + stripped,
        ]
        is_dm = match.room.room_id in direct
        if is_dm:
            fields.append(b'"is_dm":true')
        sent = Sent(member.membership, member.pos, shown=Shown(is_dm=is_dm))
        return RoomTold(b"{%b}" % b",".join(fields), sent, afresh=True)

    async def _bump_stamp(
        self, room: Room, told: Told, known: int | None, member_pos: int, until: int
    ) -> int:
        for view in reversed(told.views):
            if view.type in _BUMPING and (view.pos or 0) > 0:
                return max(view.pos or 0, known or 0)
        if known is not None and not told.limited:
            return known
        types = await self._names.find(_BUMPING)
        found = await last_of_types(self._database, room.nid, types.values(), until, _AMONG)
        return max(found or 0, known or 0) or max(member_pos, 0)

    async def _described(
        self, asker: Asker, room: Room, told: Told, shown: Shown, row: RoomSummaryRow | None
    ) -> Shown:
        """What is shown of the room, as its state says now."""
        if row is None:
            row = (await summaries(self._database, [room.nid]))[room.nid]
        shown = shown._replace(name=row.name, avatar=row.avatar)
        if told.summary is None:
            return shown
        heroes = told.summary.get("m.heroes", [])
        return shown._replace(
            joined=told.summary["m.joined_member_count"],
            invited=told.summary["m.invited_member_count"],
            heroes=await self._heroes(room, heroes) if heroes else b"[]",
        )

    async def _heroes(self, room: Room, users: list[str]) -> bytes:
        nids = await self._state.event_nids(room, [("m.room.member", user) for user in users])
        views = await self._timeline.views(nids.values(), room.rules)
        heroes: list[JsonObject] = []
        for user in users:
            hero: JsonObject = {"user_id": user}
            nid = nids.get(("m.room.member", user))
            content = content_of(views[nid]) if nid is not None and nid in views else {}
            for key in ("displayname", "avatar_url"):
                if isinstance(content.get(key), str):
                    hero[key] = content[key]
            heroes.append(hero)
        return canonical.encode(heroes)


def _head(match: Match, *, afresh: bool) -> list[bytes]:
    """The fields that every result has."""
    fields = [b'"membership":"%b"' % NAME_OF[match.member.membership].encode()]
    if match.lists:
        names = b",".join(canonical.encode(name) for name in match.lists)
        fields.append(b'"lists":[%b]' % names)
    if afresh:
        fields.append(b'"initial":true')
    return fields


def _difference(shown: Shown, now: Shown, *, afresh: bool) -> list[bytes]:
    """The fields of what is shown that have changed."""
    fields: list[bytes] = []
    if now.name != shown.name:
        fields.append(b'"name":' + canonical.encode(now.name))
    if now.avatar != shown.avatar:
        fields.append(b'"avatar":' + canonical.encode(now.avatar))
    if now.heroes != shown.heroes:
        fields.append(b'"heroes":' + now.heroes)
    if now.is_dm != shown.is_dm:
        fields.append(b'"is_dm":' + (b"true" if now.is_dm else b"false"))
    for name, value, before in (
        (b"joined_count", now.joined, shown.joined),
        (b"invited_count", now.invited, shown.invited),
        (b"notification_count", now.notifications, shown.notifications),
        (b"highlight_count", now.highlights, shown.highlights),
        (b"bump_stamp", now.bump_stamp, shown.bump_stamp),
    ):
        if value is not None and (afresh or value != before):
            fields.append(b'"%b":%d' % (name, value))
    return fields


def _timeline(told: Told, live: int, *, expanded: bool) -> list[bytes]:
    """The fields of the timeline; clients look for `expanded_timeline` by its older name."""
    count = sum((view.pos or 0) > live for view in told.views) if live >= 0 else 0
    fields = [
        b'"timeline":[%b]' % b",".join(told.events),
        b'"prev_batch":"%b"' % told.prev_batch.encode(),
        b'"limited":' + (b"true" if told.limited else b"false"),
        b'"num_live":%d' % count,
    ]
    if expanded:
        fields.append(b'"unstable_expanded_timeline":true,"expanded_timeline":true')
    return fields


def _state(told: Told) -> list[bytes]:
    """The field of the state; what was taken away has no content."""
    stubs = [canonical.encode({"type": type_, "state_key": key}) for type_, key in told.gone]
    events = [*told.state, *stubs]
    return [b'"required_state":[%b]' % b",".join(events)] if events else []

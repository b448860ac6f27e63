"""Which rooms a sliding sync request matches, by its lists and subscriptions.

Owns the order of a user's rooms, the filters and the ranges. A room in which somebody is not and
never was stands in nobody's list, but for invites that the user may see and knocks. It doesn't
know what was told of the rooms, except that a room which was told of is told of once more when its
user has left.
spec: MSC4186 (lists and subscriptions)
"""

from collections.abc import Collection, Iterable, Mapping

from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.history import content_of
from homeserver.rooms.state import RoomState
from homeserver.rooms.timeline import Timeline
from homeserver.streams.answer import RoomAnswers
from homeserver.streams.asker import Asker
from homeserver.streams.memberships import Membership, UserRooms
from homeserver.streams.sliding.asked import Asked, ListConfig, ListFilter, RoomConfig
from homeserver.streams.sliding.connections import Sent
from homeserver.streams.sliding.facts import Kind, RoomFacts, UserFacts
from homeserver.streams.sliding.matched import Match, Matched, Window
from storage.schema import BAN, INVITE, JOIN, KNOCK, LEAVE

_CHILD = "m.space.child"
_GONE = (LEAVE, BAN)


class Lists:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        answers: RoomAnswers,
        state: RoomState,
        timeline: Timeline,
        facts: RoomFacts,
        users: UserFacts,
    ) -> None:
        self._rooms = rooms
        self._answers = answers
        self._state = state
        self._timeline = timeline
        self._facts = facts
        self._users = users

    async def matched(
        self, asked: Asked, asker: Asker, user: UserRooms, sent: Mapping[int, Sent], until: int
    ) -> Matched:
        """What the request matches, for a client who was told of the rooms `sent`."""
        direct = await self._users.direct(asker.user_nid)
        if not (asked.lists or asked.subscriptions or sent):
            return Matched({}, {}, direct)
        listed = await self._listed(asker, user, sent)
        rooms = await self._rooms.by_nids(listed.keys())
        order = await self._order(listed)
        found: dict[int, Match] = {}
        counts: dict[str, int] = {}
        windows: dict[str, Window] = {}
        for name, wanted in asked.lists.items():
            passing = await self._passing(wanted.filter, asker, listed, rooms, direct, until)
            counts[name] = len(passing)
            if not _is_whole(wanted, passing):
                shown = frozenset(_in_ranges(wanted, passing, order))
                windows[name] = Window(tuple(passing), shown)
                passing = shown
            for nid in passing:
                before = found.get(nid)
                found[nid] = (
                    Match(rooms[nid], listed[nid], wanted.config, (name,), subscribed=False)
                    if before is None
                    else before._replace(
                        config=before.config.joined(wanted.config), lists=(*before.lists, name)
                    )
                )
        if asked.subscriptions:
            for nid, room in rooms.items():
                config = asked.subscriptions.get(room.room_id)
                if config is None:
                    continue
                before = found.get(nid)
                found[nid] = (
                    Match(room, listed[nid], config, (), subscribed=True)
                    if before is None
                    else before._replace(config=before.config.joined(config), subscribed=True)
                )
        for nid, was in sent.items():
            member = listed.get(nid)
            if member is None or nid in found or was.membership in _GONE:
                continue
            if member.membership in _GONE:
                # Whatever rule it matched, it may match none now; that it is over is told once.
                config = RoomConfig(1, was.required)
                found[nid] = Match(rooms[nid], member, config, (), subscribed=False)
        newest = sorted(found, key=order.__getitem__, reverse=True)
        return Matched({nid: found[nid] for nid in newest}, counts, direct, windows)

    async def hold(self, known: Matched, asked: Asked, user: UserRooms, since: int) -> bool:
        """Whether what was matched at the position `since` is what the same request matches now.

        For a user whose memberships, tags and other account data are what they were.
        """
        filters = [wanted.filter for wanted in asked.lists.values()]
        if any(wanted.spaces is not None for wanted in filters):
            return False
        if self._facts.altered > since and any(wanted.asks_kind for wanted in filters):
            return False
        for name, window in known.windows.items():
            order = await self._order({nid: user.rooms[nid] for nid in window.passing})
            shown = frozenset(_in_ranges(asked.lists[name], window.passing, order))
            if shown != window.shown:
                return False
        return True

    async def newest(self, matches: Iterable[Match]) -> list[Match]:
        """The matches, those with the latest events first."""
        listed = {match.room.nid: match for match in matches}
        order = await self._order({nid: match.member for nid, match in listed.items()})
        return [listed[nid] for nid in sorted(listed, key=order.__getitem__, reverse=True)]

    async def _listed(
        self, asker: Asker, user: UserRooms, sent: Mapping[int, Sent]
    ) -> dict[int, Membership]:
        """The rooms of which the user may be told."""
        listed: dict[int, Membership] = {}
        invites: list[int] = []
        gone: dict[int, int] = {}
        for nid, member in user.rooms.items():
            if member.membership in (JOIN, KNOCK) or nid in sent:
                listed[nid] = member
            elif member.membership == INVITE:
                invites.append(nid)
            elif not member.forgotten:
                gone[nid] = member.event_nid
        if gone:
            for nid in await self._users.removed(asker.user_nid, gone):
                listed[nid] = user.rooms[nid]
        invites += [nid for nid in sent if nid in listed and listed[nid].membership == INVITE]
        if invites:
            rooms = await self._rooms.by_nids(invites)
            for nid in invites:
                listed[nid] = user.rooms[nid]
                if not await self._answers.shows_invite(asker, rooms[nid], user.rooms[nid]):
                    del listed[nid]
        return listed

    async def _order(self, listed: Mapping[int, Membership]) -> dict[int, int]:
        """By room when something happened last, as far as the user may know."""
        joined = [nid for nid, member in listed.items() if member.membership == JOIN]
        last = await self._facts.last(joined)
        return {
            nid: last.get(nid, member.pos) if member.membership == JOIN else member.pos
            for nid, member in listed.items()
        }

    async def _passing(
        self,
        wanted: ListFilter,
        asker: Asker,
        listed: Mapping[int, Membership],
        rooms: Mapping[int, Room],
        direct: frozenset[str],
        until: int,
    ) -> Collection[int]:
        """The listed rooms that pass a filter."""
        passing: Collection[int] = listed.keys()
        if wanted.is_invite is not None:
            passing = [
                nid for nid in passing if (listed[nid].membership == INVITE) == wanted.is_invite
            ]
        if wanted.is_dm is not None:
            passing = [nid for nid in passing if (rooms[nid].room_id in direct) == wanted.is_dm]
        if wanted.asks_tags:
            tags = await self._users.tags(asker.user_nid)
            passing = [nid for nid in passing if _tagged(wanted, tags.get(nid, frozenset()))]
        if wanted.asks_kind:
            kinds = await self._kinds(asker, passing, listed)
            passing = [nid for nid in passing if _is_kind(wanted, kinds.get(nid, Kind()))]
        if wanted.spaces is not None:
            children = await self._children(wanted.spaces, listed, rooms, until)
            passing = [nid for nid in passing if rooms[nid].room_id in children]
        return passing

    async def _kinds(
        self, asker: Asker, room_nids: Collection[int], listed: Mapping[int, Membership]
    ) -> dict[int, Kind]:
        """What the rooms are, as far as the user may know: from invites where they aren't in."""
        kinds = dict(await self._facts.kinds(room_nids))
        asked = [nid for nid in room_nids if listed[nid].membership in (INVITE, KNOCK)]
        if asked:
            kinds |= await self._facts.outside(asker.user_nid, asked)
        return kinds

    async def _children(
        self,
        spaces: frozenset[str],
        listed: Mapping[int, Membership],
        rooms: Mapping[int, Room],
        until: int,
    ) -> set[str]:
        """The ids of the rooms that those of the spaces name in which the user is."""
        children: set[str] = set()
        for nid, member in listed.items():
            if rooms[nid].room_id not in spaces or member.membership != JOIN:
                continue
            named = await self._state.of_types(rooms[nid], {_CHILD}, until)
            views = await self._timeline.views(named.values(), rooms[nid].rules)
            for (_, child), event_nid in named.items():
                if isinstance(content_of(views[event_nid]).get("via"), list):
                    children.add(child)
        return children


def _is_whole(wanted: ListConfig, passing: Collection[int]) -> bool:
    """Whether all places of the list are wanted."""
    return wanted.ranges is None or any(
        start == 0 and end >= len(passing) - 1 for start, end in wanted.ranges
    )


def _in_ranges(
    wanted: ListConfig, passing: Collection[int], order: Mapping[int, int]
) -> Collection[int]:
    """The rooms at the places of the list that are wanted, which are not all."""
    placed = sorted(passing, key=order.__getitem__, reverse=True)
    found: dict[int, None] = {}
    for start, end in wanted.ranges or ():
        found.update(dict.fromkeys(placed[start : end + 1]))
    return found


def _tagged(wanted: ListFilter, tags: frozenset[str]) -> bool:
    if wanted.not_tags is not None and not tags.isdisjoint(wanted.not_tags):
        return False
    return wanted.tags is None or not tags.isdisjoint(wanted.tags)


def _is_kind(wanted: ListFilter, kind: Kind) -> bool:
    if wanted.is_encrypted is not None and kind.encrypted != wanted.is_encrypted:
        return False
    if wanted.not_room_types is not None and kind.room_type in wanted.not_room_types:
        return False
    return wanted.room_types is None or kind.room_type in wanted.room_types

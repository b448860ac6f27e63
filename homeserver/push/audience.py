"""Whom an event notifies.

Owns who has pushers, in which rooms these users are, and what an event is to each of them. Rules
are asked once for each class of equal rules and once for whom the event names, so that what it
costs to find out doesn't grow with the members of a room who have no pusher. A user is notified of
what they may read, and of an invite unless they have said that they don't want it. It queues and
stores nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from homeserver.matrix.canonical import JsonObject, decode_object
from homeserver.matrix.event import Event
from homeserver.matrix.pushmatch import Facts, outcome_of, tweaks_of
from homeserver.matrix.pushrules import Actions
from homeserver.push.gateway import Notice
from homeserver.push.rules import Rules, Told
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.append import MemberChange
from homeserver.rooms.head import Head
from homeserver.rooms.readable import Readers
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.ignored import Ignored
from homeserver.streams.invite_permissions import InvitePermissions, Rule
from homeserver.streams.numbers import Names
from storage import push as store
from storage.engine import Database
from storage.events import events
from storage.memberships import joins_of
from storage.schema import HIGHLIGHTS, INVITE, JOIN, NOTIFIES, REDACTED

_MEMBER = "m.room.member"


class Happened(NamedTuple):
    """An event that may notify; `event` has no `room_id` yet.

    `invited` is the one whom it invites, if it does and that user has a pusher. It is `replayed`
    when it happened before the start.
    """

    room_nid: int
    pos: int
    nid: int
    event_id: str
    flags: int
    event: JsonObject
    invited: int | None = None
    replayed: bool = False


def happened(
    room_nid: int, pos: int, nid: int, flags: int, event: Event, invited: int | None
) -> Happened:
    """An event that was published."""
    shown: JsonObject = {"type": event.type, "sender": event.sender, "content": event.content}
    if event.state_key is not None:
        shown["state_key"] = event.state_key
    return Happened(room_nid, pos, nid, event.event_id, flags, shown, invited)


async def read_happened(
    database: Database, found: Iterable[tuple[int, int, int]], invited: Mapping[int, int]
) -> list[Happened]:
    """What happened before the start: (position, room, event number), without what was redacted.

    `invited` is by position whom an invite is for.
    """
    wanted = list(found)
    stored = await events(database, {nid for _, _, nid in wanted})
    happened = []
    for pos, room_nid, nid in wanted:
        row, text = stored[nid]
        if not row.flags & REDACTED:
            one = Happened(
                room_nid,
                pos,
                nid,
                row.event_id,
                row.flags,
                decode_object(text),
                invited.get(pos),
                replayed=True,
            )
            happened.append(one)
    return happened


class Audience:
    """See the module."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        names: Names,
        rules: Rules,
        ignored: Ignored,
        permissions: InvitePermissions,
        readers: Readers,
        timeline: Timeline,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._names = names
        self._rules = rules
        self._ignored = ignored
        self._permissions = permissions
        self._readers = readers
        self._timeline = timeline
        self._users: dict[int, str] = {}
        self._nids: dict[str, int] = {}
        # By room the joined users who have pushers, each with a position since which they are.
        self._watched: dict[int, dict[int, int]] = {}

    @property
    def users(self) -> Collection[int]:
        """The users who have pushers."""
        return self._users.keys()

    @property
    def rooms(self) -> Collection[int]:
        """The rooms in which any of them are."""
        return self._watched.keys()

    def user_id(self, user_nid: int) -> str | None:
        """The id of a user who has pushers, None for another."""
        return self._users.get(user_nid)

    def user_nid(self, user_id: str) -> int | None:
        """The number of a user who has pushers, None for another."""
        return self._nids.get(user_id)

    def watchers(self, room_nid: int) -> Collection[int]:
        """Those of a room's members who have pushers."""
        return self._watched.get(room_nid, {}).keys()

    def watching(self, room_nid: int) -> int:
        """How many of a room's members have pushers."""
        return len(self._watched.get(room_nid, ()))

    async def user_changed(self, user_nid: int) -> None:
        """The pushers of a user are others now."""
        if await store.pushers_of(self._database, [user_nid]):
            if user_nid not in self._users:
                user_id = (await self._names.names([user_nid]))[user_nid]
                self._users[user_nid], self._nids[user_id] = user_id, user_nid
                for room_nid, pos in (await joins_of(self._database, user_nid)).items():
                    self._watch(room_nid, user_nid, pos)
            return
        gone = self._users.pop(user_nid, None)
        if gone is not None:
            del self._nids[gone]
        for room_nid in [nid for nid, users in self._watched.items() if user_nid in users]:
            self._unwatch(room_nid, user_nid)

    def moved(self, room_nid: int, pos: int, members: Iterable[MemberChange]) -> int | None:
        """Memberships of a room have changed; who of those with pushers was invited, if anybody."""
        invited: int | None = None
        for member in members:
            if member.user_nid not in self._users:
                continue
            if member.membership == JOIN:
                self._watch(room_nid, member.user_nid, pos)
                continue
            self._unwatch(room_nid, member.user_nid)
            if member.membership == INVITE:
                invited = member.user_nid
        return invited

    async def notices(self, told: Happened, only: int | None = None) -> dict[int, Notice]:
        """By user what the event is to those whom it notifies, or to one of them only."""
        notices: dict[int, Notice] = {}
        joined = dict(self._watched.get(told.room_nid, ()))
        if only is not None:
            joined = {only: joined[only]} if only in joined else {}
        watching = [*joined]
        if told.invited is not None and told.invited not in joined:
            watching.append(told.invited)
        if not watching:
            return notices
        room = (await self._rooms.by_nids([told.room_nid]))[told.room_nid]
        sender: str = told.event["sender"]
        event = {**told.event, "room_id": room.room_id}
        seen = await self._rooms.read(room, lambda head: _seen(head, sender))
        shown = _Shown(told, event, room.room_id, seen.names)
        verdict = Told(told.nid, Facts(event, seen.members, bool(told.flags & HIGHLIGHTS)))
        view = (await self._timeline.views([told.nid], room.rules))[told.nid]
        hides = await self._readers.hides(room, [view])
        classes = await self._rules.classes(watching)
        ignoring = await self._ignored.who(watching, sender)
        # By class what its users hear whom the event does not name.
        shared: dict[bytes | None, Notice | None] = {}
        for user_nid, class_ in classes.items():
            user_id = self._users.get(user_nid, sender)
            if user_id == sender or user_nid in ignoring:
                continue
            if user_id in verdict.named:
                notice = shown.to(user_id, self._rules.actions(class_, user_id, verdict))
            elif class_ in shared:
                notice = shared[class_]
            else:
                actions = self._rules.actions(class_, user_id, verdict)
                notice = shared[class_] = shown.to(user_id, actions)
            if notice is None:
                continue
            if user_id == event.get("state_key") and await self._is_unwanted(user_nid, event):
                continue
            asked = user_nid != told.invited and (hides or joined[user_nid] > told.pos)
            if asked and not await self._may_read(user_nid, room, told.pos, view):
                continue
            notices[user_nid] = notice
        return notices

    async def _is_unwanted(self, user_nid: int, event: JsonObject) -> bool:
        """Whether an event that names the user is an invite that they don't take."""
        if event["type"] != _MEMBER or event["content"].get("membership") != "invite":
            return False
        permissions = await self._permissions.of(user_nid)
        return permissions.rule(event["sender"]) is not Rule.ALLOW

    async def _may_read(self, user_nid: int, room: Room, pos: int, view: EventView) -> bool:
        reader = await self._readers.of(user_nid, room)
        await reader.ready([view])
        return reader.membership_at(pos) == "join" and reader.sees(view)

    def _watch(self, room_nid: int, user_nid: int, pos: int) -> None:
        self._watched.setdefault(room_nid, {}).setdefault(user_nid, pos)

    def _unwatch(self, room_nid: int, user_nid: int) -> None:
        users = self._watched.get(room_nid, {})
        users.pop(user_nid, None)
        if not users:
            self._watched.pop(room_nid, None)


class _Shown(NamedTuple):
    """An event as gateways get it."""

    told: Happened
    event: JsonObject
    room_id: str
    names: JsonObject

    def to(self, user_id: str, actions: Actions | None) -> Notice | None:
        """What it is to a user for whom the rules say this, None for nothing."""
        if actions is None or not outcome_of(actions).notify:
            return None
        tweaks = tweaks_of(actions)
        full: JsonObject = {
            "type": self.event["type"],
            "sender": self.event["sender"],
            "content": self.event["content"],
            **self.names,
        }
        if self.event["type"] == _MEMBER:
            full["user_is_target"] = self.event.get("state_key") == user_id
        urgent = not self.told.flags & NOTIFIES
        urgent = urgent or bool(tweaks.get("highlight")) or "sound" in tweaks
        return Notice(self.room_id, self.told.event_id, full, tweaks, urgent)


class _Seen(NamedTuple):
    members: int
    names: JsonObject


def _seen(head: Head, sender: str) -> _Seen:
    """What is said of the room and the sender."""
    member = head.event(_MEMBER, sender)
    names = {
        "sender_display_name": member.content.get("displayname") if member is not None else None,
        "room_name": head.summary.name,
        "room_alias": head.summary.alias,
    }
    said = {name: value for name, value in names.items() if isinstance(value, str)}
    return _Seen(head.summary.joined, said)

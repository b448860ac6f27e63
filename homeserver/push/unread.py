"""How many events of a room, and of each of its threads, a user has not read.

Owns the counting: events that notify the user, from others who are not ignored, after the user's
receipt of the timeline in which the event stands, the join and the own last message there, at most
`CAP` of them. Counted on read and moved on by the ring; what the default rules say stands on the
event and in the rows of mentions, other rules are asked (`rules.py`). Nothing is stored per user.
spec: client-server-api#receiving-notifications and client-server-api#threaded-read-receipts
"""

from collections import OrderedDict
from typing import NamedTuple

from homeserver.matrix.canonical import decode_object
from homeserver.matrix.pushmatch import SILENT, Facts, Outcome, outcome_of
from homeserver.matrix.relations import thread_of
from homeserver.push.rules import Rules, Told
from homeserver.rooms.actor import Room
from homeserver.streams.numbers import Names
from homeserver.streams.ring import EventEntry, Ring
from homeserver.users.account_data import PUSH_RULES
from storage.engine import Database
from storage.events import TailEvent, event_json, mentions, tail
from storage.memberships import joined_since
from storage.relations import threads_after
from storage.rooms import summaries
from storage.schema import HIGHLIGHTS, NOTIFIES, REDACTED
from storage.user_data import receipts_of

CAP = 1_000
MAIN = "main"
_UNTHREADED = ""
_CACHED = 50_000
_LOADED_AT_ONCE = 100
_MEMBER = "m.room.member"
_REDACTION = "m.room.redaction"


class Counted(NamedTuple):
    """For whom is counted."""

    user_nid: int
    user_id: str
    ignored: frozenset[str]


class Unread(NamedTuple):
    """Notifications that were not read, and how many of them are highlights."""

    notifications: int = 0
    highlights: int = 0

    def with_(self, outcome: Outcome) -> "Unread":
        """One more, if there is one to be had."""
        if not outcome.notify or self.notifications >= CAP:
            return self
        return Unread(self.notifications + 1, self.highlights + outcome.highlight)


NONE = Unread()
Counts = dict[str, Unread]
"""By thread: `main`, or the id of the root. A thread without unread events is absent."""


def total(counts: Counts) -> Unread:
    """Main timeline and threads together, at most `CAP`."""
    if len(counts) < 2:
        return next(iter(counts.values()), NONE)
    return Unread(
        min(CAP, sum(count.notifications for count in counts.values())),
        min(CAP, sum(count.highlights for count in counts.values())),
    )


class _Known(NamedTuple):
    """Counts as of a position, for a user who ignored these."""

    pos: int
    counts: Counts
    ignored: frozenset[str]


class _Step(NamedTuple):
    """What happened in a room between two positions, for whoever has the default rules.

    `concerned` and `named` are the users, by number and by id, to whom it is something else than to
    all others. `added` are the threads that got notifications, and what these are.
    """

    concerned: frozenset[int]
    named: frozenset[str]
    removes: bool
    added: list[tuple[str, Outcome]]

    def is_like_any(self, reader: Counted) -> bool:
        """Whether it is to the reader what it is to most."""
        return not (
            self.removes
            or reader.user_nid in self.concerned
            or reader.user_id in self.named
            or not self.named.isdisjoint(reader.ignored)
        )


class UnreadCounts:
    """See the module."""

    def __init__(self, database: Database, ring: Ring, names: Names, rules: Rules) -> None:
        self._database = database
        self._ring = ring
        self._names = names
        self._rules = rules
        self._known: OrderedDict[tuple[int, int], _Known] = OrderedDict()
        # By room the position up to which counts are not believed.
        self._forgotten: dict[int, int] = {}
        # Many readers go the same step at the same moment.
        self._latest: tuple[int, int, int, _Step] | None = None
        # Of the room that was asked about last, how many were joined at a position.
        self._joined: tuple[int, int, int] | None = None

    async def count(
        self, reader: Counted, room: Room, member_pos: int, until: int, *, recount: bool = False
    ) -> Counts:
        """What of a room is unread at position `until`.

        `member_pos` is the position of the user's member event. With `recount` nothing in memory
        is believed.
        """
        key = (reader.user_nid, room.nid)
        known = self._known.get(key)
        counts = None
        if (
            known is not None
            and not recount
            and self._ring.floor <= known.pos <= until
            and known.ignored == reader.ignored
        ):
            counts = await self._moved_on(known, reader, room, until)
        if counts is None:
            counts = await self._counted(reader, room, member_pos, until)
        self._known[key] = _Known(until, counts, reader.ignored)
        self._known.move_to_end(key)
        if len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return counts

    async def more(self, reader: Counted, room_nid: int, since: int, until: int) -> int | None:
        """How many were added to what was unread of a room at a position of the ring.

        None when it is not that simple: then `count` tells.
        """
        if since <= self._forgotten.get(room_nid, -1):
            return None
        if await self._rules.class_of(reader.user_nid) is not None:
            return None
        step = self._step(room_nid, since, until)
        return len(step.added) if step.is_like_any(reader) else None

    async def _moved_on(
        self, known: _Known, reader: Counted, room: Room, until: int
    ) -> Counts | None:
        """The counts after the ring's entries; None when only the tables can tell."""
        if known.pos == until:
            return known.counts
        changed = self._ring.account_data(reader.user_nid, known.pos, until)
        if changed and any(entry.type == PUSH_RULES for entry in changed):
            return None
        class_ = await self._rules.class_of(reader.user_nid)
        if class_ is None:
            step = self._step(room.nid, known.pos, until)
            if step.is_like_any(reader):
                if not step.added:
                    return known.counts
                counts = known.counts.copy()
                for thread, outcome in step.added:
                    counts[thread] = counts.get(thread, NONE).with_(outcome)
                return counts
        entries = self._ring.room_entries(room.nid, known.pos, until)
        if not entries:
            return known.counts
        counts = known.counts.copy()
        members = await self._members(room) if class_ is not None else 0
        for entry in entries:
            if not isinstance(entry, EventEntry):
                if entry.user_nid == reader.user_nid:
                    return None
                continue
            view = entry.view
            if view.type == _REDACTION or (
                view.type == _MEMBER and view.state_key == reader.user_id
            ):
                # What was counted may be gone, or the user has come anew.
                return None
            thread = entry.thread or MAIN
            if view.sender == reader.user_id:
                if view.state_key is None:
                    counts.pop(thread, None)
                continue
            if view.sender in reader.ignored:
                continue
            if class_ is None:
                outcome = _by_default(view.flags, reader.user_nid in entry.mentioned)
            elif view.flags & REDACTED:
                outcome = SILENT
            else:
                outcome = self._judged(
                    class_, reader, room, view.nid, view.body + b"}", view.flags, members
                )
            if outcome.notify:
                counts[thread] = counts.get(thread, NONE).with_(outcome)
        return counts

    def _step(self, room_nid: int, since: int, until: int) -> _Step:
        latest = self._latest
        if latest is not None and latest[:3] == (room_nid, since, until):
            return latest[3]
        concerned: set[int] = set()
        named: set[str] = set()
        removes = False
        added: list[tuple[str, Outcome]] = []
        for entry in self._ring.room_entries(room_nid, since, until):
            if not isinstance(entry, EventEntry):
                concerned.add(entry.user_nid)
                continue
            view = entry.view
            concerned.update(entry.mentioned)
            named.add(view.sender)
            removes = removes or view.type == _REDACTION
            if view.type == _MEMBER and view.state_key is not None:
                named.add(view.state_key)
            outcome = _by_default(view.flags, mentioned=False)
            if outcome.notify:
                added.append((entry.thread or MAIN, outcome))
        step = _Step(frozenset(concerned), frozenset(named), removes, added)
        self._latest = room_nid, since, until, step
        return step

    def forget(self, room_nid: int) -> None:
        """Believe nothing of what is in memory of a room: its events were redacted."""
        for key in [key for key in self._known if key[1] == room_nid]:
            del self._known[key]
        floor = self._ring.floor
        self._forgotten = {nid: pos for nid, pos in self._forgotten.items() if pos >= floor}
        self._forgotten[room_nid] = self._ring.pos

    async def positions(
        self, reader: Counted, room: Room, member_pos: int, until: int
    ) -> frozenset[int]:
        """Where in the room stands what the user has not read, whether it notifies or not."""
        _, unread = await self._unread(reader, room, member_pos, until)
        return frozenset(event.pos for _, event in unread)

    async def _unread(
        self, reader: Counted, room: Room, member_pos: int, until: int
    ) -> tuple[int, list[tuple[str, TailEvent]]]:
        """Others' events that are unread with their threads, and the position they come after."""
        receipts = await receipts_of(self._database, reader.user_nid, [room.nid])
        read: dict[str, int] = {}
        for row in receipts.get(room.nid, ()):
            read[row.thread] = max(read.get(row.thread, 0), row.event_pos)
        after = read.get(_UNTHREADED, 0)
        if member_pos > after:
            # The member event may be a change of the profile only.
            joined = await joined_since(self._database, reader.user_nid, room.nid)
            after = max(after, joined or 0)
        found = await tail(self._database, room.nid, after, until, CAP)
        if not found:
            return after, []
        threads = await threads_after(self._database, room.nid, after, until)
        threads.update(await self._redacted_threads(reader, found))
        ignored = await self._ignored(reader, {event.sender_nid for event in found})
        own = {event.type_nid for event in found if event.sender_nid == reader.user_nid}
        types = await self._names.names(own)
        unread: list[tuple[str, TailEvent]] = []
        ended: set[str] = set()
        for event in found:
            thread = threads.get(event.pos, MAIN)
            if thread in ended or event.pos <= read.get(thread, 0):
                continue
            if event.sender_nid == reader.user_nid:
                # To take something back is not to have read what was said meanwhile.
                if not event.is_state and types[event.type_nid] != _REDACTION:
                    ended.add(thread)
            elif event.sender_nid not in ignored and not event.flags & REDACTED:
                unread.append((thread, event))
        return after, unread

    async def _counted(self, reader: Counted, room: Room, member_pos: int, until: int) -> Counts:
        after, unread = await self._unread(reader, room, member_pos, until)
        outcomes = await self._outcomes(reader, room, after, until, [e for _, e in unread])
        counts: Counts = {}
        for thread, event in unread:
            if outcomes[event.pos].notify:
                counts[thread] = counts.get(thread, NONE).with_(outcomes[event.pos])
        return counts

    async def _outcomes(
        self, reader: Counted, room: Room, after: int, until: int, found: list[TailEvent]
    ) -> dict[int, Outcome]:
        """By position what each of the events is to the user."""
        if not found:
            return {}
        class_ = await self._rules.class_of(reader.user_nid)
        if class_ is None:
            mentioned = await mentions(self._database, reader.user_nid, room.nid, after, until)
            return {e.pos: _by_default(e.flags, e.pos in mentioned) for e in found}
        members = await self._members(room)
        outcomes: dict[int, Outcome] = {}
        for start in range(0, len(found), _LOADED_AT_ONCE):
            some = found[start : start + _LOADED_AT_ONCE]
            texts = await event_json(self._database, [event.event_nid for event in some])
            for event in some:
                outcomes[event.pos] = self._judged(
                    class_,
                    reader,
                    room,
                    event.event_nid,
                    texts[event.event_nid],
                    event.flags,
                    members,
                )
        return outcomes

    def _judged(
        self,
        class_: bytes,
        reader: Counted,
        room: Room,
        nid: int,
        text: bytes,
        flags: int,
        members: int,
    ) -> Outcome:
        event = decode_object(text)
        event["room_id"] = room.room_id
        told = Told(nid, Facts(event, members, bool(flags & HIGHLIGHTS)))
        return outcome_of(self._rules.actions(class_, reader.user_id, told))

    async def _members(self, room: Room) -> int:
        known, pos = self._joined, self._ring.pos
        if known is not None and known[:2] == (room.nid, pos):
            return known[2]
        found = await summaries(self._database, [room.nid])
        joined = found[room.nid].joined if room.nid in found else 0
        self._joined = room.nid, pos, joined
        return joined

    async def _redacted_threads(self, reader: Counted, found: list[TailEvent]) -> dict[int, str]:
        """Threads of the user's own events that have been redacted: they keep their place."""
        own = {
            event.event_nid: event.pos
            for event in found
            if event.sender_nid == reader.user_nid and event.flags & REDACTED
        }
        texts = await event_json(self._database, own) if own else {}
        threads: dict[int, str] = {}
        for nid, text in texts.items():
            thread = thread_of(decode_object(text)["content"])
            if thread is not None:
                threads[own[nid]] = thread
        return threads

    async def _ignored(self, reader: Counted, sender_nids: set[int]) -> set[int]:
        """Those of the senders whom the user ignores."""
        if not reader.ignored:
            return set()
        names = await self._names.names(sender_nids)
        return {nid for nid, user_id in names.items() if user_id in reader.ignored}


def _by_default(flags: int, mentioned: bool) -> Outcome:
    if flags & REDACTED:
        return SILENT
    return Outcome(
        notify=mentioned or bool(flags & NOTIFIES),
        highlight=mentioned or bool(flags & HIGHLIGHTS),
    )

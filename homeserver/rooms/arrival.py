"""The last step into a room: the turn in which it gets its head and our user's join.

Owns what one commit writes then. It takes two positions: at the first stands the state that was
told, at the second the join. Of a room that nobody of ours has ever been in, most rows of that
state are there already (`entering.py`); of one that had been left, what has changed since. The
ends of the room's graph from an earlier stay are given up: others know what follows them. Where
they have not heard yet that one of ours had left, that user leaves once more, behind the join.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from homeserver.matrix.event import Event
from homeserver.matrix.ids import server_of
from homeserver.rooms.append import MemberChange, Place, summary_after
from homeserver.rooms.head import Head, Needs
from homeserver.rooms.send import Draft, Sending
from homeserver.rooms.servers import told_servers
from homeserver.streams.numbers import Numbers, NumbersExhausted
from storage.changes import Change, Delete, Insert, Pos, Put
from storage.schema import (
    INVITE,
    JOIN,
    LEAVE,
    CurrentStateRow,
    MembershipLogRow,
    MembershipRow,
    MissingPrevRow,
    RoomSummaryRow,
    StateChangeRow,
    empty_summary,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A member event of the state that was told: of whom, and the membership's number."""

    user_nid: int
    user_id: str
    membership: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A room that is about to be entered.

    `pdu` is the join's canonical JSON, `auths` the numbers of its auth events, `prevs` its previous
    events with their numbers where they are here. `state` is the state before it (key to event
    number); `members` those of its keys that are members, `ours` which of these users are ours,
    `events` all its events but those of others' members. `known` are the memberships, as they are
    stored, of our users and of those who were joined in an earlier stay of ours and are so no
    longer, `servers_before` the counts of other servers' users in that stay. `behind` are those
    previous events that have no place in the timeline yet, told or not: there the room's history
    goes on. `fresh`: the rows of everybody else are written. `absent` are users of ours whose leave
    is newer than the state that was told, where they are joined.
    """

    join: Event
    pdu: bytes
    auths: Sequence[int]
    prevs: Mapping[str, int | None]
    behind: Sequence[str]
    state: Mapping[int, int]
    members: Mapping[int, Member]
    ours: frozenset[int]
    events: Mapping[tuple[str, str], Event]
    known: Mapping[int, MembershipRow]
    servers_before: Mapping[str, int]
    local_server: str
    fresh: bool
    absent: Sequence[str]

    def servers(self) -> Counter[str]:
        """The joined users of each server."""
        return Counter(
            server_of(member.user_id)
            for member in self.members.values()
            if member.membership == JOIN
        )


def arrive(sending: Sending, arrival: Arrival, numbers: Numbers) -> None:
    """Give the room the state that was told, and put the join behind it."""
    head, join, names = sending.head, arrival.join, sending.head.names
    own_key = names.key_nid(*join.key)
    authorising: dict[int, Event] = {}
    if arrival.absent:
        authorising = {
            arrival.state[names.key_nid(*key)]: event for key, event in arrival.events.items()
        }
    names.nid(join.type)
    joiner = names.nid(join.sender)
    if not numbers.room_for("snapshot", 3):
        raise NumbersExhausted("snapshot")
    if not numbers.room_for("event", 1):
        raise NumbersExhausted("event")
    changed = {
        key: (head.state.get(key), arrival.state.get(key))
        for key in head.state.keys() | arrival.state.keys()
        if head.state.get(key) != arrival.state.get(key)
    }
    servers = arrival.servers()
    rows_of_servers = told_servers(
        names, head.room_nid, arrival.servers_before, servers, Pos(1), arrival.local_server
    )
    gone = _gone_members(head, [key for key, (_, new) in changed.items() if new is None])
    # From here on nothing is missing any more.
    moves = _rows_of_state(sending, arrival, changed, gone, joiner)
    head.state = dict(arrival.state)
    head.depth = 0
    head.events.clear()
    head.servers.clear()
    head.servers.update({server: servers[server] for server in arrival.servers_before})
    head.servers.update(servers)
    sending.changes += rows_of_servers
    head.summary = _summary(head, arrival)
    sending.changes.append(Put(head.summary))
    if changed:
        row = head.snapshots.add(numbers.take("snapshot"), head.room_nid, head.state, changed)
        sending.changes.append(Insert(row))
    nid = numbers.take("event")
    sending.ahead = 1
    old = head.state.get(own_key)
    place = Place(
        nid=nid,
        stored=False,
        prevs=[known for known in arrival.prevs.values() if known is not None],
        extremities=[(nid, join.event_id)],
        snap_nid=head.snapshots.nid,
        changed={own_key: (old, nid)},
        events={old: arrival.events[join.key]} if old is not None else {},
        flags=0,
    )
    sending.place(join, arrival.pdu, arrival.auths, place, None)
    appended = sending.events[-1]
    sending.events[-1] = replace(appended, members=(*moves, *appended.members))
    sending.changes.extend(
        Insert(MissingPrevRow(head.room_nid, event_id, nid)) for event_id in arrival.behind
    )
    if arrival.absent:
        head.remember(authorising)
    for user_id in arrival.absent:
        sending.add(Draft(user_id, "m.room.member", {"membership": "leave"}, user_id))


def _gone_members(head: Head, keys: Sequence[int]) -> Mapping[int, str]:
    """Those of the keys that are members', with their user ids."""
    found: dict[int, str] = {}
    for key in keys:
        known = head.names.key(key)
        if known is None:

            async def load() -> None:
                await head.names.keys(keys)

            raise Needs(load)
        if known[0] == "m.room.member":
            found[key] = known[1]
            head.names.nid(known[1])
    return found


def _rows_of_state(
    sending: Sending,
    arrival: Arrival,
    changed: Mapping[int, tuple[int | None, int | None]],
    gone: Mapping[int, str],
    joiner: int,
) -> list[MemberChange]:
    """Write what the state that was told changes; how our users have moved by it, and who is gone.

    Others who came meanwhile are not told of: who enters with the room hears of all who are in it.
    """
    room, moves = sending.head.room_nid, list[MemberChange]()
    rows: list[Change] = sending.changes
    for key, (old, new) in changed.items():
        member = arrival.members.get(key)
        if arrival.fresh and member is not None and member.user_nid not in arrival.ours:
            continue
        rows.append(Insert(StateChangeRow(room, Pos(0), key, old, new)))
        if not arrival.fresh:
            rows.append(
                Delete(CurrentStateRow, (room, key))
                if new is None
                else Put(CurrentStateRow(room, key, new))
            )
        if key in gone:
            user_id = gone[key]
            member = Member(sending.head.names.nid(user_id), user_id, LEAVE)
        if member is None or member.user_nid == joiner:
            continue
        event_nid = new or old or 0
        known = arrival.known.get(member.user_nid)
        was = known.membership if known is not None else LEAVE
        stays = known is not None and (known.event_nid, was) == (event_nid, member.membership)
        pos = known.pos if known is not None and stays else Pos(1)
        rows.append(
            Put(MembershipRow(room, member.user_nid, member.membership, event_nid, pos, 0, None))
        )
        if stays:
            continue
        is_ours = member.user_nid in arrival.ours
        if is_ours:
            log = MembershipLogRow(member.user_nid, room, Pos(1), member.membership, event_nid)
            rows.append(Insert(log))
        if is_ours or was == JOIN:
            moves.append(
                MemberChange(member.user_nid, member.user_id, member.membership, event_nid, was)
            )
    return moves


def _summary(head: Head, arrival: Arrival) -> RoomSummaryRow:
    """The summary of the state that was told."""
    row = empty_summary(head.room_nid, published=bool(head.summary.published))
    for event in arrival.events.values():
        if event.type != "m.room.member":
            row = summary_after(row, event, None)
    counts = [member.membership for member in arrival.members.values()]
    return row._replace(joined=counts.count(JOIN), invited=counts.count(INVITE))

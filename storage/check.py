"""Proving that derived tables say what the events say.

`differences` goes through the whole database in pieces and re-derives edges, extremities, current
state, memberships, summaries, references and who shows which files; every disagreement is a
sentence for the operator. It writes nothing, and is meant for a database that nobody writes to.
What can't be proved: whether the events themselves were allowed (the state resolution is not in
this package), and whether a position that no row carries was once given out, for a later receipt or
account data takes a row over.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from storage import check_queries as queries
from storage.check_files import files_differences
from storage.engine import Database
from storage.events import event_json, event_rows
from storage.memberships import in_room
from storage.names import name_numbers, names, state_keys
from storage.packing import unpack_entries, unpack_numbers
from storage.rooms import heads, summaries
from storage.schema import REDACTED, MembershipRow, RoomHeadRow, RoomRow, RoomSummaryRow
from storage.state import current_states, snapshot_chains

_AT_ONCE = 2_000
_UNACCEPTED = 67
_MEMBERSHIPS = {"join": 1, "invite": 2, "knock": 3, "leave": 4, "ban": 5}
_TEXTS = {
    "name": ("m.room.name", "name", None),
    "topic": ("m.room.topic", "topic", None),
    "avatar": ("m.room.avatar", "url", None),
    "alias": ("m.room.canonical_alias", "alias", None),
    "encryption": ("m.room.encryption", "algorithm", None),
    "guest_access": ("m.room.guest_access", "guest_access", "forbidden"),
    "join_rule": ("m.room.join_rules", "join_rule", "invite"),
    "visibility": ("m.room.history_visibility", "history_visibility", "shared"),
    "room_type": ("m.room.create", "type", None),
}
_KEPT_BY_REDACTION = ("join_rule", "visibility")


async def differences(db: Database) -> list[str]:
    """A sentence for every disagreement that was found; an empty list for a sound database."""
    found: list[str] = []
    for sentence, sql in queries.REFERENCES:
        found.extend(sentence.format(*row) for row in await db.scan(sql))
    ((pos,),) = await db.scan(queries.STREAM)
    for sql in queries.HIGHEST_POSITIONS:
        ((table, highest),) = await db.scan(sql)
        if highest is not None and highest > pos:
            found.append(f"{table} holds position {highest}, beyond the stream's {pos}")
    ends, broken = await _walk_events(db)
    found += broken
    found += await _walk_snapshots(db)
    last = 0
    here = "".join(name.partition(":")[2] for (name,) in await db.scan(queries.A_LOCAL_USER))
    found += await files_differences(db, here)
    while rooms := await db.scan(queries.ROOMS_AFTER, last):
        for row in rooms:
            room = RoomRow(*row)
            found += [
                f"room {room.room_id}: {text}"
                for text in await _check_room(db, room, ends.get(room.room_nid, set()), here)
            ]
        last = rooms[-1][0]
    return found


async def _walk_events(db: Database) -> tuple[dict[int, set[int]], list[str]]:
    """By room the accepted events that no accepted event follows; and what is wrong with edges."""
    ends: dict[int, set[int]] = defaultdict(set)
    followed: set[int] = set()
    found: list[str] = []
    edges = last = 0
    while rows := await db.scan(queries.EVENTS_AFTER, last, _AT_ONCE):
        last = rows[-1][0]
        auths: dict[int, list[int]] = {}
        prevs: dict[int, list[int]] = {}
        rooms: dict[int, int] = {}
        for nid, room_nid, flags, packed_prevs, packed_auths in rows:
            rooms[nid] = room_nid
            try:
                prevs[nid] = unpack_numbers(packed_prevs)
                auths[nid] = unpack_numbers(packed_auths)
            except ValueError as error:
                found.append(f"event {nid}: its edges can't be read: {error}")
                continue
            if flags & _UNACCEPTED:
                continue
            if nid in followed:
                followed.remove(nid)
            else:
                ends[room_nid].add(nid)
            for prev in prevs[nid]:
                if prev in ends[room_nid]:
                    ends[room_nid].remove(prev)
                elif prev > nid:
                    followed.add(prev)
        found += [
            f"event {nid}: its auth event {auth} has no lower number"
            for nid, numbers in auths.items()
            for auth in numbers
            if auth >= nid
        ]
        found += await _check_edges(db, "auth", auths, rooms)
        found += await _check_edges(db, "previous", prevs, rooms)
        expected = {(prev, nid) for nid, numbers in prevs.items() for prev in numbers}
        edges += len(expected)
        for prev, nid in expected - await _children(db, {prev for prev, _ in expected}):
            found.append(f"event_children lacks ({prev}, {nid})")
    ((children,),) = await db.scan(queries.COUNT_CHILDREN)
    if children != edges:
        found.append(f"event_children has {children} rows; the events have {edges} edges")
    return ends, found


async def _check_edges(
    db: Database, kind: str, edges: dict[int, list[int]], rooms: dict[int, int]
) -> list[str]:
    wanted = {number for numbers in edges.values() for number in numbers}
    known = dict(await db.scan(queries.ROOMS_OF_EVENTS, wanted - rooms.keys())) | rooms
    return [
        f"event {nid}: its {kind} event {number} does not exist in its room"
        for nid, numbers in edges.items()
        for number in numbers
        if known.get(number) != rooms[nid]
    ]


async def _children(db: Database, prev_nids: set[int]) -> set[tuple[int, int]]:
    return {(prev, nid) for prev, nid in await db.scan(queries.CHILDREN, prev_nids)}


async def _walk_snapshots(db: Database) -> list[str]:
    found: list[str] = []
    last = 0
    while rows := await db.scan(queries.SNAPSHOTS_AFTER, last, _AT_ONCE):
        last = rows[-1][0]
        for nid, level, size, packed in rows:
            try:
                entries = unpack_entries(packed)
            except ValueError as error:
                found.append(f"snapshot {nid} can't be read: {error}")
                continue
            if level == 0 and (len(entries) != size or None in entries.values()):
                found.append(f"snapshot {nid} is no whole state of {size} keys")
    return found


async def _check_room(db: Database, room: RoomRow, ends: set[int], here: str) -> list[str]:
    nid = room.room_nid
    head = (await heads(db, [nid])).get(nid)
    state = (await current_states(db, [nid])).get(nid, {})
    if head is None:
        return []  # known by its id only; state rows are those of a join that did not end
    found = await _check_head(db, head, ends, state)
    found += await _check_changes(db, nid, state)
    keys: dict[int, tuple[str, str]] = {}
    for part in _parts(state):
        keys |= await state_keys(db, part)
    found += [f"current_state has the unknown key {key}" for key in state.keys() - keys.keys()]
    contents: dict[int, tuple[int, dict[str, Any]]] = {}
    own_keys: dict[int, int | None] = {}
    for part in _parts(set(state.values())):
        rows = await event_rows(db, part)
        bodies = await event_json(db, part)
        for event_nid, row in rows.items():
            if row.room_nid == nid and event_nid in bodies:
                contents[event_nid] = (row.flags, json.loads(bodies[event_nid])["content"])
            if row.flags & 1:
                found.append(f"the rejected event {event_nid} is in its state")
            own_keys[event_nid] = row.key_nid
    found += [
        f"its state holds event {event_nid}, which it does not have"
        for event_nid in state.values()
        if event_nid not in contents
    ]
    found += [
        f"event {event_nid} stands under another key than its own"
        for key, event_nid in state.items()
        if own_keys.get(event_nid, key) != key
    ]
    by_key = {keys[key]: contents[event] for key, event in state.items() if event in contents}
    members = {
        user_id: (state_nid, contents[state_nid][1].get("membership"))
        for key, state_nid in state.items()
        if state_nid in contents and key in keys
        for event_type, user_id in (keys[key],)
        if event_type == "m.room.member"
    }
    stored = await in_room(db, nid, list(_MEMBERSHIPS.values()))
    found += await _check_members(db, members, stored)
    found += await _check_servers(db, nid, members, here)
    summary = (await summaries(db, [nid])).get(nid)
    if summary is None:
        return [*found, "it has no summary"]
    return found + _check_summary(summary, by_key, stored)


async def _check_head(
    db: Database, head: RoomHeadRow, ends: set[int], state: dict[int, int]
) -> list[str]:
    found: list[str] = []
    extremities = unpack_numbers(head.extremities)
    # Where the room was left and joined again, ends of the earlier stay are none of the room's now.
    if not extremities or not set(extremities) <= ends:
        found.append(f"its extremities are {sorted(extremities)} and should be {sorted(ends)}")
    depths = [row.depth for row in (await event_rows(db, extremities)).values()]
    if depths and max(depths) != head.depth:
        found.append(f"its depth is {head.depth} and should be {max(depths)}")
    ((last_pos,),) = await db.scan(queries.LAST_POSITION, head.room_nid)
    if last_pos is not None and head.last_pos < last_pos:
        found.append(f"its last position is {head.last_pos}, an event stands at {last_pos}")
    chain = (await snapshot_chains(db, [head.snap_nid])).get(head.snap_nid, [])
    if not chain or chain[-1].level != 0:
        return [*found, f"its snapshot {head.snap_nid} has no keyframe"]
    decoded: dict[int, int | None] = {}
    for row in reversed(chain):
        decoded |= unpack_entries(row.entries)
    whole = {key: event for key, event in decoded.items() if event is not None}
    found += [
        f"key {key}: the snapshot of its head has event {whole.get(key)}, current_state"
        f" {state.get(key)}"
        for key in whole.keys() | state.keys()
        if whole.get(key) != state.get(key)
    ]
    return found


async def _check_changes(db: Database, room_nid: int, state: dict[int, int]) -> list[str]:
    found: list[str] = []
    values: dict[int, int | None] = {}
    rows = await db.scan(queries.CHANGES, room_nid)
    for key, pos, old, new in rows:
        if key in values and values[key] != old:
            found.append(f"key {key}: the change at {pos} starts at {old}, not at {values[key]}")
        values[key] = new
    found += [
        f"key {key}: its last change leads to {event}, current_state has {state.get(key)}"
        for key, event in values.items()
        if state.get(key) != event
    ]
    return found


async def _check_members(
    db: Database, members: dict[str, tuple[int, Any]], stored: dict[int, MembershipRow]
) -> list[str]:
    found: list[str] = []
    seen: set[int] = set()
    for part in _parts(members):
        numbers = await name_numbers(db, part)
        for user_id in part:
            event_nid, membership = members[user_id]
            user_nid = numbers.get(user_id, 0)
            seen.add(user_nid)
            row = stored.get(user_nid)
            number = _MEMBERSHIPS.get(membership) if isinstance(membership, str) else None
            if row is None or (row.membership, row.event_nid) != (number, event_nid):
                found.append(f"memberships differ from event {event_nid} about {user_id}")
    for part in _parts(stored.keys() - seen):
        found += [
            f"memberships have {user_id}, of whom its state has no event"
            for user_nid, user_id in (await names(db, part)).items()
            # Whose event state resolution took away has left.
            if stored[user_nid].membership != _MEMBERSHIPS["leave"]
        ]
    return found


async def _check_servers(
    db: Database, room_nid: int, members: dict[str, tuple[int, Any]], here: str
) -> list[str]:
    """Whether the other servers of a room are those of its joined users; `here` is this one."""
    expected: Counter[str] = Counter()
    for user_id, (_, membership) in members.items():
        server = user_id.partition(":")[2]
        if membership == "join" and server != here:
            expected[server] += 1
    counted: dict[str, int] = dict(await db.scan(queries.SERVERS, room_nid))
    found = [
        f"{counted.get(server, 0)} users of {server} are counted, {expected[server]} are joined"
        for server in counted.keys() | expected.keys()
        if counted.get(server, 0) != expected[server]
    ]
    inside: dict[str, bool] = {}
    for server, pos, came in await db.scan(queries.STAYS, room_nid):
        if inside.get(server, False) == bool(came):
            found.append(f"{server} {'comes' if came else 'leaves'} twice at {pos}")
        inside[server] = bool(came)
    found += [
        f"{server} {'has left' if server in counted else 'is here'}, but its users say otherwise"
        for server in counted.keys() | inside.keys()
        if inside.get(server, False) != (server in counted)
    ]
    return found


def _check_summary(
    summary: RoomSummaryRow,
    state: dict[tuple[str, str], tuple[int, dict[str, Any]]],
    members: dict[int, MembershipRow],
) -> list[str]:
    counts = {
        name: sum(row.membership == number for row in members.values())
        for name, number in (("joined", 1), ("invited", 2))
    }
    expected: dict[str, Any] = dict(counts)
    for field, (event_type, key, default) in _TEXTS.items():
        flags, content = state.get((event_type, ""), (0, {}))
        if flags & REDACTED and field == "room_type":
            continue
        if flags & REDACTED and field not in _KEPT_BY_REDACTION:
            content = {}
        value = content.get(key)
        keeps_empty = default is not None or field == "room_type"
        stands = isinstance(value, str) and "\0" not in value and (value or keeps_empty)
        expected[field] = value if stands else default
    actual = summary._asdict()
    return [
        f"its summary says {field} = {actual[field]!r} and should say {value!r}"
        for field, value in expected.items()
        if actual[field] != value
    ]


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values in lists that a bounded read may ask for."""
    everything = list(values)
    for start in range(0, len(everything), 100):
        yield everything[start : start + 100]

"""Reading and removing relations between events, threads, and what users want of threads.

A parent is named by its event id, for it may not be here. Positions bound what is read: rows above
`until` are left out. Nothing here decides who may see an event.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import ThreadSubscriptionRow


class Children(NamedTuple):
    """How many events relate to a parent in one way, and the position of the last."""

    number: int
    last_pos: int


class Subscription(NamedTuple):
    """What a user wants of a thread, since the position `pos`."""

    room_id: str
    root_id: str
    subscribed: bool
    automatic: bool
    pos: int


class Child(NamedTuple):
    """One event that relates to another; `ts` is its own time."""

    event_nid: int
    event_id: str
    pos: int
    rel_type: str
    type_nid: int
    sender_nid: int
    ts: int


class Referring(NamedTuple):
    """One event that refers to another, with what decides who may see it."""

    nid: int
    event_id: str
    sender_nid: int
    pos: int | None
    flags: int
    key_nid: int | None

    @property
    def is_state(self) -> bool:
        """Whether it is state."""
        return self.key_nid is not None


async def counted(
    db: Database, room_nid: int, parent_ids: Collection[str], until: int
) -> dict[str, dict[str, Children]]:
    """By parent and relation type."""
    rows = await db.fetch(
        "SELECT parent_id, rel_type, count(*), max(pos) FROM relations"
        " WHERE room_nid = ? AND parent_id IN (??) AND pos <= ? GROUP BY parent_id, rel_type",
        room_nid,
        parent_ids,
        until,
    )
    found: dict[str, dict[str, Children]] = defaultdict(dict)
    for parent_id, rel_type, count, last_pos in rows:
        found[parent_id][rel_type] = Children(count, last_pos)
    return dict(found)


async def counted_by(
    db: Database, room_nid: int, parent_ids: Collection[str], senders: Collection[int], until: int
) -> dict[str, int]:
    """By parent, how many events in its thread these users have sent."""
    rows = await db.fetch(
        "SELECT parent_id, count(*) FROM relations WHERE room_nid = ? AND parent_id IN (??)"
        " AND pos <= ? AND rel_type = 'm.thread' AND sender_nid IN (??) GROUP BY parent_id",
        room_nid,
        parent_ids,
        until,
        senders,
    )
    return dict(rows)


async def edits(
    db: Database, room_nid: int, parent_ids: Collection[str], until: int
) -> dict[str, list[int]]:
    """By parent the replacements that are of its sender and type, the most recent first.

    spec: client-server-api#server-side-aggregation-of-mreplace-relationships
    """
    rows = await db.fetch(
        "SELECT parent_id, child.event_nid FROM relations"
        " JOIN events AS parent ON parent.event_id = parent_id"
        " AND parent.room_nid = relations.room_nid"
        " AND parent.sender_nid = relations.sender_nid AND parent.type_nid = relations.type_nid"
        " JOIN events AS child ON child.event_nid = relations.event_nid"
        " WHERE relations.room_nid = ? AND parent_id IN (??) AND relations.pos <= ?"
        " AND rel_type = 'm.replace' AND parent.event_nid <> child.event_nid"
        " ORDER BY parent_id, ts DESC, child.event_id DESC",
        room_nid,
        parent_ids,
        until,
    )
    found: dict[str, list[int]] = defaultdict(list)
    for parent_id, event_nid in rows:
        found[parent_id].append(event_nid)
    return dict(found)


async def referring(
    db: Database,
    room_nid: int,
    rel_type: str,
    parent_ids: Collection[str],
    until: int,
    limit: int,
) -> dict[str, list[Referring]]:
    """By parent what refers to it by this relation, at most `limit` in all."""
    rows = await db.fetch(
        "SELECT parent_id, relations.event_nid, event_id, relations.sender_nid, events.pos, flags,"
        " key_nid FROM relations"
        " JOIN events ON events.event_nid = relations.event_nid"
        " WHERE relations.room_nid = ? AND parent_id IN (??) AND relations.pos <= ?"
        " AND rel_type = ? ORDER BY parent_id, relations.pos LIMIT ?",
        room_nid,
        parent_ids,
        until,
        rel_type,
        limit,
    )
    found: dict[str, list[Referring]] = defaultdict(list)
    for parent_id, *row in rows:
        found[parent_id].append(Referring(*row))
    return dict(found)


async def thread_tail(
    db: Database, room_nid: int, root_id: str, until: int, limit: int
) -> list[tuple[int, int]]:
    """(event_nid, sender_nid) of the last events of a thread, newest first."""
    rows = await db.fetch(
        "SELECT event_nid, sender_nid FROM relations WHERE room_nid = ? AND parent_id = ?"
        " AND pos <= ? AND rel_type = 'm.thread' ORDER BY pos DESC LIMIT ?",
        room_nid,
        root_id,
        until,
        limit,
    )
    return [(event_nid, sender_nid) for event_nid, sender_nid in rows]


async def threads_after(db: Database, room_nid: int, after: int, until: int) -> dict[int, str]:
    """By position in (after, until] the root's id of the thread of those events that have one."""
    rows = await db.fetch(
        "SELECT relations.pos, parent_id FROM threads"
        " JOIN relations ON relations.room_nid = threads.room_nid AND parent_id = root_id"
        " WHERE threads.room_nid = ? AND threads.pos > ? AND relations.pos > ?"
        " AND relations.pos <= ? AND rel_type = 'm.thread'",
        room_nid,
        after,
        after,
        until,
    )
    return dict(rows)


async def at_positions(db: Database, room_nid: int, positions: Collection[int]) -> dict[int, int]:
    """The numbers of the room's events by their positions."""
    return dict(
        await db.fetch(
            "SELECT pos, event_nid FROM events WHERE room_nid = ? AND pos IN (??)",
            room_nid,
            positions,
        )
    )


async def participated(
    db: Database, room_nid: int, root_ids: Collection[str], user_nid: int
) -> set[str]:
    """Those of the threads in which the user has sent an event."""
    rows = await db.fetch(
        "SELECT DISTINCT parent_id FROM relations WHERE room_nid = ? AND parent_id IN (??)"
        " AND rel_type = 'm.thread' AND sender_nid = ?",
        room_nid,
        root_ids,
        user_nid,
    )
    return {parent_id for (parent_id,) in rows}


async def is_annotated(
    db: Database, room_nid: int, parent_id: str, sender_nid: int, type_nid: int, key_hash: int
) -> bool:
    """Whether the user has annotated the event with this key by an event of this type."""
    rows = await db.fetch(
        "SELECT 1 FROM relations WHERE room_nid = ? AND parent_id = ? AND sender_nid = ?"
        " AND type_nid = ? AND key_hash = ? AND rel_type = 'm.annotation' LIMIT 1",
        room_nid,
        parent_id,
        sender_nid,
        type_nid,
        key_hash,
    )
    return bool(rows)


async def page(
    db: Database,
    room_nid: int,
    parent_id: str,
    rel_type: str | None,
    type_nid: int | None,
    after: int,
    until: int,
    limit: int,
    *,
    newest_first: bool,
) -> list[tuple[int, int]]:
    """(position, event_nid) of a parent's children at positions in (after, until], from one end.

    With `rel_type` and `type_nid` only those of this relation and of this event type.
    """
    if newest_first:
        return await db.fetch(
            "SELECT pos, event_nid FROM relations WHERE room_nid = ? AND parent_id = ?"
            " AND pos > ? AND pos <= ? AND rel_type = COALESCE(?, rel_type)"
            " AND type_nid = COALESCE(?, type_nid) ORDER BY pos DESC LIMIT ?",
            room_nid,
            parent_id,
            after,
            until,
            rel_type,
            type_nid,
            limit,
        )
    return await db.fetch(
        "SELECT pos, event_nid FROM relations WHERE room_nid = ? AND parent_id = ?"
        " AND pos > ? AND pos <= ? AND rel_type = COALESCE(?, rel_type)"
        " AND type_nid = COALESCE(?, type_nid) ORDER BY pos LIMIT ?",
        room_nid,
        parent_id,
        after,
        until,
        rel_type,
        type_nid,
        limit,
    )


async def children(
    db: Database, room_nid: int, parent_ids: Collection[str], limit: int
) -> list[Child]:
    """At most `limit` children of any of these parents."""
    rows = await db.scan(
        "SELECT relations.event_nid, event_id, relations.pos, rel_type, relations.type_nid,"
        " relations.sender_nid, ts FROM relations"
        " JOIN events ON events.event_nid = relations.event_nid"
        " WHERE relations.room_nid = ? AND parent_id IN (??) ORDER BY relations.pos DESC LIMIT ?",
        room_nid,
        parent_ids,
        limit,
    )
    return [Child(*row) for row in rows]


async def threads(
    db: Database, room_nid: int, until: int, limit: int
) -> list[tuple[int, str, int | None]]:
    """(last position, root's id, root's number) of threads up to a position, the latest first."""
    return await db.fetch(
        "SELECT threads.pos, root_id, event_nid FROM threads LEFT JOIN events"
        " ON events.event_id = root_id AND events.room_nid = threads.room_nid"
        " WHERE threads.room_nid = ? AND threads.pos <= ? ORDER BY threads.pos DESC LIMIT ?",
        room_nid,
        until,
        limit,
    )


async def subscriptions(
    db: Database, user_nid: int, room_nid: int, root_ids: Collection[str]
) -> dict[str, ThreadSubscriptionRow]:
    """What the user wants of these threads, by root."""
    rows = await db.fetch(
        "SELECT user_nid, room_nid, root_id, subscribed, automatic, pos FROM thread_subscriptions"
        " WHERE user_nid = ? AND room_nid = ? AND root_id IN (??)",
        user_nid,
        room_nid,
        root_ids,
    )
    return {row[2]: ThreadSubscriptionRow(*row) for row in rows}


async def subscriptions_between(
    db: Database, user_nid: int, after: int, until: int, limit: int
) -> list[Subscription]:
    """What the user said last of threads in (after, until], the latest first."""
    rows = await db.fetch(
        "SELECT room_id, root_id, subscribed, automatic, pos FROM thread_subscriptions"
        " JOIN rooms ON rooms.room_nid = thread_subscriptions.room_nid"
        " WHERE user_nid = ? AND pos > ? AND pos <= ? ORDER BY pos DESC LIMIT ?",
        user_nid,
        after,
        until,
        limit,
    )
    return [Subscription(row[0], row[1], bool(row[2]), bool(row[3]), row[4]) for row in rows]


def unrelate(room_nid: int, parent_id: str, event_nid: int, *, thread: bool) -> list[Change]:
    """The event `event_nid`, redacted now, relates to `parent_id` no more.

    Where that was by `thread`, the thread ends with the event before it, or is none any more.
    """
    gone: list[Change] = [
        Do(
            "DELETE FROM relations WHERE room_nid = ? AND parent_id = ? AND event_nid = ?",
            (room_nid, parent_id, event_nid),
        )
    ]
    if thread:
        gone += [
            Do(
                "UPDATE threads SET pos = COALESCE((SELECT max(relations.pos) FROM relations"
                " WHERE relations.room_nid = threads.room_nid AND parent_id = root_id"
                " AND rel_type = 'm.thread'), pos) WHERE room_nid = ? AND root_id = ?",
                (room_nid, parent_id),
            ),
            Do(
                "DELETE FROM threads WHERE room_nid = ? AND root_id = ? AND NOT EXISTS"
                " (SELECT 1 FROM relations WHERE relations.room_nid = threads.room_nid"
                " AND parent_id = root_id AND rel_type = 'm.thread')",
                (room_nid, parent_id),
            ),
        ]
    return gone


def earlier_thread(room_nid: int, root_id: str, pos: int) -> Change:
    """A thread has an event at `pos`, which is the last only if no other was known."""
    return Do(
        "INSERT INTO threads (room_nid, root_id, pos) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (room_nid, root_id, pos),
    )

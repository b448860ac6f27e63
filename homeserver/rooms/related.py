"""The rows beside an event: how it relates to others, and the words by which it is found.

Owns what an accepted event adds of these to its commit, and what its redaction takes away again.
Invariant: they have rows exactly as long as the event is accepted and not redacted.
Whoever gives an event its place in the timeline (at the head, or before what was known) writes
these rows in the same commit. What is told of relations is in `aggregations.py`.
"""

from homeserver.matrix.event import Event
from homeserver.matrix.relations import THREAD, relation_of
from homeserver.rooms.indexed import indexed, unindexed
from storage.changes import Change, Insert, Pos, Put
from storage.relations import earlier_thread, unrelate
from storage.schema import RelationRow, ThreadRow


def related(
    room_nid: int, event: Event, nid: int, type_nid: int, sender_nid: int, pos: int
) -> list[Change]:
    """The rows of an event that takes its place at `pos`; few events have any.

    A `pos` below zero is that of an event from before all that was known: it ends no thread that
    has later events, so a thread that is known stays as it is.
    """
    rows = indexed(room_nid, event, nid, sender_nid)
    relation = relation_of(event.content)
    if relation is None:
        return rows
    row = RelationRow(
        room_nid=room_nid,
        parent_id=relation.parent_id,
        pos=pos,
        event_nid=nid,
        rel_type=relation.rel_type,
        type_nid=type_nid,
        sender_nid=sender_nid,
        ts=event.origin_server_ts,
        key_hash=relation.key_hash,
    )
    rows.append(Insert(row))
    if relation.rel_type == THREAD:
        if isinstance(pos, Pos):
            rows.append(Put(ThreadRow(room_nid, relation.parent_id, pos)))
        else:
            rows.append(earlier_thread(room_nid, relation.parent_id, pos))
    return rows


def unrelated(room_nid: int, nid: int, event: Event) -> list[Change]:
    """What the redaction of an event (as it was before) takes away."""
    gone = unindexed(nid, event)
    relation = relation_of(event.content)
    if relation is not None:
        gone += unrelate(room_nid, relation.parent_id, nid, thread=relation.rel_type == THREAD)
    return gone

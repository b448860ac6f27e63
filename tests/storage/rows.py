"""Rows for the tests of storage, with everything that does not matter filled in."""

from storage.packing import pack_numbers
from storage.schema import EventRow


def event(
    nid: int,
    room: int = 1,
    *,
    pos: int | None = None,
    key: int | None = None,
    flags: int = 0,
    prevs: tuple[int, ...] = (),
    auths: tuple[int, ...] = (),
    snap: int | None = None,
) -> EventRow:
    return EventRow(
        event_nid=nid,
        event_id=f"$event{nid}",
        room_nid=room,
        pos=pos,
        depth=nid,
        type_nid=1,
        key_nid=key,
        sender_nid=2,
        origin_ts=1_700_000_000_000 + nid,
        snap_nid=snap,
        flags=flags,
        prevs=pack_numbers(prevs),
        auths=pack_numbers(auths),
    )

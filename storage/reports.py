"""Reading what users have reported."""

from storage.engine import Database
from storage.schema import ReportRow

_BEYOND_ALL = 2**62


async def reports(db: Database, state: str, before: int | None, limit: int) -> list[ReportRow]:
    """At most `limit` reports in a state, the latest first, with numbers below `before`."""
    rows = await db.fetch(
        "SELECT report_nid, reporter_nid, room_id, event_id, user_id, reason, ts, state, note"
        " FROM reports WHERE state = ? AND report_nid < ? ORDER BY report_nid DESC LIMIT ?",
        state,
        _BEYOND_ALL if before is None else before,
        limit,
    )
    return [ReportRow(*row) for row in rows]


async def report(db: Database, report_nid: int) -> ReportRow | None:
    """One report."""
    rows = await db.fetch(
        "SELECT report_nid, reporter_nid, room_id, event_id, user_id, reason, ts, state, note"
        " FROM reports WHERE report_nid = ?",
        report_nid,
    )
    return ReportRow(*rows[0]) if rows else None

"""Reports of events, rooms and users, kept as tickets for the administrators.

Owns what may be reported by whom, and the tickets: each is open until an administrator closes it,
perhaps with a note. Whether what was reported exists is not told to who reports.
spec: client-server-api#reporting-content
"""

from typing import Literal

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.history import History
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names, Numbers
from homeserver.users.sessions import Session
from storage import reports as store
from storage.changes import Insert, Put
from storage.engine import Database
from storage.schema import ReportRow

State = Literal["open", "closed"]
_MOST_BYTES = 4_096


class Reports:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        numbers: Numbers,
        names: Names,
        history: History,
        clock: Clock,
    ) -> None:
        self._database = database
        self._commits = commits
        self._numbers = numbers
        self._names = names
        self._history = history
        self._clock = clock

    async def event(self, session: Session, room_id: str, event_id: str, reason: str) -> None:
        """Report an event of a room that the user is in.

        Raises `MatrixError` M_NOT_FOUND for a room that the user isn't in, or an event that the
        user may not read.
        """
        looking = await self._history.look(session, room_id, hide=True)
        if not looking.reader.is_member:
            raise MatrixError.not_found("There is no such event, or you may not read it")
        view = await self._history.event(looking, event_id)
        await self._keep(session, reason, room_id, event_id, view.sender)

    async def room(self, session: Session, room_id: str, reason: str) -> None:
        """Report a room, known or not."""
        await self._keep(session, reason, room_id, None, None)

    async def user(self, session: Session, user_id: str, reason: str) -> None:
        """Report a user, known or not."""
        await self._keep(session, reason, None, None, user_id)

    async def page(self, state: State, before: int | None, limit: int) -> list[JsonObject]:
        """Tickets in a state, the latest first; `before` is the number of one."""
        rows = await store.reports(self._database, state, before, limit)
        names = await self._names.names({row.reporter_nid for row in rows})
        return [_shown(row, names[row.reporter_nid]) for row in rows]

    async def ticket(self, report_nid: int) -> JsonObject:
        """One ticket; M_NOT_FOUND."""
        row = await self._row(report_nid)
        return _shown(row, (await self._names.names([row.reporter_nid]))[row.reporter_nid])

    async def change(self, report_nid: int, state: State, note: str | None) -> None:
        """Close a ticket, or open it again; M_NOT_FOUND."""
        row = await self._row(report_nid)
        note = row.note if note is None else _checked(note, "note")
        await self._commits.commit([Put(row._replace(state=state, note=note))])

    async def _row(self, report_nid: int) -> ReportRow:
        row = await store.report(self._database, report_nid)
        if row is None:
            raise MatrixError.not_found("There is no such report")
        return row

    async def _keep(
        self,
        session: Session,
        reason: str,
        room_id: str | None,
        event_id: str | None,
        user_id: str | None,
    ) -> None:
        row = ReportRow(
            report_nid=await self._numbers.take_soon("report"),
            reporter_nid=session.user_nid,
            room_id=room_id,
            event_id=event_id,
            user_id=user_id,
            reason=_checked(reason, "reason"),
            ts=self._clock.now_ms(),
            state="open",
            note="",
        )
        await self._commits.commit([Insert(row)])


def _checked(text: str, field: str) -> str:
    if len(text.encode()) > _MOST_BYTES:
        raise MatrixError.invalid_param(f"{field}: longer than {_MOST_BYTES} bytes")
    return text


def _shown(row: ReportRow, reporter: str) -> JsonObject:
    shown: JsonObject = {
        "id": row.report_nid,
        "user_id": reporter,
        "received_ts": row.ts,
        "reason": row.reason,
        "state": row.state,
        "note": row.note,
    }
    for key, value in (
        ("room_id", row.room_id),
        ("event_id", row.event_id),
        ("reported_user_id", row.user_id),
    ):
        if value is not None:
            shown[key] = value
    return shown

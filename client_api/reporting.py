"""Reporting events, rooms and users.

spec: client-server-api#reporting-content
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, EventID, RoomID, Shape, UserID


class EventReportBody(Shape):
    reason: str | None = None


class ReportBody(Shape):
    reason: str


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/report/{event_id}",
    spec="client-server-api#post_matrixclientv3roomsroomidreporteventid",
    auth=Client(),
)
async def report_event(
    call: Call, room_id: RoomID, event_id: EventID, body: EventReportBody
) -> Empty:
    """Report an event."""
    await call.app.chapters.reports.event(call.session, room_id, event_id, body.reason or "")
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/rooms/{room_id}/report",
    spec="client-server-api#post_matrixclientv3roomsroomidreport",
    auth=Client(),
)
async def report_room(call: Call, room_id: RoomID, body: ReportBody) -> Empty:
    """Report a room."""
    await call.app.chapters.reports.room(call.session, room_id, body.reason)
    return Empty()


@endpoint(
    "POST /_matrix/client/v3/users/{user_id}/report",
    spec="client-server-api#post_matrixclientv3usersuseridreport",
    auth=Client(),
)
async def report_user(call: Call, user_id: UserID, body: ReportBody) -> Empty:
    """Report a user."""
    await call.app.chapters.reports.user(call.session, user_id, body.reason)
    return Empty()

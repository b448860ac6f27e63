"""Tickets of what users have reported.

Not part of the specification.
"""

from typing import Annotated, Literal

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Empty, Natural, Reply, Shape
from homeserver.matrix.canonical import JsonObject

PageSize = Annotated[int, msgspec.Meta(ge=1, le=1_000)]


class ReportsQuery(Shape, rename={"before": "from"}):
    before: Natural | None = None
    limit: PageSize = 100
    state: Literal["open", "closed"] = "open"


class Reports(Reply):
    event_reports: list[JsonObject]
    next_token: int | None = None


class TicketBody(Shape):
    state: Literal["open", "closed"]
    note: str | None = None


@endpoint("GET /_synapse/admin/v1/event_reports", spec="", auth=Admin(), limit="none")
async def list_reports(call: Call, query: ReportsQuery) -> Reports:
    """Open or closed tickets, the latest first."""
    found = await call.app.chapters.reports.page(query.state, query.before, query.limit)
    return Reports(found, found[-1]["id"] if len(found) == query.limit else None)


@endpoint("GET /_synapse/admin/v1/event_reports/{report_id}", spec="", auth=Admin(), limit="none")
async def get_report(call: Call, report_id: str) -> JsonObject:
    """One ticket."""
    return await call.app.chapters.reports.ticket(_number(report_id))


@endpoint("PUT /_synapse/admin/v1/event_reports/{report_id}", spec="", auth=Admin(), limit="none")
async def put_report(call: Call, report_id: str, body: TicketBody) -> Empty:
    """Close a ticket, or open it again."""
    await call.app.chapters.reports.change(_number(report_id), body.state, body.note)
    return Empty()


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MatrixError.not_found("There is no such report")
    return int(text)

"""Pushers, for administrators and the command line.

Not part of the specification, nor of what tools of the field use: paths and fields are ours.
"""

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Natural, Shape, UserID
from homeserver.matrix.canonical import JsonObject


class After(Shape):
    """The key of the last pusher of the page before."""

    user: Natural = 0
    app_id: str = ""
    pushkey: str = ""


class Listed(Shape):
    pushers: list[JsonObject]
    next: JsonObject | None = None


@endpoint("GET /_homeserver/admin/v1/push", spec="", auth=Admin(), limit="none")
async def list_pushers(call: Call, query: After) -> Listed:
    """The pushers of all users; `next` is the query of the page behind this one."""
    found, last = await call.app.push.desk.page((query.user, query.app_id, query.pushkey))
    if last is None:
        return Listed(found)
    return Listed(found, dict(zip(("user", "app_id", "pushkey"), last, strict=True)))


@endpoint("GET /_homeserver/admin/v1/push/{user_id}", spec="", auth=Admin(), limit="none")
async def list_pushers_of(call: Call, user_id: UserID) -> Listed:
    """The pushers of a user."""
    row = await call.app.user_list.row(user_id)
    return Listed(await call.app.push.desk.of(row.user_nid))


class TestBody(Shape):
    pushkey: str | None = None


class Tested(Shape):
    results: list[JsonObject]


@endpoint("POST /_homeserver/admin/v1/push/{user_id}/test", spec="", auth=Admin(), limit="none")
async def test_pushers(call: Call, user_id: UserID, body: TestBody) -> Tested:
    """Send a test to the pushers of a user, or to that of one key."""
    row = await call.app.user_list.row(user_id)
    return Tested(await call.app.push.desk.test(row.user_nid, user_id, body.pushkey))

"""Pushers.

spec: client-server-api#push-notifications
"""

from html import escape

from client_api.pages import page
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.shape import Empty, Html, Raw, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.push.mailing import PATH


@endpoint(
    "GET /_matrix/client/v3/pushers",
    spec="client-server-api#get_matrixclientv3pushers",
    auth=Client(),
)
async def get_pushers(call: Call) -> JsonObject:
    """The user's pushers."""
    return {"pushers": await call.app.push.pushers.of(call.session.user_nid)}


@endpoint(
    "POST /_matrix/client/v3/pushers/set",
    spec="client-server-api#post_matrixclientv3pushersset",
    auth=Client(),
)
async def set_pusher(call: Call, body: JsonObject) -> Empty | Raw:
    """Set or remove a pusher; 201 when it is set, but to be activated first (MSC4174)."""
    if await call.app.push.pushers.set(call.session, body):
        return Raw.json({}, 201)
    return Empty()


class AckBody(Shape):
    app_id: str
    ack_token: str


@endpoint(
    "POST /_matrix/client/v3/pushers/ack",
    spec="",
    auth=Client(),
    also=["/_matrix/client/unstable/org.matrix.msc4174/pushers/ack"],
)
async def acknowledge(call: Call, body: AckBody) -> Empty:
    """Activate a pusher by the token that it got (MSC4174)."""
    await call.app.push.pushers.acknowledge(call.session.user_nid, body.app_id, body.ack_token)
    return Empty()


class StopQuery(Shape):
    token: str


@endpoint(f"GET {PATH}", spec="", auth=NoAuth(), limit="login_address")
async def ask_to_stop(call: Call, query: StopQuery) -> Html:
    """The page behind the link in a mail about unread messages; ending them takes one more click.

    Programs that look at mail open links by themselves.
    """
    address = await call.app.push.mailing.stop(query.token, end=False)
    if address is None:
        return _stopped()
    return page(
        "Mails about unread messages",
        f"<form method=post><p><button>Send no more of them to {escape(address)}</button></form>",
    )


@endpoint(f"POST {PATH}", spec="", auth=NoAuth(), limit="login_address")
async def stop(call: Call, query: StopQuery) -> Html:
    """End the mails, by the click on the page or by that of a mail program (RFC 8058)."""
    await call.app.push.mailing.stop(query.token, end=True)
    return _stopped()


def _stopped() -> Html:
    return page("Done", "<p>You get no more mails about unread messages by this link.</p>")

"""The push gateway that this server is, for UnifiedPush.

spec: push-gateway-api#homeserver-behaviour
"""

from homeserver.http.endpoint import Call, NoAuth, endpoint
from homeserver.http.shape import Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.push.gateway import PATH


@endpoint(f"GET {PATH}", spec="", auth=NoAuth())
async def discover(call: Call) -> JsonObject:
    """That there is a gateway here; apps ask at the host of their endpoint (UnifiedPush)."""
    call.app.push.own_gateway.check_enabled()
    return {"unifiedpush": {"gateway": "matrix"}}


class NotifyBody(Shape):
    notification: JsonObject


class Notified(Shape):
    rejected: list[str]


@endpoint(f"POST {PATH}", spec="push-gateway-api#post_matrixpushv1notify", auth=NoAuth())
async def notify(call: Call, body: NotifyBody) -> Notified:
    """Tell endpoints that users of this server have set with this gateway."""
    return Notified(await call.app.push.own_gateway.notify(body.notification))

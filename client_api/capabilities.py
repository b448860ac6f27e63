"""What a client may count on.

spec: client-server-api#capabilities-negotiation
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.versions import ROOM_VERSIONS


@endpoint(
    "GET /_matrix/client/v3/capabilities",
    spec="client-server-api#get_matrixclientv3capabilities",
    auth=Client(),
)
async def get_capabilities(call: Call) -> JsonObject:
    """The capabilities of the server."""
    vapid = call.app.push.vapid
    web_push = {"enabled": True, "vapid": vapid.public_key} if vapid else {"enabled": False}
    return {
        "capabilities": {
            "m.change_password": {"enabled": True},
            "m.forget_forced_upon_leave": {"enabled": call.app.config.rooms.forget_on_leave},
            "m.room_versions": {
                "default": call.app.config.rooms.default_version,
                "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
            },
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": True},
            "m.profile_fields": {"enabled": True},
            "m.3pid_changes": {"enabled": call.app.validations.possible},
            "m.get_login_token": {"enabled": call.app.config.sessions.login_tokens},
            "org.matrix.msc4174.webpush": web_push,
        }
    }

"""What must be done after an older copy of the database was put back.

Not part of the specification.
"""

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Empty


@endpoint("POST /_homeserver/admin/v1/restored", spec="", auth=Admin(), limit="none")
async def restored(call: Call) -> Empty:
    """Drop all one-time keys, which the time that was lost may have given out.

    Other servers fetch the devices of a user anew when these change again.
    """
    await call.app.encryption.keys.restored()
    return Empty()

"""Accounts, for administrators and the command line.

Not part of the specification: the paths and fields are those that administration tools of the field
use. Unknown query parameters are passed over.
"""

from typing import Annotated

import msgspec

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Empty, Natural, Raw, Reply, Shape, UserID
from homeserver.matrix.canonical import JsonObject
from homeserver.users.user_changes import Changed
from homeserver.users.user_list import Wanted

PageSize = Annotated[int, msgspec.Meta(ge=1, le=1_000)]


class ListQuery(Shape, rename={"first": "from"}):
    first: Natural = 0
    limit: PageSize = 100
    name: str = ""
    user_id: str = ""
    guests: bool | None = None
    admins: bool | None = None
    deactivated: bool | None = None
    locked: bool | None = None
    suspended: bool | None = None


class Users(Reply):
    users: list[JsonObject]
    total: int
    next_token: str | None = None


@endpoint(
    "GET /_synapse/admin/v2/users",
    spec="",
    auth=Admin(),
    also=["/_synapse/admin/v3/users"],
    limit="none",
)
async def list_users(call: Call, query: ListQuery) -> Users:
    """The accounts of this server, in the order of their names."""
    wanted = Wanted(
        name=query.name or query.user_id.removeprefix("@").partition(":")[0],
        admins=query.admins,
        # Excluded unless they are asked for, except that tools ask with `true` for "these as well".
        guests=False if query.guests is False else None,
        deactivated=query.deactivated,
        locked=query.locked,
        suspended=query.suspended,
    )
    users, total = await call.app.user_list.page(wanted, query.first, query.limit)
    end = query.first + len(users)
    return Users(users, total, str(end) if end < total else None)


@endpoint("GET /_synapse/admin/v2/users/{user_id}", spec="", auth=Admin(), limit="none")
async def show_user(call: Call, user_id: UserID) -> JsonObject:
    """One account."""
    return await call.app.user_list.get(user_id)


class UserBody(Shape):
    password: str | None = None
    logout_devices: bool = True
    displayname: str | None = None
    avatar_url: str | None = None
    admin: bool | None = None
    deactivated: bool | None = None


@endpoint("PUT /_synapse/admin/v2/users/{user_id}", spec="", auth=Admin(), limit="none")
async def put_user(call: Call, user_id: UserID, body: UserBody) -> Raw:
    """Make an account or change it."""
    changed = Changed(
        password=body.password,
        log_out=body.logout_devices,
        displayname=body.displayname,
        avatar_url=body.avatar_url,
        admin=body.admin,
        deactivated=body.deactivated,
    )
    made = await call.app.user_changes.put(user_id, changed)
    return Raw.json(await call.app.user_list.get(user_id), 201 if made else 200)


class PasswordBody(Shape):
    new_password: str
    logout_devices: bool = True


@endpoint("POST /_synapse/admin/v1/reset_password/{user_id}", spec="", auth=Admin(), limit="none")
async def reset_password(call: Call, user_id: UserID, body: PasswordBody) -> Empty:
    """Give an account another password."""
    await call.app.user_changes.set_password(
        user_id, body.new_password, log_out=body.logout_devices
    )
    return Empty()


class DeactivateBody(Shape):
    erase: bool = False


@endpoint("POST /_synapse/admin/v1/deactivate/{user_id}", spec="", auth=Admin(), limit="none")
async def deactivate(
    call: Call, user_id: UserID, body: DeactivateBody = DeactivateBody()
) -> JsonObject:
    """Close an account for ever."""
    await call.app.user_changes.deactivate(user_id, erase=body.erase)
    return {"id_server_unbind_result": "success"}


@endpoint("GET /_synapse/admin/v2/users/{user_id}/devices", spec="", auth=Admin(), limit="none")
async def list_devices(call: Call, user_id: UserID) -> JsonObject:
    """The devices of an account."""
    devices = [
        {
            "device_id": device.device_id,
            "display_name": device.display_name,
            "last_seen_ip": device.last_seen_ip,
            "last_seen_ts": device.last_seen_ts,
            "user_id": user_id,
        }
        for device in await call.app.user_list.devices(user_id)
    ]
    return {"devices": devices, "total": len(devices)}


class DevicesBody(Shape):
    devices: list[str]


@endpoint(
    "POST /_synapse/admin/v2/users/{user_id}/delete_devices", spec="", auth=Admin(), limit="none"
)
async def delete_devices(call: Call, user_id: UserID, body: DevicesBody) -> Empty:
    """Log devices of an account out."""
    await call.app.user_changes.remove_devices(user_id, body.devices)
    return Empty()


@endpoint(
    "DELETE /_synapse/admin/v2/users/{user_id}/devices/{device_id}",
    spec="",
    auth=Admin(),
    limit="none",
)
async def delete_device(call: Call, user_id: UserID, device_id: str) -> Empty:
    """Log one device of an account out."""
    await call.app.user_changes.remove_devices(user_id, [device_id])
    return Empty()

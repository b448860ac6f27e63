"""The user's devices.

spec: client-server-api#device-management
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Raw, Reply, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users import devices


class Device(Reply):
    device_id: str
    display_name: str | None = None
    last_seen_ip: str | None = None
    last_seen_ts: int | None = None


class DeviceList(Shape):
    devices: list[Device]


def _shown(device: devices.Device) -> Device:
    return Device(device.device_id, device.display_name, device.last_seen_ip, device.last_seen_ts)


@endpoint(
    "GET /_matrix/client/v3/devices",
    spec="client-server-api#get_matrixclientv3devices",
    auth=Client(guests=True),
)
async def get_devices(call: Call) -> DeviceList:
    """All devices of the user."""
    found = await call.app.devices.of(call.session.user_nid)
    return DeviceList([_shown(device) for device in found])


@endpoint(
    "GET /_matrix/client/v3/devices/{device_id}",
    spec="client-server-api#get_matrixclientv3devicesdeviceid",
    auth=Client(guests=True),
)
async def get_device(call: Call, device_id: str) -> Device:
    """One device of the user."""
    return _shown(await call.app.devices.get(call.session.user_nid, device_id))


class DeviceBody(Shape):
    display_name: str | None = None


@endpoint(
    "PUT /_matrix/client/v3/devices/{device_id}",
    spec="client-server-api#put_matrixclientv3devicesdeviceid",
    auth=Client(guests=True),
)
async def put_device(call: Call, device_id: str, body: DeviceBody = DeviceBody()) -> Raw:
    """Give a device another name; application services make new ones, too."""
    made = await call.app.devices.put(call.session, device_id, body.display_name)
    return Raw(b"{}", status=201 if made else 200)


class AuthBody(Shape):
    auth: JsonObject | None = None


@endpoint(
    "DELETE /_matrix/client/v3/devices/{device_id}",
    spec="client-server-api#delete_matrixclientv3devicesdeviceid",
    auth=Client(),
)
async def delete_device(call: Call, device_id: str, body: AuthBody = AuthBody()) -> Empty:
    """Remove a device, after the password was given."""
    await call.app.devices.remove(call.session, [device_id], body.auth)
    return Empty()


class DevicesBody(Shape):
    devices: list[str]
    auth: JsonObject | None = None


@endpoint(
    "POST /_matrix/client/v3/delete_devices",
    spec="client-server-api#post_matrixclientv3delete_devices",
    auth=Client(),
)
async def delete_devices(call: Call, body: DevicesBody) -> Empty:
    """Remove several devices, after the password was given."""
    await call.app.devices.remove(call.session, body.devices, body.auth)
    return Empty()

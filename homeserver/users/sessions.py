"""Who is making a request.

Owns `Session`, what an access token stands for. It is a plain value: reading and ending sessions
belongs to the account services.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Session:
    """An authenticated user and device.

    `device_id` and `device_nid` are None for tokens without a device (application services).
    spec: client-server-api#relationship-between-access-tokens-and-devices
    """

    user_id: str
    user_nid: int
    device_id: str | None
    device_nid: int | None
    is_admin: bool
    is_guest: bool
    token_hash: bytes

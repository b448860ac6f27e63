"""A room's server access control list: which servers may take part.

Owns the one reading of `m.room.server_acl` for all that servers can do with a room. Names are
compared without port and in lower case, so that neither evades the list.
spec: client-server-api#server-access-control-lists-acls-for-rooms
"""

import ipaddress
import re
from functools import lru_cache

from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.head import Head

_TYPE = "m.room.server_acl"


def allowed(server: str, head: Head) -> bool:
    """Whether the server may take part in the room. Raises what `Head.event` raises."""
    event = head.event(_TYPE)
    return event is None or admits(event.content, server)


def admits(content: JsonObject, server: str) -> bool:
    """Whether an ACL of this content lets the server in."""
    name = _host(server).lower()
    if content.get("allow_ip_literals") is False and _is_ip(name):
        return False
    if any(_glob(entry).fullmatch(name) for entry in _texts(content.get("deny"))):
        return False
    return any(_glob(entry).fullmatch(name) for entry in _texts(content.get("allow")))


def _texts(entries: object) -> list[str]:
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, str)]


def _host(server: str) -> str:
    return re.sub(r":[0-9]{1,5}$", "", server) if not server.endswith("]") else server


def _is_ip(host: str) -> bool:
    if host.startswith("["):
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4_096)
def _glob(pattern: str) -> re.Pattern[str]:
    """`*` is any text, `?` any character; runs of `*` are one, so that matching stays linear."""
    parts = re.split(r"(\*+|\?)", pattern.lower())
    return re.compile(
        "".join(
            ".*" if part.startswith("*") else "." if part == "?" else re.escape(part)
            for part in parts
        ),
        re.DOTALL,
    )

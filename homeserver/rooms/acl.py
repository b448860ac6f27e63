"""A room's server access control list: which servers may take part.

Owns the one reading of `m.room.server_acl` for all that servers can do with a room. Names are
compared without port and in lower case, so that neither evades the list. A list may be as long as
an event and made to be expensive: its entries are matched in linear time, and what came of it is
remembered for each server while the list stands.
spec: client-server-api#server-access-control-lists-acls-for-rooms
"""

import ipaddress
import re
from collections import OrderedDict

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.pushmatch import matches_glob
from homeserver.rooms.head import Head

_TYPE = "m.room.server_acl"
MAX_LISTS = 500
"""Lists of which it is remembered what came of them; one may be as long as an event."""
MAX_SERVERS = 10_000

_remembered: OrderedDict[str, tuple[JsonObject, dict[str, bool]]] = OrderedDict()


def allowed(server: str, head: Head) -> bool:
    """Whether the server may take part in the room. Raises what `Head.event` raises."""
    event = head.event(_TYPE)
    if event is None:
        return True
    known = _remembered.get(event.event_id)
    # A redacted list has another content.
    if known is None or known[0] is not event.content or len(known[1]) >= MAX_SERVERS:
        known = _remembered[event.event_id] = (event.content, {})
        if len(_remembered) > MAX_LISTS:
            _remembered.popitem(last=False)
    admitted = known[1].get(server)
    if admitted is None:
        admitted = known[1][server] = admits(event.content, server)
    return admitted


def admits(content: JsonObject, server: str) -> bool:
    """Whether an ACL of this content lets the server in."""
    name = _host(server).lower()
    if content.get("allow_ip_literals") is False and _is_ip(name):
        return False
    if any(_fits(entry, name) for entry in _texts(content.get("deny"))):
        return False
    return any(_fits(entry, name) for entry in _texts(content.get("allow")))


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


def _fits(entry: str, name: str) -> bool:
    """Whether a name (in lower case) is what the entry says; `*` is any text, `?` any character."""
    if "?" in entry:
        fits = len(entry) - entry.count("*") <= len(name)
        return fits and ("*" in entry or len(entry) == len(name)) and matches_glob(entry, name)
    first, *rest = entry.lower().split("*")
    if not rest:
        return name == first
    last = rest.pop()
    if not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in rest:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return at <= end

"""The grammar of identifiers: users, rooms, events, aliases, servers, devices.

Owns what counts as a well-formed identifier; lengths are in bytes of UTF-8. Predicates answer for
any string and never raise. Whether the thing exists is not asked here, and what a room version
demands of its event and room ids stands in `event.py`.
spec: appendices#identifier-grammar
"""

import ipaddress
import re
from functools import lru_cache

from homeserver.matrix.errors import Malformed

MAX_ID_BYTES = 255

_NEW_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")
_SERVER_NAME = re.compile(
    r"(?:([0-9]{1,3}(?:\.[0-9]{1,3}){3})|\[([0-9A-Fa-f:.]{2,45})\]|[0-9A-Za-z.-]{1,255})"
    r"(?::[0-9]{1,5})?"
)
_HASH_ID = re.compile(r"[!$][A-Za-z0-9_-]{43}")


def split_user_id(user_id: str) -> tuple[str, str]:
    """The localpart and the server of a user id; `Malformed` when it is none.

    spec: appendices#user-identifiers
    """
    if not is_user_id(user_id):
        raise Malformed(f"{user_id!r} is not a user id")
    localpart, _, server = user_id[1:].partition(":")
    return localpart, server


def server_of(identifier: str) -> str:
    """The server name after an identifier's first colon; `Malformed` when there is no colon.

    The identifier is trusted to be well-formed otherwise.
    """
    _, colon, server = identifier.partition(":")
    if not colon:
        raise Malformed(f"{identifier!r} names no server")
    return server


def is_server_name(name: str) -> bool:
    """Whether `name` is a host name, IPv4 or bracketed IPv6 address, with or without a port.

    spec: appendices#server-name
    """
    match = _SERVER_NAME.fullmatch(name)
    if match is None:
        return False
    ipv4, ipv6 = match.groups()
    if ipv4 is not None:
        return _is_ipv4(ipv4)
    return ipv6 is None or _is_ipv6(ipv6)


# Ids name the same servers again and again; these names are short, as the ids fit.
_is_server_name = lru_cache(maxsize=1_024)(is_server_name)


def is_user_id(user_id: str, historical: bool = True) -> bool:
    """Whether this is a user id; with `historical`, any localpart without colon and NUL will do.

    spec: appendices#historical-user-ids
    """
    localpart = _localpart(user_id, "@")
    if localpart is None:
        return False
    return historical or is_new_localpart(localpart)


def is_new_localpart(localpart: str) -> bool:
    """Whether a user may be registered under this localpart (its length with a server apart)."""
    return _NEW_LOCALPART.fullmatch(localpart) is not None


def is_room_id(room_id: str) -> bool:
    """Whether this is a room id of any room version, with or without a domain.

    spec: appendices#room-ids
    """
    if ":" in room_id:
        return bool(_localpart(room_id, "!"))
    return _is_opaque_id(room_id, "!")


def is_hash_room_id(room_id: str) -> bool:
    """Whether this is a room id made of the hash of a create event (room version 12 on)."""
    return room_id.startswith("!") and _HASH_ID.fullmatch(room_id) is not None


def is_domain_id(identifier: str, sigil: str) -> bool:
    """Whether this is `sigil`, a localpart that is not empty, a colon and a server name."""
    return bool(_localpart(identifier, sigil))


def is_event_id(event_id: str) -> bool:
    """Whether this is an event id of any room version: opaque after the sigil.

    spec: appendices#event-ids
    """
    return _is_opaque_id(event_id, "$")


def is_room_alias(alias: str) -> bool:
    """Whether this is a room alias.

    spec: appendices#room-aliases
    """
    return bool(_localpart(alias, "#"))


def is_device_id(device_id: str) -> bool:
    """Whether this can name a device: opaque, of 1 to 255 bytes, without NUL."""
    return bool(device_id) and _fits(device_id)


def fits(text: str, limit: int = MAX_ID_BYTES) -> bool:
    """Whether `text` has at most `limit` bytes in UTF-8; a lone surrogate never fits."""
    if text.isascii():
        return len(text) <= limit
    try:
        return len(text.encode()) <= limit
    except UnicodeEncodeError:
        return False


def _fits(text: str) -> bool:
    return "\0" not in text and fits(text)


def _is_opaque_id(identifier: str, sigil: str) -> bool:
    return len(identifier) > 1 and identifier[0] == sigil and _fits(identifier)


def _localpart(identifier: str, sigil: str) -> str | None:
    """The text between sigil and colon, None unless a server name follows and the length fits."""
    head, colon, server = identifier.partition(":")
    if not colon or not head.startswith(sigil):
        return None
    if not _fits(identifier) or not _is_server_name(server):
        return None
    return head[1:]


def _is_ipv4(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True

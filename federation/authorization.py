"""The `Authorization` header of servers: made for what we ask, read from what others ask.

Owns the scheme X-Matrix: its grammar, with the leniency towards older servers, and the object that
is signed. It fetches no keys and judges no request.
spec: server-server-api#request-authentication
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from homeserver.matrix.canonical import JsonObject, encode, encode_unpadded
from homeserver.matrix.errors import Malformed
from homeserver.matrix.ids import is_server_name
from homeserver.matrix.sign import SigningKey, signed_bytes

MAX_HEADERS = 8
MAX_PARAMETERS = 32

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Values without quotes: a token, with the colons and base64 characters that older servers send.
_PARAMETER = re.compile(
    rf'[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))[ \t]*(?:,|$)'
)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Authorization:
    """What one header says; `destination` is None where an older server leaves it out."""

    origin: str
    destination: str | None
    key_id: str
    signature: str

    @classmethod
    def parse(cls, header: str) -> "Authorization":
        """Read a header; raises Malformed with a sentence."""
        scheme, _, rest = header.strip().partition(" ")
        if scheme.lower() != "x-matrix":
            raise Malformed("The Authorization header is not of the scheme X-Matrix")
        found = _parameters(rest.strip(" \t"))
        missing = [name for name in ("origin", "key", "sig") if name not in found]
        if missing:
            raise Malformed(f"The Authorization header lacks {missing[0]}")
        if not is_server_name(found["origin"]):
            raise Malformed("The origin in the Authorization header is no server name")
        return cls(found["origin"], found.get("destination"), found["key"], found["sig"])

    def __str__(self) -> str:
        """The header; all values are free of quotes and backslashes by their own grammars."""
        destination = f'destination="{self.destination}",' if self.destination is not None else ""
        return (
            f'X-Matrix origin="{self.origin}",{destination}key="{self.key_id}",'
            f'sig="{self.signature}"'
        )


def authorise(
    method: str, target: str, origin: str, destination: str, content: Any, key: SigningKey
) -> Authorization:
    """The header for a request; `content` is the body's JSON, None without a body."""
    message = signed_bytes(signed_object(method, target, origin, destination, content))
    return Authorization(origin, destination, key.key_id, encode_unpadded(key.sign(message)))


def authorise_json(
    method: str, target: str, origin: str, destination: str, content: bytes, key: SigningKey
) -> Authorization:
    """`authorise` for a body that is canonical JSON already."""
    rest = encode(signed_object(method, target, origin, destination, None))
    # The keys of the whole are in order: "content" comes first.
    message = b'{"content":' + content + b"," + rest[1:]
    return Authorization(origin, destination, key.key_id, encode_unpadded(key.sign(message)))


def signed_object(
    method: str, target: str, origin: str, destination: str | None, content: Any
) -> JsonObject:
    """What the signature of a request is made over; `target` is path and query as sent."""
    signed: JsonObject = {"method": method, "uri": target, "origin": origin}
    if destination is not None:
        signed["destination"] = destination
    if content is not None:
        signed["content"] = content
    return signed


def signatures_of(authorizations: Iterable[Authorization]) -> dict[str, str]:
    """The signatures by key id of headers that agree on everything else.

    Raises Malformed when they don't, or one key signs twice.
    """
    found: dict[str, str] = {}
    first = None
    for one in authorizations:
        first = first or one
        if (one.origin, one.destination) != (first.origin, first.destination):
            raise Malformed("The Authorization headers name different servers")
        if one.key_id in found:
            raise Malformed("Two Authorization headers name the same key")
        found[one.key_id] = one.signature
    return found


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    place = 0
    while place < len(text):
        match = _PARAMETER.match(text, place)
        if match is None or len(found) >= MAX_PARAMETERS:
            raise Malformed("The Authorization header can't be read")
        place = match.end()
        name, quoted, bare = match.groups()
        if name.lower() in found:
            raise Malformed(f"The Authorization header has {name.lower()} twice")
        found[name.lower()] = _ESCAPED.sub(r"\1", quoted) if quoted is not None else bare
    return found

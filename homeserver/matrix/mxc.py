"""Names of media: `mxc://server/id`.

Owns their grammar, and finding them in what an event says. Invariant: what is accepted here can
never lead out of a folder or into a header. spec: client-server-api#matrix-content-mxc-uris
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from homeserver.matrix.ids import is_server_name

SCHEME = "mxc://"
MAX_FOUND = 50
"""URIs of one event that count."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
_ANYWHERE = re.compile(r"mxc://([A-Za-z0-9.:\[\]-]{1,255})/([A-Za-z0-9_-]{1,255})")


class Mxc(NamedTuple):
    """One name of media."""

    server: str
    media_id: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.server}/{self.media_id}"


def is_media_id(text: str) -> bool:
    """Whether this can be the second part of an mxc:// URI."""
    return _ID.fullmatch(text) is not None


def parse(uri: object) -> Mxc | None:
    """The name that an mxc:// URI gives; None for everything else."""
    if not isinstance(uri, str) or not uri.startswith(SCHEME):
        return None
    server, _, media_id = uri.removeprefix(SCHEME).partition("/")
    return Mxc(server, media_id) if is_server_name(server) and is_media_id(media_id) else None


def named_in(content: Any) -> list[Mxc]:
    """The media that JSON names anywhere, in its texts or within them, each once."""
    found: dict[Mxc, None] = {}
    for text in _texts(content):
        for match in _ANYWHERE.finditer(text):
            if is_server_name(match[1]):
                found[Mxc(match[1], match[2])] = None
                if len(found) == MAX_FOUND:
                    return list(found)
    return list(found)


def _texts(content: Any) -> Iterator[str]:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if SCHEME in value:
                yield value
        elif isinstance(value, dict):
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list):
            waiting.extend(reversed(value))

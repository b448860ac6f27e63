"""Names of media: `mxc://server/id`.

Owns their grammar, and finding them in what an event or a profile says. Invariant: what is
accepted here can never lead out of a folder or into a header.
spec: client-server-api#matrix-content-mxc-uris
"""

import re
from typing import NamedTuple

from homeserver.matrix.ids import is_server_name

SCHEME = "mxc://"

_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
_ANYWHERE = re.compile(rb"mxc://([A-Za-z0-9.:\[\]-]{1,255})/([A-Za-z0-9_-]{1,255})")


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


def named_in(json: bytes) -> set[Mxc]:
    """The media that canonical JSON names anywhere, in its texts or within them."""
    if b"mxc://" not in json:
        return set()
    found = {Mxc(one[1].decode(), one[2].decode()) for one in _ANYWHERE.finditer(json)}
    return {name for name in found if is_server_name(name.server)}

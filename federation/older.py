"""What older servers understand of the handshakes that have a second version by now.

Owns when the first version is tried, and its answers, which stand in a list behind their status:
`[200, {...}]`. The requests themselves are made where they belong.
spec: server-server-api#put_matrixfederationv2inviteroomideventid
"""

import re
from collections.abc import AsyncIterator

from homeserver.errors import RemoteError
from homeserver.matrix.errors import Malformed

VERSIONS = ("federation/v2", "federation/v1")
_BEGIN = re.compile(rb"\s*\[\s*200\s*,")
_MAX_BEGIN = 64


def knows_not(error: RemoteError) -> bool:
    """Whether a server has said that it doesn't have the endpoint; not what it thinks of the room.

    spec: server-server-api#unsupported-endpoints
    """
    return error.status in (400, 404, 405) and error.errcode in ("M_UNRECOGNIZED", "")


async def out_of_list(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The object of an answer `[200, {...}]` as it comes. Raises Malformed when it stands in none.

    Invariant: what is held back is the beginning, some bytes, and the last byte that is no space.
    """
    begun, held = False, b""
    async for chunk in chunks:
        held += chunk
        if not begun:
            match = _BEGIN.match(held)
            if match is None:
                if len(held) > _MAX_BEGIN:
                    break
                continue
            begun, held = True, held[match.end() :]
        end = max(len(held.rstrip()) - 1, 0)
        yield held[:end]
        held = held[end:]
    if not begun or held.strip() != b"]":
        raise Malformed("The answer does not stand in a list")

"""Files of ours, for other servers: multipart/mixed, of an empty object and the file.

spec: server-server-api#content-repository
"""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from homeserver.http.endpoint import Call, Server, endpoint
from homeserver.http.files import disposition
from homeserver.http.shape import Natural, Shape, Streamed
from homeserver.matrix.mxc import Mxc
from homeserver.media.downloads import Content, Wanted
from homeserver.media.files import Files
from homeserver.media.thumbnails import Box


class DownloadQuery(Shape):
    timeout_ms: Natural = 20_000


class ThumbnailQuery(Shape):
    width: Natural
    height: Natural
    method: Literal["crop", "scale"] = "scale"
    timeout_ms: Natural = 20_000
    animated: bool = False


@endpoint(
    "GET /_matrix/federation/v1/media/download/{media_id}",
    spec="server-server-api#get_matrixfederationv1mediadownloadmediaid",
    auth=Server(),
)
async def download(call: Call, media_id: str, query: DownloadQuery) -> Streamed:
    """A file that one of our users has uploaded."""
    content = await call.app.media.downloads.find(_ours(call, media_id, query.timeout_ms))
    return _parts(call.app.media.files, content)


@endpoint(
    "GET /_matrix/federation/v1/media/thumbnail/{media_id}",
    spec="server-server-api#get_matrixfederationv1mediathumbnailmediaid",
    auth=Server(),
)
async def thumbnail(call: Call, media_id: str, query: ThumbnailQuery) -> Streamed:
    """A smaller form of a picture of ours."""
    media = call.app.media
    content = await media.downloads.find(_ours(call, media_id, query.timeout_ms))
    box = Box(query.width, query.height, query.method == "crop", query.animated)
    return _parts(media.files, await media.thumbnails.of(content, box))


def _ours(call: Call, media_id: str, wait_ms: int) -> Wanted:
    return Wanted(Mxc(call.app.config.server.name, media_id), wait_ms, remote=False)


def _parts(files: Files, content: Content) -> Streamed:
    boundary = secrets.token_hex(16)
    shown = disposition(content.content_type, content.filename)
    before = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n"
        f"--{boundary}\r\nContent-Type: {content.content_type}\r\n"
        f"Content-Disposition: {shown}\r\n\r\n"
    ).encode()
    after = f"\r\n--{boundary}--\r\n".encode()

    async def chunks() -> AsyncGenerator[bytes, None]:
        async with aclosing(files.read(content.digest, 0, content.size)) as pieces:
            waiting = before
            async for piece in pieces:
                yield waiting + piece
                waiting = b""
        yield waiting + after

    return Streamed(
        chunks(),
        # Synapse takes all that stands behind the sign for the boundary: no quotes.
        f"multipart/mixed; boundary={boundary}",
        length=len(before) + content.size + len(after),
    )

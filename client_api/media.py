"""Uploads, downloads and thumbnails.

spec: client-server-api#content-repository
"""

from typing import Literal

from homeserver.http.bodies import Incoming
from homeserver.http.endpoint import Call, Client, NoAuth, endpoint
from homeserver.http.files import File, file_headers, file_reply
from homeserver.http.shape import Empty, Natural, Raw, Shape, Streamed
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.mxc import Mxc
from homeserver.media.downloads import Content, Wanted
from homeserver.media.thumbnails import Box


class UploadQuery(Shape):
    filename: str | None = None


class Uploaded(Shape):
    content_uri: str


class Created(Shape):
    content_uri: str
    unused_expires_at: int


class DownloadQuery(Shape):
    timeout_ms: Natural = 20_000
    allow_remote: bool = True
    allow_redirect: bool = False


class ThumbnailQuery(Shape):
    width: Natural
    height: Natural
    method: Literal["crop", "scale"] = "scale"
    timeout_ms: Natural = 20_000
    animated: bool = False
    allow_remote: bool = True
    allow_redirect: bool = False


@endpoint(
    "POST /_matrix/media/v3/upload",
    spec="client-server-api#post_matrixmediav3upload",
    auth=Client(suspended=False),
)
async def upload(call: Call, query: UploadQuery, body: Incoming) -> Uploaded:
    """Store a file."""
    session = call.session
    uri = await call.app.media.uploads.upload(
        session.user_nid, body, query.filename, by_service=session.service is not None
    )
    return Uploaded(uri)


@endpoint(
    "POST /_matrix/media/v1/create",
    spec="client-server-api#post_matrixmediav1create",
    auth=Client(suspended=False),
)
async def create(call: Call) -> Created:
    """Make an address for a file that is uploaded later."""
    session = call.session
    made = await call.app.media.uploads.create(
        session.user_nid, by_service=session.service is not None
    )
    return Created(made.uri, made.expires_ts)


@endpoint(
    "PUT /_matrix/media/v3/upload/{server_name}/{media_id}",
    spec="client-server-api#put_matrixmediav3uploadservernamemediaid",
    auth=Client(suspended=False),
)
async def fill(
    call: Call, server_name: str, media_id: str, query: UploadQuery, body: Incoming
) -> Empty:
    """Store the file of an address that was made before."""
    name = Mxc(server_name, media_id)
    await call.app.media.uploads.fill(call.session.user_nid, name, body, query.filename)
    return Empty()


@endpoint(
    "GET /_matrix/client/v1/media/config",
    spec="client-server-api#get_matrixclientv1mediaconfig",
    auth=Client(),
    also=["/_matrix/media/v3/config"],
)
async def get_config(call: Call) -> JsonObject:
    """How large an upload may be."""
    return {"m.upload.size": call.app.media.uploads.most}


@endpoint(
    "GET /_matrix/client/v1/media/download/{server_name}/{media_id}/{file_name}",
    spec="client-server-api#get_matrixclientv1mediadownloadservernamemediaidfilename",
    auth=Client(guests=True),
    also=["/_matrix/client/v1/media/download/{server_name}/{media_id}"],
)
async def download(
    call: Call, server_name: str, media_id: str, query: DownloadQuery, file_name: str = ""
) -> Streamed | Raw:
    """A file, under its own name or the one that is asked for."""
    name = Mxc(server_name, media_id)
    return await _download(call, Wanted(name, query.timeout_ms), file_name, redirect=True)


@endpoint(
    "GET /_matrix/media/v3/download/{server_name}/{media_id}/{file_name}",
    spec="client-server-api#get_matrixmediav3downloadservernamemediaidfilename",
    auth=NoAuth(),
    also=["/_matrix/media/v3/download/{server_name}/{media_id}"],
)
async def old_download(
    call: Call, server_name: str, media_id: str, query: DownloadQuery, file_name: str = ""
) -> Streamed | Raw:
    """A file that was there before downloads needed an access token."""
    wanted = Wanted(
        Mxc(server_name, media_id), query.timeout_ms, query.allow_remote, authenticated=False
    )
    return await _download(call, wanted, file_name, redirect=query.allow_redirect)


@endpoint(
    "GET /_matrix/client/v1/media/thumbnail/{server_name}/{media_id}",
    spec="client-server-api#get_matrixclientv1mediathumbnailservernamemediaid",
    auth=Client(guests=True),
)
async def thumbnail(
    call: Call, server_name: str, media_id: str, query: ThumbnailQuery
) -> Streamed | Raw:
    """A smaller form of a picture."""
    wanted = Wanted(Mxc(server_name, media_id), query.timeout_ms)
    return await _thumbnail(call, wanted, query, redirect=True)


@endpoint(
    "GET /_matrix/media/v3/thumbnail/{server_name}/{media_id}",
    spec="client-server-api#get_matrixmediav3thumbnailservernamemediaid",
    auth=NoAuth(),
)
async def old_thumbnail(
    call: Call, server_name: str, media_id: str, query: ThumbnailQuery
) -> Streamed | Raw:
    """A smaller form of a picture that was there before downloads needed an access token."""
    wanted = Wanted(
        Mxc(server_name, media_id), query.timeout_ms, query.allow_remote, authenticated=False
    )
    return await _thumbnail(call, wanted, query, redirect=query.allow_redirect)


async def _thumbnail(
    call: Call, wanted: Wanted, query: ThumbnailQuery, *, redirect: bool
) -> Streamed | Raw:
    media = call.app.media
    box = Box(query.width, query.height, query.method == "crop", query.animated)
    found = await media.thumbnails.of(await media.downloads.find(wanted), box)
    return await _file(call, found, "", redirect=redirect)


async def _download(
    call: Call, wanted: Wanted, file_name: str, *, redirect: bool
) -> Streamed | Raw:
    found = await call.app.media.downloads.find(wanted)
    return await _file(call, found, file_name, redirect=redirect)


async def _file(call: Call, found: Content, file_name: str, *, redirect: bool) -> Streamed | Raw:
    """The file; `redirect`: or where it is to be had, if it is kept elsewhere."""
    files, request = call.app.media.files, call.request.raw
    file = File(
        lambda start, stop: files.read(found.digest, start, stop),
        found.size,
        found.content_type,
        found.digest.hex(),
        file_name or found.filename,
    )
    # A link is for GET alone, and what a client has already needs none.
    if redirect and request.method == "GET" and request.header("if-none-match") is None:
        link = await files.link(found.digest, file_headers(file))
        if link is not None:
            return Raw(b"", 307, "", {"Location": link, "Cache-Control": "no-store"})
    return file_reply(request.header, file)

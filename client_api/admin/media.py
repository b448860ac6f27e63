"""Files, for administrators and the command line.

Not part of the specification, nor of what tools of the field use: paths and fields are ours.
"""

from typing import Annotated

import msgspec

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Empty, Natural, Shape
from homeserver.matrix.canonical import JsonObject


class Named(Shape):
    name: str


class Judged(Shape):
    name: str
    reason: str = ""


class Hash(Shape):
    """The hash of a content in hexadecimal; the name of one that is not here."""

    hash: str


class PurgeBody(Shape):
    before_ts: Natural


class Purged(Shape):
    deleted: int


Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class MoveBody(Shape):
    to: str
    after: Sha256 | None = None


class Moved(Shape):
    files: int
    bytes: int
    failed: list[str]
    after: str | None


class Overview(Shape):
    uploaded: JsonObject
    cached_bytes: int
    hidden: list[JsonObject]
    never_fetched: list[str]


class Faults(Shape):
    faults: list[JsonObject]


@endpoint("GET /_homeserver/admin/v1/media", spec="", auth=Admin(), limit="none")
async def overview(call: Call) -> Overview:
    """How much is kept, whose, and which contents are hidden or blocked."""
    media = call.app.media
    hidden: list[JsonObject] = [
        {"hash": row.hash.hex(), "blocked": bool(row.blocked), "reason": row.reason, "ts": row.ts}
        for row in media.files.judgements()
    ]
    uploaded = await media.quotas.overview()
    return Overview(uploaded, media.remote.kept, hidden, await media.moderation.shunned())


@endpoint("POST /_homeserver/admin/v1/media/quarantine", spec="", auth=Admin(), limit="none")
async def quarantine(call: Call, body: Judged) -> Hash:
    """Show a content to nobody, whatever its name, and keep it."""
    return Hash(await call.app.media.moderation.quarantine(body.name, body.reason))


@endpoint("POST /_homeserver/admin/v1/media/block", spec="", auth=Admin(), limit="none")
async def block(call: Call, body: Judged) -> Hash:
    """Delete a content under all its names, and don't take it again."""
    return Hash(await call.app.media.moderation.block(body.name, body.reason))


@endpoint("POST /_homeserver/admin/v1/media/release", spec="", auth=Admin(), limit="none")
async def release(call: Call, body: Named) -> Empty:
    """Take a quarantine or block back."""
    await call.app.media.moderation.release(body.name)
    return Empty()


@endpoint("POST /_homeserver/admin/v1/media/delete", spec="", auth=Admin(), limit="none")
async def delete(call: Call, body: Named) -> Empty:
    """Delete what a URI names."""
    await call.app.media.moderation.delete(body.name)
    return Empty()


@endpoint("POST /_homeserver/admin/v1/media/purge", spec="", auth=Admin(), limit="none")
async def purge(call: Call, body: PurgeBody) -> Purged:
    """Drop other servers' files that were not used for long."""
    return Purged(await call.app.media.moderation.purge(body.before_ts))


@endpoint("GET /_homeserver/admin/v1/media/faults", spec="", auth=Admin(), limit="none")
async def faults(call: Call) -> Faults:
    """Files that are missing, unknown, or named by nothing."""
    return Faults([fault._asdict() for fault in await call.app.media.moderation.faults()])


@endpoint("POST /_homeserver/admin/v1/media/move", spec="", auth=Admin(), limit="none")
async def move(call: Call, body: MoveBody) -> Moved:
    """Move some files to another place, and say where to go on."""
    return Moved(*await call.app.media.moving.step(body.to, body.after))

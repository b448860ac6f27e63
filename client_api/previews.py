"""Previews of web pages.

spec: client-server-api#content-repository
"""

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Shape
from homeserver.matrix.canonical import JsonObject


class PreviewQuery(Shape):
    url: str
    ts: int = 0


@endpoint(
    "GET /_matrix/client/v1/media/preview_url",
    spec="client-server-api#get_matrixclientv1mediapreview_url",
    auth=Client(),
    also=["/_matrix/media/v3/preview_url"],
)
async def preview_url(call: Call, query: PreviewQuery) -> JsonObject:
    """What a web page says of itself; `ts` changes nothing: the newest is shown."""
    return await call.app.media.previews.preview(query.url)

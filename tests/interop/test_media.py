"""Files and thumbnails between ours and Synapse, both ways."""

from io import BytesIO

import pytest
from PIL import Image

from tests.federation.servers import Peer
from tests.interop.test_memberships import both_roles, pair
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def upload(peer: Peer, person: Person, content: bytes) -> str:
    headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "image/png"}
    url = f"{peer.server.url}/_matrix/media/v3/upload?filename=picture.png"
    async with peer.http.post(url, data=content, headers=headers) as answer:
        return str((await answer.json())["content_uri"]).removeprefix("mxc://")


@both_roles
async def test_a_picture_of_one_is_seen_on_the_other(
    peers: dict[str, Peer], host: str, guest: str
) -> None:
    owner, reader = await pair(peers, host, guest)
    out = BytesIO()
    Image.radial_gradient("L").resize((700, 500)).save(out, "PNG")
    name = await upload(peers[host], owner, out.getvalue())
    got = await reader.raw("GET", f"/_matrix/client/v1/media/download/{name}")
    assert (got.status, got.body) == (200, out.getvalue())
    assert "picture.png" in got.headers["Content-Disposition"]
    query = {"width": 96, "height": 96, "method": "crop"}
    path = f"/_matrix/client/v1/media/thumbnail/{name}"
    small = await reader.raw("GET", path, query=query)
    assert Image.open(BytesIO(small.body)).size == (96, 96)
    missing = await reader.raw("GET", f"/_matrix/client/v1/media/download/{name[:-1]}")
    assert missing.status == 404

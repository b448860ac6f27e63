"""Uploads and downloads as a client makes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from tests.serving import Person, Running

V1 = "/_matrix/client/v1/media"
V3 = "/_matrix/media/v3"


@dataclass(frozen=True)
class Got:
    """An answer that is a file, or an error."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def upload(
    person: Person,
    content: bytes,
    content_type: str | None = "text/plain",
    filename: str | None = None,
) -> str:
    """Upload; the part of the URI behind mxc://."""
    got = await ask(
        person,
        "POST",
        f"{V3}/upload",
        data=BytesIO(content),
        headers={"Content-Type": content_type} if content_type else {},
        params={"filename": filename} if filename is not None else {},
    )
    assert got.status == 200, got.body
    uri = str(json.loads(got.body)["content_uri"])
    assert uri.startswith("mxc://")
    return uri.removeprefix("mxc://")


async def download(person: Person, name: str, **headers: str) -> Got:
    """Download by the authenticated API; `headers` with _ for -."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return await ask(person, "GET", f"{V1}/download/{name}", headers=named)


async def ask(person: Person, method: str, path: str, **options: Any) -> Got:
    """Any request with the person's token."""
    server = person.server
    assert isinstance(server, Running)
    headers = {"Authorization": f"Bearer {person.token}", **options.pop("headers", {})}
    async with server.http.request(
        method, server.url + path, headers=headers, skip_auto_headers=("Content-Type",), **options
    ) as answer:
        return Got(answer.status, answer.headers.copy(), await answer.read())

"""Files by the hash of their content, in a bucket of S3 or of what speaks as it does.

Owns the requests to the bucket and the links that let others read one file for a while. Invariants:
an object with a hash's name was received whole, with that SHA-256 (the store compares it); few
uploads run at once and each holds a few parts, so what is in memory is bounded. Which files there
should be is not known here. Only imported where a bucket is configured: it needs `obstore`.
https://docs.aws.amazon.com/AmazonS3/latest/API/
"""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from storage.blobs import PIECE, BlobMissing, Draft, PlaceFailed

UPLOADS = 4
PARTS = 2
"""Of one upload that are under way at once; each is in memory."""
PART_BYTES = 5 * 1_048_576
SECONDS = 30.0
"""How long the store may take to go on."""
UPLOAD_SECONDS = 1_800.0


@dataclass(frozen=True)
class Bucket:
    """Where the files are kept: `url` of the service, `prefix` of all names in the bucket.

    `link_url` is the address of the service for those who are given links, "" for no links.
    """

    url: str
    name: str
    region: str
    access_key: str
    secret_key: str
    prefix: str = ""
    link_url: str = ""


class S3:
    """A place where files are kept; see `storage.blobs.Blobs`."""

    remembers = False

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._uploads = asyncio.Semaphore(UPLOADS)
        self.objects = S3Store(
            bucket.name,
            prefix=bucket.prefix or None,
            endpoint=bucket.url,
            region=bucket.region,
            access_key_id=bucket.access_key,
            secret_access_key=bucket.secret_key,
            virtual_hosted_style_request=False,
            checksum_algorithm="sha256",
            client_options={
                "allow_http": bucket.url.startswith("http://"),
                "connect_timeout": timedelta(seconds=10),
                # Of a whole answer, however slowly its reader takes it.
                "timeout": timedelta(hours=6),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=SECONDS)},
        )

    async def put(self, draft: Draft) -> None:
        if draft.path is None:
            source = b"".join([piece async for piece in draft.chunks()])
        async with self._uploads, _failing(UPLOAD_SECONDS):
            await obstore.put_async(
                self.objects,
                _name(draft.digest),
                source if draft.path is None else draft.path,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS,
            )

    def settle(self, digest: bytes) -> None:
        return

    async def unsettled(self) -> list[bytes]:
        return []

    async def read(self, digest: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        if start >= stop:
            return
        async with _failing(SECONDS):
            try:
                found = await obstore.get_async(
                    self.objects, _name(digest), options={"range": (start, stop)}
                )
            except FileNotFoundError:
                raise BlobMissing(digest.hex()) from None
            pieces = found.stream(min_chunk_size=PIECE)
        while True:
            async with _failing(SECONDS):
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield bytes(piece)

    async def delete(self, digest: bytes) -> None:
        async with _failing(SECONDS):
            with suppress(FileNotFoundError):
                await obstore.delete_async(self.objects, _name(digest))

    async def has(self, digest: bytes) -> bool:
        async with _failing(SECONDS):
            try:
                await obstore.head_async(self.objects, _name(digest))
            except FileNotFoundError:
                return False
        return True

    async def sizes(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        pages = obstore.list(self.objects, chunk_size=1_000)
        while True:
            async with _failing(SECONDS):
                page = await anext(pages, None)
            if page is None:
                return found
            for one in page:
                with suppress(ValueError):
                    found[bytes.fromhex(one["path"].rpartition("/")[2])] = one["size"]

    async def url(self, digest: bytes, headers: dict[str, str], seconds: int) -> str | None:
        if not self._bucket.link_url:
            return None
        return signed_link(self._bucket, _name(digest), headers, seconds, datetime.now(UTC))

    async def close(self) -> None:
        return


def signed_link(
    bucket: Bucket, name: str, headers: dict[str, str], seconds: int, now: datetime
) -> str:
    """An address at which an object can be read for some time, with these headers in the answer.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    """
    base = urlsplit(bucket.link_url)
    day, time = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{day}/{bucket.region}/s3/aws4_request"
    asked = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{bucket.access_key}/{scope}",
        "X-Amz-Date": time,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
        **{f"response-{key.lower()}": value for key, value in headers.items()},
    }
    parts = (base.path.strip("/"), bucket.name, bucket.prefix.strip("/"), name)
    path = "/" + quote("/".join(part for part in parts if part), safe="/-_.~")
    query = "&".join(f"{key}={quote(asked[key], safe='-_.~')}" for key in sorted(asked))
    request = f"GET\n{path}\n{query}\nhost:{base.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    signed = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{bucket.secret_key}".encode()
    for part in (day, bucket.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, signed.encode(), "sha256").hex()
    return f"{base.scheme}://{base.netloc}{path}?{query}&X-Amz-Signature={signature}"


def _name(digest: bytes) -> str:
    name = digest.hex()
    return f"{name[:2]}/{name[2:4]}/{name}"


@asynccontextmanager
async def _failing(seconds: float) -> AsyncIterator[None]:
    """What the store refuses or doesn't do in time becomes `PlaceFailed`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except BaseError as error:
        raise PlaceFailed(str(error).partition("\n")[0]) from error
    except TimeoutError:
        raise PlaceFailed("the store of files does not go on") from None

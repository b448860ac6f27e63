"""Previews of web pages: what a page that a user has linked to says of itself.

Owns the fetching of pages, their pictures and oEmbed answers; what was found stays in the database
for an hour.
Invariants: every connection goes through the safe outbound client, also after a redirect; one look
at a page is under way at a time; the bytes, the seconds and the number of looks are bounded; why a
page could not be had is told to nobody, for it would map the network that this server stands in;
pictures count against the budget of what is only cached.
Pages are read in a process of their own (`page`).
spec: client-server-api#get_matrixclientv1mediapreview_url
"""

import asyncio
import base64
import logging
import sys
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from yarl import URL

from homeserver.errors import MatrixError
from homeserver.http.outbound import Outbound, OutboundFailed
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.matrix.mxc import Mxc
from homeserver.media import oembed
from homeserver.media.files import Files
from homeserver.media.page import MAX_TEXT, MAX_URL, Page
from homeserver.media.remote import Remote
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import media as store
from storage import previews as kept
from storage.changes import Put
from storage.engine import Database
from storage.schema import MediaRow, UrlPreviewRow

PAGE_BYTES = 1_048_576
"""Of a page so much is read: what it says of itself stands at its beginning."""
IMAGE_BYTES = 5 * 1_048_576
OEMBED_BYTES = 65_536
SECONDS = 20.0
REDIRECTS = 5
GOOD_MS = 3_600_000
FAILED_MS = 300_000
REMEMBERED = 10_000
"""Pages that are kept in mind, in the database; at times some more, by what comes in between."""
BETWEEN = 100
UNDER_WAY = 8
WAITING = 64

_WEB = frozenset({"http", "https"})
# Some sites describe their pages only to who says that it is a bot.
_USER_AGENT = "Mozilla/5.0 (compatible; Matrix homeserver; URL preview bot)"
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"ftypavif", 4, "image/avif"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Fetched:
    body: bytes
    content_type: str
    charset: str
    url: str
    whole: bool


class Previews:
    """The previews that local users ask for."""

    def __init__(
        self,
        server_name: str,
        files: Files,
        remote: Remote,
        database: Database,
        commits: CommitQueue,
        outbound: Outbound,
        clock: Clock,
        *,
        enabled: bool,
    ) -> None:
        self._server_name = server_name
        self._files = files
        self._remote = remote
        self._database = database
        self._commits = commits
        self._outbound = outbound
        self._clock = clock
        self._enabled = enabled
        self._looked_at = 0
        self._looking: dict[str, asyncio.Task[UrlPreviewRow]] = {}
        self._turns = asyncio.Semaphore(UNDER_WAY)

    async def preview(self, text: str) -> JsonObject:
        """OpenGraph's properties of the page at an address; empty when it says nothing.

        Raises MatrixError: M_UNRECOGNIZED (404) when there are no previews here, M_INVALID_PARAM
        for what is no address of the web, M_LIMIT_EXCEEDED (429) when too many are looked at, and
        M_UNKNOWN (502) when the page could not be had.
        """
        if not self._enabled:
            raise MatrixError("M_UNRECOGNIZED", "There are no previews on this server", 404)
        url = address(text)
        if url is None:
            raise MatrixError.invalid_param("This is no address of a web page")
        known = await kept.preview(self._database, url)
        if known is None or known.expires_ts <= self._clock.now_ms():
            known = await asyncio.shield(self._look(url))
        if known.found is None:
            raise MatrixError("M_UNKNOWN", "The page could not be read", 502)
        return decode_object(known.found)

    async def tidy(self) -> None:
        """Forget what is over, and what is more than may be kept."""
        await self._commits.commit(kept.forgotten(self._clock.now_ms(), REMEMBERED))

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _look(self, url: str) -> asyncio.Task[UrlPreviewRow]:
        looking = self._looking.get(url)
        if looking is None:
            if len(self._looking) >= WAITING:
                raise MatrixError(
                    "M_LIMIT_EXCEEDED",
                    "Too many pages are being looked at",
                    429,
                    extra={"retry_after_ms": 5_000},
                )
            looking = asyncio.get_running_loop().create_task(self._looked(url))
            self._looking[url] = looking
            looking.add_done_callback(lambda _: self._looking.pop(url, None))
        return looking

    async def _looked(self, url: str) -> UrlPreviewRow:
        found: JsonObject | None = None
        try:
            async with self._turns, asyncio.timeout(SECONDS):
                found = await self._found(url)
        except (OutboundFailed, TimeoutError) as error:
            log.debug("a page could not be looked at: %s", error)
        lives = FAILED_MS if found is None else GOOD_MS
        content = encode(found) if found is not None else None
        row = UrlPreviewRow(url, content, self._clock.now_ms() + lives)
        await self._commits.commit([Put(row)])
        self._looked_at += 1
        if self._looked_at % BETWEEN == 0:
            await self.tidy()
        return row

    async def _found(self, url: str) -> JsonObject:
        known = oembed.request_for(url)
        if known is not None:
            told = Page()
            await self._embed(told, known)
            if told.texts.get("og:title"):
                return await self._shown(told, url)
        fetched = await self._fetch(url, IMAGE_BYTES)
        if fetched.content_type.startswith("image/"):
            name = URL(fetched.url).name[:MAX_TEXT]
            picture = await self._stored(fetched)
            return {"og:title": name, **picture} if picture and name else picture
        if fetched.content_type not in {"text/html", "application/xhtml+xml"}:
            return {}
        page = await _read(fetched)
        if page.oembed is not None and (page.image is None or "og:title" not in page.texts):
            await self._embed(page, page.oembed)
        return await self._shown(page, fetched.url)

    async def _shown(self, page: Page, url: str) -> JsonObject:
        shown: JsonObject = {"og:url": url, **page.texts} if page.texts else {}
        picture = await self._picture(page.image)
        if not picture:
            return {key: shown[key] for key in shown if not key.startswith("og:image")}
        return {**shown, **picture}

    async def _picture(self, url: str | None) -> JsonObject:
        target = address(url) if url is not None else None
        if target is None:
            return {}
        try:
            return await self._stored(await self._fetch(target, IMAGE_BYTES))
        except OutboundFailed:
            return {}

    async def _embed(self, page: Page, url: str) -> None:
        """Add to a page what its oEmbed answer says; without a usable one it stays as it is."""
        target = address(url)
        try:
            fetched = await self._fetch(target, OEMBED_BYTES) if target is not None else None
            if fetched is None or not fetched.whole:
                return
            said = msgspec.json.decode(fetched.body, type=oembed.OEmbed)
        except (OutboundFailed, msgspec.DecodeError):
            return
        for key, text in (
            ("og:title", said.title or said.author_name),
            ("og:site_name", said.provider_name),
            ("og:description", await self._quoted(said, url)),
        ):
            if text:
                page.texts.setdefault(key, text[:MAX_TEXT])
        picture = said.url if said.type == "photo" else said.thumbnail_url
        page.image = page.image or picture or None

    async def _quoted(self, said: oembed.OEmbed, url: str) -> str:
        """The words of a post that is told as a quotation in HTML."""
        if said.type != "rich" or "<blockquote" not in said.html:
            return ""
        try:
            page = await _read(_Fetched(said.html.encode(), "text/html", "utf-8", url, whole=True))
        except OutboundFailed:
            return ""
        return page.quote

    async def _fetch(self, url: str, most: int) -> _Fetched:
        """What lies at an address; of HTML the beginning. Raises OutboundFailed."""
        async with self._outbound.open(
            "GET",
            url,
            headers={"User-Agent": _USER_AGENT, "Accept-Language": "en, *;q=0.5"},
            seconds=SECONDS,
            max_bytes=sys.maxsize,
            redirects=REDIRECTS,
            schemes=_WEB,
            cookies=True,
        ) as answer:
            if answer.status != 200:
                raise OutboundFailed(f"the answer has the status {answer.status}")
            kind, _, parameters = answer.headers.get("Content-Type", "").partition(";")
            kind = kind.strip().lower()
            charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip()
            charset = charset if charset.isascii() and charset.isprintable() else ""
            if kind.startswith("text/"):
                most = min(most, PAGE_BYTES)
            body, whole = bytearray(), True
            async with aclosing(answer.chunks()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > most:
                        whole = False
                        break
            return _Fetched(bytes(body[:most]), kind, charset[:40], answer.url, whole)

    async def _stored(self, fetched: _Fetched) -> JsonObject:
        """Keep a picture; what tells clients of it, nothing for what is no whole picture."""
        kind = picture_type(fetched.body)
        if kind is None or not fetched.whole:
            return {}
        try:
            async with self._files.draft() as draft:
                await draft.write(fetched.body)
                await draft.finish()
                # The same picture keeps its name and row, so that pages that share one add nothing.
                media_id = base64.urlsafe_b64encode(draft.digest[:24]).decode()
                now = self._clock.now_ms()
                row = MediaRow(
                    server=self._server_name,
                    media_id=media_id,
                    hash=draft.digest,
                    size=draft.size,
                    content_type=kind,
                    filename=None,
                    uploader_nid=None,
                    created_ts=now,
                    used_ts=now,
                    expires_ts=None,
                    flags=0,
                )
                there = await store.media(self._database, row.server, [media_id])
                if not there:
                    await self._remote.keep(draft, row)
        except MatrixError:
            return {}
        return {
            "og:image": str(Mxc(self._server_name, media_id)),
            "og:image:type": kind,
            "matrix:image:size": len(fetched.body),
        }


def address(text: str) -> str | None:
    """An address of the web as it is asked for: without fragment, None when it can't be one.

    Other ports below 1024 than 80 and 443 belong to other protocols.
    """
    if len(text) > MAX_URL:
        return None
    try:
        url = URL(text.strip()).with_fragment(None)
        port = url.port
    except ValueError:
        return None
    usual = port in (80, 443) or (port or 0) >= 1024
    if url.scheme not in _WEB or not url.host or url.user or url.password or not usual:
        return None
    return str(url)


def picture_type(content: bytes) -> str | None:
    """The type of a picture by its first bytes, whatever was said of it; None if it is none."""
    for mark, place, kind in _PICTURES:
        if content[place : place + len(mark)] == mark:
            return kind
    return None


async def _read(fetched: _Fetched) -> Page:
    """Have a page read by another process; raises OutboundFailed when that came to nothing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "homeserver.media.page",
        fetched.charset,
        fetched.url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        output, _ = await process.communicate(fetched.body)
        if process.returncode != 0:
            raise OutboundFailed("the page could not be read")
        return msgspec.json.decode(output, type=Page)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

"""Files as replies: a name that can't harm, ranges, and "you have that already".

Owns the headers of a file that strangers have uploaded. Invariant: a browser never runs it,
whatever it says of itself. Where its bytes come from is the caller's matter.
spec: client-server-api#content-repository
"""

import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from urllib.parse import quote

from homeserver.http.shape import Raw, Streamed

INLINE = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
"""Types that a browser may show; spec: client-server-api#serving-inline-content"""
SECURITY = {
    "Content-Security-Policy": "sandbox; default-src 'none'; script-src 'none';"
    " plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow, noarchive, noimageindex",
    "Referrer-Policy": "no-referrer",
}
CACHED = "private, max-age=86400"
"""A day: longer would outlive what was taken back."""

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

Read = Callable[[int, int], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class File:
    """A file to be answered with; `read(start, stop)` gives its bytes, `etag` names its content."""

    read: Read
    size: int
    content_type: str
    etag: str
    filename: str | None = None


def file_headers(file: File) -> dict[str, str]:
    """The headers that a file is to have where another service answers with it."""
    return {
        "Content-Type": file.content_type,
        "Content-Disposition": disposition(file.content_type, file.filename),
    }


def file_reply(header: Callable[[str], str | None], file: File) -> Streamed | Raw:
    """The reply with a file to a request: all of it, a range, or nothing new.

    `header` gives the request's headers by name. 200, 206, 304 or 416.
    """
    etag = f'"{file.etag}"'
    common = {**SECURITY, "Cache-Control": CACHED, "ETag": etag, "Accept-Ranges": "bytes"}
    if _matches(header("if-none-match"), etag):
        return Raw(b"", 304, "", common)
    common["Content-Disposition"] = disposition(file.content_type, file.filename)
    start, stop, status = 0, file.size, 200
    wanted = header("range")
    if wanted is not None and header("if-range") in {None, etag}:
        part = _part(wanted, file.size)
        if part is not None:
            if part[0] >= part[1]:
                return Raw(b"", 416, "", {**common, "Content-Range": f"bytes */{file.size}"})
            (start, stop), status = part, 206
            common["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    return Streamed(
        file.read(start, stop),
        file.content_type,
        length=stop - start,
        status=status,
        headers=common,
    )


def disposition(content_type: str, filename: str | None) -> str:
    """The Content-Disposition of a file: shown only if its type is harmless."""
    shown = "inline" if content_type.partition(";")[0].strip().lower() in INLINE else "attachment"
    if not filename:
        return shown
    if filename.isascii() and filename.isprintable():
        plain = filename.replace("\\", "\\\\").replace('"', '\\"')
        return f'{shown}; filename="{plain}"'
    return f"{shown}; filename*=UTF-8''{quote(filename, safe='')}"


def _matches(given: str | None, etag: str) -> bool:
    if given is None:
        return False
    return given.strip() == "*" or etag in {
        one.strip().removeprefix("W/") for one in given.split(",")
    }


def _part(wanted: str, size: int) -> tuple[int, int] | None:
    """First byte and end of a single range, end <= first if nothing is in it; None: all of it."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size if int(match[2]) else 0
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None
    return start, min(int(match[2]) + 1, size) if match[2] else size

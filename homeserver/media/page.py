"""What a web page says of itself, read in a process of its own.

Owns the reading of HTML that a stranger wrote: its encoding, OpenGraph, and what stands in for it.
Run as a program it reads a page on standard input and writes one JSON object; it has bounds of
memory and time, so whatever a page does to the parser ends with this process. It opens no
connection.
"""

import codecs
import re
import sys
from urllib.parse import urljoin

import msgspec

from homeserver.media.confined import confine

MEMORY = 512 * 1_048_576
CPU_SECONDS = 5
MAX_TEXT = 1_000
"""Characters of one value."""
MAX_URL = 2_048

_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE
)
_NO_TEXT = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7"})
_TEXTS = ("og:title", "og:description", "og:site_name", "og:type", "og:locale", "og:image:alt")
_STAND_INS = {
    "og:title": ("twitter:title",),
    "og:description": ("twitter:description", "description"),
    "og:image": ("og:image:url", "og:image:secure_url", "twitter:image", "twitter:image:src"),
}
_NUMBERS = ("og:image:width", "og:image:height")


class Page(msgspec.Struct):
    """What was found: `texts` by OpenGraph's names, whole addresses of a picture and of oEmbed.

    `quote` is the first quotation on it.
    """

    texts: dict[str, str | int] = {}
    image: str | None = None
    oembed: str | None = None
    quote: str = ""


def decoded(html: bytes, charset: str) -> str:
    """The text of a page; `charset` is what its Content-Type says, "" for nothing.

    A byte order mark counts most, then the header, then the page's own word, then UTF-8. What is
    no name of an encoding counts as nothing, and what can't be read becomes U+FFFD.
    """
    if html.startswith(codecs.BOM_UTF8):
        return html.decode("utf-8-sig", "replace")
    if html.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return html.decode("utf-16", "replace")
    inside = _META_CHARSET.search(html[:4_096])
    for name in (charset, inside[1].decode("ascii") if inside is not None else ""):
        try:
            known = codecs.lookup(name.strip("\"' ")).name.replace("_", "-")
            if known not in _NO_TEXT:
                return html.decode("cp1252" if known == "iso8859-1" else known, "replace")
        except (LookupError, ValueError):
            continue
    return html.decode("utf-8", "replace")


def read(html: bytes, charset: str, url: str) -> Page:
    """What a page at an address says of itself."""
    # Only the process that reads pages needs the parser.
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decoded(html, charset))
    said: dict[str, str] = {}
    for node in tree.css("meta"):
        name = node.attributes.get("property") or node.attributes.get("name") or ""
        content = _shortened(node.attributes.get("content"))
        if content:
            said.setdefault(name.strip().lower(), content)
    for name, others in _STAND_INS.items():
        for other in others:
            if other in said:
                said.setdefault(name, said[other])
    title = tree.css_first("title")
    if title is not None and "og:title" not in said:
        said["og:title"] = _shortened(title.text())
    page = Page()
    page.texts.update({name: said[name] for name in _TEXTS if said.get(name)})
    page.texts.update(
        {n: int(said[n]) for n in _NUMBERS if re.fullmatch("[0-9]{1,6}", said.get(n, ""))}
    )
    page.image = _address(url, said.get("og:image"))
    link = tree.css_first('link[type="application/json+oembed"]')
    if link is not None:
        page.oembed = _address(url, link.attributes.get("href"))
    quoted = tree.css_first("blockquote p")
    page.quote = _shortened(quoted.text(separator=" ")) if quoted is not None else ""
    return page


def _shortened(text: str | None) -> str:
    return " ".join((text or "")[: 8 * MAX_TEXT].split())[:MAX_TEXT]


def _address(url: str, target: str | None) -> str | None:
    if not target or len(target) > MAX_URL:
        return None
    try:
        whole = urljoin(url, target.strip())
    except ValueError:
        return None
    return whole if whole.startswith(("http://", "https://")) else None


def main() -> None:
    """Standard input to standard output; the arguments are the charset and the address."""
    confine(MEMORY, CPU_SECONDS)
    page = read(sys.stdin.buffer.read(), sys.argv[1], sys.argv[2])
    sys.stdout.buffer.write(msgspec.json.encode(page))


if __name__ == "__main__":
    main()

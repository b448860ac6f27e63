"""What a web page says of itself, read in a process of its own.

Owns the reading of HTML that a stranger wrote: its encoding, OpenGraph, and what stands in for it:
the names of others, JSON-LD (`linked_data.py`), in the end the page's own title and first words.
Run as a program it reads a page on standard input and writes one JSON object; it has bounds of
memory and time, so whatever a page does to the parser ends with this process. It opens no
connection.
"""

import codecs
import re
import sys
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import msgspec

from homeserver.media import linked_data
from homeserver.media.confined import confine

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

MEMORY = 512 * 1_048_576
CPU_SECONDS = 5
MAX_TEXT = 1_000
"""Characters of one value."""
MAX_URL = 2_048
MAX_BEFORE_CHARSET = 65_536
_WORDS = 40
"""A paragraph with fewer characters tells of nothing."""

_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE
)
_NO_TEXT = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7"})
# What is meant by labels of the web (https://encoding.spec.whatwg.org/#names-and-labels) where that
# is more than Python's encoding of this name has.
_WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift-jis": "cp932",
    "euc-kr": "cp949",
    "big5": "big5hkscs",
}
_LABELS = {"x-sjis": "cp932", "x-gbk": "gb18030", "x-euc-jp": "euc-jp", "x-cp1251": "cp1251"}
_TEXTS = ("og:title", "og:description", "og:site_name", "og:type", "og:locale", "og:image:alt")
_STAND_INS = {
    "og:title": ("twitter:title",),
    "og:description": ("twitter:description", "description"),
    "og:image": (
        "og:image:url",
        "og:image:secure_url",
        "twitter:image",
        "twitter:image:src",
        "image_src",
        "thumbnail",
        "image",
    ),
}
_NUMBERS = ("og:image:width", "og:image:height")
_BESIDE = ("noscript", "table", "header", "footer", "nav", "aside", "form", "dialog")
_PARAGRAPHS = f"p:not({', '.join(f'{tag} p' for tag in _BESIDE)})"
_LOOKED_AT = 50


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
    inside = _META_CHARSET.search(html[:MAX_BEFORE_CHARSET])
    own = _encoding(inside[1].decode("ascii")) if inside is not None else None
    if own is not None and own.startswith(("utf-16", "utf-32")):
        # What could be read up to here is neither.
        own = "utf-8"
    return html.decode(_encoding(charset) or own or "utf-8", "replace")


def _encoding(label: str) -> str | None:
    """Python's name of an encoding that pages can be in; None for what is none."""
    label = label.strip("\"' ").lower()
    try:
        known = codecs.lookup(_LABELS.get(label, label)).name.replace("_", "-")
        # Not everything that has such a name makes text of bytes.
        "".encode(known)
    except (LookupError, ValueError):
        return None
    return None if known in _NO_TEXT else _WIDER.get(known, known)


def read(html: bytes, charset: str, url: str) -> Page:
    """What a page at an address says of itself."""
    # Only the process that reads pages needs the parser.
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decoded(html, charset))
    said = _said(tree)
    page = Page()
    page.texts.update({name: said[name] for name in _TEXTS if said.get(name)})
    page.texts.update(
        {n: int(said[n]) for n in _NUMBERS if re.fullmatch("[0-9]{1,6}", said.get(n, ""))}
    )
    base = tree.css_first("base[href]")
    place = _address(url, base.attributes.get("href")) if base is not None else None
    page.image = _address(place or url, said.get("og:image"))
    link = tree.css_first('link[type="application/json+oembed"]')
    if link is not None:
        page.oembed = _address(place or url, link.attributes.get("href"))
    quoted = tree.css_first("blockquote p")
    page.quote = _shortened(quoted.text(separator=" ")) if quoted is not None else ""
    return page


def _said(tree: "LexborHTMLParser") -> dict[str, str]:
    """By OpenGraph's names what the page says, or what stands in for that."""
    said: dict[str, str] = {}
    for node in tree.css("meta"):
        given = node.attributes
        names = given.get("property") or given.get("name") or given.get("itemprop") or ""
        content = _shortened(given.get("content"))
        if content:
            for name in names.lower().split():
                said.setdefault(name, content)
    link = tree.css_first('link[rel="image_src"]')
    if link is not None and link.attributes.get("href"):
        said.setdefault("image_src", _shortened(link.attributes["href"]))
    for name, others in _STAND_INS.items():
        for other in others:
            if other in said:
                said.setdefault(name, said[other])
    linked = linked_data.read(
        node.text() for node in tree.css('script[type="application/ld+json"]')
    )
    title = tree.css_first("title:not(svg title)")
    for name, text in (
        ("og:title", title.text() if title is not None else ""),
        ("og:title", linked.title),
        ("og:description", linked.description),
        ("og:image", linked.image),
    ):
        if name not in said and (shortened := _shortened(text)):
            said[name] = shortened
    if "og:title" in said and "og:description" not in said:
        said["og:description"] = _first_words(tree)
    return said


def _first_words(tree: "LexborHTMLParser") -> str:
    """The first paragraph of a page that says something, as an encyclopedia's does."""
    for node in tree.css(_PARAGRAPHS)[:_LOOKED_AT]:
        text = _shortened(node.text())
        if len(text) >= _WORDS:
            return text
    return ""


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

"""What a page says of itself in JSON-LD, by the schema of https://schema.org.

Owns which of the things that a page describes is the page itself. Invariant: whatever stands there
is read or passed over; it bounds neither memory nor time, which `page` does.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

_AT_MOST = 100
"""Things that are looked at; the page itself is among the first."""
_NEVER_THE_PAGE = frozenset(
    {
        "BreadcrumbList",
        "ImageObject",
        "ItemList",
        "Organization",
        "Person",
        "SearchAction",
        "SiteNavigationElement",
        "WebSite",
    }
)


class Thing(NamedTuple):
    """What is told of a page; empty for what isn't."""

    title: str = ""
    description: str = ""
    image: str = ""


def read(scripts: Iterable[str]) -> Thing:
    """The page itself among what its scripts describe: what has a headline, else a name."""
    things = list(islice(_things(scripts), _AT_MOST))
    for name in ("headline", "name"):
        for thing in things:
            if title := _text(thing.get(name)):
                image = _image(thing.get("image")) or _image(thing.get("thumbnailUrl"))
                return Thing(title, _text(thing.get("description")), image)
    return Thing()


def _things(scripts: Iterable[str]) -> Iterator[dict[str, Any]]:
    for script in scripts:
        try:
            found = json.loads(script)
        except (ValueError, RecursionError):
            continue
        for thing in found if isinstance(found, list) else [found]:
            if isinstance(thing, dict):
                graph = thing.get("@graph")
                for one in graph if isinstance(graph, list) else [thing]:
                    if isinstance(one, dict) and not _is_beside(one.get("@type")):
                        yield one


def _is_beside(kind: Any) -> bool:
    kinds = kind if isinstance(kind, list) else [kind]
    return any(isinstance(one, str) and one in _NEVER_THE_PAGE for one in kinds)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _image(value: Any) -> str:
    """The first picture: an address, or an object that has one, or a list of these."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, dict):
        value = value.get("url") or value.get("contentUrl")
    return _text(value)

"""Cookies among the redirects of one request.

Owns what a host has set with one of its answers and is told with the next: a site that redirects to
itself until its cookie comes back would redirect for ever. Invariant: a cookie goes nowhere but to
the host, port and scheme that has set it, and ends with the request. Bounded in number and length.
spec: RFC 6265
"""

import re
from collections.abc import Mapping

from homeserver.http.outbound_connection import Headers
from homeserver.http.outbound_pool import Place

MOST = 20
_PAIR = re.compile(
    r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,100})=([\x21-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{0,1000})"
)


class Cookies:
    """See the module."""

    def __init__(self) -> None:
        self._set: dict[Place, dict[str, str]] = {}

    def set(self, place: Place, headers: Headers) -> None:
        """Take in what an answer of a place has set."""
        for text in headers.each("Set-Cookie"):
            pair = _PAIR.fullmatch(text.partition(";")[0].strip())
            if pair is not None:
                own = self._set.setdefault(place, {})
                if len(own) < MOST or pair[1] in own:
                    own[pair[1]] = pair[2]

    def added(self, place: Place, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """The headers of a request to a place together with its cookies."""
        own = self._set.get(place)
        if not own:
            return headers
        told = "; ".join(f"{name}={value}" for name, value in own.items())
        return {**(headers or {}), "Cookie": told}

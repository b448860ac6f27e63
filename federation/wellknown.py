"""What `https://<host>/.well-known/matrix/server` says of where a server is.

Owns fetching the file and how long its word counts. An answer that is none (404, nonsense) counts
as "nothing is delegated"; when the web server can't be asked, the look-up has failed, and an older
answer may stand in. What follows from the answer stands in `discovery`.
spec: server-server-api#getwell-knownmatrixserver
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from federation.lookups import Found, Kind, LookupFailed, Lookups
from homeserver.http.outbound import Answer, Outbound, OutboundFailed
from homeserver.matrix.canonical import decode_object
from homeserver.matrix.errors import Malformed
from homeserver.matrix.ids import is_server_name
from homeserver.runtime.clock import Clock

WELL_KNOWN = "well-known"
MAX_BYTES = 51_200
MAX_REDIRECTS = 5
SECONDS = 10.0
DEFAULT_SECONDS = 86_400.0
LEAST_SECONDS = 300.0
MOST_SECONDS = 172_800.0
ERROR_SECONDS = 3_600.0


class WellKnown:
    """Asks web servers; `port` is another than 443 in tests only."""

    def __init__(self, lookups: Lookups, outbound: Outbound, clock: Clock, port: int = 443) -> None:
        self._lookups = lookups
        self._outbound = outbound
        self._clock = clock
        self._port = "" if port == 443 else f":{port}"
        lookups.handle(
            WELL_KNOWN, Kind(self._ask, LEAST_SECONDS, MOST_SECONDS, 60.0, ERROR_SECONDS)
        )

    async def delegate(self, host: str) -> str | None:
        """The server name that `host` delegates to, None when it says nothing of use."""
        try:
            found: str | None = await self._lookups.get(WELL_KNOWN, host.lower())
        except LookupFailed:
            return None
        return found

    async def _ask(self, host: str) -> Found:
        url = f"https://{host}{self._port}/.well-known/matrix/server"
        try:
            answer = await self._outbound.fetch(
                "GET", url, seconds=SECONDS, max_bytes=MAX_BYTES, redirects=MAX_REDIRECTS
            )
        except OutboundFailed as error:
            raise LookupFailed(str(error)) from None
        if answer.status >= 500 or answer.status in {408, 429}:
            raise LookupFailed(f"the web server answered {answer.status}")
        delegated = _delegated(answer)
        if delegated is None:
            return Found(None, ERROR_SECONDS)
        return Found(delegated, lifetime(answer.headers, self._clock.now_ms() / 1000))


def _delegated(answer: Answer) -> str | None:
    if answer.status != 200:
        return None
    try:
        name = decode_object(answer.body).get("m.server")
    except Malformed:
        return None
    return name if isinstance(name, str) and is_server_name(name) else None


def lifetime(headers: Mapping[str, str], now: float) -> float:
    """For how many seconds an answer may be kept, by its own headers; `now` in seconds.

    Cache-Control counts before Expires. RFC 9111, 5.2 and 5.3
    """
    control = headers.get("Cache-Control")
    if control is not None:
        directives = [part.strip().lower() for part in control.split(",")]
        if "no-store" in directives or "no-cache" in directives:
            return 0.0
        for directive in directives:
            name, _, value = directive.partition("=")
            if name.strip() == "max-age":
                digits = value.strip(' "')
                return float(digits) if digits.isascii() and digits.isdecimal() else 0.0
    expires = headers.get("Expires")
    if expires is not None:
        try:
            return max(parsedate_to_datetime(expires).timestamp() - now, 0.0)
        except (ValueError, OverflowError):
            return 0.0
    return DEFAULT_SECONDS

"""Files of other servers.

Owns the ways in which they come: the federation API's multipart answers, the place elsewhere that
such an answer may name, and the public paths of servers that know no other. Invariant: a place that
is named is asked as any stranger's address is, unsigned and under the rules for addresses. What is
kept of them is `homeserver.media.remote`'s.
spec: server-server-api#content-repository
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urljoin, urlsplit

from federation.client import Outgoing, ServerClient, refusal
from federation.multipart import Parts, boundary_of, filename_of
from federation.requests import Query, Requests, path_of, target_of
from homeserver.errors import RemoteError, Unreachable
from homeserver.http.outbound import Outbound, OutboundFailed, Streamed
from homeserver.matrix.errors import Malformed
from homeserver.matrix.mxc import Mxc
from homeserver.media.remote import RemoteFile

SECONDS = 150.0
"""How long a file may take altogether."""
_MAX_AROUND = 65_536
"""What may stand around a file in an answer of several parts."""
_MOST_REDIRECTS = 3
_WEB = frozenset({"http", "https"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNKNOWN_PATH = frozenset({400, 404, 405})


class MediaClient:
    """See the module."""

    def __init__(self, requests: Requests, client: ServerClient, outbound: Outbound) -> None:
        self._requests = requests
        self._client = client
        self._outbound = outbound

    @asynccontextmanager
    async def open(self, name: Mxc, wait_ms: int, max_bytes: int) -> AsyncIterator[RemoteFile]:
        """A file as it comes.

        Raises RemoteError for the other server's refusal and for an answer that makes no sense,
        Unreachable without an answer; reading may raise OutboundFailed (TooLong beyond
        `max_bytes`).
        """
        async with AsyncExitStack() as held:
            target = target_of(
                path_of("federation/v1/media/download", name.media_id), {"timeout_ms": wait_ms}
            )
            request = self._requests.outgoing(name.server, "GET", target)
            answer = await self._begun(held, name.server, request, max_bytes)
            if answer.status == 200:
                file = await self._parts(held, name.server, answer, max_bytes)
            else:
                refused = await refusal(name.server, answer)
                if refused.status not in _UNKNOWN_PATH or refused.errcode == "M_NOT_FOUND":
                    raise refused
                file = await self._by_old_path(held, name, wait_ms, max_bytes)
            yield file

    async def _begun(
        self, held: AsyncExitStack, server: str, request: Outgoing, max_bytes: int
    ) -> Streamed:
        return await held.enter_async_context(
            self._client.stream(
                server,
                request,
                seconds=SECONDS,
                max_bytes=max_bytes + _MAX_AROUND,
                despite_pause=True,
            )
        )

    async def _parts(
        self, held: AsyncExitStack, server: str, answer: Streamed, max_bytes: int
    ) -> RemoteFile:
        """The file of a multipart answer: its second part, or where that says that it is."""
        boundary = boundary_of(answer.headers.get("Content-Type", ""))
        if boundary is None:
            raise RemoteError(server, 200, message="the answer is no multipart/mixed")
        parts = Parts(answer.chunks(), boundary)
        try:
            await parts.head()
            head = await parts.head()
        except Malformed as error:
            raise RemoteError(server, 200, message=str(error)) from None
        except OutboundFailed as error:
            raise Unreachable(server, str(error)) from None
        location = head.get("location")
        if location is not None:
            return await self._elsewhere(held, server, location, max_bytes)
        return RemoteFile(
            head.get("content-type"),
            filename_of(head.get("content-disposition")),
            _whole(server, parts),
        )

    async def _by_old_path(
        self, held: AsyncExitStack, name: Mxc, wait_ms: int, max_bytes: int
    ) -> RemoteFile:
        """The file by the paths that asked for no signature."""
        path = path_of("media/v3/download", name.server, name.media_id)
        query: Query = {"allow_remote": "false", "allow_redirect": "true", "timeout_ms": wait_ms}
        request = Outgoing("GET", target_of(path, query), {})
        answer = await self._begun(held, name.server, request, max_bytes)
        location = answer.headers.get("Location")
        if answer.status in _REDIRECTS and location is not None:
            url = urljoin(answer.url, location)
            return await self._elsewhere(held, name.server, url, max_bytes)
        if answer.status != 200:
            raise await refusal(name.server, answer)
        return _plain(answer)

    async def _elsewhere(
        self, held: AsyncExitStack, server: str, url: str, max_bytes: int
    ) -> RemoteFile:
        """The file at an address that the server has named."""
        if urlsplit(url).scheme not in _WEB:
            raise RemoteError(server, 200, message="the file is at no web address")
        try:
            answer = await held.enter_async_context(
                self._outbound.open(
                    "GET",
                    url,
                    seconds=SECONDS,
                    max_bytes=max_bytes,
                    redirects=_MOST_REDIRECTS,
                    schemes=_WEB,
                )
            )
        except OutboundFailed as error:
            raise Unreachable(server, f"the file is elsewhere: {error}") from None
        if answer.status != 200:
            raise RemoteError(server, answer.status, message="the file is not there")
        return _plain(answer)


def _plain(answer: Streamed) -> RemoteFile:
    return RemoteFile(
        answer.headers.get("Content-Type"),
        filename_of(answer.headers.get("Content-Disposition")),
        answer.chunks(),
    )


async def _whole(server: str, parts: Parts) -> AsyncIterator[bytes]:
    try:
        async for piece in parts.body():
            yield piece
    except Malformed as error:
        raise RemoteError(server, 200, message=str(error)) from None

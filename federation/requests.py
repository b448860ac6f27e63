"""Asking another server, and being asked by one: signed on both sides.

Owns outgoing requests as the rest of the project makes them, with JSON in and out and two
exceptions, and the judgement on who sent an incoming one. Invariant: what is signed is, byte for
byte, the target that is sent, and the one that came. Whether the asker may have what it asks for is
the endpoints' matter.
spec: server-server-api#request-authentication
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from urllib.parse import quote

from federation.authorization import (
    MAX_HEADERS,
    Authorization,
    authorise,
    authorise_json,
    signatures_of,
    signed_object,
)
from federation.client import Outgoing, ServerClient, json_in_list_of, json_of, refusal
from federation.destinations import Destinations
from federation.elements import Elements
from federation.keyring import Keyring
from homeserver.errors import MatrixError, Unreachable
from homeserver.http.outbound import Answer, OutboundFailed
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import SigningKey, verify_json

MAX_BYTES = 10 * 1_048_576
INLINE_BYTES = 262_144
"""Longer bodies are decoded and verified in a thread."""

Query = Mapping[str, str | int | Sequence[str]]


def path_of(*segments: str) -> str:
    """A path below `/_matrix/`: the first segment as it is, all others percent-encoded."""
    return "/".join(["/_matrix/" + segments[0], *(quote(one, safe="") for one in segments[1:])])


def target_of(path: str, query: Query | None = None) -> str:
    """A request target from an encoded path and the parameters of a query."""
    pairs = [
        f"{quote(name, safe='')}={quote(str(value), safe='')}"
        for name, given in (query or {}).items()
        for value in ([given] if isinstance(given, str | int) else given)
    ]
    return f"{path}?{'&'.join(pairs)}" if pairs else path


class Requests:
    """Requests to other servers."""

    def __init__(
        self,
        server_name: str,
        key: SigningKey,
        client: ServerClient,
        seconds: float,
        *,
        enabled: bool = True,
    ) -> None:
        """`seconds` is how long an answer may take where a caller does not say."""
        self._server_name = server_name
        self._key = key
        self._client = client
        self._seconds = seconds
        self._enabled = enabled

    async def request(
        self,
        destination: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: JsonObject | None = None,
        timeout: float | None = None,
        max_bytes: int = MAX_BYTES,
        despite_pause: bool = False,
        in_list: bool = False,
    ) -> JsonObject:
        """The JSON object that `destination` answers with; `in_list` as older versions put it.

        `path` is encoded already (`path_of`); `body` must be fit for canonical JSON. `timeout` in
        seconds bounds all of it, waiting for a free place included. Raises RemoteError for an
        answer that is none, Unreachable without an answer; `despite_pause` asks also a server that
        is left alone after failures.
        """
        outgoing = self.outgoing(destination, method, target_of(path, query), body)
        answer = await self._client.exchange(
            destination,
            outgoing,
            seconds=self._seconds if timeout is None else timeout,
            max_bytes=max_bytes,
            despite_pause=despite_pause,
        )
        return (json_in_list_of if in_list else json_of)(destination, answer)

    async def read(
        self,
        destination: str,
        method: str,
        path: str,
        take: Callable[[str, bytes], Awaitable[None]],
        *,
        lists: Collection[str],
        query: Query | None = None,
        body: JsonObject | None = None,
        seconds: float,
        max_bytes: int,
        despite_pause: bool = False,
        unwrapped: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]] | None = None,
    ) -> None:
        """Hand on the JSON object that `destination` answers with while it comes.

        `take(name, JSON)` is awaited for each member, and of `lists` for each element. `unwrapped`
        finds the object in the answer where that is another. Raises as `request` does, and
        Malformed for what is no object or is cut off: what was taken by then is for the caller to
        forget.
        """
        outgoing = self.outgoing(destination, method, target_of(path, query), body)
        elements = Elements(lists)
        async with self._client.stream(
            destination,
            outgoing,
            seconds=seconds,
            max_bytes=max_bytes,
            despite_pause=despite_pause,
        ) as answer:
            chunks = answer.chunks()
            try:
                if not 200 <= answer.status < 300:
                    raise await refusal(destination, answer)
                async for chunk in chunks if unwrapped is None else unwrapped(chunks):
                    for name, value in elements.feed(chunk):
                        await take(name, value)
            except OutboundFailed as error:
                raise Unreachable(destination, str(error)) from None
        if not elements.complete:
            raise Malformed("The answer is cut off")

    async def transaction(
        self, destination: str, txn_id: str, body: bytes, seconds: float
    ) -> JsonObject:
        """Send a transaction whose canonical JSON is `body`; the JSON object of the answer.

        An answer that shows that the server is out of order, or that it won't speak with us, counts
        as none. Raises Unreachable, and RemoteError with status 400, 413 or 429.
        spec: server-server-api#put_matrixfederationv1sendtxnid
        """
        target = path_of("federation/v1/send", txn_id)
        self._check(destination)
        authorization = authorise_json(
            "PUT", target, self._server_name, destination, body, self._key
        )
        headers = {"Authorization": str(authorization), "Content-Type": "application/json"}
        answer = await self._client.exchange(
            destination,
            Outgoing("PUT", target, headers, body),
            seconds=seconds,
            max_bytes=MAX_BYTES,
            judge=_is_no_receipt,
        )
        return json_of(destination, answer)

    def look_soon(self, server: str) -> None:
        """Something waits for a server that is left alone: it may have moved."""
        self._client.look_soon(server)

    def outgoing(
        self, destination: str, method: str, target: str, body: JsonObject | None = None
    ) -> Outgoing:
        """A signed request, for what is read as a stream; raises Unreachable for ourselves."""
        self._check(destination)
        authorization = authorise(method, target, self._server_name, destination, body, self._key)
        headers = {"Authorization": str(authorization)}
        if body is None:
            return Outgoing(method, target, headers)
        headers["Content-Type"] = "application/json"
        return Outgoing(method, target, headers, canonical.encode(body))

    def _check(self, destination: str) -> None:
        if not self._enabled:
            raise Unreachable(destination, "federation is switched off")
        if destination == self._server_name:
            raise Unreachable(destination, "this is the server itself")


def _is_no_receipt(answer: Answer) -> str | None:
    """Why an answer to a transaction counts as none; None if it counts."""
    if answer.status in (400, 413, 429):
        return None
    try:
        body = canonical.decode_object(answer.body)
    except Malformed:
        return f"its answer to a transaction ({answer.status}) is no JSON object"
    if answer.status == 200:
        return None
    said = " ".join(str(body.get(key, "")) for key in ("errcode", "error"))
    return f"it answered a transaction with {answer.status} {said[:200]}".rstrip()


class Inbound:
    """Says which server has sent a request."""

    def __init__(self, server_name: str, keyring: Keyring, destinations: Destinations) -> None:
        self._server_name = server_name
        self._keyring = keyring
        self._destinations = destinations

    def claimed(self, headers: Sequence[str]) -> str | None:
        """The server that the first X-Matrix header names, whether it has signed or not."""
        for header in headers:
            if _is_matrix(header):
                try:
                    return Authorization.parse(header).origin
                except Malformed:
                    break
        return None

    async def authenticate(
        self, method: str, target: str, headers: Sequence[str], body: bytes
    ) -> str:
        """The name of the server whose valid signature the request carries.

        `headers` are its Authorization headers. Raises MatrixError: M_UNAUTHORIZED (401), or
        M_NOT_JSON (400) for a body that is none.
        """
        matrix = [one for one in headers if _is_matrix(one)]
        if not matrix:
            raise _unauthorized("The request is not signed: X-Matrix authorization is missing")
        try:
            given = [Authorization.parse(one) for one in matrix[:MAX_HEADERS]]
            signatures = signatures_of(given)
        except Malformed as error:
            raise _unauthorized(str(error)) from None
        origin, destination = given[0].origin, given[0].destination
        if destination is not None and destination != self._server_name:
            raise _unauthorized("The request was signed for another server")
        if origin == self._server_name:
            raise _unauthorized("The request claims to come from this server itself")
        if self._destinations.is_blocked(origin):
            raise MatrixError.forbidden(f"{origin} is blocked on this server")
        keys = await self._keyring.request_keys(origin, signatures)
        if not keys:
            raise _unauthorized("The key of the signature could not be found, or is not valid")
        request = (method, target, origin, destination)
        if len(body) <= INLINE_BYTES:
            valid = _is_signed(request, signatures, keys, body)
        else:
            valid = await asyncio.to_thread(_is_signed, request, signatures, keys, body)
        if not valid:
            raise _unauthorized("The signature of the request is wrong")
        await self._destinations.succeeded(origin)
        return origin


def _is_matrix(header: str) -> bool:
    return header.lstrip().lower().startswith("x-matrix")


def _is_signed(
    request: tuple[str, str, str, str | None],
    signatures: Mapping[str, str],
    keys: Mapping[str, bytes],
    body: bytes,
) -> bool:
    try:
        content = canonical.decode(body) if body else None
        canonical.check(content, strict=False)
    except Malformed:
        raise MatrixError("M_NOT_JSON", "The body is not valid JSON", 400) from None
    signed = signed_object(*request, content)
    signed["signatures"] = {request[2]: dict(signatures)}
    return verify_json(signed, request[2], keys)


def _unauthorized(message: str) -> MatrixError:
    return MatrixError("M_UNAUTHORIZED", message, 401)

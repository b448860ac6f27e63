"""From a request to a reply: routing, authentication, reading, calling, and every error.

Owns the order of checks: path, method, token, rate limit, path parameters, query, body. Invariant:
whatever happens, the client gets a standard error with an errcode, and a fault of ours is logged
with the same number that the client sees. What an endpoint does is not its business.
spec: client-server-api#standard-error-response
"""

import itertools
import logging
import secrets
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from homeserver.errors import MatrixError
from homeserver.http.bodies import CloseAfter, Incoming, whole
from homeserver.http.connection import RawRequest
from homeserver.http.endpoint import Admin, Call, Client, Endpoint, NoAuth, Request, Server
from homeserver.http.proxies import Proxies
from homeserver.http.router import Route, Router
from homeserver.http.shape import Empty, Raw, Streamed, check_parameter, too_deep
from homeserver.http.wire import COMPRESS_FROM, Reply, StreamedReply, preflight
from homeserver.matrix import canonical
from homeserver.matrix.errors import Malformed, Rejected
from homeserver.runtime.costs import COST, Cost, Measured
from homeserver.runtime.limits import RateLimits
from homeserver.runtime.logs import REQUEST, mask
from homeserver.runtime.metrics import EndpointMetrics, Metrics
from homeserver.users.access_tokens import user_locked

if TYPE_CHECKING:
    from homeserver.services import Services
    from homeserver.users.sessions import Session

log = logging.getLogger(__name__)

GONE = 499
"""The status in the metrics of a request whose client went away."""


class Authenticator(Protocol):
    """Turns access tokens into sessions."""

    def cached(self, token: str) -> "Session | None":
        """The session of a token that is known to be valid now, without waiting; else None."""

    async def authenticate(self, token: str, request: Request) -> "Session":
        """The session of a token that a request has presented.

        Raises MatrixError M_UNKNOWN_TOKEN (401), or what else forbids its use.
        """


class ServerAuthenticator(Protocol):
    """Says which server has signed a request."""

    def claimed(self, headers: Sequence[str]) -> str | None:
        """The server that a request says it comes from, which is not believed; None for none."""

    async def authenticate(
        self, method: str, target: str, headers: Sequence[str], body: bytes
    ) -> str:
        """The name of the server that signed; `target` and `body` are as they came.

        `headers` are the Authorization headers. Raises MatrixError M_UNAUTHORIZED (401).
        """


class Dispatcher:
    """Answers all requests of one router."""

    def __init__(
        self,
        router: Router,
        services: "Services",
        authenticator: Authenticator,
        metrics: Metrics,
        proxies: Proxies,
        limits: RateLimits,
        max_body: int,
        *,
        query_tokens: bool = True,
        servers: ServerAuthenticator | None = None,
    ) -> None:
        """`query_tokens`: access tokens may stand in the query; `servers` knows other servers."""
        self._router = router
        self._services = services
        self._authenticator = authenticator
        self._metrics = metrics
        self._costs = metrics.costs
        self._remote_of = proxies.remote_of
        self._limits = limits
        self.max_body = max_body
        """Bytes of a body that are read, unless an endpoint says otherwise."""
        self._query_tokens = query_tokens
        self._servers = servers
        self._observed: dict[Route | None, EndpointMetrics] = {None: metrics.endpoint("none")}
        self._numbers: Iterator[int] = itertools.count(1)

    async def handle(self, raw: RawRequest) -> None:
        """Answer one request; raises only when the client has gone."""
        method = raw.method
        if method == "OPTIONS":
            await preflight().send(raw)
            return
        began = time.perf_counter()
        REQUEST.set(next(self._numbers))
        cost = Cost()
        COST.set(cost)
        route = None
        status = GONE
        try:
            try:
                if raw.fault is not None:
                    raise raw.fault
                route, call = self._begun(raw, cost)
                reply = await _reply(await Measured(call, cost))
            except Exception as error:
                reply = _error_reply(error, raw)
            if len(reply.content) > COMPRESS_FROM:
                await reply.compress(raw)
            status = reply.code
        finally:
            seconds = time.perf_counter() - began
            observed = self._observed.get(route)
            if observed is None:
                assert route is not None
                observed = self._observed[route] = self._metrics.endpoint(route.endpoint.name)
            observed.observe(status, seconds)
            if route is not None:
                self._costs.add(route.endpoint.name, cost)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s %s %d %.1f ms", method, mask(raw.target), status, seconds * 1000.0)
        await reply.send(raw)

    def _begun(self, raw: RawRequest, cost: Cost) -> tuple[Route, Coroutine[Any, Any, Any]]:
        """What answers the request: many wait long, so nothing else of it is kept meanwhile."""
        path, _, query_string = _target(raw).partition("?")
        route, values = self._router.find(raw.method, path)
        return route, self._call(raw, route, values, query_string, cost)

    async def _call(
        self,
        raw: RawRequest,
        route: Route,
        values: list[str],
        query_string: str,
        cost: Cost,
    ) -> Any:
        endpoint = route.endpoint
        request = Request(raw, query_string, self._remote_of)
        auth = endpoint.auth
        session = origin = data = None
        if type(auth) is Server:
            origin, data = await self._origin(raw, endpoint)
        elif type(auth) is not NoAuth:
            session = await self._session(auth, request)
        cost.user = session.user_id if session is not None else origin
        if endpoint.limit != "none" and origin is None:
            self._limits.check(endpoint.limit, session, request)
        arguments: dict[str, Any] = {}
        for parameter, text in zip(route.parameters, values, strict=True):
            if parameter.check is not None:
                check_parameter(text, parameter.name, *parameter.check)
            arguments[parameter.name] = text
        cost.room = arguments.get("room_id")
        call = Call(self._services, endpoint, request, session, arguments, origin)
        if endpoint.query is None and endpoint.body_type is None:
            return await endpoint.handler(call, **arguments)
        given = arguments.copy()
        if endpoint.query is not None:
            given["query"] = endpoint.query.read(request.take_query())
        if endpoint.body is not None:
            if data is None:
                data = await whole(raw, endpoint.max_body or self.max_body)
            if data or not endpoint.body_optional:
                given["body"] = endpoint.body.read(data)
        elif endpoint.body_type is Incoming:
            given["body"] = Incoming(raw)
        handling = endpoint.handler(call, **given)
        # Many requests wait long for what they ask: what is not needed for that goes now.
        del given, arguments, data, values
        return await handling

    async def _origin(self, raw: RawRequest, endpoint: Endpoint) -> tuple[str, bytes]:
        """The server that has signed the request, and the body, which is part of what it signed.

        Whoever has no more requests left is refused before anything is read or verified; but only
        what is signed counts, so that nobody uses up the requests of another.
        """
        if self._servers is None:
            raise MatrixError("M_UNAUTHORIZED", "Federation is switched off", 401)
        headers = raw.headers("authorization")
        limit = endpoint.limit
        claimed = self._servers.claimed(headers) if limit != "none" else None
        if limit != "none" and claimed is not None:
            self._limits.foresee(limit, claimed.lower())
        data = await whole(raw, endpoint.max_body or self.max_body)
        origin = await self._servers.authenticate(raw.method, _target(raw), headers, data)
        if limit != "none":
            self._limits.charge(limit, origin.lower())
        return origin, data

    async def _session(self, auth: object, request: Request) -> "Session | None":
        token = request.token(in_query=self._query_tokens)
        if token is None:
            if isinstance(auth, Client):
                raise MatrixError("M_MISSING_TOKEN", "An access token is needed", 401)
            return None
        if isinstance(auth, Admin) and self._services.operator.matches(token):
            return None
        session = self._authenticator.cached(token)
        if session is None:
            try:
                session = await self._authenticator.authenticate(token, request)
            except MatrixError:
                self._limits.check("unknown_token", None, request)
                raise
        if session.is_locked and not (isinstance(auth, Client) and auth.locked):
            raise user_locked()
        if isinstance(auth, Client):
            if session.is_suspended and not auth.suspended:
                raise MatrixError("M_USER_SUSPENDED", "You can't do this while suspended", 403)
            if session.is_guest and not auth.guests:
                raise MatrixError("M_GUEST_ACCESS_FORBIDDEN", "Guests may not do this", 403)
            if auth.admin and not session.is_admin:
                raise MatrixError.forbidden("Only administrators may do this")
        return session


def _target(raw: RawRequest) -> str:
    """The path and query of the request as they came; the absolute form loses its origin."""
    target = raw.target
    if not target.startswith("/"):
        _, scheme, rest = target.partition("://")
        target = "/" + rest.partition("/")[2] if scheme else "/" + target
    return target.partition("#")[0] if "#" in target else target


_EMPTY = b"{}"


async def _reply(result: Any) -> Reply:
    if isinstance(result, Streamed):
        return await StreamedReply.begun(result)
    if isinstance(result, Raw):
        return Reply(result.status, result.body, result.content_type, result.headers)
    if isinstance(result, Empty):
        return Reply(200, _EMPTY)
    return Reply(200, canonical.encode(result))


def _error_reply(error: Exception, raw: RawRequest) -> Reply:
    if isinstance(error, Rejected):
        error = MatrixError.forbidden(error.reason)
    elif isinstance(error, Malformed):
        error = MatrixError.bad_json(str(error) or "The request is malformed")
    elif isinstance(error, RecursionError):
        log.warning("A request was nested too deeply", exc_info=error)
        error = too_deep()
    elif not isinstance(error, MatrixError):
        number = secrets.token_hex(5)
        log.error("%s %s failed [%s]", raw.method, mask(raw.target), number, exc_info=error)
        error = MatrixError("M_UNKNOWN", f"Internal server error [{number}]", 500)
    body = {"errcode": error.errcode, "error": error.message} if error.errcode else {}
    content = msgspec.json.encode({**body, **error.extra})
    return Reply(
        error.status,
        content,
        headers=error.headers,
        close=isinstance(error, CloseAfter),
    )

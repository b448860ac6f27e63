"""The one declaration of an endpoint, and the call that its function receives.

Owns `@endpoint`: method, path, older paths, authentication, specification place, and the types of
path parameters, query and body, taken from the function's signature. The router, the server, the
reference pages and the coverage tests all read the resulting `Endpoint`. Declarations are checked
when the module is imported, so a wrong one never waits for its first request.
"""

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints
from urllib.parse import unquote_plus

from homeserver.errors import MatrixError
from homeserver.http.bodies import Incoming
from homeserver.http.connection import RawRequest
from homeserver.http.shape import VALIDATORS, BodyReader, Empty, QueryReader, Raw, Shape, Streamed
from homeserver.runtime.limits import LimitName

if TYPE_CHECKING:
    from homeserver.services import Services
    from homeserver.users.sessions import Session

Result = Shape | dict[str, Any] | list[dict[str, Any]] | Raw | Streamed | Empty
Handler = Callable[..., Awaitable[Result]]
Limit = LimitName | Literal["none"]
H = TypeVar("H", bound=Handler)


class Auth:
    """How the caller of an endpoint proves who it is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Client(Auth):
    """An access token; guests, suspended, locked and ordinary users are let in as declared.

    spec: client-server-api#using-access-tokens and client-server-api#account-moderation
    """

    guests: bool = False
    admin: bool = False
    suspended: bool = True
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Admin(Client):
    """An administrator's access token, or the operator's token, which comes without a session."""

    admin: bool = True


@dataclass(frozen=True, slots=True)
class OptionalClient(Auth):
    """An access token or none; a token that is given must be valid."""


@dataclass(frozen=True, slots=True)
class Server(Auth):
    """The signature of another server, whose name is then `call.origin`.

    spec: server-server-api#request-authentication
    """


@dataclass(frozen=True, slots=True)
class NoAuth(Auth):
    """Open to everybody."""


class Request:
    """What a request says of itself beyond its declared parameters."""

    __slots__ = ("_query", "_remote_of", "query_string", "raw")

    def __init__(
        self, raw: RawRequest, query_string: str, remote_of: Callable[[RawRequest], str]
    ) -> None:
        self.raw = raw
        self.query_string = query_string
        self._remote_of = remote_of
        self._query: dict[str, list[str]] | None = None

    @property
    def remote(self) -> str:
        """The client's address, taken from X-Forwarded-For only behind a trusted proxy."""
        return self._remote_of(self.raw)

    @property
    def user_agent(self) -> str:
        return self.raw.header("user-agent") or ""

    @property
    def query(self) -> Mapping[str, list[str]]:
        """The query's keys with all their values, decoded; M_INVALID_PARAM when it is no text."""
        if self._query is None:
            self._query = parse_query(self.query_string)
        return self._query

    def token(self, *, in_query: bool) -> str | None:
        """The access token from the header, or else from the query if it may stand there."""
        header = self.raw.header("authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme == "Bearer" or scheme.lower() == "bearer":
                return token.strip() or None
        if in_query and "access_token=" in self.query_string:
            tokens = self.query.get("access_token")
            return (tokens[0] or None) if tokens else None
        return None

    def take_query(self) -> Mapping[str, list[str]]:
        """`query`, which is not kept: whoever asks again has it read again."""
        query, self._query = self.query, None
        return query


class Call:
    """One request to one endpoint: who asks, and the services that can answer."""

    __slots__ = ("app", "endpoint", "maybe_origin", "maybe_session", "params", "request")

    def __init__(
        self,
        app: "Services",
        endpoint: "Endpoint",
        request: Request,
        session: "Session | None",
        params: dict[str, str],
        origin: str | None = None,
    ) -> None:
        self.app = app
        self.endpoint = endpoint
        self.request = request
        self.maybe_session = session
        self.maybe_origin = origin
        self.params = params

    @property
    def session(self) -> "Session":
        """Who asks; only for endpoints declared with `Client`."""
        if self.maybe_session is None:
            raise RuntimeError("this endpoint takes calls without a session")
        return self.maybe_session

    @property
    def origin(self) -> str:
        """The server that asks; only for endpoints declared with `Server`."""
        if self.maybe_origin is None:
            raise RuntimeError("this endpoint takes calls that no server has signed")
        return self.maybe_origin

    @property
    def path_hash(self) -> int:
        """A signed 64-bit number for endpoint and path, the transaction id left out.

        It scopes transaction ids, so it is the same on every server and after every restart, and
        for all spellings of one path. spec: client-server-api#transaction-identifiers
        """
        parts = [text for name, text in self.params.items() if name != "txn_id"]
        scope = "\0".join([self.endpoint.method, self.endpoint.path, *parts])
        digest = hashlib.blake2b(scope.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)


@dataclass(frozen=True, slots=True)
class PathParameter:
    """One `{name}` of a path: `check` is the kind and validator of its type, None for any text."""

    name: str
    check: tuple[str, Callable[[str], bool]] | None
    may_be_empty: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One declared operation."""

    method: str
    path: str
    also: tuple[str, ...]
    spec: str
    auth: Auth
    handler: Handler
    parameters: Mapping[str, PathParameter]
    query: QueryReader | None
    query_type: type[Shape] | None
    body: BodyReader | None
    body_type: Any
    body_optional: bool
    body_default: Any
    max_body: int | None
    limit: Limit

    @property
    def name(self) -> str:
        """The label in metrics and logs."""
        return f"{self.method} {self.path}"


def endpoint(
    route: str,
    *,
    spec: str,
    auth: Auth,
    also: tuple[str, ...] | list[str] = (),
    max_body: int | None = None,
    limit: Limit | None = None,
) -> Callable[[H], H]:
    """Declare the decorated coroutine function as an endpoint; it stays callable as it is.

    `route` is "METHOD /path/{parameter}"; `also` names further paths of the same operation (a
    parameter missing there needs a default). The function takes `call: Call` first, each path
    parameter by name (typed `str` or one of the id types of `shape`; it may be empty in the path
    only when it has a default), and may take `query: <Shape>` and `body: <Shape> | JsonObject`
    (with a default: an absent body is allowed and gives the default) or `body: Incoming`, which is
    read piece by piece. `max_body` in bytes
    overrides the server's limit. `limit` names the rate limit that counts its requests; without it
    reads of users count as `read`, other requests of users as `write`, those of other servers as
    `server_read`, and those of everybody as `open`. Raises TypeError for a declaration that does
    not hold together.
    """

    def declare(handler: H) -> H:
        method = route.partition(" ")[0]
        counted = limit or _usual_limit(method, auth)
        declared = _declare(handler, route, spec, auth, tuple(also), max_body, counted)
        handler.__endpoint__ = declared  # type: ignore[attr-defined]
        return handler

    return declare


def endpoints_of(module: ModuleType) -> list[Endpoint]:
    """The endpoints declared in a module, in the order of its text."""
    return [
        value.__endpoint__
        for value in vars(module).values()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and hasattr(value, "__endpoint__")
    ]


def endpoint_of(handler: Handler) -> Endpoint:
    """The declaration of one endpoint function."""
    declared = getattr(handler, "__endpoint__", None)
    if not isinstance(declared, Endpoint):
        raise TypeError(f"{handler!r} is not declared as an endpoint")
    return declared


def parse_query(query_string: str) -> dict[str, list[str]]:
    """A query string's keys and values, `+` being a space; spec: appendices#opaque-identifiers"""
    found: dict[str, list[str]] = {}
    if not query_string:
        return found
    for part in query_string.split("&"):
        if not part:
            continue
        key, _, text = part.partition("=")
        if "%" in part or "+" in part or not part.isascii():
            key, text = _unquoted(key), _unquoted(text)
        if key in found:
            found[key].append(text)
        else:
            found[key] = [text]
    return found


def _unquoted(text: str) -> str:
    try:
        text = unquote_plus(text, errors="strict")
        text.encode()
    except UnicodeError:
        raise MatrixError.invalid_param("The query is not UTF-8") from None
    if "\0" in text:
        raise MatrixError.invalid_param("The query holds the character U+0000")
    return text


_PARAMETER = re.compile(r"\{([a-z_]+)\}")


def _usual_limit(method: str, auth: Auth) -> Limit:
    if isinstance(auth, Server):
        return "server_read"
    if not isinstance(auth, Client):
        return "open"
    return "read" if method == "GET" else "write"


def _declare(
    handler: Handler,
    route: str,
    spec: str,
    auth: Auth,
    also: tuple[str, ...],
    max_body: int | None,
    limit: Limit,
) -> Endpoint:
    method, _, path = route.partition(" ")
    where = f"{handler.__module__}.{handler.__name__}"
    if method not in {"GET", "POST", "PUT", "DELETE", "PATCH"} or not path.startswith("/"):
        raise TypeError(f"{where}: {route!r} is not a method and a path")
    signature = inspect.signature(handler).parameters
    types = get_type_hints(handler)
    if list(signature)[:1] != ["call"]:
        raise TypeError(f"{where}: the first parameter is `call`")
    names = set(signature) - {"call", "query", "body"}
    in_paths = [set(_PARAMETER.findall(one)) for one in (path, *also)]
    for one in in_paths:
        if one - names:
            raise TypeError(f"{where}: the path names {sorted(one - names)}, the function does not")
    parameters = {}
    for name in names:
        required = signature[name].default is inspect.Parameter.empty
        if name not in in_paths[0] or (required and any(name not in one for one in in_paths)):
            raise TypeError(f"{where}: {name} does not stand in the path")
        if types[name] is not str and types[name] not in VALIDATORS:
            raise TypeError(f"{where}: {name} has a type that no path can give")
        parameters[name] = PathParameter(name, VALIDATORS.get(types[name]), not required)
    query_type, body_type = types.get("query"), _without_none(types.get("body"))
    if body_type is Incoming and isinstance(auth, Server):
        raise TypeError(f"{where}: what a server signs is read whole")
    is_read = body_type is not None and body_type is not Incoming
    body_default = signature["body"].default if body_type is not None else None
    body_optional = body_default is not inspect.Parameter.empty
    return Endpoint(
        method=method,
        path=path,
        also=also,
        spec=spec,
        auth=auth,
        handler=handler,
        parameters=parameters,
        query=QueryReader(query_type) if query_type is not None else None,
        query_type=query_type,
        body=BodyReader(body_type) if is_read else None,
        body_type=body_type,
        body_optional=body_optional,
        body_default=body_default if body_optional else None,
        max_body=max_body,
        limit=limit,
    )


def _without_none(kind: Any) -> Any:
    """`X` of `X | None`: an absent body is None, a present one never."""
    given = [part for part in getattr(kind, "__args__", ()) if part is not type(None)]
    return given[0] if isinstance(kind, UnionType) and len(given) == 1 else kind

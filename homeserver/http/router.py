"""From the raw target of a request to a declared endpoint.

Owns a trie over path segments. Invariants: the target is taken as it came over the wire, each
segment is percent-decoded exactly once, and nothing else is normalised: `.`, `//` and trailing
slashes mean themselves, because identifiers hold `/`, `+` and `%`. A literal segment wins over a
parameter. It neither reads bodies nor checks identifiers.
"""

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from homeserver.errors import MatrixError
from homeserver.http.endpoint import Endpoint, PathParameter

OLD = (
    ("/_matrix/client/v3/", "/_matrix/client/r0/"),
    ("/_matrix/media/v3/", "/_matrix/media/r0/"),
    ("/_matrix/media/v3/", "/_matrix/media/v1/"),
)
"""Old twins of paths, by what they begin with."""


class Route:
    """One path of one endpoint: where its parameters stand."""

    __slots__ = ("endpoint", "parameters", "rejects_empty")

    def __init__(self, endpoint: Endpoint, parameters: tuple[PathParameter, ...]) -> None:
        self.endpoint = endpoint
        self.parameters = parameters
        self.rejects_empty = any(not parameter.may_be_empty for parameter in parameters)


class _Node:
    __slots__ = ("literals", "parameter", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, Route] = {}


class Router:
    """A fixed set of endpoints; `r0_paths` adds the old twin of every v3 path."""

    __slots__ = ("_exact", "_root")

    def __init__(self, endpoints: Iterable[Endpoint], r0_paths: bool = True) -> None:
        self._root = _Node()
        self._exact: dict[str, _Node] = {}
        for endpoint in endpoints:
            for path in (endpoint.path, *endpoint.also):
                self._add(endpoint, path)
                for begin, old in OLD if r0_paths else ():
                    if path.startswith(begin):
                        self._add(endpoint, old + path.removeprefix(begin))

    def find(self, method: str, path: str) -> tuple[Route, list[str]]:
        """The route of a raw path and the decoded values of its parameters, in path order.

        Raises MatrixError M_UNRECOGNIZED: 404 for an unknown path, 405 for a method that the path
        does not have. spec: client-server-api#common-error-codes
        """
        node = self._exact.get(path)
        values: list[str] = []
        if node is None:
            segments = path.split("/")
            if "%" in path or not path.isascii():
                segments = [
                    segment if "%" not in segment and segment.isascii() else _decoded(segment)
                    for segment in segments
                ]
            node = self._walk(self._root, segments, 1, values)
        if node is None:
            raise MatrixError("M_UNRECOGNIZED", "There is nothing at this path", 404)
        route = node.routes.get(method)
        if route is None and method == "HEAD":
            route = node.routes.get("GET")
        if route is None:
            raise MatrixError(
                "M_UNRECOGNIZED",
                f"This path does not know the method {method}",
                405,
                headers={"Allow": ", ".join(sorted({*node.routes, "OPTIONS"}))},
            )
        if route.rejects_empty and "" in values:
            for parameter, value in zip(route.parameters, values, strict=True):
                if not value and not parameter.may_be_empty:
                    raise MatrixError("M_UNRECOGNIZED", f"The path lacks {parameter.name}", 404)
        return route, values

    def _add(self, endpoint: Endpoint, path: str) -> None:
        node = self._root
        names = []
        for segment in path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        if endpoint.method in node.routes:
            other = node.routes[endpoint.method].endpoint
            raise ValueError(f"{endpoint.method} {path} is declared twice, also by {other.name}")
        parameters = tuple(endpoint.parameters[name] for name in names)
        node.routes[endpoint.method] = Route(endpoint, parameters)
        if not names:
            self._exact[path] = node

    def _walk(
        self, node: _Node, segments: list[str], index: int, values: list[str]
    ) -> _Node | None:
        """The node of the segments from `index` on; `values` gets what parameters matched."""
        last = len(segments)
        while index < last:
            segment = segments[index]
            index += 1
            literal = node.literals.get(segment)
            if literal is None:
                if node.parameter is None:
                    return None
                values.append(segment)
                node = node.parameter
            elif node.parameter is None:
                node = literal
            else:
                depth = len(values)
                found = self._walk(literal, segments, index, values)
                if found is not None:
                    return found
                del values[depth:]
                values.append(segment)
                node = node.parameter
        return node if node.routes else None


def _decoded(segment: str) -> str:
    """One segment, percent-decoded once; M_INVALID_PARAM for what is no text."""
    try:
        text = unquote_to_bytes(segment.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        raise MatrixError.invalid_param("The path is not UTF-8") from None
    if "\0" in text:
        raise MatrixError.invalid_param("The path holds the character U+0000")
    return text

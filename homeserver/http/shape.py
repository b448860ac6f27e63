"""The shapes of what endpoints receive and return.

Owns the bases of body, query and reply declarations, the types of path parameters, and the reading
of untrusted input into them. Its invariant: whatever bytes come in, the outcome is a value of the
declared type or a `MatrixError` that names the field; never another exception. It knows neither
routes nor sockets.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, NewType
from urllib.parse import parse_qs

import msgspec

from homeserver.errors import MatrixError
from homeserver.matrix import canonical, ids
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed

# Integers as JSON has them everywhere: what lies outside is refused before it reaches a database.
Int = Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]

UserID = NewType("UserID", str)
RoomID = NewType("RoomID", str)
EventID = NewType("EventID", str)
RoomAlias = NewType("RoomAlias", str)
RoomIDOrAlias = NewType("RoomIDOrAlias", str)
ServerName = NewType("ServerName", str)


class Shape(msgspec.Struct):
    """Base of request bodies, queries and replies; unknown keys of a request are ignored."""


class Reply(Shape, omit_defaults=True):
    """Base of replies whose optional keys are left out while they have their default."""


class Form(Shape):
    """Base of bodies that come from a page in a browser, `a=b&c=d`."""


class Empty:
    """The reply `{}`."""

    __slots__ = ()


class Raw:
    """A reply that is ready as bytes, JSON unless `content_type` says otherwise."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers or {}

    @classmethod
    def json(cls, value: Shape | JsonObject, status: int = 200) -> "Raw":
        """A JSON reply with a status of its own, such as the 401 of user-interactive steps."""
        return cls(canonical.encode(value), status)


class Streamed:
    """A reply that is written piece by piece as `chunks` yields it, never whole in memory.

    `length` in bytes where it is known; without it the pieces are framed one by one. What `chunks`
    raises before its first piece becomes an error's reply, later it breaks the connection off.
    A generator is closed in any case, also when the client goes.
    """

    __slots__ = ("chunks", "content_type", "headers", "length", "status")

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        content_type: str = "application/json",
        *,
        length: int | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.chunks = chunks
        self.content_type = content_type
        self.length = length
        self.status = status
        self.headers = headers or {}


class Html(Raw):
    """A page for a browser; scripts, frames and foreign resources are switched off."""

    __slots__ = ()

    POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"

    def __init__(self, text: str, status: int = 200, policy: str = POLICY) -> None:
        headers = {
            "Content-Security-Policy": policy + "; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        super().__init__(text.encode(), status, "text/html; charset=utf-8", headers)


class Redirect(Raw):
    """Send the browser elsewhere."""

    __slots__ = ()

    def __init__(self, location: str, status: int = 302) -> None:
        if any(ord(character) < 33 or ord(character) > 126 for character in location):
            raise ValueError("a redirect needs a percent-encoded address")
        super().__init__(b"", status, "text/plain", {"Location": location})


_FLAT = 8
_NO_BRACKETS = bytes(set(range(256)) - set(b'{}[]"'))


def _is_room_id_or_alias(text: str) -> bool:
    return ids.is_room_id(text) or ids.is_room_alias(text)


VALIDATORS: dict[object, tuple[str, Callable[[str], bool]]] = {
    UserID: ("a user ID", ids.is_user_id),
    RoomID: ("a room ID", ids.is_room_id),
    EventID: ("an event ID", ids.is_event_id),
    RoomAlias: ("a room alias", ids.is_room_alias),
    RoomIDOrAlias: ("a room ID or alias", _is_room_id_or_alias),
    ServerName: ("a server name", ids.is_server_name),
}


class BodyReader:
    """Reads JSON bodies of one declared type: a `Shape` or any JSON object; or forms."""

    __slots__ = ("_checks", "_decode", "_form", "_is_shape")

    def __init__(self, body_type: Any) -> None:
        is_form = isinstance(body_type, type) and issubclass(body_type, Form)
        self._form = QueryReader(body_type) if is_form else None
        self._is_shape = isinstance(body_type, type) and issubclass(body_type, Shape)
        self._decode = canonical.decoder(body_type if self._is_shape else dict[str, Any]).decode
        self._checks = _id_fields(body_type) if self._is_shape else ()

    def read(self, data: bytes) -> Any:
        """The body as a value of the declared type.

        Raises MatrixError: M_NOT_JSON for what is no JSON, M_MISSING_PARAM for a missing key,
        M_BAD_JSON for a wrong type, the latter two naming the field.
        spec: client-server-api#common-error-codes
        """
        if self._form is not None:
            return self._form.read(_fields(data))
        try:
            value = self._decode(data)
            if not data.isascii():
                data.decode()  # the decoder does not look into keys that nobody declared
        except msgspec.ValidationError as error:
            _require_json(data)
            raise _refused(str(error), "M_BAD_JSON") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _not_json() from None
        except RecursionError:
            raise too_deep() from None
        if self._is_shape and b"\\u0000" in data and _has_nul(data):
            # PostgreSQL keeps no NUL in text, and no field with a meaning needs one.
            raise MatrixError.bad_json("Text may not hold the character U+0000")
        if data.count(b"{") + data.count(b"[") > canonical.MAX_DEPTH and not _is_flat(data):
            _check_depth(data)
        for field, name, valid in self._checks:
            _check_id(getattr(value, field), field, name, valid)
        return value


class QueryReader:
    """Reads query strings of one declared `Shape`; a list field takes every repeated key."""

    __slots__ = ("_checks", "_lists", "_type")

    def __init__(self, query_type: type[Shape]) -> None:
        self._type = query_type
        self._checks = _id_fields(query_type)
        self._lists = frozenset(
            field.encode_name
            for field in msgspec.structs.fields(query_type)
            if _holds_list(field.type)
        )

    def read(self, query: Mapping[str, list[str]]) -> Any:
        """The query as a value of the declared type.

        Raises MatrixError: M_MISSING_PARAM or M_INVALID_PARAM, naming the parameter.
        """
        lists = self._lists
        flat = {key: texts if key in lists else texts[0] for key, texts in query.items()}
        try:
            value = msgspec.convert(flat, self._type, strict=False)
        except msgspec.ValidationError as error:
            raise _refused(str(error), "M_INVALID_PARAM") from None
        for field, name, valid in self._checks:
            _check_id(getattr(value, field), field, name, valid)
        return value


def _fields(data: bytes) -> dict[str, list[str]]:
    """The fields of a form."""
    try:
        fields = parse_qs(data.decode(), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise MatrixError.bad_json("The body is not the form that belongs here") from None
    if any("\0" in text for texts in fields.values() for text in texts):
        raise MatrixError.bad_json("Text may not hold the character U+0000")
    return fields


def too_deep() -> MatrixError:
    """The answer to JSON that is nested beyond what this server follows."""
    return MatrixError.bad_json(f"The JSON is nested more than {canonical.MAX_DEPTH} levels deep")


def check_parameter(text: str, name: str, kind: str, valid: Callable[[str], bool]) -> str:
    """A path parameter that has its declared form, or M_INVALID_PARAM naming it."""
    if not valid(text):
        raise MatrixError.invalid_param(f"{name} is not {kind}")
    return text


def _check_id(value: object, field: str, kind: str, valid: Callable[[str], bool]) -> None:
    if isinstance(value, str) and not valid(value):
        raise MatrixError.invalid_param(f"{field} is not {kind}")


def _id_fields(shape: type[Shape]) -> tuple[tuple[str, str, Callable[[str], bool]], ...]:
    return tuple(
        (field.name, *VALIDATORS[kind])
        for field in msgspec.structs.fields(shape)
        for kind in (field.type, *getattr(field.type, "__args__", ()))
        if kind in VALIDATORS
    )


def _holds_list(kind: Any) -> bool:
    parts = (kind, *getattr(kind, "__args__", ()))
    return any(part is list or getattr(part, "__origin__", None) is list for part in parts)


_AT = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(.*)`$", re.DOTALL)


def _refused(text: str, errcode: str) -> MatrixError:
    """The error for a text of msgspec such as "Expected `bool`, got `int` - at `$.typing`"."""
    match = _AT.match(text)
    reason, place = (match.group(1), match.group(2) or "") if match else (text, "")
    missing = _MISSING.match(reason)
    if missing:
        field = f"{place}.{missing.group(1)}" if place else missing.group(1)
        if place:
            return MatrixError.bad_json(f"{field} is missing")
        return MatrixError.missing_param(f"{field} is missing")
    reason = reason[0].lower() + reason[1:] if reason else "has a wrong value"
    return MatrixError(errcode, f"{place or 'The body'}: {reason}".replace("`", ""), 400)


def _require_json(data: bytes) -> None:
    """A body that has the wrong shape must at least be JSON to be called M_BAD_JSON."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _not_json() from None
    except RecursionError:
        raise too_deep() from None


def _is_flat(data: bytes) -> bool:
    """Whether it is seen at once that a JSON text has few levels."""
    text = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    brackets = text.translate(None, _NO_BRACKETS)
    if b'"' in (brackets := brackets.replace(b'""', b"")):
        return False  # a text holds some, or looks so
    for _ in range(_FLAT):
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return not brackets


def _check_depth(data: bytes) -> None:
    """Refuse deep nesting here, so that nobody below meets the interpreter's limit."""
    try:
        canonical.check(canonical.decode(data), strict=False)
    except Malformed:
        raise too_deep() from None


def _not_json() -> MatrixError:
    return MatrixError("M_NOT_JSON", "The body is not valid JSON", 400)


def _has_nul(data: bytes) -> bool:
    """Whether a decoded text holds NUL; `\\\\u0000` in the source is an escaped backslash."""
    waiting = [msgspec.json.decode(data)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\0" in value:
                return True
        elif isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False

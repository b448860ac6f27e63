"""Errors that a client or another server may see.

Owns `MatrixError`, the one exception that becomes a standard error response. Anything else that
reaches the HTTP layer is a fault of ours and is answered with a 500 that names no details.
"""

from typing import Any


class MatrixError(Exception):
    """A standard error response.

    `errcode` is the specification's (`M_FORBIDDEN`), `message` a sentence for people, `status` the
    HTTP status, `extra` further keys of the body, `headers` further headers of the reply.
    spec: client-server-api#standard-error-response
    """

    def __init__(
        self,
        errcode: str,
        message: str,
        status: int = 400,
        *,
        extra: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{errcode}: {message}")
        self.errcode = errcode
        self.message = message
        self.status = status
        self.extra = extra or {}
        self.headers = headers or {}

    @classmethod
    def forbidden(cls, message: str) -> "MatrixError":
        return cls("M_FORBIDDEN", message, 403)

    @classmethod
    def not_found(cls, message: str) -> "MatrixError":
        return cls("M_NOT_FOUND", message, 404)

    @classmethod
    def bad_json(cls, message: str) -> "MatrixError":
        return cls("M_BAD_JSON", message, 400)

    @classmethod
    def invalid_param(cls, message: str) -> "MatrixError":
        return cls("M_INVALID_PARAM", message, 400)

    @classmethod
    def missing_param(cls, message: str) -> "MatrixError":
        return cls("M_MISSING_PARAM", message, 400)

    @classmethod
    def too_large(cls, message: str) -> "MatrixError":
        return cls("M_TOO_LARGE", message, 413)


class Unreachable(Exception):
    """Another server could not be asked: there was no answer, or it is not tried now.

    `reason` is a sentence without the server's name; `retry_ts` (ms) is when it will be tried
    again, where that is known.
    """

    def __init__(self, server: str, reason: str, retry_ts: int | None = None) -> None:
        super().__init__(f"{server}: {reason}")
        self.server = server
        self.reason = reason
        self.retry_ts = retry_ts


class RemoteError(Exception):
    """Another server has answered, but not with what was asked for.

    `status` is the HTTP status and `errcode` the specification's code, empty when the answer was no
    standard error; a 2xx `status` means that the body was no JSON object. `body` is the error's
    whole JSON, `retry_after_ms` how long the server wants to be left alone.
    """

    def __init__(
        self,
        server: str,
        status: int,
        errcode: str = "",
        message: str = "",
        *,
        body: dict[str, Any] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{server} answered {status} {errcode}: {message}")
        self.server = server
        self.status = status
        self.errcode = errcode
        self.message = message
        self.body = body or {}
        self.retry_after_ms = retry_after_ms

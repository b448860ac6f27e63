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

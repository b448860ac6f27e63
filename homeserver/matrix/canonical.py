"""JSON in and out: the one decoder, canonical encoding, its limits, and unpadded base64.

Owns that equal JSON gives equal bytes everywhere: what `decode` returns, `encode` writes as other
servers do, so that hashes fit. `check` holds the limits of the specification; `encode` trusts that
somebody has called it. Nothing here knows what an event is.

Numbers: a literal with an exponent and no fraction (`1e10`) is the integer that it stands for, as
the specification's examples have it. Other literals with a point or an exponent are floats, which
strict JSON refuses. Events of room versions 1 to 5 may hold them, and there hashes are made over
Python's shortest notation (`1e+22` where others write `1e22`), because that is what the servers
that made those events wrote.
spec: appendices#canonical-json
"""

import base64
import binascii
import math
from typing import Any, TypeAlias, TypeVar

import msgspec

from homeserver.matrix.errors import Malformed

JsonObject: TypeAlias = dict[str, Any]
T = TypeVar("T")

MAX_INT = 2**53 - 1
MAX_DEPTH = 200
"""Levels of nesting. The specification has no figure; this one is safe to recurse over."""

# Python writes no integers beyond 4,300 digits.
_MAX_BITS = 14_000


class _Float(float):
    """A float that was read from JSON, so that the encoder asks how to write it."""

    __slots__ = ()


def _read_float(literal: str) -> float:
    number = _Float(literal)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    if "." not in literal and "-" not in literal[1:] and abs(number) <= MAX_INT:
        return int(number)
    return number


def _write_other(value: object) -> msgspec.Raw:
    if isinstance(value, _Float):
        return msgspec.Raw(float.__repr__(value).encode())
    raise TypeError(f"{type(value).__name__} is not JSON")


_decoder = msgspec.json.Decoder(float_hook=_read_float)
_encoder = msgspec.json.Encoder(order="sorted", enc_hook=_write_other)


def encode(value: object) -> bytes:
    """Canonical JSON of a value that came from `decode` or passes `check`.

    Keys are sorted by code point, nothing is escaped that need not be.
    """
    return _encoder.encode(value)


def decode(data: bytes | str) -> Any:
    """The value of a JSON text; of equal keys the last wins.

    Raises `Malformed` on whatever is not JSON in UTF-8: NaN, lone surrogates, numbers beyond
    floats, and nesting that the interpreter can't follow.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed(f"Not JSON: {error}") from error


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder of JSON into a declared type that reads numbers as `decode` does.

    Its errors are msgspec's own: ValidationError, DecodeError, UnicodeError, RecursionError.
    """
    return msgspec.json.Decoder(kind, float_hook=_read_float)


def decode_object(data: bytes | str) -> JsonObject:
    """Like `decode`, for a text that must be an object."""
    value = decode(data)
    if not isinstance(value, dict):
        raise Malformed("Not a JSON object")
    return value


def check(value: object, *, strict: bool = True, max_depth: int = MAX_DEPTH) -> None:
    """Raise `Malformed` unless `value` is JSON within the limits.

    `strict` is the specification's canonical JSON (room version 6 on): no floats, integers within
    2^53 - 1. Without it finite floats and integers of up to 4,200 digits pass. `max_depth` bounds
    the levels of objects and arrays.
    """
    level: list[Any] = [value]
    for _ in range(max_depth + 1):
        inner: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                if not item.isascii():
                    _check_text(item)
            elif kind is dict:
                for key in item:
                    if type(key) is not str:
                        raise Malformed("Keys of JSON objects are strings")
                    if not key.isascii():
                        _check_text(key)
                inner += item.values()
            elif kind is list:
                inner += item
            elif kind is int:
                if not -MAX_INT <= item <= MAX_INT:
                    _check_big_integer(item, strict)
            elif item is not None and kind is not bool:
                _check_float(item, strict)
        if not inner:
            return
        level = inner
    raise Malformed(f"JSON is nested more than {max_depth} levels deep")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Malformed("Lone surrogates are not allowed") from error


def _check_big_integer(value: int, strict: bool) -> None:
    if strict:
        raise Malformed("Integers beyond 2^53 - 1 are not allowed")
    if value.bit_length() > _MAX_BITS:
        raise Malformed("An integer is too long to be written")


def _check_float(value: object, strict: bool) -> None:
    if not isinstance(value, float):
        raise Malformed(f"{type(value).__name__} is not JSON")
    if strict or not math.isfinite(value):
        raise Malformed(f"The number {value!r} is not an integer")


def encode_unpadded(data: bytes) -> str:
    """Base64 without padding. spec: appendices#unpadded-base64"""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode()


def encode_unpadded_urlsafe(data: bytes) -> str:
    """URL-safe base64 without padding. spec: appendices#url-safe-unpadded-base64"""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_unpadded(text: str) -> bytes:
    """The bytes of base64 with or without padding; `Malformed` when it is neither."""
    try:
        return base64.b64decode(_padded(text), validate=True)
    except ValueError as error:
        raise Malformed("Not unpadded base64") from error


def decode_unpadded_urlsafe(text: str) -> bytes:
    """Like `decode_unpadded`, for the URL-safe alphabet."""
    try:
        return base64.b64decode(_padded(text), altchars=b"-_", validate=True)
    except ValueError as error:
        raise Malformed("Not URL-safe unpadded base64") from error


def _padded(text: str) -> str:
    bare = text.rstrip("=")
    return bare + "=" * (-len(bare) % 4)

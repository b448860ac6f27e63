"""A long JSON object, cut while it comes: its members, those of some lists one by one.

Owns finding where values end, no more: a value is handed on as the bytes that it came in and is
decoded by the one decoder there is. Invariant: at most one value, of a bounded size, waits in
memory.
"""

import re
from collections.abc import Collection, Iterator

from homeserver.matrix.errors import Malformed

MAX_VALUE_BYTES = 1_048_576

_SPACE = re.compile(rb"[ \t\r\n]*")
_PART = re.compile(rb'"(?:[^"\\]+|\\.)*("?)|[{}\[\]]', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,\]}"{\[]+')
_MORE = -1


class Elements:
    """Cuts one object; `lists` are the members whose elements are given one by one."""

    def __init__(self, lists: Collection[str]) -> None:
        self._lists = {f'"{name}"'.encode(): name for name in lists}
        self._buffer = b""
        self._expect = "{"
        self._name = b""
        self._inside = False  # of a list
        # Where the search for the end of the value at hand goes on: place, and levels open there.
        self._resume: tuple[int, int] = (0, 0)

    @property
    def complete(self) -> bool:
        """Whether the object has ended."""
        return self._expect == ""

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """What became whole with these bytes: (name of the member, JSON of it or an element).

        Raises Malformed for what is no object, or holds a value beyond the bound.
        """
        buffer = self._buffer + chunk if self._buffer else chunk
        place = 0
        while True:
            match = _SPACE.match(buffer, place)
            start = match.end() if match is not None else place
            if start == len(buffer):
                place = start
                break
            token = buffer[start : start + 1]
            if self._expect in ("name or }", "name", "value", "value or ]"):
                if token == b"}" and self._expect == "name or }":
                    self._expect, place = "", start + 1
                    continue
                if token == b"]" and self._expect == "value or ]":
                    self._inside, self._expect, place = False, ", or }", start + 1
                    continue
                if (
                    token == b"["
                    and self._expect == "value"
                    and not self._inside
                    and self._name in self._lists
                ):
                    self._inside, self._expect, place = True, "value or ]", start + 1
                    continue
                end = self._end_of_value(buffer, start)
                if end == _MORE:
                    place = start
                    break
                value = buffer[start:end]
                place = end
                if self._expect in ("name or }", "name"):
                    if token != b'"':
                        raise Malformed("The name of a member is a string")
                    self._name, self._expect = value, ":"
                    continue
                self._expect = ", or ]" if self._inside else ", or }"
                yield (
                    self._lists.get(self._name) or self._name.decode(errors="replace").strip('"'),
                    value,
                )
                continue
            self._punctuation(token)
            place = start + 1
        self._buffer = buffer[place:]
        if len(self._buffer) > MAX_VALUE_BYTES:
            raise Malformed("A value of the answer is too long")

    def _punctuation(self, token: bytes) -> None:
        follows = {
            ("{", b"{"): "name or }",
            (":", b":"): "value",
            (", or }", b","): "name",
            (", or }", b"}"): "",
            (", or ]", b","): "value",
            (", or ]", b"]"): ", or }",
        }.get((self._expect, token))
        if follows is None:
            raise Malformed("The answer is not a JSON object")
        if token == b"]":
            self._inside = False
        self._expect = follows

    def _end_of_value(self, buffer: bytes, start: int) -> int:
        """Where the value ends that begins at `start`, _MORE if that has not come yet."""
        first = buffer[start : start + 1]
        if first not in (b"{", b"[", b'"'):
            scalar = _SCALAR.match(buffer, start)
            if scalar is None:
                raise Malformed("The answer is not JSON")
            return scalar.end() if scalar.end() < len(buffer) else _MORE
        offset, depth = self._resume
        place = start + offset
        while True:
            part = _PART.search(buffer, place)
            if part is None:
                break
            text = part.group()
            if text[:1] == b'"':
                if not part.group(1):
                    place = part.start()
                    self._resume = (place - start, depth)
                    return _MORE
            elif text in (b"{", b"["):
                depth += 1
            else:
                depth -= 1
            place = part.end()
            if depth == 0:
                self._resume = (0, 0)
                return place
            if depth < 0:
                raise Malformed("The answer is not JSON")
        self._resume = (len(buffer) - start, depth)
        return _MORE

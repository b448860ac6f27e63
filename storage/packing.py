"""How lists of numbers and the entries of state snapshots are laid out in blobs.

Numbers are unsigned LEB128 varints. Entries are key numbers with event numbers, a removed key being
event 0: few are varints, many are two columns of fixed-width words, compressed. Invariants: packing
is the same on every machine, equal entries pack to equal bytes, and what was packed unpacks to the
same. The meaning of the numbers is no matter of this module.
"""

import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping
from itertools import accumulate
from operator import sub

_VARINTS, _WORDS_32, _WORDS_64 = 0, 1, 2
_MANY = 16


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """The numbers (0 and up) in the order given."""
    packed = bytearray()
    for number in numbers:
        if number < 0:
            raise ValueError(f"{number} is below zero")
        while number > 127:
            packed.append(number & 127 | 128)
            number >>= 7
        packed.append(number)
    return bytes(packed)


def unpack_numbers(packed: bytes) -> list[int]:
    """What `pack_numbers` packed; ValueError for bytes that it did not make."""
    numbers = []
    number = shift = 0
    for byte in packed:
        if byte > 127:
            number |= (byte & 127) << shift
            shift += 7
        else:
            numbers.append(number | byte << shift)
            number = shift = 0
    if shift:
        raise ValueError("the packed numbers are cut off")
    return numbers


def pack_entries(entries: Mapping[int, int | None]) -> bytes:
    """State entries, key_nid to event_nid or None for a removed key."""
    keys = sorted(entries)
    events = [entries[key] or 0 for key in keys]
    deltas = [*keys[:1], *map(sub, keys[1:], keys)]
    if len(keys) <= _MANY:
        return bytes((_VARINTS,)) + pack_numbers(deltas + events)
    kind = _WORDS_32 if max(*deltas, *events) < 1 << 32 else _WORDS_64
    words = array(_typecode(kind), deltas + events)
    if sys.byteorder == "big":
        words.byteswap()
    return bytes((kind,)) + zlib.compress(words.tobytes())


def unpack_entries(packed: bytes) -> dict[int, int | None]:
    """What `pack_entries` packed; ValueError for bytes that it did not make."""
    if packed[:1] == bytes((_VARINTS,)):
        numbers = unpack_numbers(packed[1:])
    else:
        words = array(_typecode(packed[0] if packed else -1))
        try:
            words.frombytes(zlib.decompress(packed[1:]))
        except zlib.error as error:
            raise ValueError(f"the packed entries are damaged: {error}") from error
        if sys.byteorder == "big":
            words.byteswap()
        numbers = words.tolist()
    if len(numbers) % 2:
        raise ValueError("a packed entry has no event")
    half = len(numbers) // 2
    keys = accumulate(numbers[:half])
    return {key: event or None for key, event in zip(keys, numbers[half:], strict=True)}


def _typecode(kind: int) -> str:
    """The array type of a layout; widths are checked because they are the platform's."""
    width = {_WORDS_32: 4, _WORDS_64: 8}.get(kind)
    if width is None:
        raise ValueError("the packed entries are of an unknown layout")
    return next(code for code in "ILQ" if array(code).itemsize == width)

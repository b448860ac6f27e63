"""Packed numbers and state entries come back as they went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.packing import pack_entries, pack_numbers, unpack_entries, unpack_numbers

numbers = st.integers(0, 2**63 - 1)
entries = st.dictionaries(st.integers(1, 2**40), st.none() | st.integers(1, 2**40), max_size=60)


@given(st.lists(numbers))
def test_numbers_come_back(values: list[int]) -> None:
    assert unpack_numbers(pack_numbers(values)) == values


def test_small_numbers_take_a_byte() -> None:
    assert pack_numbers([0, 1, 127, 128, 300]) == b"\x00\x01\x7f\x80\x01\xac\x02"


def test_what_is_no_packed_list_is_refused() -> None:
    with pytest.raises(ValueError):
        pack_numbers([-1])
    with pytest.raises(ValueError):
        unpack_numbers(b"\x80")


@given(entries)
def test_entries_come_back(values: dict[int, int | None]) -> None:
    packed = pack_entries(values)
    assert unpack_entries(packed) == values
    assert pack_entries(dict(reversed(values.items()))) == packed


def test_a_big_state_is_small() -> None:
    state: dict[int, int | None] = {100 + n: 1_000 + 3 * n for n in range(10_000)}
    packed = pack_entries(state)
    assert unpack_entries(packed) == state
    assert len(packed) < 10_000 * 6


def test_a_change_of_one_key_takes_a_few_bytes() -> None:
    assert len(pack_entries({70_000: 2_000_000})) < 10


@pytest.mark.parametrize(
    "packed", [b"", b"\x07", b"\x00\x05", b"\x01damaged", b"\x00\x85", b"\x02"]
)
def test_what_is_no_packed_state_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError):
        unpack_entries(packed)

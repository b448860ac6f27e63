"""A long object is cut into its members and elements, however its bytes arrive."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.elements import MAX_VALUE_BYTES, Elements
from homeserver.matrix.errors import Malformed

texts = st.text(st.sampled_from('ab"\\{}[],:é\n '), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def cut(data: bytes, sizes: list[int], lists: list[str]) -> tuple[dict[str, list[Any]], bool]:
    elements = Elements(lists)
    found: dict[str, list[Any]] = {}
    place = step = 0
    while place < len(data):
        size = sizes[step % len(sizes)]
        for name, value in elements.feed(data[place : place + size]):
            found.setdefault(name, []).append(json.loads(value))
        place, step = place + size, step + 1
    return found, elements.complete


@given(
    state=st.lists(values, max_size=6),
    other=values,
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_every_element_comes_out_as_it_went_in(
    state: list[Any], other: Any, sizes: list[int], indent: int | None, ascii_only: bool
) -> None:
    document = {"x": other, "state": state, "y": 12}
    data = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    found, complete = cut(data, sizes, ["state"])
    assert complete
    assert found.pop("state", []) == state
    assert found == {"x": [other], "y": [12]}


@pytest.mark.parametrize(
    "data", ["[]", '"x"', "{]", '{"a" 1}', '{"a":}', '{"a":1,}}', "{1:2}", '{"a":1}x', '{"s":[1}']
)
def test_what_is_no_object_is_refused(data: str) -> None:
    with pytest.raises(Malformed):
        cut(data.encode(), [3], ["s"])


def test_an_object_that_is_cut_off_is_not_complete() -> None:
    for data in ("", "{", '{"a"', '{"a":1', '{"s":[1,2', '{"s":[{"x":"'):
        assert not cut(data.encode(), [4], ["s"])[1]


def test_one_value_has_a_bound() -> None:
    with pytest.raises(Malformed):
        cut(b'{"s":["' + b"a" * (MAX_VALUE_BYTES + 65_536), [65_536], ["s"])

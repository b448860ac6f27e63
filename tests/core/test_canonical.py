"""Canonical JSON: one way to write each value, and nothing else gets in."""

import json
import math
from typing import Any

import pytest
from canonicaljson import encode_canonical_json
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical import (
    MAX_DEPTH,
    MAX_INT,
    check,
    decode,
    decode_object,
    decode_unpadded,
    decode_unpadded_urlsafe,
    encode,
    encode_unpadded,
    encode_unpadded_urlsafe,
)
from homeserver.matrix.errors import Malformed

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def json_of(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=12,
    )


strict_json = json_of(st.integers(-MAX_INT, MAX_INT))
lenient_json = json_of(
    st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
)


@given(strict_json)
def test_legal_values_round_trip_and_equal_the_canonicaljson_package(value: Any) -> None:
    check(value)
    data = encode(value)
    assert data == encode_canonical_json(value)
    assert decode(data) == value


@given(lenient_json)
def test_floats_and_big_integers_are_reproduced_as_the_canonicaljson_package_does(
    value: Any,
) -> None:
    data = encode_canonical_json(value)
    read = decode(data)
    check(read, strict=False)
    assert encode(read) == data
    assert read == value


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_no_input_makes_the_decoder_raise_anything_but_malformed(data: bytes | str) -> None:
    try:
        value = decode(data)
    except Malformed:
        return
    check(value, strict=False)
    assert decode(encode(value)) == value


@given(strict_json)
def test_white_space_escapes_and_order_do_not_matter(value: Any) -> None:
    assert encode(decode(json.dumps(value, indent=3))) == encode(value)


def test_keys_are_sorted_by_code_point_also_beyond_the_bmp() -> None:
    assert encode({"\U0001f600": 1, "\uffff": 2, "z": 3}) == '{"z":3,"\uffff":2,"😀":1}'.encode()


def test_only_what_must_be_is_escaped() -> None:
    text = '\x00\x08\t\n\x0b\x0c\r\x1f"\\/\x7f\u2028'
    assert encode(text) == '"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\"\\\\/\x7f\u2028"'.encode()


@pytest.mark.parametrize(
    ("literal", "number"),
    [
        ("1e10", 10_000_000_000),
        ("1E+3", 1000),
        ("-2e2", -200),
        ("-0", 0),
        ("-0e0", 0),
        ("0e99999", 0),
        ("9007199254740991e0", MAX_INT),
    ],
)
def test_an_exponent_without_fraction_is_the_integer_it_stands_for(
    literal: str, number: int
) -> None:
    value = decode(literal)
    assert type(value) is int
    assert value == number
    check(value)


@pytest.mark.parametrize("literal", ["1.0", "-0.0", "1.5e3", "10e-1", "9007199254740992e0", "1e22"])
def test_other_literals_are_floats_which_strict_json_refuses(literal: str) -> None:
    value = decode(literal)
    assert isinstance(value, float)
    assert encode(value) == encode_canonical_json(json.loads(literal))
    check(value, strict=False)
    with pytest.raises(Malformed):
        check(value)


@pytest.mark.parametrize("number", [MAX_INT + 1, -MAX_INT - 1, 2**64, -(10**40)])
def test_integers_out_of_range_are_refused_by_strict_json_only(number: int) -> None:
    check([number], strict=False)
    with pytest.raises(Malformed):
        check([number])


def test_integers_that_cannot_be_written_are_always_refused() -> None:
    with pytest.raises(Malformed):
        check(10**5000, strict=False)
    with pytest.raises(Malformed):
        decode("1" * 5000)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_number_is_always_refused(number: float, strict: bool) -> None:
    with pytest.raises(Malformed):
        check({"a": [number]}, strict=strict)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e400",
        b"01",
        b"[1,]",
        b"{'a':1}",
        b"1 1",
        b'"\xff"',
        b'{"\xff":1}',
        b'"\\ud800"',
        b'"\x01"',
        b"\xef\xbb\xbf1",
        b"[" * 100_000 + b"]" * 100_000,
        "\ud800",
    ],
)
def test_what_is_not_json_is_malformed(data: bytes | str) -> None:
    with pytest.raises(Malformed):
        decode(data)


@pytest.mark.parametrize(
    "value", ["\ud800", {"\udfff": 1}, {"a": ["b\udc00"]}, {1: 2}, {None: 1}, (1,), b"x", {1, 2}]
)
@pytest.mark.parametrize("strict", [True, False])
def test_values_that_json_cannot_hold_are_malformed(value: object, strict: bool) -> None:
    with pytest.raises(Malformed):
        check(value, strict=strict)


def test_nesting_is_bounded() -> None:
    deepest: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        deepest = [deepest]
    check(deepest)
    assert decode(encode(deepest)) == deepest
    with pytest.raises(Malformed):
        check([[deepest]])
    with pytest.raises(Malformed):
        check({"a": {"b": 1}}, max_depth=1)


@pytest.mark.parametrize("data", ["[]", "1", "null", '"a"'])
def test_an_object_is_demanded_where_one_must_be(data: str) -> None:
    assert decode_object('{"a":1}') == {"a": 1}
    with pytest.raises(Malformed):
        decode_object(data)


@given(st.binary(max_size=50))
def test_base64_round_trips_in_both_alphabets_padded_or_not(data: bytes) -> None:
    assert decode_unpadded(encode_unpadded(data)) == data
    assert decode_unpadded(encode_unpadded(data) + "=" * (-len(data) % 3)) == data
    assert decode_unpadded_urlsafe(encode_unpadded_urlsafe(data)) == data


@pytest.mark.parametrize("text", ["A", "AAAAA", "A A=", "A-_A", "ä", "AA\n", "A=AA"])
def test_what_is_not_base64_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        decode_unpadded(text)


@pytest.mark.parametrize("text", ["A", "AAAAA", "ä", "A A="])
def test_what_is_not_url_safe_base64_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        decode_unpadded_urlsafe(text)

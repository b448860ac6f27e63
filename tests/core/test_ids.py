"""Identifiers: their grammar, and lengths in bytes."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import Malformed
from homeserver.matrix.ids import (
    fits,
    is_device_id,
    is_event_id,
    is_hash_room_id,
    is_new_localpart,
    is_room_alias,
    is_room_id,
    is_server_name,
    is_user_id,
    server_of,
    split_user_id,
)

HASH = "Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"


@pytest.mark.parametrize(
    "name",
    [
        "matrix.org",
        "matrix.org:8888",
        "1.2.3.4",
        "1.2.3.4:1234",
        "[1234:5678::abcd]",
        "[1234:5678::abcd]:5678",
        "[::1]",
        "[::ffff:1.2.3.4]",
        "localhost",
        "MATRIX.org",
        "a-b.c",
        "1.2.3",
        "x" * 230,
    ],
)
def test_server_names(name: str) -> None:
    assert is_server_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":80",
        "a:",
        "a:123456",
        "a:b",
        "a:٣",
        "a b",
        "a\n",
        "a_b",
        "ä.org",
        "300.1.1.1",
        "[1.2.3.4]",
        "[::1",
        "[]",
        "[:::]",
        "[1::2::3]",
        "[1:2:3:4:5:6:7:8:9]",
        "[fe80::1%eth0]",
        "::1",
        "a/b",
        "x" * 256,
    ],
)
def test_no_server_names(name: str) -> None:
    assert not is_server_name(name)


@pytest.mark.parametrize("localpart", ["alice", "a.b_c=d-e/f+1", "0"])
def test_localparts_that_may_be_registered(localpart: str) -> None:
    assert is_new_localpart(localpart)
    assert is_user_id(f"@{localpart}:example.org", historical=False)


@pytest.mark.parametrize("localpart", ["", "Alice", "ü", "a b", "a!", "a\n", "\x01"])
def test_historical_localparts_exist_but_are_not_registered(localpart: str) -> None:
    assert is_user_id(f"@{localpart}:example.org")
    assert not is_user_id(f"@{localpart}:example.org", historical=False)
    assert not is_new_localpart(localpart)


@pytest.mark.parametrize(
    "user_id",
    ["", "@", "@a", "a:b", "@a:", "@a:b:c", "@a\0:b", "@\ud800:b", "!a:b", "@a:b c", "@a:b\n"],
)
def test_no_user_ids(user_id: str) -> None:
    assert not is_user_id(user_id)
    with pytest.raises(Malformed):
        split_user_id(user_id)


def test_user_ids_are_split_at_the_first_colon() -> None:
    assert split_user_id("@alice:example.org:8448") == ("alice", "example.org:8448")
    assert split_user_id("@:b") == ("", "b")
    assert server_of("@alice:[::1]:8448") == "[::1]:8448"
    with pytest.raises(Malformed):
        server_of("!" + HASH)


@pytest.mark.parametrize(
    ("sigil", "valid"),
    [("@", is_user_id), ("#", is_room_alias), ("!", is_room_id), ("$", is_event_id)],
)
def test_lengths_are_counted_in_bytes(sigil: str, valid: Callable[[str], bool]) -> None:
    assert valid(sigil + "x" * 252 + ":a")
    assert not valid(sigil + "x" * 253 + ":a")
    assert valid(sigil + "é" * 126 + ":a")
    assert not valid(sigil + "é" * 127 + ":a")


@given(st.text(max_size=20), st.integers(0, 40))
def test_a_text_fits_by_its_bytes(text: str, limit: int) -> None:
    assert fits(text, limit) == (len(text.encode("utf-8", "surrogatepass")) <= limit) or any(
        "\ud800" <= letter <= "\udfff" for letter in text
    )


def test_room_ids_have_a_domain_or_none() -> None:
    assert is_room_id("!abc:example.org")
    assert is_room_id("!" + HASH)
    for room_id in ("!", "!:a", "!a:", "a", "#a:b", "!a:b c", "!a\0"):
        assert not is_room_id(room_id)


def test_room_ids_that_are_hashes() -> None:
    assert is_hash_room_id("!" + HASH)
    for room_id in ("$" + HASH, "!" + HASH[1:], "!" + HASH + "A", "!+" + HASH[1:], HASH):
        assert not is_hash_room_id(room_id)


def test_aliases() -> None:
    assert is_room_alias("#Ä b!:example.org")
    for alias in ("", "#", "#a", "#:b", "#a:", "!a:b", "#a\0:b", "#a:b:c:d"):
        assert not is_room_alias(alias)


def test_event_ids_are_opaque() -> None:
    for event_id in ("$" + HASH, "$a:b", "$ab/c+d"):
        assert is_event_id(event_id)
    for event_id in ("", "$", "a", "!a:b", "$a\0"):
        assert not is_event_id(event_id)


def test_device_ids_are_opaque() -> None:
    assert is_device_id("ABC def/+")
    for device_id in ("", "a\0", "x" * 256):
        assert not is_device_id(device_id)

"""Strings and state keys get their numbers when they are written, not when they are asked for."""

import pytest

from homeserver.errors import MatrixError
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.names import name_numbers


async def test_asking_gives_no_numbers(database: Database) -> None:
    names = Names(database)
    keys = [("m.type", "key"), ("m.type", "\0"), ("x" * 5_000, ""), ("m.type", "\0")]
    assert await names.find_keys(keys) == {}
    assert await name_numbers(database, ["m.type", "key"]) == {}


async def test_what_was_written_is_found(database: Database) -> None:
    written = Names(database)
    keys = [("m.a", ""), ("m.a", "x"), ("m.b", "x"), ("m.a", "é" * 127)]
    await written.load(keys=keys)
    expected = {key: written.key_nid(*key) for key in keys}
    asked = Names(database)
    assert await asked.find_keys([*keys, ("m.b", ""), ("m.c", "x")]) == expected
    assert await asked.find_keys(keys[:1]) == {keys[0]: expected[keys[0]]}
    assert {key: asked.key_nid(*key) for key in keys} == expected


@pytest.mark.parametrize(
    ("name", "errcode"),
    [("a\0b", "M_BAD_JSON"), ("\ud800", "M_TOO_LARGE"), ("é" * 128, "M_TOO_LARGE")],
)
async def test_what_no_field_may_hold_gets_no_number(
    database: Database, name: str, errcode: str
) -> None:
    names = Names(database)
    for keys in ([(name, "")], [("m.type", name)]):
        with pytest.raises(MatrixError) as error:
            await names.load(keys=keys)
        assert error.value.errcode == errcode
    with pytest.raises(MatrixError):
        await names.nids(["good", name])

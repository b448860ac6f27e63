"""Numbers and interned names: never given twice, the same for everybody who asks."""

import asyncio

from storage.engine import Database, DatabaseSettings, open_database
from storage.names import (
    name_numbers,
    names,
    state_key_numbers,
    state_key_parts,
    state_keys,
)


async def test_reserved_numbers_are_never_given_twice(database: Database) -> None:
    firsts = await asyncio.gather(*(database.reserve("event", 10) for _ in range(20)))
    assert sorted(firsts) == list(range(1, 201, 10))
    assert await database.reserve("event", 1) == 201
    assert await database.reserve("snapshot", 5) == 1


async def test_reserved_numbers_outlive_the_process(database_settings: DatabaseSettings) -> None:
    seen: list[int] = []
    for _ in range(2):
        database = await open_database(database_settings)
        seen.append(await database.reserve("event", 100))
        await database.close()
    assert seen == [1, 101]


async def test_a_name_has_one_number(database: Database) -> None:
    texts = ["m.room.member", "@a:b", "", "é", "E"]
    numbers = await database.intern(texts)
    assert len(set(numbers.values())) == len(texts)
    assert await database.intern([*texts, "@a:b"]) == numbers
    assert await names(database, numbers.values()) == {n: text for text, n in numbers.items()}
    assert await name_numbers(database, ["@a:b", "unknown"]) == {"@a:b": numbers["@a:b"]}


async def test_names_asked_for_at_once_have_one_number(database: Database) -> None:
    asked = [[f"name{n % 7}", f"name{n % 5}"] for n in range(30)]
    answers = await asyncio.gather(*(database.intern(texts) for texts in asked))
    merged: dict[str, int] = {}
    for texts, answer in zip(asked, answers, strict=True):
        assert answer.keys() == set(texts)
        for text, number in answer.items():
            assert merged.setdefault(text, number) == number
    assert len(set(merged.values())) == 7


async def test_no_names_are_no_numbers(database: Database) -> None:
    assert await database.intern([]) == {}
    assert await database.intern_keys([]) == {}


async def test_a_state_key_has_one_number(database: Database) -> None:
    texts = ["m.room.member", "m.room.name", "@a:b", ""]
    numbers = await database.intern(texts)
    member, name, alice, empty = (numbers[text] for text in texts)
    keys = await database.intern_keys([(member, alice), (name, empty)])
    assert len(set(keys.values())) == 2
    again = await database.intern_keys([(member, empty), (member, alice), (name, empty)])
    assert again.items() > keys.items()
    key = keys[member, alice]
    assert await state_keys(database, [key, 999]) == {key: ("m.room.member", "@a:b")}
    assert await state_key_parts(database, [key]) == {key: (member, alice)}
    assert await state_key_numbers(database, member, [alice, name]) == {alice: key}

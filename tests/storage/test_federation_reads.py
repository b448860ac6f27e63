"""What the read functions answer about other servers."""

from storage import federation
from storage.changes import Delete, Item, Put
from storage.engine import Database
from storage.schema import DestinationRow, KeyAnswerRow, LookupRow, OwnKeyRow, ServerKeyRow


async def test_lookups_are_found_by_kind_and_name_until_they_are_forgotten(
    database: Database,
) -> None:
    old = LookupRow("srv", "old.example", b"[]", 10, 20)
    new = LookupRow("srv", "new.example", b"[1]", 10, 40)
    other = LookupRow("address", "old.example", b"null", 10, 40)
    await database.commit([Item([Put(old), Put(new), Put(other)])])
    assert await federation.lookups(database, "srv", ["old.example", "new.example", "no"]) == {
        "old.example": old,
        "new.example": new,
    }
    await database.commit([Item([federation.lookups_forgotten(30)])])
    assert await federation.lookups(database, "srv", ["old.example", "new.example"]) == {
        "new.example": new
    }
    assert await federation.lookups(database, "address", ["old.example"]) == {"old.example": other}


async def test_only_strangers_are_forgotten(database: Database) -> None:
    stranger = DestinationRow("stranger", None, 5, 3, 60_000, 100, "no such name")
    friend = DestinationRow("friend", 4, 5, 3, 60_000, 100, "timed out")
    await database.commit([Item([Put(stranger), Put(friend)])])
    names = ["stranger", "friend", "unknown"]
    assert await federation.destinations(database, names) == {
        "stranger": stranger,
        "friend": friend,
    }
    await database.commit([Item([federation.strangers_forgotten(101)])])
    assert await federation.destinations(database, names) == {"friend": friend}


async def test_keys_and_the_answers_that_they_came_in(database: Database) -> None:
    first = ServerKeyRow("a", "ed25519:1", b"k1", 50, 50, b"d1")
    second = ServerKeyRow("a", "ed25519:2", b"k2", 90, None, b"d2")
    answers = [KeyAnswerRow("a", b"d1", b"{}", 50, 1), KeyAnswerRow("a", b"d2", b"{}", 90, 2)]
    await database.commit([Item([*map(Put, answers), Put(first), Put(second)])])
    assert await federation.server_keys(database, ["a", "b"]) == {
        "a": {"ed25519:1": first, "ed25519:2": second}
    }
    assert await federation.key_answers(database, ["a", "b"]) == {"a": answers[::-1]}
    gone = Delete(ServerKeyRow, ("a", "ed25519:1"))
    await database.commit([Item([gone, federation.unused_answers_forgotten("a")])])
    assert await federation.key_answers(database, ["a"]) == {"a": answers[1:]}


async def test_own_keys(database: Database) -> None:
    old, new = OwnKeyRow("ed25519:1", b"k1", 50), OwnKeyRow("ed25519:2", b"k2", None)
    await database.commit([Item([Put(old), Put(new)])])
    assert await federation.own_keys(database) == {"ed25519:1": old, "ed25519:2": new}

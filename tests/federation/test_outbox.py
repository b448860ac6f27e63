"""EDUs that must not be lost: rows in the commit of what they tell of, on both databases."""

import json
from typing import Any

import pytest

from federation.outbox import FULL_BYTES, MAX_BYTES, Outbox
from homeserver.errors import MatrixError
from homeserver.runtime.clock import FakeClock
from storage import outbound as store
from storage.changes import Change, Delete, Insert, Item
from storage.engine import Database
from storage.schema import EduOutboxRow, EduRow

END = 2**62


async def waiting(database: Database, server: str) -> list[tuple[int, str, Any]]:
    rows = await store.edus_waiting(database, server, (0, 0), END, 100)
    return [(edu.row.pos, edu.type, json.loads(edu.content)) for edu in rows]


async def test_edus_wait_for_each_server_in_order_and_a_key_replaces_the_older(
    database: Database,
) -> None:
    outbox = Outbox("us.example", FakeClock())
    first = outbox.edu(["a.example", "b.example", "us.example"], "m.x", {"n": 1}, key="k")
    await database.commit([Item(first, 1)])
    await database.commit([Item(outbox.edu(["a.example"], "m.x", {"n": 2}), 1)])
    await database.commit([Item(outbox.edu(["a.example"], "m.x", {"n": 3}, key="k"), 1)])
    assert await waiting(database, "a.example") == [(2, "m.x", {"n": 2}), (3, "m.x", {"n": 3})]
    assert await waiting(database, "b.example") == [(1, "m.x", {"n": 1})]
    assert await waiting(database, "us.example") == []
    assert await store.next_server_with_edus(database, "") == "a.example"
    assert await store.next_server_with_edus(database, "a.example") == "b.example"
    assert await store.next_server_with_edus(database, "b.example") is None


async def test_contents_that_wait_for_nobody_are_forgotten(database: Database) -> None:
    clock = FakeClock()
    outbox = Outbox("us.example", clock)
    await database.commit([Item(outbox.edu(["a.example"], "m.x", {"n": 1}, key="k"), 1)])
    await database.commit([Item(outbox.edu(["a.example"], "m.x", {"n": 2}, key="k"), 1)])
    await clock.advance(3_700)
    await database.commit([Item([outbox.forgotten()])])
    (edu,) = await store.edus_waiting(database, "a.example", (0, 0), END, 100)
    gone: list[Change] = [Delete(EduOutboxRow, edu.row[:3])]
    gone.append(store.unsent_edus_forgotten([edu.row.edu_nid]))
    await database.commit([Item(gone)])
    ((left,),) = await database.scan("SELECT count(*) FROM edus")
    assert left == 0


def test_a_long_message_to_devices_is_split_and_nothing_is_lost() -> None:
    outbox = Outbox("us.example", FakeClock())
    messages = {
        f"@u{n}:a.example": {f"D{m}": {"n": n * 10 + m, "text": "x" * 9_000} for m in range(3)}
        for n in range(8)
    }
    content = {"sender": "@me:us.example", "type": "m.t", "message_id": "i" * 32}
    rows = outbox.edu(["a.example"], "m.direct_to_device", {**content, "messages": messages})
    parts = [
        change.row.content
        for change in rows
        if isinstance(change, Insert) and isinstance(change.row, EduRow)
    ]
    assert all(len(part) <= FULL_BYTES for part in parts)
    made = [json.loads(part) for part in parts]
    assert len({part["message_id"] for part in made}) == len(made) > 3
    assert all(len(part["message_id"]) <= 32 for part in made)
    together: dict[str, Any] = {}
    for part in made:
        for user, devices in part["messages"].items():
            together.setdefault(user, {}).update(devices)
    assert together == messages


def test_one_message_may_be_as_long_as_an_event() -> None:
    outbox = Outbox("us.example", FakeClock())
    messages = {
        f"@u{n}:a.example": {"D": {"text": "x" * size}} for n, size in enumerate((9, 60_000))
    }
    content = {"sender": "@me:us.example", "type": "m.t", "message_id": "i", "messages": messages}
    changes = outbox.edu(["a.example"], "m.direct_to_device", content)
    rows = [change.row for change in changes if isinstance(change, Insert)]
    parts = [json.loads(row.content) for row in rows if isinstance(row, EduRow)]
    assert [list(part["messages"]) for part in parts] == [["@u0:a.example"], ["@u1:a.example"]]
    assert all(len(row.content) <= MAX_BYTES for row in rows if isinstance(row, EduRow))


@pytest.mark.parametrize(
    "content", [{"messages": {"@a:b": {"D": "x" * 70_000}}}, {"other": "x" * 70_000}]
)
def test_what_cannot_be_split_is_too_large(content: dict[str, Any]) -> None:
    with pytest.raises(MatrixError) as caught:
        Outbox("us.example", FakeClock()).edu(["a.example"], "m.x", content)
    assert caught.value.errcode == "M_TOO_LARGE"

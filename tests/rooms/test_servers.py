"""Which other servers are in a room: counted by the events, in their own commits."""

from typing import Any

from homeserver.rooms.judging import Verdict
from storage import outbound as store
from storage.events import event_ids
from tests.rooms.test_receive import BOB, CAROL, REMOTE, Shared, shared

__all__ = ["shared"]


async def servers(shared: Shared) -> set[str]:
    app = shared.server.app
    return (await store.servers_in(database_of(app), [shared.room.nid])).get(shared.room.nid, set())


def database_of(app: Any) -> Any:
    return app._database  # noqa: SLF001 (these rows show in no answer)


async def moved(shared: Shared, who: str, membership: str) -> None:
    state, prevs = await shared.head()
    content = {"membership": membership}
    made = shared.peer.make(who, "m.room.member", content, state=state, prevs=prevs, state_key=who)
    assert await shared.give(made) is Verdict.ACCEPTED


async def test_a_server_is_in_a_room_from_its_first_join_to_its_last_leave(
    shared: Shared,
) -> None:
    assert await servers(shared) == set()
    await shared.bob_joins()
    first = await database_of(shared.server.app).position()
    assert await servers(shared) == {REMOTE}
    await shared.bob_joins(CAROL)
    await moved(shared, BOB, "leave")
    assert await servers(shared) == {REMOTE}
    await shared.server.restart()
    await shared.alice.ok("POST", f"/rooms/{shared.room_id}/kick", body={"user_id": CAROL})
    database = database_of(shared.server.app)
    assert await servers(shared) == set()
    last = await database.position()
    at = [
        await store.servers_at(database, shared.room.nid, pos)
        for pos in (first - 1, first, last - 1, last)
    ]
    assert at == [set(), {REMOTE}, {REMOTE}, set()]


async def test_a_new_server_is_told_of_what_was_sent_while_it_joined(shared: Shared) -> None:
    """Its join stands behind events that are older than the newest."""
    state, prevs = await shared.head()
    said = await shared.alice.say(shared.room_id, "meanwhile")
    made = shared.peer.make(
        BOB, "m.room.member", {"membership": "join"}, state=state, prevs=prevs, state_key=BOB
    )
    assert await shared.give(made) is Verdict.ACCEPTED
    database = database_of(shared.server.app)
    (row,) = await store.pdus_waiting(database, REMOTE, 0)
    assert (await event_ids(database, [row.event_nid])) == {row.event_nid: said}

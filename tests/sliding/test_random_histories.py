"""Whatever has happened, clients of sliding sync end where the room is, as those of /sync do."""

import itertools
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from storage.engine import DatabaseSettings
from tests.serving import Running
from tests.sliding.client import ALL_STATE, Sliding, window
from tests.streams.follower import Follower
from tests.streams.histories import Deed, Town, histories
from tests.streams.test_random_histories import house

_numbers = itertools.count(1)
_WHOLE = {"all": window(limit=1000, state=ALL_STATE)}
_ONE = {"all": window((0, 0), limit=1000, state=ALL_STATE)}


async def _play(running: Running, history: list[Deed]) -> None:
    number = next(_numbers)
    people = [await running.person(f"{name}{number}") for name in ("alice", "bob", "carol")]
    town = Town(people)
    await town.settle()
    clients = [(Sliding(one, _WHOLE), Sliding(one, _ONE, conn_id="one")) for one in people]
    for deed in history:
        if deed[0] == "sync":
            for client in clients[deed[1]]:
                await client.sync()
        else:
            await town.do(deed)
    for index, mine in enumerate(clients):
        for client in mine:
            client.lists = _WHOLE
            await client.sync()
            await _check(client, history=index not in town.ignoring)


async def _check(client: Sliding, *, history: bool) -> None:
    """What the client holds is what the server says, and there is nothing more to tell."""
    follower = Follower(client.person)
    joined = (await client.person.ok("GET", "/joined_rooms"))["joined_rooms"]
    held = {room_id: held for room_id, held in client.rooms.items() if held.membership == "join"}
    assert set(held) == set(joined)
    for room_id, room in held.items():
        assert room.state == await follower.real_state(room_id)
        if history:
            assert room.events == (await follower.page(room_id, None))[::-1]
    assert (await client.sync())["rooms"] == {}


def test_clients_end_where_the_room_is(database_settings: DatabaseSettings, tmp_path: Path) -> None:
    with house(database_settings, tmp_path) as (runner, town):

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(histories)
        def each(history: list[Deed]) -> None:
            runner.run(_play(town.running, history))

        each()

"""Whatever has happened, clients of sliding sync end where the room is, as those of /sync do."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from homeserver.streams.sliding.answering import Answering
from homeserver.streams.sliding.matched import Matched
from storage.engine import DatabaseSettings
from tests.serving import Person, Running
from tests.sliding.client import ALL_STATE, EXTENSIONS, Sliding, window
from tests.streams.follower import Follower
from tests.streams.histories import Deed, Town, histories
from tests.streams.test_random_histories import house

_numbers = itertools.count(1)
_WHOLE = {"all": window(limit=1000, state=ALL_STATE)}
_ONE = {"all": window((0, 0), limit=1000, state=ALL_STATE)}
_MANY = {
    "last": window((1, 1), state=ALL_STATE),
    "chats": window((0, 0), is_dm=False, is_encrypted=False),
    "named": window(tags=["m.favourite", "tag1"], not_room_types=["m.space"]),
    "asked": window(is_invite=True),
}


async def _play(running: Running, history: list[Deed]) -> None:
    number = next(_numbers)
    people = [await running.person(f"{name}{number}") for name in ("alice", "bob", "carol")]
    town = Town(people)
    await town.settle()
    clients = [_clients(one) for one in people]
    for deed in history:
        if deed[0] == "sync":
            for client in clients[deed[1]]:
                await client.sync()
        else:
            await town.do(deed)
            # Alice's clients follow every deed, the others' some of them.
            for client in clients[0]:
                await client.sync()
    for index, mine in enumerate(clients):
        for client in mine:
            client.lists = _WHOLE
            await client.sync()
            await _check(client, history=index not in town.ignoring)


def _clients(person: Person) -> list[Sliding]:
    return [
        Sliding(person, lists, extensions=dict(EXTENSIONS), conn_id=name)
        for name, lists in (("whole", _WHOLE), ("one", _ONE), ("many", _MANY))
    ]


class Kept:
    """Has each match that is used again made anew, too; the two must be the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self._real = Answering._holds  # noqa: SLF001
        monkeypatch.setattr(Answering, "_holds", lambda *given: self._holds(*given))

    async def _holds(self, answering: Any, matched: Matched) -> bool:
        if not await self._real(answering, matched):
            return False
        fresh = await answering._makers.lists.matched(  # noqa: SLF001
            answering._asked,  # noqa: SLF001
            answering._asker,  # noqa: SLF001
            answering._user,  # noqa: SLF001
            answering._rooms,  # noqa: SLF001
            answering._until,  # noqa: SLF001
        )
        assert dict(fresh.rooms) == dict(matched.rooms)
        assert (fresh.counts, fresh.direct) == (matched.counts, matched.direct)
        quiet = [match for nid, match in fresh.rooms.items() if nid not in answering._busy]  # noqa: SLF001
        assert not any(answering._due(match, fresh) for match in quiet)  # noqa: SLF001
        self.times += 1
        return True


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


def test_clients_end_where_the_room_is(
    database_settings: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(monkeypatch)
    with house(database_settings, tmp_path) as (runner, town):

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
        @given(histories)
        def each(history: list[Deed]) -> None:
            runner.run(_play(town.running, history))

        each()
    assert kept.times > 100

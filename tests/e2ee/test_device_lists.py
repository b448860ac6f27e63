"""Whose keys a client must fetch anew: with whatever happens, what it tracks is the truth."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from storage.engine import DatabaseSettings
from tests.api.test_devices import second_device
from tests.e2ee.keyed import Keyed, changed, keyed, left, query
from tests.serving import Person, Running
from tests.sliding.client import Sliding
from tests.streams.reading import moved
from tests.streams.test_random_histories import house


async def test_a_new_device_wakes_those_who_share_a_room(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    carol = await server.person("carol")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    for person in (alice, bob, carol):
        await person.sync()
    waiting = asyncio.create_task(bob.sync(timeout=30_000))
    await server.parked()
    await keyed(alice)
    assert changed(await waiting) == {alice.user_id}
    assert changed(await alice.sync()) == {alice.user_id}
    assert changed(await carol.sync()) == set()


async def test_a_device_that_ends_is_told_like_one_that_comes(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.join(await alice.create_room(preset="public_chat"))
    await keyed(alice)
    second = Person(server, alice.user_id, await second_device(alice, "TWO"), "TWO")
    await keyed(second)
    for person in (alice, bob):
        await person.sync()
    assert set((await query(bob, alice))["device_keys"][alice.user_id]) == {alice.device_id, "TWO"}
    await second.ok("POST", "/logout")
    for person in (alice, bob):
        assert changed(await person.sync()) == {alice.user_id}
    assert set((await query(bob, alice))["device_keys"][alice.user_id]) == {alice.device_id}


async def test_who_comes_is_changed_and_who_goes_is_left(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await alice.sync()
    await bob.sync()
    await bob.join(room)
    assert changed(await alice.sync()) == {bob.user_id}
    assert changed(await bob.sync()) == {alice.user_id}
    await moved(bob, room, "leave")
    for person, other in ((alice, bob), (bob, alice)):
        answer = await person.sync()
        assert (changed(answer), left(answer)) == (set(), {other.user_id})


async def test_who_came_after_one_was_gone_is_no_business_of_one_s(server: Running) -> None:
    """Also not who came and went, or was there, left, and has come back."""
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    dora, emil = await server.person("dora"), await server.person("emil")
    room = await alice.create_room(preset="public_chat")
    for person in (bob, emil):
        await person.join(room)
    await bob.sync()
    await moved(emil, room, "leave")
    await moved(bob, room, "leave")
    await carol.join(room)
    await emil.join(room)
    await dora.join(room)
    await moved(dora, room, "leave")
    answer = await bob.sync()
    assert (changed(answer), left(answer)) == (set(), {alice.user_id, emil.user_id})


async def test_who_came_while_one_was_away_and_met_one_again_is_left(server: Running) -> None:
    alice, bob, carol = [await server.person(name) for name in ("alice", "bob", "carol")]
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await bob.sync()
    await moved(bob, room, "leave")
    await carol.join(room)
    await bob.join(room)
    await moved(bob, room, "leave")
    assert left(await bob.sync()) == {alice.user_id, carol.user_id}


async def test_a_name_makes_nobody_fetch_keys(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.sync()
    member = f"/rooms/{quote(room, safe='')}/state/m.room.member/{quote(bob.user_id, safe='')}"
    await bob.ok("PUT", member, body={"membership": "join", "displayname": "Robert"})
    assert changed(await alice.sync()) == set()


async def test_changes_between_two_tokens(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    start = (await alice.sync())["next_batch"]
    await keyed(bob)
    end = (await alice.sync())["next_batch"]
    await alice.sync()
    found = await alice.ok("GET", "/keys/changes", query={"from": start, "to": end})
    assert found == {"changed": [bob.user_id], "left": []}
    wrong = {"from": "nonsense", "to": end}
    await alice.refused("M_INVALID_PARAM", "GET", "/keys/changes", query=wrong)


async def test_what_a_server_is_told_is_not_older_than_its_version(server: Running) -> None:
    """Else the update that has this version would bring nothing, and the list stay as it was."""
    alice = await server.person("alice")
    await keyed(alice)
    first = (await server.app.services.encryption.shown.devices(alice.user_id))["stream_id"]
    told: list[tuple[int, int]] = []
    renamed = asyncio.Event()

    async def rename() -> None:
        for number in range(30):
            body = {"display_name": f"{number}"}
            await alice.ok("PUT", f"/devices/{alice.device_id}", body=body)
        renamed.set()

    async def ask() -> None:
        while not renamed.is_set():
            answer = await server.app.services.encryption.shown.devices(alice.user_id)
            ((name, version),) = [
                (device.get("device_display_name", "-1"), answer["stream_id"])
                for device in answer["devices"]
            ]
            told.append((int(name), version - first - 1))
            await asyncio.sleep(0)

    await asyncio.gather(rename(), *(ask() for _ in range(3)))
    assert told
    assert all(name >= version for name, version in told)


KINDS = ("sync", "sync", "sync", "old", "keys", "end", "rename", "join", "join", "leave", "kick")
deeds = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)),
    min_size=8,
    max_size=40,
)


class Tracker:
    """A client that tracks all users it meets, as the specification tells clients to."""

    remembers = 3
    """How many tokens before the last one it may go back to."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.held: dict[str, Any] = {}
        self.tokens: list[tuple[str, dict[str, Any]]] = []

    async def sync(self, number: int, others: list[Person]) -> None:
        """Go on from the last token, or one before it with what was held then."""
        since = None
        if self.tokens:
            back = min(number, self.remembers)
            since, held = self.tokens[max(0, len(self.tokens) - 1 - back)]
            self.held = dict(held)
        token, told = await self.ask(since)
        if told is None:
            fetch = {one.user_id for one in others}
        else:
            fetch = changed(told)
            for user_id in left(told):
                self.held.pop(user_id, None)
        for other in others:
            if other.user_id in fetch:
                self.held[other.user_id] = await keys_of(self.person, other)
        self.tokens.append((token, dict(self.held)))

    async def ask(self, since: str | None) -> tuple[str, Any]:
        """The next token, and what has `device_lists` in it; None for who begins anew."""
        self.person.since = since
        answer = await self.person.sync()
        if since is None:
            return answer["next_batch"], None
        between = {"from": since, "to": answer["next_batch"]}
        found = await self.person.ok("GET", "/keys/changes", query=between)
        assert (set(found["changed"]), set(found["left"])) == (changed(answer), left(answer))
        return answer["next_batch"], answer


class SlidingTracker(Tracker):
    """One that uses sliding sync, whose last answer alone may be lost."""

    remembers = 1

    async def ask(self, since: str | None) -> tuple[str, Any]:
        client = Sliding(self.person, extensions={"e2ee": {"enabled": True}}, pos=since)
        if since is not None:
            reply = await client.ask()
            if reply.status == 200:
                return reply.body["pos"], reply.body["extensions"]["e2ee"]
            assert reply.body["errcode"] == "M_UNKNOWN_POS"
            client.pos = None
        return (await client.sync())["pos"], None


async def keys_of(asker: Person, user: Person) -> Any:
    return (await query(asker, user))["device_keys"][user.user_id]


def compare(
    database: DatabaseSettings, folder: Path, count: int, tracker: Callable[[Person], Tracker]
) -> None:
    with house(database, folder) as (runner, town):
        server = town.running
        numbers = iter(range(10_000))

        async def play(history: list[tuple[str, int, int, int]]) -> None:
            mark = next(numbers)
            people = [await server.person(f"{name}{mark}") for name in ("a", "b", "c")]
            rooms = [await people[0].create_room(preset="public_chat") for _ in range(2)]
            trackers = [tracker(person) for person in people]
            for index, one in enumerate(trackers):
                await one.sync(0, _others(people, index))
            for number, (kind, actor, target, room) in enumerate(history):
                person, path = people[actor], f"/rooms/{quote(rooms[room], safe='')}"
                others = _others(people, actor)
                if kind in ("sync", "old"):
                    await trackers[actor].sync(target if kind == "old" else 0, others)
                elif kind == "keys":
                    await Keyed(person).upload()
                elif kind == "end":
                    device_id = f"D{number}"
                    token = await second_device(person, device_id)
                    other = Person(server, person.user_id, token, device_id)
                    await Keyed(other).upload()
                    if target:
                        await trackers[(actor + 1) % 3].sync(0, _others(people, (actor + 1) % 3))
                    await other.ok("POST", "/logout")
                elif kind == "rename":
                    body = {"display_name": f"{number}"}
                    await person.ok("PUT", f"/devices/{person.device_id}", body=body)
                elif kind == "kick":
                    body = {"user_id": people[target].user_id}
                    await person.raw("POST", f"{path}/kick", body=body)
                else:
                    await person.raw("POST", f"{path}/{kind}", body={})
            for index, one in enumerate(trackers):
                others = _others(people, index)
                await one.sync(0, others)
                mine = set((await people[index].ok("GET", "/joined_rooms"))["joined_rooms"])
                for other in others:
                    theirs = set((await other.ok("GET", "/joined_rooms"))["joined_rooms"])
                    if mine & theirs:
                        truth = await keys_of(people[index], other)
                        assert one.held[other.user_id] == truth

        @examples(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
        @given(deeds)
        def each(history: list[tuple[str, int, int, int]]) -> None:
            runner.run(play(history))

        each()


def _others(people: list[Person], index: int) -> list[Person]:
    return [one for one in people if one is not people[index]]


TRACKERS = pytest.mark.parametrize("tracker", [Tracker, SlidingTracker])


@TRACKERS
def test_what_clients_track_is_the_truth(
    database_settings: DatabaseSettings, tmp_path: Path, tracker: type[Tracker]
) -> None:
    compare(database_settings, tmp_path, 12, tracker)


@TRACKERS
@pytest.mark.long
def test_so_it_is_after_many_histories(
    database_settings: DatabaseSettings, tmp_path: Path, tracker: type[Tracker]
) -> None:
    compare(database_settings, tmp_path, 300, tracker)

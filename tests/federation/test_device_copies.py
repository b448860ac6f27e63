"""Copies of the device lists of other servers' users: kept, made stale, fetched anew, dropped.

spec: server-server-api#device-management
"""

import asyncio
import itertools
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from federation.client import PER_SERVER
from homeserver.matrix.canonical import JsonObject
from tests.api.test_keys import Device
from tests.federation.house import Guest, House, house, until
from tests.serving import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B = "a.example", "b.example"
_count = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(authority, tmp_path_factory.mktemp("copies")) as house_made:
        await house_made.start(A, B)
        yield house_made


class Elsewhere:
    """Users of a guest with one device each, and what it is asked of them."""

    def __init__(self, guest: Guest, server: Any, room_id: str) -> None:
        self.guest = guest
        self.server = server
        self.room_id = room_id
        self.devices: dict[str, dict[str, Device]] = {}
        self.versions: dict[str, int] = {}
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.hold: asyncio.Event | None = None
        self.down = False
        guest.answer = self.answer

    def device(self, user_id: str, device_id: str) -> Device:
        device = Device(Person(self.server, user_id, "", device_id))
        self.devices.setdefault(user_id, {})[device_id] = device
        return device

    async def user(self, *, joined: bool = True) -> str:
        user_id = self.guest.user(f"u{next(_count)}")
        self.device(user_id, "FIRST")
        self.versions[user_id] = 1
        if joined:
            await self.guest.join(self.server, self.room_id, user_id)
        return user_id

    def update(self, user_id: str, device_id: str, **other: Any) -> JsonObject:
        """What tells of a device that is new or others than before."""
        self.versions[user_id] += 1
        version = self.versions[user_id]
        content = {"user_id": user_id, "device_id": device_id, "stream_id": version}
        device = self.device(user_id, device_id)
        return {**content, "prev_id": [version - 1], "keys": device.keys, **other}

    async def tell(self, *contents: JsonObject) -> None:
        edus = [{"edu_type": "m.device_list_update", "content": one} for one in contents]
        assert (await self.guest.send(self.server, edus=edus)).status == 200

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.down:
            return web.json_response({}, status=502)
        self.asked.append(unquote(request.path))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.hold is not None:
                await self.hold.wait()
            return self.answered(request.path, await request.read())
        finally:
            self.at_once -= 1

    def answered(self, path: str, body: bytes) -> web.StreamResponse:
        if "/user/devices/" in path:
            user_id = unquote(path.rpartition("/")[2])
            shown = [
                {"device_id": name, "keys": device.keys}
                for name, device in self.devices[user_id].items()
            ]
            answer: JsonObject = {"user_id": user_id, "stream_id": self.versions[user_id]}
            return web.json_response({**answer, "devices": shown})
        wanted = json.loads(body)["device_keys"]
        return web.json_response(
            {
                "device_keys": {
                    user_id: {name: one.keys for name, one in self.devices[user_id].items()}
                    for user_id in wanted
                }
            }
        )


@pytest_asyncio.fixture(loop_scope="module")
async def there(made: House) -> AsyncIterator[tuple[Person, Elsewhere]]:
    number = next(_count)
    alice = await made.servers[A].person(f"alice{number}")
    guest = await made.guest(f"guest{number}.example")
    room = await alice.create_room(preset="public_chat")
    yield alice, Elsewhere(guest, made.servers[A], room)


async def query(person: Person, *user_ids: str) -> JsonObject:
    return dict(
        await person.ok("POST", "/keys/query", body={"device_keys": {one: [] for one in user_ids}})
    )


async def devices(person: Person, user_id: str) -> set[str]:
    return set((await query(person, user_id))["device_keys"].get(user_id, {}))


There = tuple[Person, Elsewhere]


async def test_a_list_is_asked_for_once_and_follows_its_updates(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    assert await devices(alice, user) == {"FIRST"}
    assert await devices(alice, user) == {"FIRST"}
    await elsewhere.tell(elsewhere.update(user, "A"), elsewhere.update(user, "B"))
    assert await devices(alice, user) == {"FIRST", "A", "B"}
    gone = elsewhere.update(user, "A", deleted=True)
    del gone["keys"], elsewhere.devices[user]["A"]
    await elsewhere.tell(gone)
    assert await devices(alice, user) == {"FIRST", "B"}
    assert len(elsewhere.asked) == 1


@pytest.mark.parametrize("kind", ["lost", "turned round", "repeated", "unsigned"])
async def test_an_update_that_does_not_follow_makes_it_stale(there: There, kind: str) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    one, two = elsewhere.update(user, "A"), elsewhere.update(user, "B")
    if kind == "unsigned":
        one["keys"] = {**one["keys"], "signatures": {}}
    told = {"lost": [two], "turned round": [two, one], "repeated": [one, one, two]}
    await elsewhere.tell(*told.get(kind, [one]))
    assert await devices(alice, user) == {"FIRST", "A", "B"}
    assert len(elsewhere.asked) == 2
    await elsewhere.tell(elsewhere.update(user, "C"))
    assert await devices(alice, user) == {"FIRST", "A", "B", "C"}
    assert len(elsewhere.asked) == 2


async def test_who_shares_no_room_is_asked_about_each_time(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user(joined=False)
    await elsewhere.tell(elsewhere.update(user, "A"))
    for _ in range(2):
        assert await devices(alice, user) == {"FIRST", "A"}
    assert len(elsewhere.asked) == 2


async def test_another_servers_user_is_not_spoken_for(made: House, there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    forger = await made.guest(f"guest{next(_count)}.example")
    content = elsewhere.update(user, "FORGED")
    del elsewhere.devices[user]["FORGED"]
    edu = {"edu_type": "m.device_list_update", "content": content}
    await forger.send(elsewhere.server, edus=[edu])
    assert await devices(alice, user) == {"FIRST"}
    assert len(elsewhere.asked) == 1


async def test_many_users_are_asked_about_together_and_once(there: There) -> None:
    alice, elsewhere = there
    users = [await elsewhere.user() for _ in range(6)]
    elsewhere.hold = asyncio.Event()
    waiting = [asyncio.ensure_future(query(alice, *users)) for _ in range(4)]

    async def asked() -> bool:
        return bool(elsewhere.asked)

    await until(asked)
    elsewhere.hold.set()
    for answer in await asyncio.gather(*waiting):
        assert {user: set(found) for user, found in answer["device_keys"].items()} == {
            user: {"FIRST"} for user in users
        }
    assert elsewhere.most_at_once == 1
    assert len(elsewhere.asked) <= 2


async def test_a_server_that_is_down_leaves_what_was_known(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    elsewhere.update(user, "LOST")
    await elsewhere.tell(elsewhere.update(user, "A"))
    elsewhere.down = True
    answer = await query(alice, user)
    assert set(answer["device_keys"][user]) == {"FIRST"}
    assert set(answer["failures"]) == {elsewhere.guest.name}
    elsewhere.down = False
    # What it sends ends its pause, and makes its lists stale: it may have lost updates.
    await elsewhere.guest.send(elsewhere.server)

    async def back() -> bool:
        return await devices(alice, user) == {"FIRST", "LOST", "A"}

    await until(back)


async def test_a_server_that_stalls_is_given_up_within_five_seconds(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    elsewhere.hold = asyncio.Event()
    body = {"device_keys": {user: []}, "timeout": 60_000}
    begun = time.monotonic()
    answer = await alice.ok("POST", "/keys/query", body=body)
    assert set(answer["failures"]) == {elsewhere.guest.name}
    assert time.monotonic() - begun < 30
    elsewhere.hold.set()

    async def back() -> bool:
        return await devices(alice, user) == {"FIRST"}

    await until(back)


async def test_lists_and_strangers_are_asked_for_at_the_same_time(there: There) -> None:
    """What a client waits for is the longest of both, not their sum."""
    alice, elsewhere = there
    friend, stranger = await elsewhere.user(), await elsewhere.user(joined=False)
    elsewhere.hold = asyncio.Event()
    asking = asyncio.create_task(query(alice, friend, stranger))

    async def both() -> bool:
        return elsewhere.at_once == 2

    await until(both)
    elsewhere.hold.set()
    answer = await asking
    assert set(answer["device_keys"]) == {friend, stranger}
    assert answer["failures"] == {}


@pytest.mark.parametrize("what", ["query", "claim"])
async def test_many_who_ask_a_server_that_stalls_do_not_pile_up(there: There, what: str) -> None:
    """Each is answered with what is known, the server is asked by few at a time and left alone."""
    alice, elsewhere = there
    friend = await elsewhere.user()
    await devices(alice, friend)
    await elsewhere.tell(elsewhere.update(friend, "NEW", prev_id=[99]))  # it is stale now
    strangers = [await elsewhere.user(joined=False) for _ in range(30)]
    elsewhere.hold = asyncio.Event()
    elsewhere.asked.clear()
    field = "device_keys" if what == "query" else "one_time_keys"
    asked: Any = [] if what == "query" else {"FIRST": "signed_curve25519"}
    bodies = [{field: {alice.user_id: asked, stranger: asked}} for stranger in strangers]
    if what == "query":
        bodies += [{field: {alice.user_id: [], friend: []}}] * 30
    answers = await asyncio.gather(
        *(alice.ok("POST", f"/keys/{what}", body=body) for body in bodies)
    )
    for body, answer in zip(bodies, answers, strict=True):
        assert set(answer["failures"]) == {elsewhere.guest.name}
        if what == "query":
            known = {alice.user_id, *([friend] if friend in body[field] else [])}
            assert set(answer["device_keys"]) == known
    # Who waited for a place does not ask a server that has failed; a list may be asked for anew.
    assert len(elsewhere.asked) <= PER_SERVER + 2
    elsewhere.hold.set()


async def test_an_impatient_client_has_no_server_left_alone(there: There) -> None:
    alice, elsewhere = there
    stranger = await elsewhere.user(joined=False)
    elsewhere.hold = asyncio.Event()
    body = {"device_keys": {stranger: []}, "timeout": 1}
    answer = await alice.ok("POST", "/keys/query", body=body)
    assert set(answer["failures"]) == {elsewhere.guest.name}
    elsewhere.hold.set()
    assert await devices(alice, stranger) == {"FIRST"}


async def test_a_room_shared_anew_makes_it_stale(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    reason = {"user_id": user}
    await alice.ok("POST", f"/rooms/{elsewhere.room_id}/kick", body=reason)
    elsewhere.update(user, "A")
    await elsewhere.guest.join(elsewhere.server, elsewhere.room_id, user)
    assert await devices(alice, user) == {"FIRST", "A"}
    assert await devices(alice, user) == {"FIRST", "A"}
    assert len(elsewhere.asked) == 2


async def test_another_shared_room_makes_it_stale(there: There) -> None:
    """What its server has not told, or told somebody else, is asked for."""
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    elsewhere.update(user, "A")
    another = await alice.create_room(preset="public_chat")
    await elsewhere.guest.join(elsewhere.server, another, user)
    assert await devices(alice, user) == {"FIRST", "A"}
    assert len(elsewhere.asked) == 2


async def test_a_restart_makes_all_stale(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    elsewhere.update(user, "A")
    await asyncio.to_thread(elsewhere.server.kill)
    await asyncio.to_thread(elsewhere.server.start)
    assert await devices(alice, user) == {"FIRST", "A"}


async def test_a_flood_of_updates_leaves_one_list(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    for _ in range(3):
        await elsewhere.tell(*(elsewhere.update(user, f"D{n}") for n in range(50)))
    assert len(await devices(alice, user)) == 51
    assert len(elsewhere.asked) == 1


async def away(alice: Person, elsewhere: Elsewhere) -> None:
    """Have the guest's server fail, as it does until `refuse` is None."""
    refused: list[JsonObject] = []

    def refuse(body: JsonObject) -> web.StreamResponse:
        refused.append(body)
        return web.json_response({}, status=502)

    elsewhere.guest.refuse = refuse
    await alice.say(elsewhere.room_id, "unheard")

    async def tried() -> bool:
        return bool(refused)

    await until(tried)


async def test_a_server_that_was_away_makes_its_lists_stale(there: There) -> None:
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    await away(alice, elsewhere)
    elsewhere.update(user, "LOST")
    assert await devices(alice, user) == {"FIRST"}
    elsewhere.guest.refuse = None
    await elsewhere.guest.send(elsewhere.server)

    async def back() -> bool:
        return await devices(alice, user) == {"FIRST", "LOST"}

    await until(back)


async def test_a_server_with_another_key_makes_its_lists_stale(there: There) -> None:
    """It was rebuilt: whatever it said before may be gone."""
    alice, elsewhere = there
    user = await elsewhere.user()
    await devices(alice, user)
    elsewhere.update(user, "REBUILT")
    assert await devices(alice, user) == {"FIRST"}
    elsewhere.guest.keys.rotate()

    async def known() -> bool:
        # It is refused until the server is asked for its keys again, some seconds later.
        await elsewhere.guest.send(elsewhere.server)
        return await devices(alice, user) == {"FIRST", "REBUILT"}

    await until(known, 120)


async def test_the_last_shared_room_takes_the_copy_along(there: There) -> None:
    alice, elsewhere = there
    user, other = await elsewhere.user(), await elsewhere.user()
    await query(alice, user, other)

    def copied() -> set[str]:
        with sqlite3.connect(elsewhere.server.folder / "homeserver.db") as database:
            rows = database.execute(
                "SELECT names.name FROM device_lists AS list JOIN names ON name_nid = list.user_nid"
                " JOIN remote_devices AS device ON device.user_nid = list.user_nid"
            )
            return {name for (name,) in rows} & {user, other}

    assert copied() == {user, other}
    await alice.ok("POST", f"/rooms/{elsewhere.room_id}/kick", body={"user_id": user})

    async def dropped() -> bool:
        return copied() == {other}

    await until(dropped)


async def test_in_a_room_that_this_server_comes_into_all_are_stale(made: House) -> None:
    """Whoever is in it, also who was known from another room."""
    number = next(_count)
    alice = await made.servers[A].person(f"alice{number}")
    bob = await made.servers[B].person(f"bob{number}")
    device = Device(bob)
    await device.upload(device_keys=device.keys)
    shared = await alice.create_room(preset="public_chat")
    await bob.ok("POST", f"/join/{shared}?server_name={A}", body={})

    def is_stale() -> bool:
        said = made.servers[A].cli("e2ee", "status", bob.user_id, "--json")
        return bool(json.loads(said.stdout)["stale"])

    async def fresh() -> bool:
        return await devices(alice, bob.user_id) == {bob.device_id} and not is_stale()

    await until(fresh)
    theirs = await bob.create_room(preset="public_chat")
    await alice.ok("POST", f"/join/{theirs}?server_name={B}", body={})
    assert is_stale()
    await until(fresh)


async def test_two_of_our_servers_keep_each_others_lists(made: House) -> None:
    number = next(_count)
    alice = await made.servers[A].person(f"alice{number}")
    bob = await made.servers[B].person(f"bob{number}")
    room = await alice.create_room(preset="public_chat")
    await bob.ok("POST", f"/join/{room}?server_name={A}", body={})
    device = Device(bob)
    await device.upload(device_keys=device.keys, one_time_keys=device.one_time("A"))

    async def named(name: str | None) -> bool:
        found = (await query(alice, bob.user_id))["device_keys"].get(bob.user_id, {})
        unsigned = found.get(bob.device_id, {}).get("unsigned", {})
        return bool(found) and unsigned.get("device_display_name") == name

    await until(lambda: named(None))

    async def rename(name: str) -> None:
        await bob.ok("PUT", f"/devices/{bob.device_id}", body={"display_name": name})

    await rename("one")
    await until(lambda: named("one"))
    # Who comes back into a room has heard of nothing meanwhile.
    await alice.ok("POST", f"/rooms/{room}/leave", body={})
    await rename("two")
    await alice.ok("POST", f"/join/{room}?server_name={B}", body={})
    await until(lambda: named("two"))
    await rename("three")
    await until(lambda: named("three"))
    await asyncio.to_thread(made.servers[B].kill)
    answer = await query(alice, bob.user_id)
    assert set(answer["device_keys"][bob.user_id]) == {bob.device_id}
    await asyncio.to_thread(made.servers[B].start)


async def encrypted(alice: Person, elsewhere: Elsewhere) -> str:
    """Make the room an encrypted one, and another user known there; his id."""
    content = {"algorithm": "m.megolm.v1.aes-sha2"}
    await alice.put_state(elsewhere.room_id, "m.room.encryption", content)
    user = await elsewhere.user()
    await devices(alice, user)
    return user


def is_fresh(elsewhere: Elsewhere, user: str) -> bool:
    with sqlite3.connect(elsewhere.server.folder / "homeserver.db") as database:
        rows = database.execute(
            "SELECT stale FROM device_lists JOIN names ON name_nid = user_nid WHERE name = ?",
            (user,),
        )
        return rows.fetchall() == [(0,)]


async def test_a_stale_list_is_fetched_before_anybody_asks(there: There) -> None:
    alice, elsewhere = there
    user = await encrypted(alice, elsewhere)
    elsewhere.update(user, "LOST")
    await elsewhere.tell(elsewhere.update(user, "A"))

    async def fresh() -> bool:
        return is_fresh(elsewhere, user)

    await until(fresh)
    elsewhere.down = True
    answer = await query(alice, user)
    assert set(answer["device_keys"][user]) == {"FIRST", "LOST", "A"}
    assert not answer["failures"]


async def test_who_was_asked_about_in_vain_is_fetched_when_the_server_is_back(
    there: There,
) -> None:
    alice, elsewhere = there
    await encrypted(alice, elsewhere)
    user = await elsewhere.user()
    await alice.sync()
    elsewhere.down = True
    answer = await query(alice, user)
    assert set(answer["failures"]) == {elsewhere.guest.name}
    assert user not in answer["device_keys"]
    elsewhere.down = False
    await elsewhere.guest.send(elsewhere.server)

    async def told() -> bool:
        answer = await alice.sync(timeout=1_000)
        return user in answer.get("device_lists", {}).get("changed", ())

    await until(told)
    elsewhere.down = True
    assert set((await query(alice, user))["device_keys"][user]) == {"FIRST"}


async def test_a_client_does_not_wait_behind_what_is_fetched_for_later(there: There) -> None:
    alice, elsewhere = there
    first = await encrypted(alice, elsewhere)
    users = [first, *[await elsewhere.user() for _ in range(5)]]
    await query(alice, *users)
    together = asyncio.Event()
    await away(alice, elsewhere)
    elsewhere.asked.clear()
    elsewhere.hold = together
    # When it is there again all of its lists are fetched, by one long request.
    elsewhere.guest.refuse = None
    await elsewhere.guest.send(elsewhere.server)

    async def asked() -> bool:
        return len(elsewhere.asked) == 1 and "query" in elsewhere.asked[0]

    await until(asked)
    elsewhere.hold = None
    elsewhere.update(first, "NEW")
    assert await devices(alice, first) == {"FIRST", "NEW"}
    assert "/user/devices/" in elsewhere.asked[1]
    together.set()

    async def fresh() -> bool:
        return all(is_fresh(elsewhere, user) for user in users)

    await until(fresh)
    elsewhere.down = True
    assert await devices(alice, first) == {"FIRST", "NEW"}


@pytest.mark.parametrize("differs", [True, False])
async def test_clients_are_told_exactly_if_the_fetched_list_differs(
    there: There, differs: bool
) -> None:
    """The user's server was restarted: nobody knows whether it lost an update."""
    alice, elsewhere = there
    user = await encrypted(alice, elsewhere)
    await alice.sync()
    if differs:
        elsewhere.update(user, "LOST")
    await asyncio.to_thread(elsewhere.server.kill)
    await asyncio.to_thread(elsewhere.server.start)

    async def fresh() -> bool:
        return is_fresh(elsewhere, user)

    await until(fresh)
    told = (await alice.sync(timeout=0)).get("device_lists", {}).get("changed", [])
    assert (user in told) == differs
    elsewhere.down = True
    assert await devices(alice, user) == ({"FIRST", "LOST"} if differs else {"FIRST"})

"""What goes to another server: a guest is in a room of ours, and hears or misses what happens."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from federation.destinations import DAY, SECOND
from federation.outbound import Note
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.rooms.judging import Verdict
from storage.changes import Delete
from storage.schema import EduOutboxRow
from tests.api.test_keys import Device
from tests.federation.house import Guest, House, house
from tests.rooms.test_receive import BOB, CAROL, REMOTE, Shared, shared
from tests.serving import SERVER_NAME, Person

__all__ = ["shared"]

pytestmark = pytest.mark.parametrize("shared", ["11"], indirect=True)


@pytest.fixture
async def made(authority: trustme.CA, tmp_path: Path) -> AsyncIterator[House]:
    async with house(authority, tmp_path) as one:
        yield one


@pytest.fixture
def settings(made: House) -> dict[str, Any]:
    names = made.names_for(SERVER_NAME)
    return {
        "federation": {
            "ca_file": str(made.authority_file),
            "allow_networks": ["127.0.0.0/8"],
            "dns": [names.address],
        }
    }


@pytest.fixture
async def guest(made: House, shared: Shared) -> Guest:
    """The server of Bob and Carol."""
    one = await made.guest(REMOTE)
    made.lead(SERVER_NAME, REMOTE, one.server.port)
    return one


async def got(guest: Guest, count: int) -> list[JsonObject]:
    """The events that have come, in their order, when there are so many."""
    for _ in range(3_000):
        pdus = [pdu for body in guest.transactions for pdu in body["pdus"]]
        if len(pdus) >= count:
            assert len(pdus) == count, pdus
            return pdus
        await asyncio.sleep(0.005)
    raise AssertionError(f"only {pdus} came")


def texts(pdus: list[JsonObject]) -> list[str]:
    return [pdu["content"].get("body") or pdu["content"].get("membership") for pdu in pdus]


async def test_events_of_ours_go_to_the_servers_in_the_room(shared: Shared, guest: Guest) -> None:
    """In order, as they were signed, in transactions of one server; nothing from before."""
    await shared.alice.say(shared.room_id, "before")
    await shared.bob_joins()
    for number in range(3):
        await shared.alice.say(shared.room_id, str(number))
    pdus = await got(guest, 3)
    assert texts(pdus) == ["0", "1", "2"]
    first = guest.transactions[0]
    assert first["origin"] == SERVER_NAME
    assert set(first) <= {"origin", "origin_server_ts", "pdus", "edus"}
    assert all(SERVER_NAME in pdu["signatures"] for pdu in pdus)
    (seen, *_) = [seen for seen in guest.seen if "/send/" in seen.target]
    assert seen.method == "PUT"
    assert f'destination="{REMOTE}"' in seen.headers["Authorization"]


async def test_a_burst_shares_transactions_of_at_most_fifty(shared: Shared, guest: Guest) -> None:
    await shared.bob_joins()
    said = [shared.alice.say(shared.room_id, str(number)) for number in range(130)]
    await asyncio.gather(*said)
    pdus = await got(guest, 130)
    assert sorted(texts(pdus), key=int) == [str(number) for number in range(130)]
    assert max(len(body["pdus"]) for body in guest.transactions) <= 50
    assert len(guest.transactions) < 60
    depths = [pdu["depth"] for pdu in pdus]
    assert depths == sorted(depths)


async def test_the_kick_of_a_servers_last_user_is_the_last_that_it_hears(
    shared: Shared, guest: Guest
) -> None:
    await shared.bob_joins()
    await shared.bob_joins(CAROL)
    path = f"/rooms/{shared.room_id}/kick"
    await shared.alice.ok("POST", path, body={"user_id": BOB})
    await shared.alice.say(shared.room_id, "still here")
    await shared.alice.ok("POST", path, body={"user_id": CAROL})
    await shared.alice.say(shared.room_id, "gone")
    await shared.bob_joins()
    await shared.alice.say(shared.room_id, "again")
    assert texts(await got(guest, 4)) == ["leave", "still here", "leave", "again"]


async def test_events_of_others_are_not_passed_on(shared: Shared, guest: Guest) -> None:
    await shared.bob_joins()
    state, prevs = await shared.head()
    said = shared.peer.make(BOB, "m.room.message", {"body": "mine"}, state=state, prevs=prevs)
    assert await shared.give(said) is Verdict.ACCEPTED
    await shared.alice.say(shared.room_id, "ours")
    assert texts(await got(guest, 1)) == ["ours"]


async def test_what_was_sent_while_a_server_joined_reaches_it(shared: Shared, guest: Guest) -> None:
    """Its join names older events, and the one in between is no event that it will ask for."""
    state, prevs = await shared.head()
    await shared.alice.say(shared.room_id, "meanwhile")
    made = shared.peer.make(
        BOB, "m.room.member", {"membership": "join"}, state=state, prevs=prevs, state_key=BOB
    )
    assert await shared.give(made) is Verdict.ACCEPTED
    assert texts(await got(guest, 1)) == ["meanwhile"]


async def test_a_server_that_was_away_for_a_moment_gets_everything_once(
    shared: Shared, guest: Guest
) -> None:
    """It is tried again within seconds, with the same transaction."""
    await shared.bob_joins()
    ids: list[str] = []

    def refuse(body: JsonObject) -> web.StreamResponse | None:
        ids.append(guest.seen[-1].target)
        return web.json_response({}, status=500) if len(ids) <= 2 else None

    guest.refuse = refuse
    await shared.alice.say(shared.room_id, "one")
    for number in range(2):
        await wait_for(lambda number=number: len(ids) > number)
        await shared.alice.say(shared.room_id, f"more {number}")
        while len(ids) == number + 1:
            await until_idle()
            await shared.server.clock.advance(3)
    pdus = await got(guest, 3)
    assert texts(pdus) == ["one", "more 0", "more 1"]
    assert ids[0] == ids[1] == ids[2]


async def test_a_server_that_was_down_for_long_catches_up_in_order(
    shared: Shared, guest: Guest
) -> None:
    """Events, and EDUs that must not be lost, each at its place."""
    await shared.bob_joins()
    outbox, commits = shared.server.app.federation.outbox, shared.server.app.federation.commits
    guest.refuse = lambda body: web.json_response({}, status=502)
    await shared.alice.say(shared.room_id, "0")
    await away_for_long(shared)
    for number in range(1, 71):
        await shared.alice.say(shared.room_id, str(number))
        edu = outbox.edu([REMOTE], "m.test", {"after": number})
        await commits.commit(edu, 1, lambda _: outbox.wake([REMOTE]))
    guest.refuse = None
    await shared.server.clock.advance(7_200)
    pdus = await got(guest, 71)
    assert texts(pdus) == [str(number) for number in range(71)]
    await wait_for(lambda: len(edus_of(guest)) == 70)
    assert [edu["content"]["after"] for edu in edus_of(guest)] == list(range(1, 71))
    first = next(body for body in guest.transactions if body["pdus"])
    assert len(first["pdus"]) == 50
    assert [edu["content"]["after"] for edu in first["edus"]] == list(range(1, 49))


async def test_an_edu_alone_waits_for_a_server_that_is_down_for_long(
    shared: Shared, guest: Guest
) -> None:
    """A message to a device, say, and nothing else happens until the server is back."""
    await shared.bob_joins()
    federation = shared.server.app.federation
    tried: list[int] = []

    def refuse(body: JsonObject) -> web.StreamResponse:
        tried.append(len(body["edus"]))
        return web.json_response({}, status=502)

    guest.refuse = refuse
    edu = federation.outbox.edu([REMOTE], "m.test", {"text": "one"})
    await federation.commits.commit(edu, 1, lambda _: federation.outbox.wake([REMOTE]))
    began = shared.server.clock.now_ms()
    while shared.server.clock.now_ms() < began + 600_000:
        await until_idle()
        await shared.server.clock.advance(10)
    assert len(tried) > 2
    guest.refuse = None
    await shared.server.clock.advance(7_200)
    await wait_for(lambda: edus_of(guest))
    (told,) = edus_of(guest)
    assert told["content"] == {"text": "one"}


async def test_of_a_room_that_is_far_ahead_only_the_end_is_sent(
    shared: Shared, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.outbound_catchup.FAR", 100)
    await shared.bob_joins()
    guest.refuse = lambda body: web.json_response({}, status=502)
    await shared.alice.say(shared.room_id, "0")
    await away_for_long(shared)
    await asyncio.gather(*(shared.alice.say(shared.room_id, "much") for _ in range(120)))
    await shared.alice.say(shared.room_id, "last")
    guest.refuse = None
    await shared.server.clock.advance(7_200)
    assert texts(await got(guest, 20))[-1] == "last"


async def test_a_sign_of_life_ends_the_pause(shared: Shared, guest: Guest) -> None:
    await shared.bob_joins()
    guest.refuse = lambda body: web.json_response({}, status=502)
    await shared.alice.say(shared.room_id, "one")
    await away_for_long(shared)
    guest.refuse = None
    await shared.server.app.federation.destinations.succeeded(REMOTE)
    assert texts(await got(guest, 1)) == ["one"]


async def test_a_sign_of_life_counts_while_a_failure_comes_home(
    shared: Shared, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shared.bob_joins()
    federation = shared.server.app.federation
    places, asked, go_on = federation.discovery.places, asyncio.Event(), asyncio.Event()

    async def slow(server: str) -> frozenset[tuple[str, int]]:
        asked.set()
        await go_on.wait()
        return await places(server)

    monkeypatch.setattr(federation.discovery, "places", slow)
    guest.refuse = lambda _: web.json_response({}, status=502)
    await shared.alice.say(shared.room_id, "one")
    await asked.wait()
    guest.refuse = None
    await federation.destinations.succeeded(REMOTE)
    go_on.set()
    assert texts(await got(guest, 1)) == ["one"]


async def test_a_server_that_has_moved_is_found_and_tried_at_once(
    made: House, shared: Shared, guest: Guest
) -> None:
    """The next event that it should have makes us look where it is."""
    await shared.bob_joins()
    guest.refuse = lambda body: web.json_response({}, status=502)
    await shared.alice.say(shared.room_id, "one")
    await away_for_long(shared)
    elsewhere = Guest(made, REMOTE)
    await elsewhere.server.start()
    try:
        made.lead(SERVER_NAME, REMOTE, elsewhere.server.port)
        now = shared.server.clock.now_ms()
        lookups = shared.server.app.federation.lookups
        for kind, name in (("srv", f"_matrix-fed._tcp.{REMOTE}"), ("address", "loopback.example")):
            lookups.doubt(kind, name)
        await shared.server.clock.advance(61)
        await shared.alice.say(shared.room_id, "two")
        assert texts(await got(elsewhere, 2)) == ["one", "two"]
        assert shared.server.clock.now_ms() - now < 62_000
    finally:
        await elsewhere.server.stop()


@pytest.mark.long
async def test_a_server_that_is_dead_for_thirty_days_is_tried_once_a_day(
    shared: Shared, guest: Guest
) -> None:
    """In seconds for two minutes, every hour for a week; and when it is back, it has everything."""
    await shared.bob_joins()
    clock, destinations = shared.server.clock, shared.server.app.federation.destinations
    await destinations.succeeded(REMOTE)
    died = clock.now_ms()
    tried: list[int] = []

    def refuse(body: JsonObject) -> web.StreamResponse | None:
        tried.append(clock.now_ms() - died)
        return web.json_response({}, status=502)

    guest.refuse = refuse
    await shared.alice.say(shared.room_id, "the first")
    while not tried or tried[-1] < 30 * DAY:
        retry = 0
        while retry <= clock.now_ms():  # until the failure of the last try has come home
            await asyncio.sleep(0.002)
            retry = (await destinations.state(REMOTE)).retry_ts
        probes = len(tried)
        await clock.advance((retry - clock.now_ms()) / 1_000 + 0.001)
        await wait_for(lambda probes=probes: len(tried) > probes)
    assert 8 <= sum(at <= 120 * SECOND for at in tried) <= 12
    by_day = Counter(at // DAY for at in tried)
    assert all(24 <= by_day[day] <= 27 for day in range(1, 7)), by_day
    assert sum(by_day[day] for day in range(10, 30)) <= 23, by_day  # jitter makes it a tenth more
    assert min(by_day[day] for day in range(10, 30)) == 1, by_day
    await shared.alice.say(shared.room_id, "the last")
    guest.refuse = None
    await destinations.succeeded(REMOTE)
    assert texts(await got(guest, 2)) == ["the first", "the last"]


async def test_events_that_nobody_was_told_of_are_found(
    shared: Shared, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails while an event is published must not make a hole."""
    await shared.bob_joins()
    await shared.alice.say(shared.room_id, "one")
    await got(guest, 1)
    await shared.server.clock.advance(2)
    failures = [RuntimeError("no memory for a note")]

    def note(*values: Any) -> Any:
        if failures:
            raise failures.pop()
        return Note(*values)

    monkeypatch.setattr("federation.outbound.Note", note)
    await shared.alice.say(shared.room_id, "two")
    await shared.alice.say(shared.room_id, "three")
    assert not failures
    await wait_for(lambda: {"two", "three"} <= set(texts(guest.pdus)))


async def test_a_server_that_wants_to_be_left_alone_is(shared: Shared, guest: Guest) -> None:
    await shared.bob_joins()
    asked: list[int] = []

    def refuse(body: JsonObject) -> web.StreamResponse | None:
        asked.append(shared.server.clock.now_ms())
        if len(asked) > 1:
            return None
        return web.json_response({"errcode": "M_LIMIT", "retry_after_ms": 60_000}, status=429)

    guest.refuse = refuse
    await shared.alice.say(shared.room_id, "one")
    await wait_for(lambda: len(asked) == 1)
    await until_idle()
    await shared.server.clock.advance(30)
    await until_idle()
    assert len(asked) == 1
    await shared.server.clock.advance(31)
    assert texts(await got(guest, 1)) == ["one"]


async def test_what_a_server_cannot_take_does_not_stop_the_rest(
    shared: Shared, guest: Guest
) -> None:
    """It refuses whole transactions for one event, and reports another as unusable."""
    await shared.bob_joins()

    def refuse(body: JsonObject) -> web.StreamResponse | None:
        if any(pdu["content"].get("body") == "3" for pdu in body["pdus"]):
            return web.json_response({"errcode": "M_BAD_JSON", "error": "no"}, status=400)
        return None

    guest.refuse = refuse
    await asyncio.gather(*(shared.alice.say(shared.room_id, str(n)) for n in range(8)))
    await shared.alice.say(shared.room_id, "end")
    pdus = await got(guest, 8)
    assert sorted(texts(pdus)) == sorted(["0", "1", "2", "4", "5", "6", "7", "end"])


def things(bodies: list[JsonObject]) -> list[str]:
    """What came, in its order; within a transaction an EDU is before the events."""
    return [
        name
        for body in bodies
        for name in (
            *(f"edu {edu['content']['n']}" for edu in body.get("edus", ())),
            *(pdu["content"].get("body", "") for pdu in body["pdus"]),
        )
    ]


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_what_is_cut_keeps_its_order(shared: Shared, guest: Guest, most: int) -> None:
    """A server that takes so few things at once gets messages to devices before what was said
    after them, and not before what was said earlier.
    """
    await shared.bob_joins()
    federation = shared.server.app.federation
    guest.refuse = lambda _: web.json_response({}, status=502)
    for number in range(6):
        await shared.alice.say(shared.room_id, f"said {number}")
        edu = federation.outbox.edu([REMOTE], "m.test", {"n": number})
        await federation.commits.commit(edu, 1)
    federation.outbox.wake([REMOTE])
    await until_idle()

    def refuse(body: JsonObject) -> web.StreamResponse | None:
        if len(body["pdus"]) + len(body.get("edus", ())) <= most:
            return None
        return web.json_response({"errcode": "M_TOO_LARGE", "error": "no"}, status=413)

    guest.refuse = refuse
    federation.destinations.reset(REMOTE)
    for _ in range(300):
        if len(things(guest.transactions)) == 12:
            break
        await until_idle()
        await shared.server.clock.advance(3)
    came = things(guest.transactions)
    assert [name for name in came if name.startswith("said")] == [f"said {n}" for n in range(6)]
    assert [name for name in came if name.startswith("edu")] == [f"edu {n}" for n in range(6)]
    # In one transaction an EDU may be beside the event that comes after it, not in one before.
    heard, told = 0, 0
    for body in guest.transactions:
        told += len(body.get("edus", ()))
        heard += len(body["pdus"])
        assert heard - 1 <= told <= heard


async def test_edus_alone_go_a_hundred_at_a_time(shared: Shared, guest: Guest) -> None:
    await shared.bob_joins()
    federation = shared.server.app.federation
    for number in range(150):
        edu = federation.outbox.edu([REMOTE], "m.test", {"n": number})
        await federation.commits.commit(edu, 1)
    federation.outbox.wake([REMOTE])
    await wait_for(lambda: len(edus_of(guest)) == 150)
    assert [len(body["edus"]) for body in guest.transactions] == [100, 50]


@pytest.mark.parametrize("failures", [1, 3])
async def test_what_was_delivered_is_dropped_though_a_save_fails(
    shared: Shared,
    guest: Guest,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
) -> None:
    """Its rows go with the next save that succeeds, and nothing is sent twice."""
    await shared.bob_joins()
    federation = shared.server.app.federation
    commit = federation.commits.commit
    left = failures

    async def failing(changes: Any, *args: Any) -> Any:
        nonlocal left
        if left and any(
            isinstance(one, Delete) and one.row_type is EduOutboxRow for one in changes
        ):
            left -= 1
            raise MatrixError("M_UNKNOWN", "The database can't be reached", 503)
        return await commit(changes, *args)

    monkeypatch.setattr(federation.commits, "commit", failing)
    await federation.commits.commit(federation.outbox.edu([REMOTE], "m.test", {"n": 1}), 1)
    federation.outbox.wake([REMOTE])
    await wait_for(lambda: len(edus_of(guest)) == 1)
    admin = await shared.server.person("operator", admin=True)

    async def waiting() -> int:
        return int((await admin.ok("GET", f"{ADMIN}/{REMOTE}"))["waiting_messages"])

    for _ in range(300):
        if not left and not await waiting():
            break
        await until_idle()
        await shared.server.clock.advance(30)
    assert (left, await waiting()) == (0, 0)
    assert len(edus_of(guest)) == 1


@pytest.mark.parametrize("garbage", [b"<html>all is well</html>", b"[]", b"x" * 20_000_000])
async def test_garbage_is_no_receipt(shared: Shared, guest: Guest, garbage: bytes) -> None:
    await shared.bob_joins()
    answered: list[int] = []

    def refuse(body: JsonObject) -> web.StreamResponse | None:
        answered.append(1)
        return web.Response(body=garbage) if len(answered) == 1 else None

    guest.refuse = refuse
    await shared.alice.say(shared.room_id, "one")
    for _ in range(600):
        if guest.transactions:
            break
        await until_idle()
        await shared.server.clock.advance(3)
    assert texts(await got(guest, 1)) == ["one"]


async def test_after_a_restart_what_was_not_acknowledged_is_sent(
    shared: Shared, guest: Guest
) -> None:
    await shared.bob_joins()
    await shared.alice.say(shared.room_id, "heard")
    await got(guest, 1)
    guest.refuse = lambda body: web.json_response({}, status=500)
    outbox, commits = shared.server.app.federation.outbox, shared.server.app.federation.commits
    await shared.alice.say(shared.room_id, "unheard")
    await commits.commit(outbox.edu([REMOTE], "m.test", {"n": 1}), 1)
    await until_idle()
    await shared.server.restart()
    guest.refuse = None
    for _ in range(20):
        await until_idle()
        await shared.server.clock.advance(10)
    assert texts(await got(guest, 2)) == ["heard", "unheard"]
    await wait_for(lambda: len(edus_of(guest)) == 1)


async def test_a_blocked_server_gets_nothing_until_it_is_allowed(
    shared: Shared, guest: Guest
) -> None:
    await shared.bob_joins()
    destinations = shared.server.app.federation.destinations
    await destinations.block(REMOTE)
    await shared.alice.say(shared.room_id, "one")
    await until_idle()
    await shared.server.clock.advance(30)
    await until_idle()
    assert guest.seen == []
    await destinations.allow(REMOTE)
    assert texts(await got(guest, 1)) == ["one"]


async def test_typing_and_public_receipts_are_told(shared: Shared, guest: Guest) -> None:
    """A private receipt is nobody's business, nor is who types elsewhere."""
    await shared.bob_joins()
    alice, path = shared.alice, f"/rooms/{shared.room_id}"
    said = await alice.say(shared.room_id, "one")
    await got(guest, 1)
    typing = f"{path}/typing/{alice.user_id}"
    await alice.ok("PUT", typing, body={"typing": True, "timeout": 60_000})
    shared.server.app.services.typing.start(shared.room.nid, BOB, 60_000)
    await alice.ok("POST", f"{path}/receipt/m.read.private/{said}", body={})
    await alice.ok("POST", f"{path}/receipt/m.read/{said}", body={"thread_id": "main"})
    await wait_for(lambda: len(edus_of(guest)) == 2)
    told = {"room_id": shared.room_id, "typing": True, "user_id": alice.user_id}
    data = {"ts": shared.server.clock.now_ms(), "thread_id": "main"}
    read = {alice.user_id: {"data": data, "event_ids": [said]}}
    expected = [
        {"edu_type": "m.typing", "content": told},
        {"edu_type": "m.receipt", "content": {shared.room_id: {"m.read": read}}},
    ]
    assert edus_of(guest) == expected
    await shared.server.clock.advance(26)
    await wait_for(lambda: edus_of(guest)[2:] == expected[:1])
    await alice.ok("PUT", typing, body={"typing": False})
    await wait_for(lambda: len(edus_of(guest)) == 4)
    assert edus_of(guest)[3]["content"] == {**told, "typing": False}


class TestPresence:
    @pytest.fixture(params=[True, False])
    def settings(self, request: pytest.FixtureRequest, settings: dict[str, Any]) -> dict[str, Any]:
        settings["federation"]["presence"] = request.param
        return settings | {"presence": {"enabled": True}}

    async def test_presence_is_told_where_the_operator_wants_it(
        self, shared: Shared, guest: Guest
    ) -> None:
        await shared.bob_joins()
        alice = shared.alice
        body = {"presence": "online", "status_msg": "here"}
        await alice.ok("PUT", f"/presence/{alice.user_id}/status", body=body)
        await shared.server.clock.advance(3)
        await alice.say(shared.room_id, "one")
        await got(guest, 1)
        if not shared.server.config.federation.presence:
            assert edus_of(guest) == []
            return
        await wait_for(lambda: len(edus_of(guest)) == 1)
        (edu,) = edus_of(guest)
        (told,) = edu["content"]["push"]
        assert edu["edu_type"] == "m.presence"
        assert (told["user_id"], told["status_msg"]) == (alice.user_id, "here")

    @pytest.mark.parametrize("settings", [True], indirect=True)
    async def test_of_many_changes_of_presence_the_last_is_told(
        self, shared: Shared, guest: Guest
    ) -> None:
        await shared.bob_joins()
        alice = shared.alice
        for number in range(10):
            body = {"presence": "online", "status_msg": f"step {number}"}
            await alice.ok("PUT", f"/presence/{alice.user_id}/status", body=body)
        await shared.server.clock.advance(3)
        await alice.say(shared.room_id, "one")
        await got(guest, 1)
        await wait_for(lambda: bool(edus_of(guest)))
        assert [edu["content"]["push"][0]["status_msg"] for edu in edus_of(guest)] == ["step 9"]


ADMIN = "/_homeserver/admin/v1/federation"


async def test_operators_see_why_a_server_gets_nothing_and_can_try_it_at_once(
    shared: Shared, guest: Guest
) -> None:
    await shared.bob_joins()
    admin = await shared.server.person("operator", admin=True)
    await admin.refused("M_NOT_FOUND", "GET", f"{ADMIN}/{REMOTE}")
    await admin.refused("M_INVALID_PARAM", "GET", f"{ADMIN}/no%20name")
    assert (await admin.ok("GET", ADMIN))["servers"] == []
    body = {"errcode": "M_UNKNOWN", "error": "out of paper"}
    guest.refuse = lambda _: web.json_response(body, status=500)
    await shared.alice.say(shared.room_id, "one")
    await away_for_long(shared)
    await shared.alice.say(shared.room_id, "two")
    (listed,) = (await admin.ok("GET", ADMIN))["servers"]
    assert (listed["server"], listed["state"], listed["behind"]) == (REMOTE, "failing", True)
    assert "500 M_UNKNOWN out of paper" in listed["error"]
    assert listed["retry_ts"] > shared.server.clock.now_ms()
    shown = await admin.ok("GET", f"{ADMIN}/{REMOTE}")
    assert shown["waiting_events"] == 2
    assert (shown["waiting_messages"], shown["waiting_lists"]) == (0, 0)
    assert shown["reached_at"] == [f"loopback.example:{guest.server.port}"]
    metrics = shared.server.app.metrics.render().decode()
    assert "homeserver_federation_behind 1.0" in metrics
    assert f'homeserver_federation_lag_seconds{{server="{REMOTE}"}}' in metrics
    guest.refuse = None
    await admin.ok("POST", f"{ADMIN}/{REMOTE}/retry", body={})
    assert texts(await got(guest, 2)) == ["one", "two"]
    await wait_for(lambda: shared.server.app.federation.peers.behind() == 0)
    (well,) = (await admin.ok("GET", ADMIN, query={"all": "true"}))["servers"]
    assert (well["state"], well["waiting_events"]) == ("well", 0)
    await admin.ok("POST", f"{ADMIN}/{REMOTE}/block", body={})
    assert (await admin.ok("GET", f"{ADMIN}/{REMOTE}"))["state"] == "blocked"
    await admin.ok("POST", f"{ADMIN}/{REMOTE}/allow", body={})
    assert (await admin.ok("GET", ADMIN))["servers"] == []
    nobody = await shared.server.person("nobody")
    assert (await nobody.raw("GET", ADMIN)).status == 403


async def message(sender: Person, number: int) -> None:
    body = {"messages": {BOB: {"PHONE": {"number": number}}}}
    await sender.ok("PUT", f"/sendToDevice/m.test/{number}", body=body)


async def test_who_catches_up_gets_messages_to_devices_and_changes_of_keys_at_their_time(
    shared: Shared, guest: Guest
) -> None:
    """Keys come before what is encrypted with them, and are not pushed in front of older events."""
    await shared.bob_joins()
    early, late = shared.alice, await shared.server.person("late")
    await late.join(shared.room_id)
    for person in (early, late):
        device = Device(person)
        await device.upload(device_keys=device.keys)
    await wait_for(lambda: len(lists_of(guest)) == 2)
    guest.refuse = lambda _: web.json_response({}, status=502)
    await shared.alice.say(shared.room_id, "lost")
    await away_for_long(shared)
    renamed = {10: early, 110: late}
    for number in range(120):
        await message(shared.alice, number)
        if number in renamed:
            named = {"display_name": f"{number}"}
            await renamed[number].ok("PUT", f"/devices/{renamed[number].device_id}", body=named)
        await shared.alice.say(shared.room_id, f"{number}")
    guest.transactions.clear()
    guest.refuse = None
    shared.server.app.federation.destinations.reset(REMOTE)
    await got(guest, 121)
    events, messages, lists = 0, 0, set[int]()
    # The first is empty: it asks whether the server is there.
    assert not guest.transactions[0]["pdus"]
    for body in guest.transactions[1:]:
        for edu in body.get("edus", ()):
            if edu["edu_type"] == "m.direct_to_device":
                assert edu["content"]["messages"][BOB]["PHONE"]["number"] == messages
                messages += 1
            elif edu["edu_type"] == "m.device_list_update":
                lists.add(int(edu["content"]["device_display_name"]))
        events += len(body["pdus"])
        # One event was said before the first message; each message was sent before its event.
        said = events - 1
        assert said <= messages <= said + 1
        assert {number for number in renamed if number < said} <= lists
        assert lists <= {number for number in renamed if number < messages}
    assert messages == 120
    assert lists == set(renamed)


async def test_operators_see_what_of_encryption_other_servers_lack(
    shared: Shared, guest: Guest
) -> None:
    await shared.bob_joins()
    device = Device(shared.alice)
    await device.upload(device_keys=device.keys)
    await wait_for(lambda: len(lists_of(guest)) == 1)
    admin = await shared.server.person("operator", admin=True)
    guest.refuse = lambda _: web.json_response({}, status=502)
    for number in range(3):
        await message(shared.alice, number)
    path = f"/devices/{shared.alice.device_id}"
    await shared.alice.ok("PUT", path, body={"display_name": "Phone"})
    expected = {"server": REMOTE, "waiting_messages": 3, "waiting_lists": 1}
    found = await admin.ok("GET", "/_homeserver/admin/v1/e2ee")
    assert (found["undelivered"], found["servers"]) == (3, [expected])
    await away_for_long(shared)
    found = await admin.ok("GET", "/_homeserver/admin/v1/e2ee")
    assert (found["undelivered"], found["servers"]) == (3, [expected])
    shown = await admin.ok("GET", f"{ADMIN}/{REMOTE}")
    assert (shown["waiting_messages"], shown["waiting_lists"]) == (3, 1)
    metrics = shared.server.app.metrics

    def measured() -> set[str]:
        lines = metrics.render().decode().splitlines()
        return {line for line in lines if line.startswith("homeserver_e2ee_undelivered")}

    of_server = {
        f'homeserver_e2ee_undelivered_messages{{server="{REMOTE}"}} 3.0',
        f'homeserver_e2ee_undelivered_lists{{server="{REMOTE}"}} 1.0',
    }
    for _ in range(1_000):
        if measured() == {"homeserver_e2ee_undelivered 3.0", *of_server}:
            break
        await until_idle()
        await shared.server.clock.advance(1)
    else:
        raise AssertionError(measured())
    guest.refuse = None
    await admin.ok("POST", f"{ADMIN}/{REMOTE}/retry", body={})
    for _ in range(1_000):
        if measured() == {"homeserver_e2ee_undelivered 0.0"}:
            break
        await until_idle()
        await shared.server.clock.advance(1)
    else:
        raise AssertionError(measured())


def lists_of(guest: Guest) -> list[JsonObject]:
    return [edu for edu in edus_of(guest) if edu["edu_type"] == "m.device_list_update"]


def edus_of(guest: Guest) -> list[JsonObject]:
    return [edu for body in guest.transactions for edu in body.get("edus", ())]


async def away_for_long(shared: Shared) -> None:
    """Let time go on until what waits is dropped from memory."""
    for _ in range(1_000):
        queue = shared.server.app.federation.sender.queue(REMOTE)
        if queue is not None and queue.behind:
            assert queue.in_memory == 0
            return
        await until_idle()
        await shared.server.clock.advance(10)
    raise AssertionError("the server is not given up")


async def wait_for(check: Any) -> None:
    for _ in range(3_000):
        if check():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


async def until_idle() -> None:
    """Let requests over real sockets come and go."""
    await asyncio.sleep(0.03)

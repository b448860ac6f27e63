"""What operators are told of devices and their keys, over HTTP and by the command."""

import asyncio
from pathlib import Path
from urllib.parse import quote

import pytest

from homeserver.runtime.clock import FakeClock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.users import key_health
from homeserver.users.key_health import (
    EVERY_SECONDS,
    FIRST_SECONDS,
    REST_SECONDS,
    KeyHealth,
)
from homeserver.users.parcels import Parcels
from storage.changes import Put
from storage.engine import Database
from storage.schema import DeviceListRow, EduOutboxRow, RemoteDeviceRow
from tests.api.test_keys import Device, claim
from tests.serving import Person, Running
from tests.test_cli_run import folder
from tests.test_cli_users import done, place, refused, told
from tests.users.conftest import clock, commits

__all__ = ["clock", "commits", "folder", "place"]

HEALTH = "/_homeserver/admin/v1/e2ee"


async def send(sender: Person, to: Person, txn_id: str) -> None:
    messages = {to.user_id: {to.device_id: {"n": txn_id}}}
    path = f"/sendToDevice/m.test/{txn_id}"
    await sender.ok("PUT", path, body={"messages": messages})


async def test_what_keeps_devices_from_decrypting_is_counted(server: Running) -> None:
    admin = await server.person("admin", admin=True)
    alice, bob = await server.person("alice"), await server.person("bob")
    for person in (alice, bob):
        device = Device(person)
        await device.upload(device_keys=device.keys, one_time_keys=device.one_time("A"))
    await claim(alice, bob)
    for number in range(3):
        await send(alice, bob, f"t{number}")
    await send(bob, alice, "t")
    found = await admin.ok("GET", HEALTH)
    assert (found["devices"], found["without_keys"], found["empty_pools"]) == (3, 1, 1)
    assert (found["stale_lists"], found["servers"]) == (0, [])
    assert (found["waiting"], found["undelivered"]) == (4, 0)
    assert found["inboxes"] == [
        {"user_id": bob.user_id, "device_id": bob.device_id, "waiting": 3},
        {"user_id": alice.user_id, "device_id": alice.device_id, "waiting": 1},
    ]
    of_bob = await admin.ok("GET", f"{HEALTH}/{quote(bob.user_id, safe='')}")
    (shown,) = of_bob["devices"]
    assert shown == {"device_id": bob.device_id, "keys": True, "one_time_keys": 0, "waiting": 3}
    assert (await alice.raw("GET", HEALTH)).status == 403


async def test_metrics_show_it_a_minute_after_the_start_and_then_every_five(
    server: Running,
) -> None:
    """Until then nothing is said, and nobody waits for it: it is looked at page by page."""
    alice, bob = await server.person("alice"), await server.person("bob")
    device = Device(alice)
    await device.upload(device_keys=device.keys)
    await send(alice, bob, "first")

    def measured() -> dict[str, float]:
        lines = server.app.metrics.render().decode().splitlines()
        pairs = [line.removeprefix("homeserver_e2ee_").rpartition(" ") for line in lines]
        return {
            name: float(figure)
            for (name, _, figure), line in zip(pairs, lines, strict=True)
            if line.startswith("homeserver_e2ee_")
        }

    async def shown(waiting: int) -> None:
        expected = {
            "devices": 2,
            "without_keys": 1,
            "empty_pools": 1,
            "stale_lists": 0,
            "waiting": waiting,
            "undelivered": 0,
            "cut": 0,
            f'inbox{{device="{bob.user_id} {bob.device_id}"}}': waiting,
        }
        for _ in range(10_000):
            if measured() == expected:
                return
            await server.clock.advance(REST_SECONDS)
            await asyncio.sleep(0.001)
        raise AssertionError(measured())

    assert measured() == {"cut": 0}
    await server.clock.advance(FIRST_SECONDS)
    await shown(1)
    await send(alice, bob, "second")
    assert measured()["waiting"] == 1
    await server.clock.advance(EVERY_SECONDS)
    await shown(2)


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        ("@nobody:nowhere.example", (404, "M_NOT_FOUND")),
        ("no user", (400, "M_INVALID_PARAM")),
    ],
)
async def test_who_is_not_known_is_no_answer(
    server: Running, user_id: str, expected: tuple[int, str]
) -> None:
    admin = await server.person("admin", admin=True)
    reply = await admin.raw("GET", f"{HEALTH}/{quote(user_id, safe='')}")
    assert (reply.status, reply.body["errcode"]) == expected


async def test_what_waits_for_and_of_other_servers_is_counted(
    database: Database, commits: CommitQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_health, "PAGE", 2)
    monkeypatch.setattr(key_health, "NAMED", 3)
    found = await database.intern([f"@u{n}:a.example" for n in range(5)])
    waiting = [(f"s{n}.example", n) for n in range(1, 6)]
    await commits.commit(
        [
            *(
                Put(DeviceListRow(nid, "a.example", 1, 1, int(n > 0), "", 0, 0))
                for n, nid in enumerate(found.values())
            ),
            Put(RemoteDeviceRow(found["@u1:a.example"], "D", None, b"{}")),
            *(
                Put(EduOutboxRow(server, pos, 1, None))
                for server, count in waiting
                for pos in range(count)
            ),
        ]
    )
    parcels = Parcels(database, commits, clock, 0)
    health = KeyHealth(database, Names(database), parcels, clock)
    told_all = await health.whole()
    assert told_all["stale_lists"] == 4
    assert told_all["undelivered"] == 15
    assert told_all["servers"] == [
        {"server": f"s{n}.example", "waiting_messages": n, "waiting_lists": 0} for n in (5, 4, 3)
    ]
    assert await health.user("@u1:a.example") == {
        "user_id": "@u1:a.example",
        "stale": True,
        "devices": [{"device_id": "D"}],
    }
    assert (await health.user("@u0:a.example"))["stale"] is False


def test_the_command_says_it(place: Path) -> None:
    assert done(place, "e2ee", "status").splitlines() == [
        "0 devices: 0 without keys",
        "0 devices have keys and no one-time keys",
        "0 lists of other servers' users are stale",
    ]
    assert told(place, "e2ee", "status", "@bob:example.org")["devices"] == []
    assert "neither an account" in refused(place, "e2ee", "status", "@nobody:example.org")

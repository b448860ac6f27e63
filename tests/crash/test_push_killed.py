"""kill -9 among messages, invites and receipts: gateways and mails tell all, and flood nobody."""

import asyncio
import os
import random
import re
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import apsw
import psycopg
import pytest
import trustme
from aiohttp import web

from bench.client import V3, Client, Json, insist, segment
from tests.crash.conftest import Rows
from tests.postbox import Postbox, postbox, text_of
from tests.processes import OurServer, running
from tests.push.push_service import App, trusting

__all__ = ["postbox"]

PUBLIC = "https://matrix.gateway.unifiedpush.org/_matrix/push/v1/notify"
PASSWORD = "secret secret"
ADDRESS = "alice@mail.example"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(
    database_url: str | None, tmp_path: Path, postbox: Postbox, authority: trustme.CA
) -> Iterator[OurServer]:
    """A running server that may speak to gateways and to a mail server here."""
    made = OurServer(tmp_path / "server", database_url)
    with made.config.open("a") as config:
        config.write(
            f"[mail]\nhost = '127.0.0.1'\nport = {postbox.port}\nsecurity = 'none'\n[federation]\n"
        )
        for name, value in trusting(authority, tmp_path).items():
            config.write(f"{name} = {value!r}\n")
    with running(made):
        yield made


async def kill(server: OurServer) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def until(enough: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(120):
        while not enough():  # noqa: ASYNC110  # what a process does is seen by looking
            await asyncio.sleep(0.02)


async def nothing_wrong(server: OurServer) -> None:
    await asyncio.to_thread(server.stop)
    checked = await asyncio.to_thread(server.check)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@dataclass
class Gateway:
    """What each key was told, by room and in order; some requests are refused while it `fails`.

    It is the gateway of some keys, and where others are told without one, by UnifiedPush and by
    Web Push, whose app has its keys here.
    """

    dice: random.Random
    url: str = ""
    app: App = field(default_factory=lambda: App(""))
    tokens: list[str] = field(default_factory=list)
    fails: bool = True
    told: dict[str, dict[str, list[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    unread: dict[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, tuple[str, Json]]:
        """The kinds of the pushers of all keys, and what they say in their `data`."""
        gateway = "http", {"url": f"{self.url}/_matrix/push/v1/notify"}
        return {
            "phone": gateway,
            "tablet": gateway,
            f"{self.url}/watch?up=1": ("http", {"url": PUBLIC}),
            self.app.p256dh: ("webpush", self.app.data),
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.fails and self.dice.random() < 0.1:
            return web.json_response({}, status=502)
        if request.secure:
            key, said = self.app.p256dh, self.app.decrypt(await request.read())
            if "ack_token" in said:
                self.tokens.append(said["ack_token"])
                return web.Response(status=201)
            self.unread[key] = said["unread"]
        else:
            said = (await request.json())["notification"]
            key = said["devices"][0]["pushkey"]
            self.unread[key] = said["counts"]["unread"]
        if "event_id" in said:
            self.told[key][said["room_id"]].append(said["event_id"])
        return web.json_response({"rejected": []})


@asynccontextmanager
async def gateway_of(dice: random.Random, authority: trustme.CA) -> AsyncIterator[Gateway]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    made = Gateway(dice)
    runner = web.ServerRunner(web.Server(made.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    ports = [address[1] for address in runner.addresses]
    made.url, made.app.url = f"http://127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}/app"
    yield made
    await runner.cleanup()


def pusher(app_id: str, key: str, kind: str, data: Json) -> Json:
    names = {"app_display_name": "a", "device_display_name": "d", "lang": "en"}
    return {"app_id": app_id, "pushkey": key, "kind": kind, "data": data, **names}


async def told_of_all(
    server: OurServer, make: Callable[[], Client], authority: trustme.CA, kills: int
) -> None:
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed}")
    dice = random.Random(seed)
    alice, *others = made = [make() for _ in range(3)]
    for number, client in enumerate(made):
        await client.register(f"user{number}")
    rooms = [await alice.create_room(preset="public_chat") for _ in range(3)]
    for client in others:
        for room_id in rooms:
            await client.join(room_id)
    sent: dict[str, list[str]] = {room_id: [] for room_id in rooms}
    invites: set[str] = set()
    ended, more = asyncio.Event(), asyncio.Event()
    done = 0

    async with gateway_of(dice, authority) as gateway:
        for key, (kind, data) in gateway.keys.items():
            body = pusher("test.app", key, kind, data)
            await alice.call("POST", f"{V3}/pushers/set", body)
        await until(lambda: bool(gateway.tokens))
        body = {"app_id": "test.app", "ack_token": gateway.tokens[0]}
        await alice.call("POST", f"{V3}/pushers/ack", body)

        async def work(client: Client, room_id: str) -> None:
            nonlocal done
            for number in count():
                if ended.is_set():
                    return
                say = partial(client.say, room_id, f"{number}", client.transaction())
                sent[room_id].append(await insist(say))
                if number % 25 == 7:
                    # What stands in no answer may be there, and be told, once more.
                    other = await insist(partial(client.create_room, preset="private_chat"))
                    body = {"user_id": alice.user_id}
                    path = f"{V3}/rooms/{segment(other)}/invite"
                    await insist(partial(client.call, "POST", path, body))
                    invites.add(other)
                if number % 10 == 3:
                    await insist(partial(alice.receipt, room_id, dice.choice(sent[room_id])))
                done += 1
                more.set()

        async with asyncio.TaskGroup() as group:
            for number, room_id in enumerate(rooms):
                group.create_task(work(others[number % len(others)], room_id))
            for _ in range(kills):
                goal = done + dice.randint(20, 120)
                while done < goal:
                    more.clear()
                    await more.wait()
                await kill(server)
            ended.set()
        gateway.fails = False
        for room_id in rooms:
            # What she has read is not told any more when the gateway comes back.
            sent[room_id].append(await others[0].say(room_id, "last", others[0].transaction()))

        def all_told() -> bool:
            return all(
                gateway.told[key][room_id][-1:] == sent[room_id][-1:]
                for key in gateway.keys
                for room_id in rooms
            ) and all(gateway.told[key][room_id] for key in gateway.keys for room_id in invites)

        await until(all_told)
        for key in gateway.keys:
            for room_id in rooms:
                times = Counter(gateway.told[key][room_id])
                # A kill repeats the last second, and what the gateway had not taken.
                assert max(times.values()) <= 1 + kills
                assert set(times) <= set(sent[room_id])
        expected = 0
        for room_id in rooms:
            expected += await unread_by_the_book(alice, room_id)
        # The last badge is of a moment at which some of the rooms had been told of already.
        final = await insist(partial(others[0].say, rooms[0], "end", others[0].transaction()))
        await until(lambda: all(gateway.told[key][rooms[0]][-1] == final for key in gateway.keys))
        assert gateway.unread == dict.fromkeys(gateway.keys, expected + 1)
        reply = await alice.sync()
        counts = {
            room_id: reply["rooms"]["join"][room_id]["unread_notifications"]["notification_count"]
            for room_id in rooms
        }
        assert sum(counts.values()) == expected + 1
        # What was told stays told.
        before = {key: sum(map(len, gateway.told[key].values())) for key in gateway.keys}
        await until(lambda: saved(server))
        await kill(server)
        last = await others[0].say(rooms[1], "after the last kill", others[0].transaction())
        await until(lambda: all(gateway.told[key][rooms[1]][-1] == last for key in gateway.keys))
        after = {key: sum(map(len, gateway.told[key].values())) for key in gateway.keys}
        assert after == {key: number + 1 for key, number in before.items()}
    await nothing_wrong(server)


async def unread_by_the_book(reader: Client, room_id: str) -> int:
    """Others' messages after the reader's receipt, by the room's history."""
    path = f"{V3}/sync"
    quiet = '{"room":{"timeline":{"limit":1}}}'
    reply = await reader.call("GET", path, query={"filter": quiet})
    receipts = reply["rooms"]["join"][room_id]["ephemeral"]["events"]
    read = {
        event_id
        for event in receipts
        if event["type"] == "m.receipt"
        for event_id, kinds in event["content"].items()
        if reader.user_id in kinds.get("m.read", {})
    }
    unread = 0
    for event in await reader.history(room_id):
        if event["event_id"] in read:
            break
        unread += event["type"] == "m.room.message" and event["sender"] != reader.user_id
    return unread


def execute(server: OurServer, sql: str) -> Rows:
    """Do something to the database behind the server's back."""
    if server.database.startswith("sqlite:"):
        connection = apsw.Connection(server.database.removeprefix("sqlite:"))
        connection.set_busy_timeout(60_000)
        rows: Rows = list(connection.execute(sql))
        connection.close()
        return rows
    with psycopg.connect(server.database) as postgresql:
        cursor = postgresql.execute(sql.encode())
        return cursor.fetchall() if cursor.description is not None else []


def saved(server: OurServer) -> bool:
    """Whether it is kept that all was told."""
    ((behind,),) = execute(server, "SELECT (SELECT pos FROM stream) - pos FROM push_cursor")
    failing = execute(server, "SELECT 1 FROM pushers WHERE pending_pos IS NOT NULL")
    return behind == 0 and not failing


async def test_gateways_hear_of_all_through_two_kills(
    server: OurServer, client: Callable[[], Client], authority: trustme.CA
) -> None:
    await told_of_all(server, client, authority, 2)


@pytest.mark.long
async def test_gateways_hear_of_all_through_twenty_kills(
    server: OurServer, client: Callable[[], Client], authority: trustme.CA
) -> None:
    await told_of_all(server, client, authority, 20)


on_both = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)


@on_both
async def test_a_mail_is_sent_whenever_the_server_is_killed(
    server: OurServer, client: Callable[[], Client], postbox: Postbox
) -> None:
    """Waiting ten minutes is left out: what is planned for later is made due while it is down."""
    alice, bob = client(), client()
    await alice.register("alice", PASSWORD)
    await bob.register("bob")
    await own(server, alice, postbox)
    room_id = await bob.create_room(preset="public_chat", name="Tea")
    await alice.join(room_id)
    await alice.call("POST", f"{V3}/pushers/set", pusher("m.email", ADDRESS, "email", {}))
    await bob.say(room_id, "one")
    # Killed before or after the mail was planned: it is planned then.
    await kill(server)
    await until(lambda: due(server) is not None)
    await asyncio.to_thread(server.kill)
    execute(server, "UPDATE pushers SET due_ts = 1")
    # Killed when the mail was taken and the server doesn't know it yet: it comes again.
    struck = asyncio.Event()

    async def strike() -> None:
        server.kill()
        struck.set()

    postbox.before = strike
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(120):
        await struck.wait()
    postbox.before = None
    await asyncio.to_thread(server.start)
    for number in (1, 2):
        assert "one" in text_of(await postbox.until(number))
    await until(lambda: due(server) is None)
    # Killed when all was mailed: it is not mailed again.
    await kill(server)
    await insist(partial(bob.say, room_id, "two", bob.transaction()))
    await until(lambda: due(server) is not None)
    assert len(postbox.mails) == 2
    now = time.time_ns() // 1_000_000
    assert (due(server) or 0) >= now + 5 * 60_000
    await nothing_wrong(server)


def due(server: OurServer) -> int | None:
    ((at,),) = execute(server, "SELECT due_ts FROM pushers")
    return at


async def own(server: OurServer, person: Client, postbox: Postbox) -> None:
    """Give a user the address, by the link that is mailed there."""
    asked = {"client_secret": "secret", "email": ADDRESS, "send_attempt": 1}
    sid = (await person.call("POST", f"{V3}/account/3pid/email/requestToken", asked))["sid"]
    link = re.search(r"https?://\S+/_homeserver\S+", text_of(await postbox.until(1)))
    assert link is not None
    parts = urlsplit(link[0])
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}{parts.path}?{parts.query}") as page,
    ):
        assert page.status == 200
    identifier = {"type": "m.id.user", "user": person.user_id}
    auth = {"type": "m.login.password", "password": PASSWORD, "identifier": identifier}
    body = {"sid": sid, "client_secret": "secret", "auth": auth}
    await person.call("POST", f"{V3}/account/3pid/add", body)
    postbox.mails.clear()

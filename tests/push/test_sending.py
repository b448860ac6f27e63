"""That nothing is lost or held up between the stream and the gateways, and what finding out costs.

spec: client-server-api#push-notifications
"""

import asyncio
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from homeserver.push import rules, turns
from homeserver.push.audience import Audience, Happened
from homeserver.push.gateway import Notice
from homeserver.push.mailing import Mailing
from homeserver.push.queues import MOST_TRIES
from homeserver.streams.commit import CommitQueue
from storage import push as store
from storage.push import pushers_of
from storage.sqlite import SQLiteDatabase
from tests.push.conftest import PushGateway
from tests.push.test_gateway import pair
from tests.serving import Person, Running

on_sqlite = pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)


class Trouble:
    """Looking for whom an event notifies fails, for events that say so, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        self.tries = 0
        self.positions: list[int] = []
        look = Audience.notices

        async def looked(
            audience: Audience, told: Happened, only: int | None = None
        ) -> dict[int, Notice]:
            if told.event["content"].get("body") == "trouble":
                self.tries += 1
                self.positions.append(told.pos)
                if self.left:
                    self.left -= 1
                    raise RuntimeError("trouble")
            return await look(audience, told, only)

        monkeypatch.setattr(Audience, "notices", looked)


async def cursor(server: Running, gateway: PushGateway) -> int:
    """Up to where nothing would be told again after a crash, when no gateway is under way."""
    await gateway.until(lambda: not server.app.services.push.queues.waiting)
    await server.app.services.push.sender.save()
    database = server.app._database  # noqa: SLF001 (how far it is shows in no answer)
    assert database is not None
    found = await store.cursor(database)
    assert found is not None
    return found


async def test_an_event_that_is_trouble_is_told_later_and_keeps_nobody_waiting(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bob, room = await pair(server, gateway)
    first = await bob.say(room, "first")
    await gateway.until(lambda: gateway.events() == [first])
    trouble = Trouble(monkeypatch, 3)
    late = await bob.say(room, "trouble")
    last = await bob.say(room, "last")
    await gateway.until(lambda: gateway.events() == [first, last])
    # What is still to be told would be found again after a crash.
    assert await cursor(server, gateway) < trouble.positions[0]
    await gateway.until(lambda: len(gateway.told) == 3, seconds=1)
    assert gateway.events() == [first, last, late]
    await gateway.noticed()
    assert await cursor(server, gateway) > trouble.positions[0]


async def test_an_event_that_stays_trouble_is_given_up(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bob, room = await pair(server, gateway)
    trouble = Trouble(monkeypatch, 1_000)
    await bob.say(room, "trouble")
    last = await bob.say(room, "last")
    await gateway.until(lambda: gateway.events() == [last])
    await gateway.until(lambda: not server.app.services.push.sender.behind, seconds=60)
    assert trouble.tries == MOST_TRIES
    assert await cursor(server, gateway) > trouble.positions[0]


async def test_an_event_at_a_start_that_is_trouble_is_told_once_to_those_who_missed_it(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bob, room = await pair(server, gateway)
    carol = await server.person("carol")
    await carol.join(room)
    gateway.fail_for.add("key")
    await gateway.register(carol, "other")
    said = await bob.say(room, "trouble")
    made = server.app.services.push.queues
    await gateway.until(lambda: bool(made.failing) and bool(gateway.told))
    await server.app.services.push.sender.save()
    trouble = Trouble(monkeypatch, 3)
    gateway.fail_for.clear()
    await server.restart()
    await gateway.until(lambda: len(gateway.told) == 2, seconds=1)
    await gateway.quiet()
    assert trouble.tries == 4
    assert [told["devices"][0]["pushkey"] for told in gateway.told] == ["other", "key"]
    assert gateway.events() == [said, said]


async def test_what_a_start_costs_does_not_grow_with_what_a_gateway_missed(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, room = await pair(server, gateway)
    carol = await server.person("carol")
    other = await bob.create_room(preset="public_chat")
    await carol.join(other)
    await gateway.register(carol, "other")
    quiet = await bob.create_room(preset="public_chat")
    await alice.join(quiet)
    gateway.fail_for.add("key")
    for number in range(4):
        await bob.say(quiet, f"read {number}")
        last = await bob.say(room, f"missed {number}")
        await bob.say(other, f"not alice's {number}")
    read = await bob.say(quiet, "read last")
    await gateway.until(lambda: len(gateway.told) == 4)
    await alice.ok("POST", f"/rooms/{quiet}/receipt/m.read/{read}", body={})
    await gateway.noticed()
    await server.app.services.push.sender.save()
    gateway.fail_for.clear()
    gateway.told.clear()
    looked: list[str] = []
    look = Audience.notices

    async def counted(
        audience: Audience, told: Happened, only: int | None = None
    ) -> dict[int, Notice]:
        looked.append(told.event_id)
        return await look(audience, told, only)

    monkeypatch.setattr(Audience, "notices", counted)
    await server.restart()
    await gateway.until(lambda: not server.app.services.push.queues.failing, seconds=1)
    assert gateway.events() == [last]
    assert looked == [last]


async def test_a_room_that_is_trouble_keeps_back_nothing_else_that_a_gateway_missed(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, room = await pair(server, gateway)
    other = await bob.create_room(preset="public_chat")
    await alice.join(other)
    gateway.fail_for.add("key")
    await bob.say(room, "trouble")
    missed = await bob.say(other, "missed")
    await gateway.noticed()
    queues = server.app.services.push.queues
    await gateway.until(lambda: bool(queues.failing))
    await server.app.services.push.sender.save()
    trouble = Trouble(monkeypatch, 1_000)
    gateway.fail_for.clear()
    await server.restart()
    await gateway.until(lambda: gateway.events() == [missed], seconds=60)
    assert trouble.tries == MOST_TRIES


async def test_a_mail_that_can_not_be_planned_is_planned_later(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who has a gateway hears once, though the event is looked at twice."""
    _, bob, room = await pair(server, gateway)
    planned: list[int] = []

    async def notify(_mailing: Mailing, _row: Any, pos: int) -> None:
        planned.append(pos)
        if len(planned) < 3:
            raise OSError("no connection")

    async def by_mail(*given: Any) -> Any:
        rows = await pushers_of(*given)
        return [*rows, *(row._replace(app_id="m.email", mailed_pos=0) for row in rows)]

    monkeypatch.setattr(Mailing, "notify", notify)
    monkeypatch.setattr(store, "pushers_of", by_mail)
    said = await bob.say(room, "hi")
    await gateway.until(lambda: bool(gateway.told), seconds=1)
    await gateway.noticed()
    await gateway.quiet()
    assert gateway.events() == [said]
    assert len(planned) == 3
    assert len(set(planned)) == 1


class Barrier:
    """A gateway that answers when so many requests are there, and then all at once."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.there = 0
        self.opened = asyncio.Event()

    async def handle(self, _request: web.BaseRequest) -> web.StreamResponse:
        self.there += 1
        if self.there >= self.enough:
            self.opened.set()
        await self.opened.wait()
        return web.json_response({"rejected": []})


async def served(barrier: Barrier) -> tuple[web.ServerRunner, str]:
    runner = web.ServerRunner(web.Server(barrier.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/_matrix/push/v1/notify"


@on_sqlite
async def test_a_slow_gateway_is_brought_many_notifications_at_once(
    server: Running, gateway: PushGateway
) -> None:
    """Else its time for one of them would bound how many it gets in a second."""
    alice, bob, room = await pair(server, gateway)
    barrier = Barrier(turns.PER_GATEWAY - 1)
    runner, url = await served(barrier)
    for number in range(barrier.enough):
        await gateway.register(alice, f"key {number}", data={"url": url})
    await bob.say(room, "hi")
    await gateway.until(barrier.opened.is_set)
    await runner.cleanup()


@on_sqlite
async def test_a_gateway_that_never_answers_keeps_no_other_waiting(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PER_GATEWAY", 3)
    alice, bob, room = await pair(server, gateway)
    barrier = Barrier(1_000)
    runner, url = await served(barrier)
    for number in range(10):
        await gateway.register(alice, f"a {number}", data={"url": url})
    said = [await bob.say(room, f"{number}") for number in range(3)]
    await gateway.until(lambda: gateway.events() == said)
    assert barrier.there == 3
    barrier.opened.set()
    await runner.cleanup()


class Counting:
    """How often the database is asked or written to, and rules are asked about an event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        for name in ("fetch", "scan", "commit"):
            self._count(monkeypatch, SQLiteDatabase, name, "statements")
        self._count(monkeypatch, rules, "actions_for", "rulesets")

    def _count(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, what: str) -> None:
        call = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.counts[what] += 1
            return call(*given, **named)

        monkeypatch.setattr(owner, name, counted)


@on_sqlite
@pytest.mark.parametrize("pushers", [1, 60])
async def test_what_a_message_costs_does_not_grow_with_the_members(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch, pushers: int
) -> None:
    """Neither statements nor rules; half of the members have rules of their own, all equal ones."""

    async def costs(room: str, members: list[Person], sender: Person) -> Counter[str]:
        for number, member in enumerate(members):
            await member.join(room)
            if number < pushers:
                await gateway.register(member, member.user_id)
            if number % 2:
                path = "/pushrules/global/override/mine"
                body = {"conditions": [], "actions": ["notify"]}
                await member.ok("PUT", path, body=body)
        told = min(pushers, len(members))
        counting: Counting | None = None
        for number in range(3):
            if number == 2:
                counting = Counting(monkeypatch)
            gateway.told.clear()
            await sender.say(room, f"{number}")
            await gateway.until(lambda: len(gateway.told) == told)
        await gateway.noticed()
        assert counting is not None
        monkeypatch.undo()
        return counting.counts

    sender = await server.person("sender")
    people = [await server.person(f"person{number}") for number in range(66)]
    few, many = [await sender.create_room(preset="public_chat") for _ in range(2)]
    small = await costs(few, people[:6], sender)
    large = await costs(many, people[6:], sender)
    assert small == large
    assert small["rulesets"] <= 2


async def test_a_cursor_that_could_not_be_kept_is_kept_by_the_next_save(
    server: Running, gateway: PushGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bob, room = await pair(server, gateway)
    await gateway.until(lambda: not server.app.services.push.queues.waiting)
    sender = server.app.services.push.sender
    await sender.save()
    before = await cursor(server, gateway)
    await bob.say(room, "first")
    await gateway.until(lambda: len(gateway.told) == 1)
    await gateway.until(lambda: not server.app.services.push.queues.waiting)

    async def refused(queue: CommitQueue, changes: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(CommitQueue, "commit", refused)
        with pytest.raises(OSError, match="no space"):
            await sender.save()
    assert await cursor(server, gateway) > before

"""Whatever happens, unread counts and badges are what a plain reading of the specification says.

They are so in both kinds of sync, live and afresh, and in what is pushed. The model knows nothing
of the server: it keeps all that was said in a list and counts anew.
spec: client-server-api#receiving-notifications, client-server-api#threaded-read-receipts and
client-server-api#push-rules
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.app import App
from homeserver.runtime.clock import FakeClock
from storage.engine import DatabaseSettings
from tests.push.conftest import PushGateway
from tests.rooms.paths import at
from tests.serving import Person, Running, configure
from tests.sliding.client import Sliding, window
from tests.streams.reading import ignore, keep, moved, read, redact

Pair = tuple[int, int]
MAIN = "main"
FILTER = json.dumps({"room": {"timeline": {"limit": 1, "unread_thread_notifications": True}}})

SAYING = ("text", "cake", "mention", "notice", "encrypted", "edit", "edit that mentions")
OTHERS = (
    *("read", "read private", "read main", "read thread") * 2,
    *("redact",) * 2,
    "redact own",
    "leave",
    "leave and forget",
    "ban",
    "rename",
    "mark as unread",
    "ignore",
    "mute",
    "keyword",
    "switch off",
)
# What is done, by whom (0 is the reader), in which thread (0 is none), and which of the earlier
# ones it is about, counted from the end.
Deed = tuple[str, int, int, int]
deeds: st.SearchStrategy[Deed] = st.tuples(
    st.one_of(st.sampled_from(SAYING), st.sampled_from(OTHERS), st.just("look")),
    st.sampled_from([0, 1, 1, 1, 2, 2]),
    st.sampled_from([0, 0, 1, 2]),
    st.integers(0, 5),
)
histories = st.lists(deeds, min_size=15, max_size=40)


@dataclass
class Said:
    """Somebody's message in the main timeline or a thread (the root's id)."""

    event_id: str
    sender: int
    thread: str
    kind: str
    redacted: bool = False


@dataclass
class Model:
    """What the reader has not read: everything said since the last join, each judged anew."""

    said: list[Said] = field(default_factory=list)
    joined_at: int = 0
    joined: bool = True
    # By timeline, "" being all of them, up to how many of `said` were read.
    read: dict[str, int] = field(default_factory=dict)
    ignored: set[int] = field(default_factory=set)
    muted: bool = False
    keyword: bool = False
    off: bool = False

    def index(self, event_id: str) -> int:
        return next(i for i, one in enumerate(self.said) if one.event_id == event_id)

    def reads(self, timeline: str, event_id: str) -> None:
        self.read[timeline] = max(self.read.get(timeline, 0), self.index(event_id) + 1)

    def outcome(self, said: Said) -> Pair:
        """Whether it notifies, and whether it is a highlight, by the first rule that fits."""
        if self.off or said.kind == "notice":
            return 0, 0
        if said.kind in ("mention", "edit that mentions"):
            return 1, 1
        if said.kind == "edit":
            return 0, 0
        if said.kind == "cake" and self.keyword:
            return 1, 1
        return (0, 0) if self.muted else (1, 0)

    def counts(self) -> dict[str, Pair]:
        """By timeline; those without anything unread are left out."""
        since = max(self.joined_at, self.read.get("", 0))
        found: dict[str, Pair] = {}
        for place, said in enumerate(self.said):
            if said.sender == 0:
                # One has read what one answers.
                found.pop(said.thread, None)
                continue
            if place < max(since, self.read.get(said.thread, 0)):
                continue
            if said.sender in self.ignored or said.redacted:
                continue
            notifies, highlights = self.outcome(said)
            if notifies:
                counted = found.get(said.thread, (0, 0))
                found[said.thread] = counted[0] + 1, counted[1] + highlights
        return found

    def total(self) -> Pair:
        """In all timelines together."""
        counts = self.counts().values()
        return sum(one for one, _ in counts), sum(one for _, one in counts)


class Play:
    """One history, played on the server and in the model."""

    def __init__(self, gateway: PushGateway, people: list[Person]) -> None:
        self.gateway = gateway
        self.people = people
        self.model = Model()
        self.room = ""
        self.other = ""
        self.roots: list[str] = []
        self.sliding = Sliding(people[0], {"all": window(limit=1)})

    async def settle(self) -> None:
        alice, bob, carol = self.people
        self.room = await bob.create_room(preset="public_chat")
        await carol.join(self.room)
        await alice.join(self.room)
        self.other = await bob.create_room(preset="public_chat")
        await alice.join(self.other)
        await self.gateway.register(alice, alice.user_id)
        for _ in range(2):
            self.roots.append(await self.say(1, "text", MAIN))
        await alice.sync(filter=FILTER)
        await self.sliding.sync()

    async def say(self, sender: int, kind: str, thread: str, target: str = "") -> str:
        content: dict[str, Any] = {"msgtype": "m.text", "body": "hi"}
        type_ = "m.room.message"
        if kind == "notice":
            content["msgtype"] = "m.notice"
        elif kind == "cake":
            content["body"] = "More cake, please"
        elif kind == "encrypted":
            type_, content = "m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2"}
        if thread != MAIN:
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": thread}
        if kind.startswith("edit"):
            content["m.relates_to"] = {"rel_type": "m.replace", "event_id": target}
            content["m.new_content"] = {"msgtype": "m.text", "body": "hi"}
            thread = MAIN
        if kind.endswith(("mention", "mentions")):
            content["m.mentions"] = {"user_ids": [self.people[0].user_id]}
        event_id = await self.people[sender].send(self.room, type_, content)
        self.model.said.append(Said(event_id, sender, thread, kind))
        return event_id

    async def do(self, deed: Deed) -> None:
        kind, actor, thread_number, back = deed
        alice, bob, _ = self.people
        model = self.model
        target = model.said[-1 - back % len(model.said)]
        thread = MAIN if thread_number == 0 else self.roots[thread_number - 1]
        if kind in SAYING:
            if actor or model.joined:
                mains = [one.event_id for one in model.said if one.thread == MAIN]
                await self.say(actor, kind, thread, mains[-1 - back % len(mains)])
        elif kind.startswith("redact"):
            whose = 0 if kind == "redact own" else target.sender
            theirs = [one for one in model.said if one.sender == whose]
            if theirs and (whose or model.joined):
                one = theirs[-1 - back % len(theirs)]
                if not one.redacted and one.event_id not in self.roots:
                    await redact(self.people[whose], self.room, one.event_id)
                    one.redacted = True
        elif kind in ("leave", "leave and forget", "ban"):
            if kind.startswith("leave") and model.joined:
                await moved(alice, self.room, "leave")
                if kind.endswith("forget"):
                    await alice.ok("POST", at(self.room, "forget"), body={})
            elif model.joined:
                await moved(bob, self.room, "ban", alice)
                await moved(bob, self.room, "unban", alice)
            model.joined = not model.joined
            if model.joined:
                await alice.join(self.room)
                model.joined_at = len(model.said)
        elif kind == "ignore":
            model.ignored ^= {2}
            await ignore(alice, *(self.people[number] for number in model.ignored))
        elif kind in ("mute", "keyword", "switch off"):
            await self._rule(kind)
        elif model.joined:
            await self._as_a_member(kind, thread, target)

    async def _rule(self, kind: str) -> None:
        alice, model, rules = self.people[0], self.model, "/pushrules/global"
        if kind == "switch off":
            model.off = not model.off
            path = f"{rules}/override/.m.rule.master/enabled"
            await alice.ok("PUT", path, body={"enabled": model.off})
            return
        if kind == "mute":
            model.muted = there = not model.muted
            path = f"{rules}/room/{quote(self.room, safe='')}"
            body: dict[str, Any] = {"actions": []}
        else:
            model.keyword = there = not model.keyword
            actions: list[Any] = ["notify", {"set_tweak": "highlight"}]
            path, body = f"{rules}/content/sweet", {"pattern": "CAKE", "actions": actions}
        if there:
            await alice.ok("PUT", path, body=body)
        else:
            await alice.ok("DELETE", path)

    async def _as_a_member(self, kind: str, thread: str, target: Said) -> None:
        alice, model = self.people[0], self.model
        if kind in ("read", "read private"):
            receipt = "m.read" if kind == "read" else "m.read.private"
            await read(alice, self.room, target.event_id, receipt)
            model.reads("", target.event_id)
        elif kind in ("read main", "read thread"):
            wanted = MAIN if kind == "read main" else thread
            there = [one.event_id for one in model.said if one.thread == wanted]
            if there:
                await read(alice, self.room, there[-1], thread_id=wanted)
                model.reads(wanted, there[-1])
        elif kind == "mark as unread":
            await keep(alice, "m.marked_unread", {"unread": True}, self.room)
        elif kind == "rename":
            content = {"membership": "join", "displayname": f"Alice {len(model.said)}"}
            await alice.put_state(self.room, "m.room.member", content, alice.user_id)
        else:
            await self.look()

    async def look(self) -> None:
        """What the next answers and first ones say is what the model says."""
        alice = self.people[0]
        live = (await alice.sync(filter=FILTER)).get("rooms", {}).get("join", {})
        first = await alice.sync(filter=FILTER, since=None, remember=False)
        section = first.get("rooms", {}).get("join", {}).get(self.room)
        assert (section is not None) is self.model.joined
        again = Sliding(alice, {"all": window(limit=1)}, conn_id="again")
        await again.sync()
        news = (await self.sliding.sync())["rooms"]
        if section is None:
            # Who was banned is still told so.
            told = again.rooms.get(self.room)
            assert told is None or told.membership != "join"
            assert told is None or not told.fields.get("notification_count")
            return
        # Other rules alone are no news of a room.
        for connection in (self.sliding, again) if self.room in news else (again,):
            fields = connection.rooms[self.room].fields
            counts = fields["notification_count"], fields["highlight_count"]
            assert counts == self.model.total()
        assert _told(section) == self.model.counts()
        if self.room in live:
            assert _told(live[self.room]) == self.model.counts()

    async def look_at_badge(self) -> None:
        """The gateway is told the same number; of a room that one has left, nothing."""
        model, (alice, bob, _) = self.model, self.people
        if model.off:
            return
        before = await self._badge(self.other)
        there = model.total()[0] if model.joined else 0
        assert before == 1 + there
        if model.joined:
            said = await self.say(1, "mention", MAIN)
            assert await self._told_of(said) == 1 + model.total()[0]
        await moved(alice, self.other, "leave")
        last = await bob.create_room(preset="public_chat")
        await alice.join(last)
        assert await self._badge(last) == 1 + (model.total()[0] if model.joined else 0)

    async def _badge(self, room: str) -> int:
        """What is told with a mention in another room."""
        mention = {"user_ids": [self.people[0].user_id]}
        content = {"msgtype": "m.text", "body": "hi", "m.mentions": mention}
        return await self._told_of(await self.people[1].send(room, "m.room.message", content))

    async def _told_of(self, event_id: str) -> int:
        await self.gateway.until(lambda: event_id in self.gateway.events())
        last = next(told for told in self.gateway.told if told.get("event_id") == event_id)
        return int(last["counts"]["unread"])


def _told(section: Any) -> dict[str, Pair]:
    found = {
        MAIN: section["unread_notifications"],
        **section.get("unread_thread_notifications", {}),
    }
    pairs = {
        timeline: (counts["notification_count"], counts["highlight_count"])
        for timeline, counts in found.items()
    }
    return {timeline: pair for timeline, pair in pairs.items() if pair != (0, 0)}


class House:
    """A server and a gateway for many histories."""

    def __init__(self, running: Running, gateway: PushGateway) -> None:
        self.running = running
        self.gateway = gateway
        self._played = 0

    async def play(self, history: list[Deed]) -> None:
        self._played += 1
        names = [f"{name}{self._played}" for name in ("alice", "bob", "carol")]
        play = Play(self.gateway, [await self.running.person(name) for name in names])
        await play.settle()
        for deed in history:
            await play.do(deed)
        await play.look()
        await play.look_at_badge()


@pytest.fixture
def house(
    database_settings: DatabaseSettings, tmp_path: Path
) -> Iterator[tuple[asyncio.Runner, House]]:
    """Both in a loop of their own, for a test that is no coroutine."""

    async def start() -> tuple[House, web.ServerRunner]:
        clock = FakeClock()
        changed = {"federation": {"allow_networks": ["127.0.0.0/8"]}}
        config = configure(database_settings, tmp_path, changed)
        app = App(config, clock)
        await app.start()
        running = Running(app, config, clock, aiohttp.ClientSession())
        gateway = PushGateway(running)
        return House(running, gateway), await gateway.serve()

    async def stop(house: House, runner: web.ServerRunner) -> None:
        await runner.cleanup()
        await house.running.http.close()
        await house.running.app.stop()

    with asyncio.Runner() as runner:
        made, serving = runner.run(start())
        try:
            yield runner, made
        finally:
            runner.run(stop(made, serving))


def compare(house: tuple[asyncio.Runner, House], examples: int) -> None:
    runner, made = house

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(histories)
    def each(history: list[Deed]) -> None:
        runner.run(made.play(history))

    each()


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
def test_counts_are_those_of_the_model(house: tuple[asyncio.Runner, House]) -> None:
    compare(house, 20)


@pytest.mark.long
def test_so_they_are_after_many_histories(house: tuple[asyncio.Runner, House]) -> None:
    compare(house, 300)

"""Events from another server: what is accepted, soft-failed and rejected, and what forks do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from homeserver.matrix.auth import auth_keys
from homeserver.matrix.event import Event, build
from homeserver.matrix.sign import SigningKey
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from homeserver.rooms.actor import Room
from homeserver.rooms.checks import Missing
from homeserver.rooms.head import Head
from homeserver.rooms.judging import Verdict
from tests.serving import Person, Running

REMOTE = "elsewhere.example"
BOB = f"@bob:{REMOTE}"
CAROL = f"@carol:{REMOTE}"


@dataclass
class Peer:
    """Another server in the room: it knows the events it was given and makes its own."""

    rules: RoomRules
    room_id: str
    key: SigningKey = field(default_factory=SigningKey.generate)
    clock: int = 1_800_000_000_000

    def make(
        self,
        sender: str,
        event_type: str,
        content: dict[str, Any],
        *,
        state: dict[tuple[str, str], Event],
        prevs: Sequence[Event],
        state_key: str | None = None,
        redacts: str | None = None,
        sticky: dict[str, Any] | None = None,
    ) -> tuple[Event, bytes]:
        keys = auth_keys(self.rules, event_type, sender, state_key, content)
        self.clock += 1
        return build(
            self.rules,
            room_id=self.room_id,
            sender=sender,
            type=event_type,
            content=content,
            state_key=state_key,
            prev_event_ids=[event.event_id for event in prevs],
            auth_event_ids=[state[key].event_id for key in keys if key in state],
            depth=max(event.depth for event in prevs) + 1,
            origin_server_ts=self.clock,
            redacts=redacts,
            sticky=sticky,
            sign=self.key,
            server_name=REMOTE,
        )


@dataclass
class Shared:
    """A public room of ours, made by Alice, seen from the peer."""

    server: Running
    alice: Person
    room: Room
    peer: Peer

    @property
    def room_id(self) -> str:
        return self.room.room_id

    async def head(self) -> tuple[dict[tuple[str, str], Event], list[Event]]:
        """The current state and the last events, as the peer would learn them."""
        rooms = self.server.app.services.rooms
        state = {}
        for shown in await self.alice.ok("GET", f"/rooms/{self.room_id}/state"):
            key = (shown["type"], shown["state_key"])
            event = await rooms.read(self.room, partial(_event_at, key=key))
            assert event is not None
            state[key] = event
        ends = await rooms.read(
            self.room, lambda head: [head.loaded(nid) for nid, _ in head.extremities]
        )
        return state, ends

    async def give(self, made: tuple[Event, bytes]) -> Verdict | Missing:
        return await self.server.app.services.receiver.receive(self.room, *made)

    async def bob_joins(self, who: str = BOB) -> Event:
        state, prevs = await self.head()
        made = self.peer.make(
            who,
            "m.room.member",
            {"membership": "join"},
            state=state,
            prevs=prevs,
            state_key=who,
        )
        assert await self.give(made) is Verdict.ACCEPTED
        return made[0]

    async def heard(self) -> list[dict[str, Any]]:
        """What Alice's next sync tells of the room."""
        answer = await self.alice.sync()
        room = answer.get("rooms", {}).get("join", {}).get(self.room_id)
        return room["timeline"]["events"] if room else []


@pytest.fixture(params=["1", "2", "6", "11", "12"])
async def shared(request: pytest.FixtureRequest, server: Running) -> Shared:
    version: str = request.param
    alice = await server.person("alice")
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    room = await server.app.services.rooms.find(room_id)
    assert room is not None
    await alice.sync()
    return Shared(server, alice, room, Peer(ROOM_VERSIONS[version], room_id))


def _event_at(head: Head, key: tuple[str, str]) -> Event | None:
    return head.event(*key)


def message(text: str) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": text}


async def test_a_join_and_a_message_are_accepted_and_heard(shared: Shared) -> None:
    join = await shared.bob_joins()
    state, prevs = await shared.head()
    said = shared.peer.make(BOB, "m.room.message", message("hello"), state=state, prevs=prevs)
    assert await shared.give(said) is Verdict.ACCEPTED
    assert await shared.give(said) is Verdict.KNOWN
    events = await shared.heard()
    assert [event["event_id"] for event in events] == [join.event_id, said[0].event_id]


async def test_what_is_missing_is_named(shared: Shared) -> None:
    await shared.bob_joins()
    state, prevs = await shared.head()
    first = shared.peer.make(BOB, "m.room.message", message("1"), state=state, prevs=prevs)
    second = shared.peer.make(BOB, "m.room.message", message("2"), state=state, prevs=[first[0]])
    assert await shared.give(second) == Missing((), (first[0].event_id,))
    assert await shared.give(first) is Verdict.ACCEPTED
    assert await shared.give(second) is Verdict.ACCEPTED


async def test_who_is_not_in_the_room_is_rejected(shared: Shared) -> None:
    await shared.bob_joins()
    await shared.heard()
    state, prevs = await shared.head()
    said = shared.peer.make(CAROL, "m.room.message", message("psst"), state=state, prevs=prevs)
    assert await shared.give(said) is Verdict.REJECTED
    assert await shared.heard() == []
    # It is no end of the room: nothing is built upon it.
    after = await shared.head()
    assert [event.event_id for event in after[1]] == [event.event_id for event in prevs]


async def test_power_that_one_does_not_have_is_rejected(shared: Shared) -> None:
    await shared.bob_joins()
    state, prevs = await shared.head()
    seized = shared.peer.make(
        BOB,
        "m.room.power_levels",
        {"users": {BOB: 100}},
        state=state,
        prevs=prevs,
        state_key="",
    )
    assert await shared.give(seized) is Verdict.REJECTED
    levels = await shared.alice.ok("GET", f"/rooms/{shared.room_id}/state/m.room.power_levels")
    assert BOB not in levels.get("users", {})


async def test_an_event_from_before_a_ban_is_soft_failed(shared: Shared) -> None:
    await shared.bob_joins()
    state, prevs = await shared.head()
    late = shared.peer.make(BOB, "m.room.message", message("late"), state=state, prevs=prevs)
    await shared.alice.ok("POST", f"/rooms/{shared.room_id}/ban", body={"user_id": BOB})
    await shared.heard()
    assert await shared.give(late) is Verdict.SOFT_FAILED
    assert await shared.heard() == []
    page = await shared.alice.ok("GET", f"/rooms/{shared.room_id}/messages", query={"dir": "b"})
    assert late[0].event_id not in [event["event_id"] for event in page["chunk"]]
    await shared.alice.refused(
        "M_NOT_FOUND", "GET", f"/rooms/{shared.room_id}/event/{late[0].event_id}"
    )


async def test_two_ends_are_joined_by_the_next_event(shared: Shared) -> None:
    await shared.bob_joins()
    state, prevs = await shared.head()
    theirs = shared.peer.make(BOB, "m.room.message", message("theirs"), state=state, prevs=prevs)
    ours = await shared.alice.say(shared.room_id, "ours")
    assert await shared.give(theirs) is Verdict.ACCEPTED
    _, ends = await shared.head()
    assert {end.event_id for end in ends} == {ours, theirs[0].event_id}
    last = await shared.alice.say(shared.room_id, "both")
    _, ends = await shared.head()
    assert [end.event_id for end in ends] == [last]
    assert set(ends[0].prev_event_ids) == {ours, theirs[0].event_id}


async def test_conflicting_state_is_resolved_and_told(shared: Shared) -> None:
    await shared.bob_joins()
    levels = await shared.alice.ok("GET", f"/rooms/{shared.room_id}/state/m.room.power_levels")
    levels.setdefault("users", {})[BOB] = 50
    await shared.alice.put_state(shared.room_id, "m.room.power_levels", levels)
    state, prevs = await shared.head()
    topic = shared.peer.make(
        BOB, "m.room.topic", {"topic": "theirs"}, state=state, prevs=prevs, state_key=""
    )
    # Meanwhile Alice takes Bob's power away: what he did beside that does not stand.
    levels["users"][BOB] = 0
    await shared.alice.put_state(shared.room_id, "m.room.power_levels", levels)
    await shared.alice.put_state(shared.room_id, "m.room.topic", {"topic": "ours"})
    await shared.heard()
    assert await shared.give(topic) is Verdict.SOFT_FAILED
    said = await shared.alice.ok("GET", f"/rooms/{shared.room_id}/state/m.room.topic")
    assert said["topic"] == "ours"


@pytest.mark.parametrize("clock", [1_000_000_000_000, 1_800_000_000_000])
async def test_a_fork_of_state_that_both_may_set_is_believed_as_it_ends(
    shared: Shared, clock: int
) -> None:
    """Whichever topic stands: whoever reads state and timeline in their order believes that one."""
    shared.peer.clock = clock
    await shared.bob_joins()
    levels = await shared.alice.ok("GET", f"/rooms/{shared.room_id}/state/m.room.power_levels")
    levels.setdefault("users", {})[BOB] = 50
    await shared.alice.put_state(shared.room_id, "m.room.power_levels", levels)
    state, prevs = await shared.head()
    theirs = shared.peer.make(
        BOB, "m.room.topic", {"topic": "theirs"}, state=state, prevs=prevs, state_key=""
    )
    await shared.alice.put_state(shared.room_id, "m.room.topic", {"topic": "ours"})
    before = shared.alice.since
    await shared.heard()
    assert await shared.give(theirs) is Verdict.ACCEPTED
    await shared.alice.say(shared.room_id, "what is it?")
    # Same power levels event: the later one by origin_server_ts stands. In version 1 the deeper one
    # does, which neither is: then the smaller hash of the id.
    said = await shared.alice.ok("GET", f"/rooms/{shared.room_id}/state/m.room.topic")
    if shared.room.rules.state_resolution != "1":
        assert said["topic"] == ("ours" if clock < 1_500_000_000_000 else "theirs")
    for asked in ({"since": None}, {"since": None, "full_state": True}, {"since": before}):
        answer = await shared.alice.sync(**asked, remember=False)
        assert believed(answer, shared.room_id) == said["topic"], asked
    # Who knew ours is told theirs, or nothing.
    told = believed(await shared.alice.sync(remember=False), shared.room_id)
    assert (told or "ours") == said["topic"]


def believed(answer: Any, room_id: str) -> str | None:
    """The topic that a client has after an answer; None where it is told none."""
    shown = answer["rooms"]["join"][room_id]
    events = [*shown["state"]["events"], *shown["timeline"]["events"]]
    topics = [event["content"]["topic"] for event in events if event["type"] == "m.room.topic"]
    return topics[-1] if topics else None


async def test_a_redaction_may_come_before_what_it_redacts(shared: Shared) -> None:
    await shared.bob_joins()
    state, prevs = await shared.head()
    secret = shared.peer.make(BOB, "m.room.message", message("secret"), state=state, prevs=prevs)
    redaction = shared.peer.make(
        BOB,
        "m.room.redaction",
        {},
        state=state,
        prevs=prevs,
        redacts=secret[0].event_id,
    )
    assert await shared.give(redaction) is Verdict.ACCEPTED
    assert await shared.give(secret) is Verdict.ACCEPTED
    for event in await shared.heard():
        if event["event_id"] == secret[0].event_id:
            assert "body" not in event["content"]
            break
    else:
        raise AssertionError("the redacted event was not told")


async def test_the_room_goes_on_after_a_restart(shared: Shared) -> None:
    await shared.bob_joins()
    state, prevs = await shared.head()
    theirs = shared.peer.make(BOB, "m.room.message", message("theirs"), state=state, prevs=prevs)
    await shared.alice.say(shared.room_id, "ours")
    assert await shared.give(theirs) is Verdict.ACCEPTED
    await shared.server.restart()
    state, ends = await shared.head()
    assert len(ends) == 2
    more = shared.peer.make(BOB, "m.room.message", message("more"), state=state, prevs=ends)
    assert await shared.give(more) is Verdict.ACCEPTED
    _, ends = await shared.head()
    assert [end.event_id for end in ends] == [more[0].event_id]

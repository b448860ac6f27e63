"""State resolution: what wins over what, and what it costs to find out."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.authgraph import AuthGraph
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.matrix.resolve import PAIRS, Needed, resolve
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.core.forks import ForkedRoom
from tests.core.rooms import ALICE, BOB, CAROL, Room, State

VERSIONS = list(ROOM_VERSIONS)
FROM_2 = VERSIONS[1:]
TOPIC, JOIN_RULES = ("m.room.topic", ""), ("m.room.join_rules", "")
POWER_LEVELS = ("m.room.power_levels", "")


class Branches(Room):
    """A room that can go on from an earlier place; what was put into it has numbers."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.ts = 1
        self.graph = AuthGraph()
        self.events: dict[int, Event] = {}
        self.nids: dict[str, int] = {}
        self._number(self.create)

    def put(
        self,
        event_type: str,
        sender: str,
        content: JsonObject | None = None,
        state_key: str | None = "",
        **fields: Any,
    ) -> Event:
        self.ts += 1
        event = super().put(event_type, sender, content, state_key, ts=self.ts, **fields)
        self._number(event)
        return event

    def _number(self, event: Event) -> None:
        nid = len(self.events) + 1
        self.events[nid] = event
        self.nids[event.event_id] = nid
        parents = [self.nids[event_id] for event_id in event.auth_event_ids]
        self.graph.add(nid, parents, power_levels=event.key == POWER_LEVELS)

    def numbered(self, state: State) -> dict[tuple[str, str], int]:
        return {key: self.nids[event.event_id] for key, event in state.items()}

    def go_back(self, state: State, last: Event) -> None:
        """The next events come after `last`, where the state is the given one."""
        self.state, self.last = dict(state), last

    def resolved(self, *states: State) -> State:
        numbered = [self.numbered(state) for state in states]
        result = resolve(self.rules, numbered, self.graph, self.events, PAIRS)
        return {key: self.events[nid] for key, nid in result.items()}


def room_of(version: str) -> Branches:
    """A public room of Alice with 100 (or as creator), Bob with 50, and Carol."""
    room = Branches(version)
    room.member(ALICE, "join")
    users = {BOB: 50} if room.rules.privileged_creators else {ALICE: 100, BOB: 50}
    room.put("m.room.power_levels", ALICE, {"users": users})
    room.put("m.room.join_rules", ALICE, {"join_rule": "public"})
    room.member(BOB, "join")
    room.member(CAROL, "join")
    return room


@pytest.mark.parametrize("version", FROM_2)
def test_who_is_banned_in_another_fork_has_done_nothing_there(version: str) -> None:
    room = room_of(version)
    fork, last = dict(room.state), room.last
    ban = room.member(BOB, "ban", ALICE)
    banned = room.state
    room.go_back(fork, last)
    room.put("m.room.topic", BOB, {"topic": "mine"})
    state = room.resolved(banned, room.state)
    assert state["m.room.member", BOB] is ban
    assert TOPIC not in state


def test_in_version_1_only_what_differs_is_in_conflict() -> None:
    room = room_of("1")
    fork, last = dict(room.state), room.last
    ban = room.member(BOB, "ban", ALICE)
    banned = room.state
    room.go_back(fork, last)
    topic = room.put("m.room.topic", BOB, {"topic": "mine"})
    state = room.resolved(banned, room.state)
    assert state["m.room.member", BOB] is ban
    assert state[TOPIC] is topic


@pytest.mark.parametrize("version", FROM_2)
def test_a_promotion_does_not_survive_the_ban_of_who_promoted(version: str) -> None:
    room = room_of(version)
    fork, last = dict(room.state), room.last
    old = room.state[POWER_LEVELS]
    room.member(BOB, "ban", ALICE)
    banned = room.state
    room.go_back(fork, last)
    room.put("m.room.power_levels", BOB, {"users": {**old.content["users"], CAROL: 50}})
    room.put("m.room.topic", CAROL, {"topic": "ours"})
    state = room.resolved(banned, room.state)
    assert state[POWER_LEVELS] is old
    assert TOPIC not in state


@pytest.mark.parametrize("version", FROM_2)
def test_who_joined_while_the_room_was_closed_elsewhere_is_not_in(version: str) -> None:
    room = room_of(version)
    dave = "@dave:two.example"
    fork, last = dict(room.state), room.last
    rule = room.put("m.room.join_rules", ALICE, {"join_rule": "invite"})
    closed = room.state
    room.go_back(fork, last)
    room.member(dave, "join")
    state = room.resolved(closed, room.state)
    assert state[JOIN_RULES] is rule
    assert ("m.room.member", dave) not in state


@pytest.mark.parametrize("version", FROM_2)
def test_of_two_topics_the_later_one_stays(version: str) -> None:
    room = room_of(version)
    fork, last = dict(room.state), room.last
    room.put("m.room.topic", ALICE, {"topic": "first"})
    first = room.state
    room.go_back(fork, last)
    second = room.put("m.room.topic", BOB, {"topic": "second"})
    assert room.resolved(first, room.state)[TOPIC] is second


def test_in_version_1_the_deeper_topic_stays() -> None:
    room = room_of("1")
    fork, last = dict(room.state), room.last
    room.put("m.room.message", ALICE, {}, "message")
    deep = room.put("m.room.topic", ALICE, {"topic": "deep"})
    first = room.state
    room.go_back(fork, last)
    room.put("m.room.topic", BOB, {"topic": "later"})
    assert room.resolved(first, room.state)[TOPIC] is deep


@pytest.mark.parametrize("version", VERSIONS)
def test_one_state_or_none(version: str) -> None:
    room = room_of(version)
    assert room.resolved(room.state) == room.state
    assert room.resolved() == {}


seeds = st.integers(0, 10_000)


@given(version=st.sampled_from(VERSIONS), seed=seeds, data=st.data())
def test_the_order_of_the_states_and_of_their_entries_does_not_matter(
    version: str, seed: int, data: st.DataObject
) -> None:
    room = ForkedRoom(version, seed, size=20)
    for case in room.cases[-4:]:
        shuffled = [
            dict(data.draw(st.permutations(list(state.items()))))
            for state in data.draw(st.permutations(case))
        ]
        assert room.resolve(shuffled) == room.resolve(case)
        assert room.resolve([*case, case[0]]) == room.resolve(case)


@given(version=st.sampled_from(VERSIONS), seed=seeds, count=st.integers(1, 4))
def test_equal_states_resolve_to_themselves(version: str, seed: int, count: int) -> None:
    room = ForkedRoom(version, seed, size=12)
    for state in room.after.values():
        assert room.resolve([dict(state) for _ in range(count)]) == state


def resolved_or_needed(
    room: ForkedRoom,
    states: Sequence[dict[int, int]],
    events: dict[int, Event],
    keys: dict[tuple[str, str], int | None],
) -> dict[int, int] | Needed:
    try:
        return resolve(room.rules, states, room.graph, events, keys)
    except Needed as needed:
        return needed


@given(version=st.sampled_from(VERSIONS), seed=seeds)
def test_what_it_asks_for_is_enough_and_asked_for_at_most_three_times(
    version: str, seed: int
) -> None:
    room = ForkedRoom(version, seed, size=20)
    for case in room.cases[-4:]:
        numbers = {key: number for number, key in enumerate(sorted({k for s in case for k in s}))}
        events: dict[int, Event] = {}
        keys: dict[tuple[str, str], int | None] = {}
        states = [{numbers[key]: nid for key, nid in state.items()} for state in case]
        result = None
        for _ in range(4):
            answer = resolved_or_needed(room, states, events, keys)
            if not isinstance(answer, Needed):
                result = answer
                break
            assert not answer.nids & events.keys()
            assert not answer.keys & keys.keys()
            events |= {nid: room.events[nid] for nid in answer.nids}
            for key in answer.keys:
                # What is in no state may have a number all the same.
                known = any(one.is_state and one.key == key for one in room.events.values())
                keys[key] = numbers.setdefault(key, len(numbers)) if known else None
        assert result == {numbers[key]: nid for key, nid in room.resolve(case).items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_conflict_in_a_big_room_needs_few_of_its_events(version: str) -> None:
    room = room_of(version)
    fork, last = dict(room.state), room.last
    room.put("m.room.topic", ALICE, {"topic": "first"})
    first = room.state
    room.go_back(fork, last)
    room.put("m.room.topic", BOB, {"topic": "second"})
    # The members' events are nowhere: to look at one would be an error.
    strangers = {}
    above = [room.nids[room.state[key].event_id] for key in (POWER_LEVELS, JOIN_RULES)]
    for number in range(5_000):
        nid = 1_000 + number
        room.graph.add(nid, above, power_levels=False)
        strangers["m.room.member", f"@user{number}:three.example"] = nid
    states = [{**strangers, **room.numbered(state)} for state in (first, room.state)]
    result = resolve(room.rules, states, room.graph, room.events, PAIRS)
    assert len(result) == 5_000 + len(room.state)


def test_incomplete_graphs_are_noticed() -> None:
    room = room_of("10")
    states: Sequence[dict[tuple[str, str], int]] = [{TOPIC: 900}, {TOPIC: 901}]
    with pytest.raises(KeyError):
        resolve(room.rules, states, room.graph, room.events, PAIRS)

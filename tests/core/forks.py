"""Rooms that grew at random on servers that didn't hear each other: forks, and forks of forks.

Every event is one that a server would have accepted: allowed by its auth events and by the state
before it. A room is the same whenever its version and seed are.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from homeserver.matrix.auth import auth_keys, authorise, check_auth_events
from homeserver.matrix.authgraph import AuthGraph
from homeserver.matrix.canonical import JsonObject, encode_unpadded
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.resolve import PAIRS, resolve
from homeserver.matrix.sign import SigningKey, sign_json
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.core.rooms import make_event

State = dict[tuple[str, str], int]
Draft = tuple[str, str, JsonObject, str | None]

USERS = [
    "@alice:one.example",
    "@bob:two.example",
    "@carol:one.example",
    "@dave:two.example",
    "@erin:three.example",
]
ALICE = USERS[0]
LEVELS = [0, 10, 25, 50, 50, 75, 100]
KINDS = {
    "join": 16,
    "leave": 4,
    "invite": 8,
    "remove": 7,
    "ban": 9,
    "knock": 4,
    "levels": 18,
    "rule": 8,
    "topic": 8,
    "third": 2,
    "redeem": 3,
    "other": 3,
    "message": 5,
}
IDENTITY_KEY = SigningKey("1", b"i" * 32)


class ForkedRoom:
    """`events` by number, the state `after` each, and the `cases` of states to resolve."""

    def __init__(self, version: str, seed: int, size: int = 30) -> None:
        self.random = Random(f"{version}/{seed}")
        self.rules = ROOM_VERSIONS[version]
        self.graph = AuthGraph()
        self.events: dict[int, Event] = {}
        self.after: dict[int, State] = {}
        self.cases: list[list[State]] = []
        self._by_id: dict[str, int] = {}
        self._ts = 1_000
        self._begin(version)
        tries = 0
        while len(self.events) < size and tries < 10 * size:
            tries += 1
            self._grow()
        for _ in range(4):
            self._add_case()

    @property
    def room_id(self) -> str:
        """The room's id."""
        return next(iter(self.events.values())).room_id

    def resolve(self, states: Sequence[State]) -> State:
        """Our resolution."""
        return resolve(self.rules, states, self.graph, self.events, PAIRS)

    # Growing

    def _begin(self, version: str) -> None:
        content: JsonObject = {"room_version": version}
        if not self.rules.creator_is_sender:
            content["creator"] = ALICE
        if self.rules.privileged_creators and self.random.random() < 0.3:
            content["additional_creators"] = [USERS[1]]
        room_id = None if self.rules.room_id_is_hash else "!room:one.example"
        create = make_event(self.rules, room_id, "m.room.create", ALICE, content, "", ts=self._ts)
        self._add(create, {}, [])
        self._try(("m.room.member", ALICE, {"membership": "join"}, ALICE), [self._last()])
        users = {} if self.rules.privileged_creators else {ALICE: 100}
        if self.random.random() < 0.9:
            levels = {"users": users | {USERS[1]: self.random.choice(LEVELS)}}
            self._try(("m.room.power_levels", ALICE, levels, ""), [self._last()])
        rule = self.random.choice(["public", "public", "invite", "knock", "restricted"])
        rules = {"join_rule": rule}
        self._try(("m.room.join_rules", ALICE, rules, ""), [self._last()])

    def _last(self) -> int:
        return max(self.events)

    def _grow(self) -> None:
        """Try one event, after one place in the room or joining some."""
        random = self.random
        recent = sorted(self.events)[-8:]
        count = random.choices([1, 2, 3], [80, 15, 5])[0]
        places = random.sample(recent, min(count, len(recent)))
        if random.random() < 0.6:
            places = [self._last()] if count == 1 else places
        elif random.random() < 0.15:
            places = [random.choice(list(self.events))]
        before = self._before(places)
        self._try(self._draft(before), places, before)

    def _before(self, places: Sequence[int]) -> State:
        states = [self.after[place] for place in places]
        if len(states) == 1:
            return states[0]
        self.cases.append(states)
        return self.resolve(states)

    def _try(self, draft: Draft, places: Sequence[int], before: State | None = None) -> None:
        """Add the event to the room if the rules allow it there."""
        if before is None:
            before = self._before(places)
        event_type, sender, content, state_key = draft
        auth = self._choose_auth(draft, before)
        self._ts += self.random.choice([0, 0, 1, 5])
        prev = [self.events[place] for place in places]
        depth = self.random.randrange(9) if self.random.random() < 0.1 else None
        event = make_event(
            self.rules,
            self.room_id,
            event_type,
            sender,
            content,
            state_key,
            prev=prev,
            auth=[self.events[nid] for nid in auth.values()],
            ts=self._ts - self.random.choice([0, 0, 0, 20]),
            depth=depth,
        )
        if event.event_id in self._by_id:
            return
        try:
            check_auth_events(event, [self.events[nid] for nid in auth.values()])
            self._authorise(event, auth)
            self._authorise(event, before)
        except Rejected:
            return
        self._add(event, before, auth.values())

    def _authorise(self, event: Event, state: State) -> None:
        def look_up(event_type: str, state_key: str) -> Event | None:
            if event_type == "m.room.create":
                return next(iter(self.events.values()))
            nid = state.get((event_type, state_key))
            return None if nid is None else self.events[nid]

        authorise(event, look_up)

    def _choose_auth(self, draft: Draft, before: State) -> State:
        """The auth events of the state before; sometimes older ones, sometimes one is missing."""
        keys = auth_keys(self.rules, *draft[:2], draft[3], draft[2])
        auth = {key: before[key] for key in keys if key in before}
        for key in list(auth):
            if self.random.random() < 0.04:
                auth[key] = self.random.choice(
                    [nid for nid, one in self.events.items() if one.is_state and one.key == key]
                )
            elif key[0] != "m.room.create" and self.random.random() < 0.01:
                del auth[key]
        return auth

    def _add(self, event: Event, before: State, auth: Any) -> None:
        nid = max(self.events, default=0) + self.random.randrange(1, 4)
        self.events[nid] = event
        self._by_id[event.event_id] = nid
        self.after[nid] = before
        if event.is_state:
            self.graph.add(nid, auth, power_levels=event.key == ("m.room.power_levels", ""))
            self.after[nid] = {**before, event.key: nid}

    # What to resolve

    def _add_case(self) -> None:
        """Some states of the room, as servers have them that miss a few memberships."""
        count = self.random.choices([2, 3, 4, 9], [70, 20, 9, 1])[0]
        places = self.random.sample(sorted(self.events), min(count, len(self.events)))
        states = []
        for place in places:
            state = dict(self.after[place])
            for key in list(state):
                if key[0] != "m.room.create" and self.random.random() < 0.03:
                    del state[key]
            states.append(state)
        self.cases.append(states)

    # What users do

    def _draft(self, state: State) -> Draft:
        random = self.random
        joined = [user for user in USERS if self._membership(state, user) == "join"]
        sender = random.choice(joined) if joined and random.random() < 0.75 else None
        sender = sender or random.choice(USERS)
        target = random.choice(USERS)
        kind = random.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "levels":
            return "m.room.power_levels", sender, self._levels(state), ""
        if kind == "rule":
            rules = ["public", "invite", "knock", "restricted", "knock_restricted", "private"]
            return "m.room.join_rules", sender, {"join_rule": random.choice(rules)}, ""
        if kind == "topic":
            name = random.choice(["m.room.topic", "m.room.name"])
            return name, sender, {"n": random.randrange(9)}, ""
        if kind == "third":
            key = {"public_key": encode_unpadded(IDENTITY_KEY.public_key)}
            return "m.room.third_party_invite", sender, key, random.choice(["t1", "t2"])
        if kind == "redeem":
            return "m.room.member", sender, self._redeem(target), target
        if kind == "other":
            own: Draft = ("x.own", sender, {}, sender)
            return random.choice([own, ("m.room.aliases", sender, {}, sender.partition(":")[2])])
        if kind == "message":
            return "m.room.message", sender, {"n": random.randrange(9)}, None
        if kind in ("join", "knock", "leave"):
            return "m.room.member", sender, self._own_membership(kind, target), sender
        if kind == "remove":
            kind = "leave"
        return "m.room.member", sender, {"membership": kind, "n": random.randrange(3)}, target

    def _own_membership(self, membership: str, authoriser: str) -> JsonObject:
        content: JsonObject = {"membership": membership, "n": self.random.randrange(3)}
        if membership == "join" and self.random.random() < 0.4:
            content["join_authorised_via_users_server"] = authoriser
        return content

    def _redeem(self, target: str) -> JsonObject:
        signed = {"mxid": target, "token": self.random.choice(["t1", "t2"])}
        invite = {"signed": sign_json(signed, "id.example", IDENTITY_KEY)}
        return {"membership": "invite", "third_party_invite": invite}

    def _levels(self, state: State) -> JsonObject:
        random = self.random
        nid = state.get(("m.room.power_levels", ""))
        content = dict(self.events[nid].content) if nid is not None else {}
        for name in ("users", "events"):
            content[name] = dict(content.get(name, {}))
        for _ in range(random.choice([1, 1, 2])):
            where = random.random()
            if where < 0.65:
                content["users"][random.choice(USERS)] = self._level()
            elif where < 0.75:
                content["users"].pop(random.choice(USERS), None)
            elif where < 0.85:
                types = ["m.room.topic", "m.room.power_levels", "m.room.join_rules"]
                content["events"][random.choice(types)] = self._level()
            else:
                names = ["ban", "kick", "invite", "state_default", "users_default"]
                content[random.choice(names)] = self._level()
        return content

    def _level(self) -> int | float | str:
        level = self.random.choice(LEVELS)
        if not self.rules.integer_power_levels and self.random.random() < 0.1:
            return f" +0{level} "
        if not self.rules.strict_json and self.random.random() < 0.05:
            return level + 0.5
        return level

    def _membership(self, state: State, user: str) -> object:
        nid = state.get(("m.room.member", user))
        return None if nid is None else self.events[nid].content.get("membership")

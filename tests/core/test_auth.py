"""The authorisation rules, room version by room version."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.auth import auth_keys, authorise, check_auth_events, creators, power_levels
from homeserver.matrix.canonical import JsonObject, encode_unpadded
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.powerlevels import CREATOR_LEVEL
from homeserver.matrix.sign import SigningKey, sign_json
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.core.rooms import ALICE, BOB, CAROL, Room, looked_up, make_event
from tests.core.test_powerlevels import JSON

DAVE = "@dave:two.example"
ALL = [str(number) for number in range(1, 13)]
VERSIONS = pytest.mark.parametrize("version", ALL)


def since(first: int) -> list[str]:
    return [str(number) for number in range(first, 13)]


def until(last: int) -> list[str]:
    return [str(number) for number in range(1, last + 1)]


def room_of(version: str, join_rule: str = "public", **levels: Any) -> Room:
    """Alice is in, with 100 or as creator; Bob has joined with 50, Carol with 0."""
    room = Room(version)
    room.member(ALICE, "join")
    users = {BOB: 50} if room.rules.privileged_creators else {ALICE: 100, BOB: 50}
    room.put("m.room.power_levels", ALICE, {"users": users, **levels})
    room.put("m.room.join_rules", ALICE, {"join_rule": join_rule})
    room.member(BOB, "join")
    room.member(CAROL, "join")
    return room


def allows(room: Room, event: Event) -> bool:
    try:
        authorise(event, looked_up(room.state))
    except Rejected:
        return False
    return True


def may(room: Room, *args: Any, **fields: Any) -> bool:
    return allows(room, room.event(*args, **fields))


def may_set(room: Room, sender: str, user: str, membership: Any, **content: Any) -> bool:
    return may(room, "m.room.member", sender, {"membership": membership, **content}, user)


# The create event


@VERSIONS
def test_a_create_event_is_allowed(version: str) -> None:
    assert allows(Room(version), Room(version).create)


@VERSIONS
def test_a_create_event_has_no_previous_events(version: str) -> None:
    room = Room(version)
    room_id = None if version == "12" else "!other:one.example"
    create = make_event(
        room.rules, room_id, "m.room.create", ALICE, {"creator": ALICE}, "", prev=[room.create]
    )
    assert not allows(room, create)


def test_the_room_id_of_a_create_event() -> None:
    for version, room_id, allowed in [
        ("1", "!r:one.example", True),
        ("11", "!r:two.example", False),
        ("12", "!r:one.example", False),
        ("12", None, True),
    ]:
        rules = ROOM_VERSIONS[version]
        content = {"creator": ALICE}
        create = make_event(rules, room_id, "m.room.create", ALICE, content, "")
        assert allows(Room(version), create) == allowed


@pytest.mark.parametrize("room_version", ["99", 1, None, ["1"]])
def test_a_create_event_of_an_unknown_version(room_version: object) -> None:
    content = {"creator": ALICE, "room_version": room_version}
    create = make_event(ROOM_VERSIONS["9"], "!r:one.example", "m.room.create", ALICE, content, "")
    assert not allows(Room("9"), create)


def test_a_create_event_names_its_creator_up_to_version_10() -> None:
    for version in until(11):
        create = make_event(
            ROOM_VERSIONS[version], "!r:one.example", "m.room.create", ALICE, {}, ""
        )
        assert allows(Room(version), create) == (version == "11")


@pytest.mark.parametrize("additional", ["x", [BOB, "bob"], [1], {}, None])
def test_additional_creators_are_user_ids(additional: object) -> None:
    assert not allows(Room("12"), Room("12", additional_creators=additional).create)
    assert allows(Room("12"), Room("12", additional_creators=[BOB]).create)


def test_who_the_creators_are() -> None:
    assert creators(Room("1", BOB).create) == {BOB}
    assert creators(Room("11", BOB).create) == {BOB}
    assert creators(Room("11", BOB, additional_creators=[CAROL]).create) == {BOB}
    assert creators(Room("12", BOB, additional_creators=[CAROL, 5]).create) == {BOB, CAROL}


# Auth events


@VERSIONS
def test_selection_of_auth_events(version: str) -> None:
    rules = ROOM_VERSIONS[version]
    create = [] if version == "12" else [("m.room.create", "")]
    default = [*create, ("m.room.power_levels", ""), ("m.room.member", BOB)]
    rule, target = ("m.room.join_rules", ""), ("m.room.member", CAROL)
    cases: list[tuple[JsonObject, list[tuple[str, str]]]] = [
        ({"membership": "leave"}, [target]),
        ({"membership": "ban"}, [target]),
        ({"membership": "join"}, [target, rule]),
        ({"membership": "knock"}, [target, rule]),
        ({"membership": "invite"}, [target, rule]),
        (
            {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}},
            [target, rule, ("m.room.third_party_invite", "t")],
        ),
        ({"membership": "invite", "third_party_invite": {"signed": []}}, [target, rule]),
    ]
    for content, more in cases:
        assert auth_keys(rules, "m.room.member", BOB, CAROL, content) == default + more
    assert auth_keys(rules, "m.room.message", BOB, None, {}) == default
    assert auth_keys(rules, "m.room.create", BOB, "", {}) == []
    assert auth_keys(rules, "m.room.member", BOB, BOB, {"membership": "leave"}) == default


def test_selection_for_a_restricted_join() -> None:
    content = {"membership": "join", "join_authorised_via_users_server": ALICE}
    for version in ALL:
        keys = auth_keys(ROOM_VERSIONS[version], "m.room.member", BOB, BOB, content)
        assert (("m.room.member", ALICE) in keys) == (version in since(8))


def check(event: Event, auth: list[Event], **options: Any) -> bool:
    try:
        check_auth_events(event, auth, **options)
    except Rejected:
        return False
    return True


@VERSIONS
def test_auth_events_must_be_the_needed_ones(version: str) -> None:
    room = room_of(version)
    event = room.event("m.room.message", BOB)
    auth = [
        room.state[key]
        for key in auth_keys(room.rules, "m.room.message", BOB, None, {})
        if key in room.state
    ]
    create, member, rule = room.create, room.state["m.room.member", BOB], "m.room.join_rules"
    assert check(event, auth)
    assert not check(event, [*auth, room.state[rule, ""]])
    assert not check(event, [*auth, room.event("m.room.message", BOB)])
    assert not check(event, [*auth, room.event("m.room.member", BOB, {}, BOB)])
    assert not check(room.event("m.room.message", BOB, auth=[*auth, auth[0]]), auth)
    assert not check(event, auth, rejected={member.event_id})
    assert not check(event, auth, rejected={create.event_id})
    assert check(event, auth, rejected={"$other"})
    other = room_of(version, "invite", ban=55)
    foreign = other.event("m.room.member", BOB, {"membership": "join"}, BOB, ts=5)
    foreign.room_id = "!other:two.example"
    assert not check(event, [*(one for one in auth if one is not member), foreign])
    without_create = [one for one in auth if one is not create]
    assert check(event, without_create) == (version == "12")
    assert check(event, [*without_create, create]) == (version != "12")


@VERSIONS
def test_an_event_of_another_room(version: str) -> None:
    room = room_of(version)
    event = room.event("m.room.message", BOB)
    event.room_id = "!other:one.example"
    assert not allows(room, event)


@VERSIONS
def test_without_create_event_nothing_is_allowed(version: str) -> None:
    room = room_of(version)
    del room.state["m.room.create", ""]
    assert not may(room, "m.room.message", ALICE, auth=[])
    assert not may_set(room, ALICE, ALICE, "join")


# Federation and aliases


@VERSIONS
def test_a_room_that_is_not_federated(version: str) -> None:
    room = Room(version, ALICE, **{"m.federate": False})
    room.member(ALICE, "join")
    room.put("m.room.join_rules", ALICE, {"join_rule": "public"})
    assert may_set(room, CAROL, CAROL, "join")
    assert not may_set(room, BOB, BOB, "join")


def test_aliases_are_for_the_senders_server_up_to_version_5() -> None:
    for version in ALL:
        room = room_of(version)
        own = may(room, "m.room.aliases", CAROL, {}, "one.example")
        foreign = may(room, "m.room.aliases", CAROL, {}, "two.example")
        assert (own, foreign) == (version in until(5), False)
        assert not may(room, "m.room.aliases", CAROL, {}, None) or version in since(6)
        assert may(room, "m.room.aliases", BOB, {}, "x") == (version in since(6))


# Joining


@VERSIONS
def test_the_creator_joins_first(version: str) -> None:
    room = Room(version)
    assert may_set(room, ALICE, ALICE, "join")
    assert not may_set(room, BOB, BOB, "join")
    room.put("m.room.topic", ALICE)
    assert not may_set(room, ALICE, ALICE, "join")


@VERSIONS
@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("public", 1),
        ("invite", 99),
        ("knock", 99),
        ("private", 99),
        ("restricted", 99),
        ("knock_restricted", 99),
        (None, 99),
        ({}, 99),
    ],
)
def test_who_is_not_invited_joins_public_rooms_only(version: str, rule: Any, first: int) -> None:
    assert may_set(room_of(version, rule), DAVE, DAVE, "join") == (int(version) >= first)


@VERSIONS
@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("public", 1),
        ("invite", 1),
        ("knock", 7),
        ("restricted", 8),
        ("knock_restricted", 10),
        ("private", 99),
    ],
)
def test_who_is_invited_or_in_may_join(version: str, rule: str, first: int) -> None:
    room = room_of(version, rule)
    room.member(DAVE, "invite", ALICE)
    assert may_set(room, DAVE, DAVE, "join") == (int(version) >= first)
    room.member(DAVE, "join")
    assert may_set(room, DAVE, DAVE, "join") == (int(version) >= first)


@VERSIONS
def test_without_join_rules_one_must_be_invited(version: str) -> None:
    room = room_of(version)
    del room.state["m.room.join_rules", ""]
    assert not may_set(room, DAVE, DAVE, "join")
    room.member(DAVE, "invite", ALICE)
    assert may_set(room, DAVE, DAVE, "join")
    room.put("m.room.join_rules", ALICE, {})
    assert may_set(room, DAVE, DAVE, "join")


@VERSIONS
def test_nobody_joins_banned_or_by_another_hand(version: str) -> None:
    room = room_of(version)
    assert not may_set(room, ALICE, DAVE, "join")
    room.member(DAVE, "ban", ALICE)
    assert not may_set(room, DAVE, DAVE, "join")


@pytest.mark.parametrize("rule", ["restricted", "knock_restricted"])
@VERSIONS
def test_a_restricted_join_needs_a_member_who_may_invite(version: str, rule: str) -> None:
    room = room_of(version, rule, invite=50)
    works = version in since(8 if rule == "restricted" else 10)
    for authoriser, allowed in [(BOB, True), (ALICE, True), (CAROL, False), (DAVE, False)]:
        via = {"join_authorised_via_users_server": authoriser}
        assert may_set(room, DAVE, DAVE, "join", **via) == (allowed and works)
    room.member(BOB, "leave")
    assert not may_set(room, DAVE, DAVE, "join", join_authorised_via_users_server=BOB)
    assert not may_set(room, DAVE, DAVE, "join")


@pytest.mark.parametrize("authoriser", [None, 5, [], "", "alice", "@alice"])
def test_the_authoriser_of_a_join_is_a_user(authoriser: object) -> None:
    room = room_of("10")
    assert not may_set(room, DAVE, DAVE, "join", join_authorised_via_users_server=authoriser)


# Inviting, leaving, banning, knocking


@VERSIONS
def test_inviting(version: str) -> None:
    room = room_of(version, invite=50)
    assert may_set(room, BOB, DAVE, "invite")
    assert not may_set(room, CAROL, DAVE, "invite")
    assert not may_set(room, DAVE, DAVE, "invite")
    assert not may_set(room, BOB, CAROL, "invite")
    room.member(DAVE, "invite", BOB)
    assert may_set(room, BOB, DAVE, "invite")
    room.member(DAVE, "ban", ALICE)
    assert not may_set(room, BOB, DAVE, "invite")


@VERSIONS
def test_leaving(version: str) -> None:
    room = room_of(version)
    assert may_set(room, CAROL, CAROL, "leave")
    assert not may_set(room, DAVE, DAVE, "leave")
    room.member(DAVE, "invite", ALICE)
    assert may_set(room, DAVE, DAVE, "leave")
    room.member(DAVE, "knock")
    assert may_set(room, DAVE, DAVE, "leave") == (version in since(7))
    room.member(DAVE, "ban", ALICE)
    assert not may_set(room, DAVE, DAVE, "leave")


@VERSIONS
def test_kicking_and_unbanning(version: str) -> None:
    room = room_of(version, ban=60)
    assert may_set(room, BOB, CAROL, "leave")
    assert not may_set(room, CAROL, BOB, "leave")
    assert not may_set(room, BOB, ALICE, "leave")
    assert not may_set(room, DAVE, CAROL, "leave")
    room.member(CAROL, "ban", ALICE)
    assert not may_set(room, BOB, CAROL, "leave")
    assert may_set(room, ALICE, CAROL, "leave")


@VERSIONS
def test_banning(version: str) -> None:
    room = room_of(version)
    assert may_set(room, BOB, CAROL, "ban")
    assert may_set(room, BOB, DAVE, "ban")
    assert not may_set(room, BOB, ALICE, "ban")
    assert not may_set(room, BOB, BOB, "ban")
    assert not may_set(room, CAROL, DAVE, "ban")
    assert not may_set(room, DAVE, CAROL, "ban")


@VERSIONS
@pytest.mark.parametrize(
    ("rule", "first"), [("knock", 7), ("knock_restricted", 10), ("public", 99), ("invite", 99)]
)
def test_knocking(version: str, rule: str, first: int) -> None:
    room = room_of(version, rule)
    works = int(version) >= first
    assert may_set(room, DAVE, DAVE, "knock") == works
    assert not may_set(room, BOB, DAVE, "knock")
    assert not may_set(room, CAROL, CAROL, "knock")
    room.member(DAVE, "knock")
    assert may_set(room, DAVE, DAVE, "knock") == works
    room.member(DAVE, "leave")
    assert may_set(room, DAVE, DAVE, "knock") == works
    for membership in ("invite", "ban"):
        room.member(DAVE, membership, ALICE)
        assert not may_set(room, DAVE, DAVE, "knock")


@VERSIONS
def test_a_membership_event_needs_state_key_and_known_membership(version: str) -> None:
    room = room_of(version)
    assert not may(room, "m.room.member", ALICE, {"membership": "join"})
    for membership in (None, "", "wave", 5, ["join"]):
        assert not may_set(room, ALICE, ALICE, membership)
    assert not may(room, "m.room.member", ALICE, {}, ALICE)


# Third-party invites

KEY = SigningKey.generate()
OTHER_KEY = SigningKey.generate()


def public(key: SigningKey) -> str:
    return encode_unpadded(key.public_key)


def third_party_room(version: str, **content: Any) -> Room:
    room = room_of(version, "invite")
    room.put("m.room.third_party_invite", BOB, content, "token")
    return room


def signed_invite(key: SigningKey = KEY, **fields: Any) -> dict[str, Any]:
    value = {"mxid": DAVE, "token": "token", **fields}
    return {"signed": sign_json(value, "id.example", key)}


@VERSIONS
def test_a_third_party_invite_signed_by_a_key_of_the_room(version: str) -> None:
    listed = [{"public_key": public(OTHER_KEY)}, {"public_key": public(KEY)}]
    for content in ({"public_key": public(KEY)}, {"public_keys": listed}):
        room = third_party_room(version, **content)
        assert may_set(room, BOB, DAVE, "invite", third_party_invite=signed_invite())
    # The inviter may have left since.
    room.member(BOB, "leave")
    assert may_set(room, BOB, DAVE, "invite", third_party_invite=signed_invite())


@VERSIONS
def test_third_party_invites_that_do_not_fit(version: str) -> None:
    room = third_party_room(version, public_key=public(KEY))
    invites: list[Any] = [
        signed_invite(OTHER_KEY),
        signed_invite(mxid=CAROL),
        signed_invite(token="another"),
        signed_invite(token=["token"]),
        {"signed": {"mxid": DAVE, "token": "token"}},
        {"signed": {**signed_invite()["signed"], "extra": 1}},
        {"signed": {"mxid": DAVE, "token": "token", "signatures": {"a": {"ed25519:1": "!"}}}},
        {"signed": {"mxid": DAVE, "token": "token", "signatures": {"a": []}}},
        {"signed": []},
        {},
        [],
        None,
    ]
    for invite in invites:
        assert not may_set(room, BOB, DAVE, "invite", third_party_invite=invite)
    assert not may_set(room, ALICE, DAVE, "invite", third_party_invite=signed_invite())
    room.member(DAVE, "ban", ALICE)
    assert not may_set(room, BOB, DAVE, "invite", third_party_invite=signed_invite())


@VERSIONS
def test_who_may_invite_may_send_third_party_invites(version: str) -> None:
    room = room_of(version, invite=50, events={"m.room.third_party_invite": 100})
    assert may(room, "m.room.third_party_invite", BOB, {}, "token")
    assert not may(room, "m.room.third_party_invite", CAROL, {}, "token")
    assert not may(room, "m.room.third_party_invite", DAVE, {}, "token")


# Other events


@VERSIONS
def test_sending_needs_membership_and_power(version: str) -> None:
    room = room_of(version, events={"m.room.name": 0, "m.room.message": 10})
    assert may(room, "m.room.topic", BOB, {}, "")
    assert not may(room, "m.room.topic", CAROL, {}, "")
    assert may(room, "m.room.name", CAROL, {}, "")
    assert may(room, "m.room.message", BOB)
    assert not may(room, "m.room.message", CAROL)
    assert may(room, "m.sticker", CAROL)
    assert not may(room, "m.sticker", DAVE)
    room.member(CAROL, "leave")
    assert not may(room, "m.sticker", CAROL)


@VERSIONS
def test_a_state_key_that_is_another_users_id(version: str) -> None:
    room = room_of(version, state_default=0)
    assert may(room, "x", CAROL, {}, CAROL)
    assert not may(room, "x", CAROL, {}, BOB)
    assert not may(room, "x", ALICE, {}, BOB)
    assert not may(room, "x", ALICE, {}, "@")


@VERSIONS
def test_power_levels_change_within_ones_power(version: str) -> None:
    room = room_of(version)
    old = room.state["m.room.power_levels", ""].content
    users = old["users"]
    assert may(room, "m.room.power_levels", BOB, {"users": {**users, CAROL: 50}}, "")
    assert not may(room, "m.room.power_levels", BOB, {"users": {**users, CAROL: 51}}, "")
    assert not may(room, "m.room.power_levels", CAROL, old, "")
    assert may(room, "m.room.power_levels", ALICE, {"users": {**users, CAROL: 100}}, "")


def test_creators_of_version_12() -> None:
    room = Room("12", additional_creators=[BOB])
    room.member(ALICE, "join")
    room.put("m.room.join_rules", ALICE, {"join_rule": "public"})
    room.put("m.room.power_levels", ALICE, {"users": {CAROL: 2**53 - 1}})
    room.member(BOB, "join")
    room.member(CAROL, "join")
    assert power_levels(looked_up(room.state)).user_level(BOB) == CREATOR_LEVEL
    assert may_set(room, BOB, CAROL, "leave")
    assert not may_set(room, CAROL, BOB, "leave")
    assert not may_set(room, ALICE, BOB, "leave")
    assert not may(room, "m.room.power_levels", ALICE, {"users": {BOB: 5}}, "")
    assert may(room, "m.room.power_levels", BOB, {"users": {CAROL: 5}}, "")


def test_redactions_in_versions_1_and_2() -> None:
    for version in ALL:
        room = room_of(version)
        for sender, target, allowed in [
            (BOB, "$x:one.example", True),
            (CAROL, "$x:one.example", True),
            (CAROL, "$x:two.example", False),
            (CAROL, "nonsense", False),
        ]:
            event = room.event("m.room.redaction", sender, {"redacts": target}, redacts=target)
            assert allows(room, event) == (allowed or version in since(3))
    assert not may(room_of("1"), "m.room.redaction", CAROL, redacts=5)


# Nonsense

MEMBERSHIP = st.sampled_from(["join", "invite", "leave", "ban", "knock"])
SIGNED = st.fixed_dictionaries(
    {},
    optional={
        "mxid": JSON | st.just(DAVE),
        "token": JSON | st.just("token"),
        "signatures": JSON | st.dictionaries(st.text(max_size=4), JSON),
    },
)
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "membership": MEMBERSHIP | JSON,
        "third_party_invite": st.fixed_dictionaries({"signed": SIGNED}) | JSON,
        "join_authorised_via_users_server": JSON | st.just(ALICE),
        "users": JSON | st.dictionaries(st.just(BOB) | st.text(max_size=4), JSON),
        "join_rule": JSON | st.sampled_from(["public", "restricted", "knock"]),
        "creator": JSON,
        "additional_creators": JSON,
        "m.federate": JSON,
        "room_version": JSON,
        "redacts": JSON,
        "public_key": JSON | st.just(public(KEY)),
        "public_keys": st.lists(JSON | st.just({"public_key": public(KEY)}), max_size=2),
        "events": JSON,
        "invite": JSON,
    },
)
TYPES = ["create", "member", "power_levels", "join_rules", "third_party_invite", "redaction", "x"]


@given(data=st.data(), version=st.sampled_from(ALL))
def test_malformed_content_is_allowed_or_rejected_but_never_an_error(
    data: st.DataObject, version: str
) -> None:
    room = room_of(version)
    asked = []

    def state(event_type: str, state_key: str) -> Event | None:
        asked.append((event_type, state_key))
        return room.state.get((event_type, state_key))

    for event_type in data.draw(st.lists(st.sampled_from(TYPES), max_size=3)):
        state_key = {"member": DAVE, "third_party_invite": "token"}.get(event_type, "")
        room.put(f"m.room.{event_type}", BOB, data.draw(CONTENT), state_key)
    event = room.event(
        f"m.room.{data.draw(st.sampled_from(TYPES))}",
        data.draw(st.sampled_from([ALICE, BOB, DAVE])),
        data.draw(CONTENT),
        data.draw(st.sampled_from([None, "", DAVE, ALICE])),
    )
    wanted = auth_keys(room.rules, event.type, event.sender, event.state_key, event.content)
    assert len(set(wanted)) == len(wanted)
    with suppress(Rejected):
        authorise(event, state)
    assert set(asked) <= {*wanted, ("m.room.create", "")}

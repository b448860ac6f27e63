"""History visibility as the specification's rules and examples state it."""

import pytest

from homeserver.matrix.visibility import (
    Step,
    Visibility,
    allows,
    membership_of,
    visibility_of,
    visible,
    visible_run,
)

ALL: tuple[Visibility, ...] = ("world_readable", "shared", "invited", "joined")


@pytest.mark.parametrize("visibility", ALL)
@pytest.mark.parametrize("membership", ["join", "invite", "knock", "leave", "ban"])
@pytest.mark.parametrize("joined_later", [False, True])
def test_the_rules_one_by_one(visibility: Visibility, membership: str, joined_later: bool) -> None:
    expected = (
        visibility == "world_readable"
        or membership == "join"
        or (visibility == "shared" and joined_later)
        or (visibility == "invited" and membership == "invite" and joined_later)
    )
    assert allows(visibility, membership, joined_later) is expected


@pytest.mark.parametrize("visibility", ["shared", "invited", "joined"])
@pytest.mark.parametrize("membership", ["invite", "knock", "leave", "ban"])
def test_who_never_joined_sees_only_what_is_world_readable(
    visibility: Visibility, membership: str
) -> None:
    assert not visible(visibility, visibility, membership, membership, joined_later=False)
    assert visible("world_readable", "world_readable", membership, membership, joined_later=False)


def test_a_change_of_visibility_is_seen_if_either_side_allows_it() -> None:
    assert visible("world_readable", "joined", "leave", "leave", joined_later=False)
    assert visible("joined", "world_readable", "leave", "leave", joined_later=False)
    assert visible("joined", "shared", "leave", "leave", joined_later=True)
    assert not visible("joined", "invited", "leave", "leave", joined_later=True)


@pytest.mark.parametrize("visibility", ALL)
def test_own_join_and_own_leave_are_always_seen(visibility: Visibility) -> None:
    assert visible(visibility, visibility, "leave", "join", joined_later=False)
    for after in ("leave", "ban"):
        assert visible(visibility, visibility, "join", after, joined_later=False)


def test_unknown_values_mean_shared() -> None:
    assert visibility_of(None) == "shared"
    assert visibility_of({}) == "shared"
    assert visibility_of({"history_visibility": "secret"}) == "shared"
    assert visibility_of({"history_visibility": ["joined"]}) == "shared"
    assert visibility_of({"history_visibility": "joined"}) == "joined"


def test_membership_without_a_value_is_leave() -> None:
    assert membership_of(None) == "leave"
    assert membership_of({"membership": 3}) == "leave"
    assert membership_of({"membership": "invite"}) == "invite"


def test_a_run_without_changes_is_decided_once() -> None:
    assert visible_run([None] * 3, "joined", "join", joined_later=True) == [True] * 3
    assert visible_run([None] * 3, "joined", "leave", joined_later=True) == [False] * 3
    assert visible_run([], "joined", "join", joined_later=True) == []


def test_a_member_who_left_reads_up_to_the_leave() -> None:
    steps = [None, Step(membership="join"), None, Step(membership="leave"), None]
    assert visible_run(steps, "shared", "leave", joined_later=False) == [True] * 4 + [False]
    assert visible_run(steps, "joined", "leave", joined_later=False) == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_rejoin_shows_shared_history_in_between() -> None:
    steps = [None, Step(membership="leave"), None, Step(membership="join"), None]
    assert visible_run(steps, "shared", "join", joined_later=True) == [True] * 5
    assert visible_run(steps, "joined", "join", joined_later=True) == [
        True,
        True,
        False,
        True,
        True,
    ]


def test_invited_shows_from_the_invite_on() -> None:
    steps = [None, Step(membership="invite"), None, Step(membership="join"), None]
    assert visible_run(steps, "invited", "leave", joined_later=True) == [
        False,
        True,
        True,
        True,
        True,
    ]


def test_an_invitation_taken_back_ends_what_it_showed() -> None:
    steps = [Step(membership="invite"), None, Step(membership="leave"), None]
    assert visible_run(steps, "invited", "leave", joined_later=True) == [True, True, True, False]


def test_visibility_changes_apply_from_their_place_on() -> None:
    steps = [None, Step(visibility="joined"), None, Step(visibility="world_readable"), None]
    assert visible_run(steps, "world_readable", "leave", joined_later=False) == [
        True,
        True,
        False,
        True,
        True,
    ]


def test_a_change_to_another_value_shows_nothing_of_the_past() -> None:
    steps = [None, Step(visibility="shared"), None]
    assert visible_run(steps, "joined", "leave", joined_later=True) == [False, True, True]

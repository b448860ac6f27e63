"""History visibility as the specification's rules and examples state it."""

import pytest

from homeserver.matrix.visibility import (
    Visibility,
    allows,
    visibility_of,
    visible,
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

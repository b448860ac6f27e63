"""What staged events wait for, and how many of them each server may have."""

from federation.lacking import Lacking
from federation.shares import LEAST, MAX_STAGED, free


def test_a_server_has_half_of_what_others_leave_and_never_nothing() -> None:
    assert free({}, "a") == MAX_STAGED // 2
    assert free({"b": 1_000}, "a") == 500
    assert free({"a": 200, "b": 1_000}, "a") == 300
    assert free({"a": 1_000}, "a") == 0
    assert free({"b": 1_000, "c": 1_000, "a": 5}, "a") == LEAST - 5


def test_what_waits_is_freed_in_order_right_behind_what_it_lacked() -> None:
    lacking = Lacking()
    for number in (4, 2, 3):
        lacking.add(str(number), "a", [str(number - 1)])
    lacking.add("x", "b", ["4", "unknown"])
    assert lacking.first("a") == "2"
    assert lacking.with_those_behind("2") == ["2", "3", "4"]
    lacking.rest(["2", "3", "4"])
    assert lacking.origins() == {"b"}
    assert lacking.first("b") == "x"
    lacking.came(["1"])
    assert lacking.take(2) == ["2", "3"]
    assert lacking.take(2) == ["4"]
    assert "x" in lacking
    lacking.came(["unknown"])
    assert lacking.take(2) == ["x"]
    assert not lacking


def test_a_circle_frees_nothing_and_has_no_first() -> None:
    lacking = Lacking()
    lacking.add("1", "a", ["2"])
    lacking.add("2", "a", ["1"])
    assert lacking.first("a") is None
    assert set(lacking.of("a")) == {"1", "2"}
    lacking.recheck()
    assert lacking.take(9) == ["1", "2"]


def test_only_the_policy_server_is_asked_for_what_waits_for_its_word() -> None:
    lacking = Lacking()
    lacking.ask("1", "policy")
    lacking.add("2", "a", ["1"])
    assert lacking.origins() == {"policy"}
    assert (lacking.first("policy"), lacking.first("a")) == ("1", None)
    assert lacking.is_asked("1")
    lacking.drop(["1"])
    lacking.came(["1"])
    assert not lacking.is_asked("1")
    assert lacking.take(2) == ["2"]
    assert not lacking

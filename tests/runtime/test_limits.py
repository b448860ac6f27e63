"""Rate limits: who is counted together, when they are refused, and what that costs."""

import dataclasses
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from homeserver.config import Limits
from homeserver.errors import MatrixError
from homeserver.options import Rate
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.limits import (
    MAX_KEYS,
    NAMES,
    Limiter,
    LimitName,
    RateLimits,
    network_of,
)

if TYPE_CHECKING:
    from homeserver.users.sessions import Session

RATES: dict[str, Rate] = dict.fromkeys(NAMES, Rate.of("1/s, 3 at once"))


def session(
    user_nid: int, device_nid: int | None, *, admin: bool = False, unlimited: bool = False
) -> "Session":
    names = {"user_id": f"@u{user_nid}:test", "user_nid": user_nid}
    return cast(
        "Session",
        SimpleNamespace(**names, device_nid=device_nid, is_admin=admin, is_unlimited=unlimited),
    )


@dataclasses.dataclass
class From:
    remote: str = "192.0.2.1"


def passed(
    limits: RateLimits, name: LimitName, who: "Session | None", times: int, remote: str = "::1"
) -> int:
    """How many of `times` requests are not refused."""
    count = 0
    for _ in range(times):
        try:
            limits.check(name, who, From(remote))
        except MatrixError:
            continue
        else:
            count += 1
    return count


def test_every_class_has_a_rate_in_the_configuration() -> None:
    assert set(Limits().rates) == set(NAMES)


async def test_a_burst_passes_and_then_the_rate() -> None:
    clock = FakeClock()
    limits = RateLimits(True, RATES, clock)
    alice = session(1, 10)
    assert passed(limits, "send", alice, 9) == 3
    await clock.advance(2)
    assert passed(limits, "send", alice, 9) == 2
    await clock.advance(1_000)
    assert passed(limits, "send", alice, 9) == 3


async def test_the_refusal_says_when_to_come_again_and_that_is_true() -> None:
    clock = FakeClock()
    limits = RateLimits(True, {**RATES, "send": Rate.of("2/min, 1 at once")}, clock)
    assert passed(limits, "send", session(1, 10), 1) == 1
    await clock.advance(0.25)
    with pytest.raises(MatrixError, match="limit send") as caught:
        limits.check("send", session(1, 10), From())
    assert (caught.value.status, caught.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert caught.value.extra == {"retry_after_ms": 29_750}
    assert caught.value.headers == {"Retry-After": "30"}
    await clock.advance(29.7)
    assert passed(limits, "send", session(1, 10), 1) == 0
    await clock.advance(0.05)
    assert passed(limits, "send", session(1, 10), 2) == 1


def test_users_devices_and_addresses_are_counted_apart() -> None:
    limits = RateLimits(True, RATES, FakeClock())
    phone, laptop, other = session(1, 10), session(1, 11), session(2, 20)
    assert passed(limits, "send", phone, 9) == 3
    assert passed(limits, "send", laptop, 9) == 0
    assert passed(limits, "send", other, 9) == 3
    assert passed(limits, "read", phone, 9) == 3
    assert passed(limits, "read", laptop, 9) == 3
    assert passed(limits, "login_address", None, 9, "192.0.2.1") == 3
    assert passed(limits, "login_address", phone, 9, "192.0.2.1") == 0
    assert passed(limits, "login_address", None, 9, "192.0.2.2") == 3
    assert passed(limits, "open", None, 9, "192.0.2.1") == 3


def test_a_network_of_ipv6_is_one_caller() -> None:
    limits = RateLimits(True, RATES, FakeClock())
    assert passed(limits, "open", None, 3, "2001:db8:1:2:3:4:5:6") == 3
    assert passed(limits, "open", None, 3, "2001:db8:1:2:ffff::1") == 0
    assert passed(limits, "open", None, 3, "2001:db8:1:3::1") == 3
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("unix") == "unix"


def test_administrators_and_application_services_are_exempt() -> None:
    limits = RateLimits(True, RATES, FakeClock())
    assert passed(limits, "send", session(1, 10, admin=True), 99) == 99
    assert passed(limits, "send", session(2, None, unlimited=True), 99) == 99


async def test_accounts_are_charged_and_forgiven() -> None:
    limits = RateLimits(True, RATES, FakeClock())
    for _ in range(3):
        limits.charge("login_account", "alice")
    with pytest.raises(MatrixError):
        limits.charge("login_account", "alice")
    limits.charge("login_account", "bob")
    limits.forgive("login_account", "alice")
    limits.charge("login_account", "alice")


async def test_a_refusal_is_foreseen_without_counting() -> None:
    clock = FakeClock()
    limits = RateLimits(True, RATES, clock)
    for _ in range(9):
        limits.foresee("server_send", "a.example")
    for _ in range(3):
        limits.charge("server_send", "a.example")
    for foreseen in (limits.foresee, limits.charge):
        with pytest.raises(MatrixError) as caught:
            foreseen("server_send", "a.example")
        assert caught.value.extra == {"retry_after_ms": 1_000}
    limits.foresee("server_send", "b.example")
    await clock.advance(1)
    limits.foresee("server_send", "a.example")


def test_one_option_switches_all_off_and_rates_can_change() -> None:
    limits = RateLimits(False, RATES, FakeClock())
    assert passed(limits, "send", session(1, 10), 99) == 99
    limits.configure(True, RATES)
    assert passed(limits, "send", session(1, 10), 9) == 3
    limits.configure(True, {**RATES, "read": Rate.of("1/s, 5 at once")})
    assert passed(limits, "send", session(1, 10), 9) == 0
    assert passed(limits, "read", session(1, 10), 9) == 5
    limits.configure(False, RATES)
    assert passed(limits, "send", session(1, 10), 99) == 99


async def test_a_flood_from_many_addresses_takes_bounded_memory() -> None:
    limiter = Limiter("open", Rate.of("50/s, 1000 at once"))
    for number in range(100_000):
        assert limiter.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1.0) == 0
    assert len(limiter) <= MAX_KEYS
    network_of.cache_clear()
    for number in range(100_000):
        network_of(f"2001:db8::{number:x}")
    assert network_of.cache_info().currsize <= 4_096


def test_who_was_refused_stays_refused_while_others_flood() -> None:
    limiter = Limiter("open", Rate.of("1/h, 2 at once"))
    assert [limiter.take("bad", 1.0) > 0 for _ in range(3)] == [False, False, True]
    for round_ in range(20):
        for number in range(MAX_KEYS // 4):
            limiter.take((round_, number), 1.0)
        assert limiter.take("bad", 1.0) > 0


def test_buckets_that_are_full_again_are_dropped_with_time() -> None:
    limiter = Limiter("open", Rate.of("1/s, 2 at once"))
    for number in range(1_000):
        limiter.take(number, 0.0)
    limiter.take("later", 100.0)
    limiter.take("and later", 200.0)
    assert len(limiter) == 2


async def test_the_log_names_limiter_and_caller_and_is_no_flood_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    limits = RateLimits(True, RATES, clock)
    with caplog.at_level(logging.WARNING):
        passed(limits, "send", session(1, 10), 1_003)
        passed(limits, "send", session(2, 20), 13)
        assert [record.message for record in caplog.records] == [
            "limit send refuses @u1:test for the next 1.0 s"
        ]
        await clock.advance(10)
        assert caplog.records[1].message == (
            "limit send refused 1009 requests in 10 s: @u1:test 999 times, @u2:test 10 times"
        )
        await clock.advance(100)
        assert len(caplog.records) == 2
        for number in range(300):
            passed(limits, "open", None, 5, f"192.0.{number >> 8}.{number & 255}")
        await clock.advance(10)
    assert "192.0.0.0" in caplog.records[2].message
    assert "others 589 times" in caplog.records[3].message
    assert clock.waiting() == 1
    assert (limits.refused["send"], limits.refused["open"]) == (1_010, 600)


def test_a_limit_that_lets_through_costs_little() -> None:
    """A budget that only a gross mistake exceeds; the figure is in docs/performance.md."""
    import time

    limits = RateLimits(True, {**RATES, "read": Rate.of("999999/s, 999999 at once")}, FakeClock())
    alice, request = session(1, 10), From()
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(2_000):
            limits.check("read", alice, request)
        best = min(best, time.perf_counter() - began)
    assert best / 2_000 < 10e-6

"""Passwords: what is stored, what matches, what is refused."""

import os
import sys
from collections.abc import Iterator

import pytest

from homeserver.errors import MatrixError
from homeserver.users import passwords
from homeserver.users import passwords as module
from homeserver.users.passwords import PasswordCost, Passwords


@pytest.fixture
def cheap() -> Iterator[Passwords]:
    service = Passwords(PasswordCost(passes=1, memory_kib=8))
    yield service
    service.close()


async def test_a_hash_is_salted_and_matches_its_password_only(cheap: Passwords) -> None:
    stored = await cheap.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert stored != await cheap.hash("correct horse")
    assert await cheap.matches("correct horse", stored)
    assert not await cheap.matches("correct mule", stored)


async def test_equal_characters_are_equal_passwords(cheap: Passwords) -> None:
    assert await cheap.matches("caf\u00e9", await cheap.hash("cafe\u0301"))


async def test_nobody_has_no_password(cheap: Passwords) -> None:
    assert not await cheap.matches("nobody's password", None)
    assert not await cheap.matches("", None)


async def test_what_is_no_hash_matches_nothing(cheap: Passwords) -> None:
    assert not await cheap.matches("x", "plain text")
    assert not await cheap.matches("x", "")


async def test_empty_and_endless_passwords_are_refused(cheap: Passwords) -> None:
    with pytest.raises(MatrixError) as caught:
        await cheap.hash("")
    assert caught.value.errcode == "M_WEAK_PASSWORD"
    with pytest.raises(MatrixError) as caught:
        await cheap.hash("x" * 513)
    assert caught.value.errcode == "M_INVALID_PARAM"
    assert not await cheap.matches("x" * 513, await cheap.hash("x"))


async def test_a_crowd_is_told_to_come_again(
    cheap: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 0)
    with pytest.raises(MatrixError) as caught:
        await cheap.matches("x", None)
    assert caught.value.status == 429
    assert caught.value.extra == {"retry_after_ms": 2_000}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_hashing_gives_way_to_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(password: str) -> bytes:
        seen.append(os.getpriority(os.PRIO_PROCESS, 0))
        return password.encode()

    monkeypatch.setattr(module, "_normal", watched)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    passwords = Passwords(PasswordCost(1, 8))
    await passwords.hash("secret")
    passwords.close()
    assert seen == [max(before, module.NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before

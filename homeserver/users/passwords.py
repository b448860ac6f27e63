"""Password hashes.

Owns hashing and checking, in threads of its own and a few at a time: a password costs tens of
milliseconds and megabytes by design, so neither the loop nor the machine may drown in them. An
account that does not exist costs as much as one that does, so the time of an answer tells nothing.
bcrypt hashes that come from elsewhere are good for checking only: they ask to be renewed.
"""

import asyncio
import os
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from homeserver.errors import MatrixError

T = TypeVar("T")

MAX_LENGTH = 512
MAX_WAITING = 200
NICENESS = 10
# One core is left to everything else: memory-hard hashes slow down what runs beside them.
WORKERS = max(1, min(4, (os.cpu_count() or 2) - 1))
_BCRYPT = ("$2a$", "$2b$", "$2y$")
_BCRYPT_BYTES = 72
"""What bcrypt takes of a password; others cut it off there before they hash, and so do we."""


@dataclass(frozen=True)
class PasswordCost:
    """What one hash costs: passes over the memory, memory in KiB. Tests want it cheap."""

    passes: int = 3
    memory_kib: int = 65_536


class Passwords:
    """Hashes (argon2id) and checks passwords; `workers` at a time.

    `pepper` is what another server put behind its users' passwords before it hashed them by bcrypt.
    """

    def __init__(self, cost: PasswordCost, workers: int = WORKERS, pepper: str = "") -> None:
        self._pepper = pepper
        self._hasher = PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=1
        )
        self._threads = ThreadPoolExecutor(
            workers, thread_name_prefix="password", initializer=_step_back
        )
        self._waiting = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """The text to store for a password.

        Raises `MatrixError` M_WEAK_PASSWORD when it is empty, M_INVALID_PARAM when it is too long,
        M_LIMIT_EXCEEDED when too many are waiting.
        """
        self.check(password)
        return await self._run(self._hash, password)

    def check(self, password: str) -> None:
        """Raise `MatrixError` M_WEAK_PASSWORD or M_INVALID_PARAM for what can't be a password."""
        if not password:
            raise MatrixError("M_WEAK_PASSWORD", "The password must not be empty", 400)
        if len(password) > MAX_LENGTH:
            raise MatrixError.invalid_param(f"The password has more than {MAX_LENGTH} characters")

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether the password is the one behind `stored`; None takes as long and is False."""
        if len(password) > MAX_LENGTH:
            return False
        return await self._run(self._matches, password, stored)

    def is_outdated(self, stored: str) -> bool:
        """Whether the text should be replaced by a new hash once the password is known."""
        if stored.startswith(_BCRYPT):
            return True
        try:
            return self._hasher.check_needs_rehash(stored)
        except InvalidHashError:
            return False

    def close(self) -> None:
        """Let the threads finish what they have begun."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *args: str | None) -> T:
        if self._waiting >= MAX_WAITING:
            raise MatrixError(
                "M_LIMIT_EXCEEDED",
                "Too many people are logging in; try again shortly",
                429,
                extra={"retry_after_ms": 2_000},
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        finally:
            self._waiting -= 1

    def _hash(self, password: str) -> str:
        return self._hasher.hash(_normal(password))

    def _matches(self, password: str, stored: str | None) -> bool:
        if stored is None:
            if self._nobody is None:
                self._nobody = self._hasher.hash("nobody's password")
            stored, exists = self._nobody, False
        else:
            exists = True
        if stored.startswith(_BCRYPT):
            return self._matches_bcrypt(password, stored)
        try:
            return self._hasher.verify(stored, _normal(password)) and exists
        except (VerificationError, InvalidHashError):
            return False

    def _matches_bcrypt(self, password: str, stored: str) -> bool:
        given = _normal(password) + self._pepper.encode()
        try:
            return bcrypt.checkpw(given[:_BCRYPT_BYTES], stored.encode())
        except ValueError:
            return False


def _step_back() -> None:
    """Let this thread have what the others leave: a storm of logins must not hold up anybody."""
    with suppress(AttributeError, OSError):
        # On Linux the priority is the thread's own; elsewhere it would be the whole process's.
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _normal(password: str) -> bytes:
    """The same characters typed on different systems are the same password."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")

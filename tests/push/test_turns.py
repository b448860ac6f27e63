"""How much is brought to gateways at once, and in which order."""

import asyncio

import pytest

from homeserver.push import turns
from homeserver.push.turns import Turns


class Bringing:
    """Things that are brought until `done`; `under_way` says which."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, per_gateway: int, in_all: int) -> None:
        monkeypatch.setattr(turns, "PER_GATEWAY", per_gateway)
        monkeypatch.setattr(turns, "IN_ALL", in_all)
        self.under_way: dict[str, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.turns = Turns(self._bring, self._spawn)

    def _spawn(self, _name: str, work: turns.Work) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def _bring(self, thing: str) -> None:
        arrived = self.under_way[thing] = asyncio.Event()
        await arrived.wait()
        del self.under_way[thing]

    def add(self, gateway: str, count: int) -> None:
        for number in range(count):
            self.turns.add(gateway, f"{gateway}{number}")

    async def now(self) -> list[str]:
        for _ in range(20):
            await asyncio.sleep(0)
        return list(self.under_way)

    async def done(self, thing: str) -> list[str]:
        self.under_way[thing].set()
        return await self.now()

    async def end(self) -> None:
        while await self.now():
            for arrived in self.under_way.values():
                arrived.set()
        await asyncio.gather(*self.tasks)


async def test_a_gateway_is_brought_so_much_at_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Bringing(monkeypatch, per_gateway=2, in_all=10)
    made.add("a", 4)
    assert await made.now() == ["a0", "a1"]
    assert await made.done("a1") == ["a0", "a2"]
    made.add("b", 1)
    assert await made.now() == ["a0", "a2", "b0"]
    assert await made.done("a0") == ["a2", "b0", "a3"]
    await made.end()
    made.add("a", 1)
    assert await made.now() == ["a0"]
    await made.end()


async def test_who_has_much_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Bringing(monkeypatch, per_gateway=2, in_all=2)
    made.add("a", 5)
    made.add("b", 2)
    assert await made.now() == ["a0", "a1"]
    assert await made.done("a0") == ["a1", "b0"]
    assert await made.done("a1") == ["b0", "b1"]
    assert await made.done("b0") == ["b1", "a2"]
    await made.end()

"""What a server does while nobody asks anything of it."""

from collections.abc import Callable

import pytest

from homeserver.runtime.clock import Timer
from tests.serving import Running


async def test_a_server_that_nobody_uses_rests(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await server.person("alice")
    await alice.say(await alice.create_room(), "good night")
    await server.clock.advance(60)
    planned: list[float] = []
    call_later = server.clock.call_later

    def counted(seconds: float, call: Callable[..., object], *args: object) -> Timer:
        planned.append(seconds)
        return call_later(seconds, call, *args)

    monkeypatch.setattr(server.clock, "call_later", counted)
    await server.clock.advance(3_600)
    assert len(planned) < 10 * 60, sorted(planned)[:20]

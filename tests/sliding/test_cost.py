"""What a request costs does not grow with the rooms in which nothing happens."""

from typing import Any

import pytest

from homeserver.streams.sliding.lists import Lists
from tests.serving import Running
from tests.sliding.client import EXTENSIONS, Sliding, texts, window


@pytest.mark.parametrize("ranges", [(), ((0, 1),)])
async def test_only_the_rooms_with_news_are_looked_at(
    server: Running, monkeypatch: pytest.MonkeyPatch, ranges: tuple[tuple[int, int], ...]
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    rooms = [await alice.create_room(preset="public_chat") for _ in range(4)]
    await bob.join(rooms[-1])
    client = Sliding(alice, {"all": window(*ranges)}, extensions=dict(EXTENSIONS))
    await client.sync()
    looks = 0
    real = Lists.matched

    async def counted(*given: Any) -> Any:
        nonlocal looks
        looks += 1
        return await real(*given)

    monkeypatch.setattr(Lists, "matched", counted)
    for number in range(3):
        await bob.say(rooms[-1], f"{number}")
        answer = await client.sync()
        assert texts(answer["rooms"][rooms[-1]]) == [f"{number}"]
        assert list(answer["rooms"]) == [rooms[-1]]
    assert looks == 0
    await alice.say(rooms[0], "up")
    assert rooms[0] in (await client.sync())["rooms"]
    assert looks == bool(ranges), "another room stands in the window now"
    looks = 0
    await alice.create_room()
    await client.sync()
    assert looks == 1

"""A file that only an encrypted event can show goes when its uploader's events are taken back.

docs/decisions/019-files-that-encrypted-events-show.md
"""

import json
from typing import Any

import pytest

from homeserver.media.encrypted import LATE_MS, LEAST_CIPHERTEXT, MOST_TIES, WINDOW_MS
from tests.appservices.conftest import AS_TOKEN, Bridge
from tests.media.sending import V3, ask, download, upload
from tests.media.test_leaving import HOUR, admin, alice, bob, image, passed, redact, room_id
from tests.media.test_moderation import faults, files
from tests.serving import Person, Running

__all__ = ["admin", "alice", "bob", "room_id"]

ENCRYPTED = "application/octet-stream"
AWAY = WINDOW_MS / 1000 + 1


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"media": {"redacted_hours": 1}}


async def send(person: Person, room_id: str, length: int = LEAST_CIPHERTEXT) -> str:
    """An encrypted event with a ciphertext of so many characters."""
    content = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "A" * length, "session_id": "s"}
    return await person.send(room_id, "m.room.encrypted", content)


async def status(person: Person, name: str) -> int:
    return (await download(person, name)).status


async def test_it_goes_with_the_event_that_followed_its_upload(
    server: Running, alice: Person, bob: Person, admin: Person, room_id: str
) -> None:
    names = [await upload(alice, content, ENCRYPTED) for content in (b"thumbnail", b"picture")]
    event_id = await send(alice, room_id)
    await passed(server, 2 * HOUR)
    assert [await status(bob, name) for name in names] == [200, 200]
    await redact(alice, room_id, event_id)
    await passed(server, HOUR - 60)
    assert [await status(bob, name) for name in names] == [200, 200]
    await passed(server, 61)
    assert [await status(bob, name) for name in names] == [404, 404]
    assert files(server) == 0
    assert await faults(admin) == []


async def test_who_moderates_the_room_takes_it_back_too(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    """Alice, whose room it is."""
    name = await upload(bob, b"picture", ENCRYPTED)
    await redact(alice, room_id, await send(bob, room_id))
    await passed(server)
    assert await status(alice, name) == 404


async def test_what_is_too_short_to_name_a_file_shows_none(
    server: Running, alice: Person, room_id: str
) -> None:
    name = await upload(alice, b"picture", ENCRYPTED)
    await send(alice, room_id, LEAST_CIPHERTEXT - 1)
    event_id = await send(alice, room_id)
    await send(alice, room_id, LEAST_CIPHERTEXT - 1)
    await redact(alice, room_id, event_id)
    await passed(server)
    assert await status(alice, name) == 404


async def test_of_several_that_may_show_it_the_last_counts(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    other = await alice.create_room()
    name = await upload(alice, b"picture", ENCRYPTED)
    text = await send(alice, other)
    shown = await send(alice, room_id)
    await redact(alice, other, text)
    await passed(server, 2 * HOUR)
    assert await status(bob, name) == 200
    await redact(alice, room_id, shown)
    await passed(server)
    assert await status(bob, name) == 404


async def test_what_was_sent_later_or_by_others_does_not_show_it(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    name = await upload(alice, b"picture", ENCRYPTED)
    await send(bob, room_id)
    event_id = await send(alice, room_id)
    await server.clock.advance(AWAY)
    await send(alice, room_id)
    await redact(alice, room_id, event_id)
    await passed(server)
    assert await status(bob, name) == 404


async def test_what_nobody_may_have_shown_stays(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    name = await upload(alice, b"picture", ENCRYPTED)
    await redact(bob, room_id, await send(bob, room_id))
    await server.clock.advance(LATE_MS / 1000)
    await redact(alice, room_id, await send(alice, room_id))
    await passed(server, 2 * HOUR)
    assert await status(alice, name) == 200


async def test_what_says_what_it_is_is_not_encrypted(
    server: Running, alice: Person, room_id: str
) -> None:
    name = await upload(alice, b"avatar", "image/png")
    await redact(alice, room_id, await send(alice, room_id))
    await passed(server, 2 * HOUR)
    assert await status(alice, name) == 200


async def test_what_is_shown_in_the_open_is_not_encrypted(
    server: Running, alice: Person, room_id: str
) -> None:
    name = await upload(alice, b"file", ENCRYPTED)
    event_id = await alice.send(room_id, "m.room.message", image(name))
    await send(alice, room_id)
    await redact(alice, room_id, event_id)
    await passed(server)
    assert await status(alice, name) == 404


@pytest.mark.parametrize("is_shown_first", [True, False])
async def test_what_is_announced_may_be_shown_before_or_after_it_comes(
    server: Running, alice: Person, room_id: str, is_shown_first: bool
) -> None:
    """A slow upload is not taken for shown by what was said meanwhile alone."""
    made = await ask(alice, "POST", "/_matrix/media/v1/create")
    name = json.loads(made.body)["content_uri"].removeprefix("mxc://")
    events = [await send(alice, room_id)] if is_shown_first else []
    await server.clock.advance(AWAY)
    headers = {"Content-Type": ENCRYPTED}
    filled = await ask(alice, "PUT", f"{V3}/upload/{name}", data=b"picture", headers=headers)
    assert filled.status == 200
    await server.clock.advance(AWAY)
    events.append(await send(alice, room_id))
    await server.clock.advance(AWAY)
    await send(alice, room_id)
    for event_id in events:
        await passed(server, 2 * HOUR)
        assert await status(alice, name) == 200
        await redact(alice, room_id, event_id)
    await passed(server)
    assert await status(alice, name) == 404


async def test_restarts_forget_nothing(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    name = await upload(alice, b"picture", ENCRYPTED)
    await server.restart()
    text = await send(alice, room_id)
    await server.restart()
    shown = await send(alice, room_id)
    await redact(alice, room_id, text)
    await passed(server, 2 * HOUR)
    assert await status(alice, name) == 200
    await upload(bob, b"another", ENCRYPTED)
    await send(bob, room_id)
    await server.restart()
    # The minute was over before this restart.
    await send(alice, room_id)
    await redact(alice, room_id, shown)
    await passed(server)
    assert await status(alice, name) == 404


async def test_who_sends_very_many_keeps_the_file(
    server: Running, alice: Person, room_id: str
) -> None:
    name = await upload(alice, b"picture", ENCRYPTED)
    events = [await send(alice, room_id) for _ in range(MOST_TIES + 2)]
    for event_id in events:
        await redact(alice, room_id, event_id)
    await passed(server, 2 * HOUR)
    assert await status(alice, name) == 200


async def test_bridges_may_show_files_by_other_users(
    server: Running, alice: Person, room_id: str
) -> None:
    """So nothing is known of what their users upload."""
    await server.app.services.appservices.add(Bridge(server, "http://127.0.0.1").registration())
    bot = Person(server, "@_bridge_bot:test.example", AS_TOKEN, "")
    await bot.join(room_id)
    name = await upload(bot, b"picture", ENCRYPTED)
    await server.restart()
    await redact(bot, room_id, await send(bot, room_id))
    await passed(server, 2 * HOUR)
    assert await status(alice, name) == 200


class TestOff:
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"media": {"redacted_hours": 1, "redacted_encrypted": False}}

    async def test_encrypted_files_stay(self, server: Running, alice: Person, room_id: str) -> None:
        name = await upload(alice, b"picture", ENCRYPTED)
        await redact(alice, room_id, await send(alice, room_id))
        await passed(server, 2 * HOUR)
        assert await status(alice, name) == 200

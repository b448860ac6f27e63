"""A file goes when its uploader has shown it, shows it no more, and nothing that is known does."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms.judging import Verdict
from storage import media_shown
from storage.changes import Do, Item
from tests.media.sending import download, upload
from tests.media.test_moderation import faults, files
from tests.media.test_thumbnails import opened, picture, thumbnail
from tests.rooms.test_receive import BOB, Shared, shared
from tests.serving import PASSWORD, Person, Running

__all__ = ["shared"]

HOUR = 3_600.0


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"media": {"redacted_hours": 1}}


@pytest.fixture
async def admin(server: Running) -> Person:
    return await server.person("admin", admin=True)


@pytest.fixture
async def alice(server: Running, admin: Person) -> Person:
    return await server.person("alice")


@pytest.fixture
async def bob(server: Running, admin: Person) -> Person:
    return await server.person("bob")


@pytest.fixture
async def room_id(alice: Person, bob: Person) -> str:
    made = await alice.create_room(preset="public_chat")
    await bob.join(made)
    return made


async def redact(person: Person, room_id: str, event_id: str) -> None:
    path = f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/{quote(event_id)}"
    await person.ok("PUT", path, body={})


async def passed(server: Running, seconds: float = HOUR + 1) -> None:
    """So much time goes by, and what is due by then has happened."""
    await server.clock.advance(seconds)
    await server.app.services.media.leaving.run()


def image(name: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.image", "body": "image", "url": f"mxc://{name}", **more}


async def test_a_redacted_picture_goes_with_its_thumbnails_after_a_while(
    server: Running, alice: Person, admin: Person, room_id: str
) -> None:
    name = await upload(alice, picture(500, 500), "image/png")
    opened(await thumbnail(alice, name, 32, 32, method="crop"))
    event_id = await alice.send(room_id, "m.room.message", image(name))
    await passed(server)
    assert files(server) == 2
    await redact(alice, room_id, event_id)
    await passed(server, HOUR - 60)
    assert (await download(alice, name)).status == 200
    await server.restart()
    # By itself, and after a restart as well.
    await server.clock.advance(60 + 300)
    while True:
        if (await download(alice, name)).status == 404 and not files(server):
            break
        await asyncio.sleep(0.01)
    assert await faults(admin) == []


SHAPES: list[dict[str, Any]] = [
    {"file": {"url": "mxc://NAME", "key": {}}},
    {"info": {"thumbnail_url": "mxc://NAME"}},
    {"info": {"thumbnail_file": {"url": "mxc://NAME"}}},
    {"format": "org.matrix.custom.html", "formatted_body": '<img src="mxc://NAME"> hello'},
    {"m.new_content": {"url": "mxc://NAME"}},
    {"any.thing": [[{"deep": "mxc://NAME"}]]},
]


async def test_wherever_an_event_names_it(server: Running, alice: Person, room_id: str) -> None:
    other = await upload(alice, b"other")
    await alice.send(room_id, "m.room.message", image(other))
    names = [await upload(alice, b"file %d" % number) for number in range(len(SHAPES))]
    for shape, name in zip(SHAPES, names, strict=True):
        shown = json.loads(json.dumps(shape).replace("NAME", name))
        content = {"msgtype": "m.file", "body": "", **shown}
        await redact(alice, room_id, await alice.send(room_id, "m.room.message", content))
    await passed(server)
    assert [(await download(alice, name)).status for name in names] == [404] * len(SHAPES)
    assert (await download(alice, other)).status == 200


async def test_the_last_of_several_counts_and_moderators_may_redact(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    name = await upload(bob, b"a file")
    first = await bob.send(room_id, "m.room.message", image(name))
    forwarded = await alice.send(room_id, "m.sticker", {"body": "", "url": f"mxc://{name}"})
    await redact(alice, room_id, first)
    await passed(server)
    assert (await download(bob, name)).status == 200
    await redact(alice, room_id, forwarded)
    await passed(server, 60)
    assert (await download(bob, name)).status == 200
    await passed(server)
    assert (await download(bob, name)).status == 404


async def test_what_showed_files_before_that_was_kept_counts_too(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    """A database of an older version is looked through before any file goes."""
    by_event, by_profile, by_data, left = [
        await upload(alice, b"file %d" % number) for number in range(4)
    ]
    await bob.send(room_id, "m.room.message", image(by_event))
    await alice.ok(
        "PUT", f"/profile/{alice.user_id}/avatar_url", body={"avatar_url": f"mxc://{by_profile}"}
    )
    await alice.ok(
        "PUT", f"/user/{alice.user_id}/account_data/test.pack", body={"url": f"mxc://{by_data}"}
    )
    gone = await alice.send(room_id, "m.room.message", image(left))
    await redact(alice, room_id, gone)
    database = server.app._database  # noqa: SLF001 (no client can make it older)
    assert database is not None
    forget = Do("DELETE FROM media_shown")
    await database.commit([Item([forget, media_shown.listed(0)])])
    await server.restart()
    for name in (by_event, by_profile, by_data):
        event_id = await alice.send(room_id, "m.room.message", image(name))
        await redact(alice, room_id, event_id)
    listing, database = server.app.services.media.listing, server.app._database  # noqa: SLF001
    assert database is not None
    await listing.run()
    assert await media_shown.listed_up_to(database) is None
    await passed(server)
    for name, status in ((by_event, 200), (by_profile, 200), (by_data, 200), (left, 404)):
        assert (await download(alice, name)).status == status


async def test_what_is_shown_again_in_time_stays(
    server: Running, alice: Person, room_id: str
) -> None:
    name = await upload(alice, b"a file")
    await redact(alice, room_id, await alice.send(room_id, "m.room.message", image(name)))
    again = await alice.send(room_id, "m.room.message", image(name))
    await passed(server, 2 * HOUR)
    assert (await download(alice, name)).status == 200
    await redact(alice, room_id, again)
    await passed(server)
    assert (await download(alice, name)).status == 404


async def test_whoever_knows_a_name_can_not_delete_the_file(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    """It may be shown where this server can't look: in an encrypted event."""
    name = await upload(alice, b"ciphertext")
    secret = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "…", "session_id": "s"}
    await alice.send(room_id, "m.room.encrypted", secret)
    await redact(bob, room_id, await bob.send(room_id, "m.room.message", image(name)))
    await bob.ok("PUT", f"/profile/{bob.user_id}/avatar_url", body={"avatar_url": f"mxc://{name}"})
    await bob.ok("PUT", f"/profile/{bob.user_id}/avatar_url", body={"avatar_url": ""})
    await passed(server, 2 * HOUR)
    assert (await download(alice, name)).body == b"ciphertext"


async def test_what_nobody_was_seen_to_show_stays(server: Running, alice: Person) -> None:
    name = await upload(alice, b"a file")
    await passed(server, 2 * HOUR)
    assert (await download(alice, name)).status == 200


async def test_avatars_and_emotes_in_use_stay(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    names = [await upload(alice, b"picture %d" % number) for number in range(6)]
    uris = [f"mxc://{name}" for name in names]
    profile, user = f"/profile/{quote(alice.user_id)}", f"/user/{quote(alice.user_id)}"
    await alice.ok("PUT", f"{profile}/avatar_url", body={"avatar_url": uris[0]})
    await alice.ok("PUT", f"{profile}/org.example.banner", body={"org.example.banner": uris[1]})
    member = {"membership": "join", "avatar_url": uris[2]}
    await bob.put_state(room_id, "m.room.member", member, bob.user_id)
    await alice.put_state(room_id, "m.room.avatar", {"url": uris[3]})
    emotes = [{"images": {"cat": {"url": uri}}} for uri in uris[4:]]
    await alice.ok("PUT", f"{user}/account_data/im.ponies.user_emotes", body=emotes[0])
    await alice.put_state(room_id, "im.ponies.room_emotes", emotes[1])
    for name in names:
        await redact(alice, room_id, await alice.send(room_id, "m.room.message", image(name)))
    await passed(server, 2 * HOUR)
    assert [(await download(alice, name)).status for name in names] == [200] * 6


async def test_an_avatar_goes_when_it_is_replaced_and_no_room_shows_it(
    server: Running, alice: Person
) -> None:
    first, second = [await upload(alice, picture(n, n), "image/png") for n in (40, 41)]
    path = f"/profile/{quote(alice.user_id)}/avatar_url"
    for name in (first, second):
        await alice.ok("PUT", path, body={"avatar_url": f"mxc://{name}"})
    await passed(server)
    assert (await download(alice, first)).status == 404
    assert (await download(alice, second)).status == 200


async def test_an_emote_pack_that_was_replaced_keeps_nothing(
    server: Running, alice: Person, room_id: str
) -> None:
    name = await upload(alice, b"a cat")
    path = f"/user/{quote(alice.user_id)}/account_data/im.ponies.user_emotes"
    await alice.ok("PUT", path, body={"images": {"cat": {"url": f"mxc://{name}"}}})
    event_id = await alice.send(room_id, "m.room.message", image(name))
    await alice.ok("PUT", path, body={"images": {}})
    await passed(server)
    assert (await download(alice, name)).status == 200
    await redact(alice, room_id, event_id)
    await passed(server)
    assert (await download(alice, name)).status == 404


async def test_a_content_with_another_name_stays(
    server: Running, alice: Person, bob: Person, room_id: str
) -> None:
    name, other = await upload(alice, b"the same"), await upload(bob, b"the same")
    await redact(alice, room_id, await alice.send(room_id, "m.room.message", image(name)))
    await passed(server)
    assert (await download(alice, name)).status == 404
    assert (await download(bob, other)).body == b"the same"


async def test_a_closed_account_shows_nothing(server: Running, alice: Person, bob: Person) -> None:
    name = await upload(alice, b"a file")
    for person in (alice, bob):
        path = f"/profile/{quote(person.user_id)}/avatar_url"
        await person.ok("PUT", path, body={"avatar_url": f"mxc://{name}"})
    await alice.ok("PUT", f"/profile/{quote(alice.user_id)}/avatar_url", body={"avatar_url": ""})
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": bob.user_id},
        "password": PASSWORD,
    }
    await bob.ok("POST", "/account/deactivate", body={"auth": auth})
    await passed(server)
    assert (await download(alice, name)).status == 404


@pytest.mark.parametrize("shared", ["11"], indirect=True)
async def test_events_of_other_servers_show_our_files(server: Running, shared: Shared) -> None:
    name = await upload(shared.alice, b"a file")
    mine = await shared.alice.send(shared.room_id, "m.room.message", image(name))
    await shared.bob_joins()
    state, prevs = await shared.head()
    made = shared.peer.make(BOB, "m.room.message", image(name), state=state, prevs=prevs)
    assert await shared.give(made) is Verdict.ACCEPTED
    await redact(shared.alice, shared.room_id, mine)
    await passed(server)
    assert (await download(shared.alice, name)).status == 200
    await redact(shared.alice, shared.room_id, made[0].event_id)
    await passed(server)
    assert (await download(shared.alice, name)).status == 404


@pytest.mark.parametrize("shared", ["11"], indirect=True)
async def test_an_event_that_comes_after_its_redaction_shows_nothing(
    server: Running, shared: Shared
) -> None:
    name = await upload(shared.alice, b"a file")
    mine = await shared.alice.send(shared.room_id, "m.room.message", image(name))
    await shared.bob_joins()
    state, prevs = await shared.head()
    shown = shared.peer.make(BOB, "m.room.message", image(name), state=state, prevs=prevs)
    content = {"redacts": shown[0].event_id}
    taken_back = shared.peer.make(BOB, "m.room.redaction", content, state=state, prevs=prevs)
    for made in (taken_back, shown):
        assert await shared.give(made) is Verdict.ACCEPTED
    await redact(shared.alice, shared.room_id, mine)
    await passed(server)
    assert (await download(shared.alice, name)).status == 404

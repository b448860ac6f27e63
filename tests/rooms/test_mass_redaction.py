"""A ban or kick with `redact_events` takes everything away that the user has sent (MSC4293)."""

import asyncio
from typing import Any

import pytest

from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.rooms import mass_redaction
from homeserver.rooms.judging import Verdict
from homeserver.rooms.pdus import stored_pdus
from storage.accounts import next_job_at
from storage.engine import Database
from storage.events import TailEvent, event_numbers, tail
from tests.rooms.paths import at
from tests.rooms.test_receive import BOB, Peer, Shared, message
from tests.serving import Person, Running

FLAG = "org.matrix.msc4293.redact_events"


def stored(server: Running) -> Database:
    assert server.app._database is not None  # noqa: SLF001 (these rows show in no answer)
    return server.app._database  # noqa: SLF001


async def texts(person: Person, room_id: str) -> list[Any]:
    page = await person.ok("GET", at(room_id, "messages"), query={"dir": "b", "limit": 1000})
    return [event["content"].get("body") for event in page["chunk"] if "body" in event["content"]]


async def until_texts(person: Person, room_id: str, wanted: list[Any]) -> None:
    async with asyncio.timeout(60):
        while await texts(person, room_id) != wanted:
            pass


async def spammed(server: Running, **options: Any) -> tuple[Person, Person, str, list[str]]:
    """Alice's room in which Bob has said more than fits on a page."""
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat", **options)
    await bob.join(room)
    await alice.say(room, "welcome")
    spam = [await bob.say(room, f"spam {number}") for number in range(7)]
    await bob.put_state(room, "m.room.topic", {"topic": "spam"}) if options else None
    return alice, bob, room, spam


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass_redaction, "PAGE", 3)


@pytest.mark.usefixtures("short_pages")
@pytest.mark.parametrize("flag", ["redact_events", FLAG])
@pytest.mark.parametrize("how", ["ban", "kick"])
async def test_all_is_redacted_by_the_member_event(server: Running, how: str, flag: str) -> None:
    levels = {"events": {"m.room.topic": 0, "m.room.server_acl": 0}}
    alice, bob, room, spam = await spammed(server, power_level_content_override=levels)
    acl = {"allow": ["*"], "deny": ["evil.example"]}
    await bob.put_state(room, "m.room.server_acl", acl)
    await alice.sync()
    body = {"user_id": bob.user_id, "reason": "flood", flag: True}
    await alice.ok("POST", at(room, how), body=body)
    await until_texts(alice, room, ["welcome"])
    state = await alice.ok("GET", at(room, "state", "m.room.member", bob.user_id))
    assert (state["membership"], state[flag]) == ("ban" if how == "ban" else "leave", True)
    assert await alice.ok("GET", at(room, "state", "m.room.topic")) == {}
    assert await alice.ok("GET", at(room, "state", "m.room.server_acl")) == acl
    for restarted in (False, True):
        if restarted:
            await server.restart()
        shown = await alice.ok("GET", at(room, "event", spam[0]))
        because = shown["unsigned"]["redacted_because"]
        assert because["sender"] == alice.user_id
        assert because["state_key"] == bob.user_id
        assert because["content"]["reason"] == "flood"
        assert "spam" not in str(await alice.sync(remember=False, since=None))
    listed = (await alice.ok("GET", at(room, "messages"), query={"dir": "b", "limit": 99}))["chunk"]
    assert "m.room.redaction" not in {event["type"] for event in listed}


async def test_notifications_of_what_is_gone_go(server: Running) -> None:
    alice, bob, room, _ = await spammed(server)
    carol = await server.person("carol")
    await carol.join(room)
    await bob.say(room, "more")
    counted = (await carol.sync())["rooms"]["join"][room]["unread_notifications"]
    assert counted["notification_count"] == 1
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id, FLAG: True})
    await until_texts(carol, room, ["welcome"])
    await alice.say(room, "gone")
    counted = (await carol.sync())["rooms"]["join"][room]["unread_notifications"]
    assert counted["notification_count"] == 1


@pytest.mark.parametrize("value", [False, None])
async def test_a_ban_that_does_not_say_so_leaves_all(server: Running, value: bool | None) -> None:
    alice, bob, room, _ = await spammed(server)
    body: dict[str, Any] = {"user_id": bob.user_id} | ({} if value is None else {FLAG: value})
    await alice.ok("POST", at(room, "ban"), body=body)
    assert await next_job_at(stored(server), 0) is None
    assert len(await texts(alice, room)) == 8
    # A second ban that says so is no repetition of the first.
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id, FLAG: True})
    await until_texts(alice, room, ["welcome"])
    await alice.refused(
        "M_BAD_JSON", "POST", at(room, "ban"), body={"user_id": bob.user_id, FLAG: "yes"}
    )


async def test_who_may_not_redact_only_bans(server: Running) -> None:
    for levels in ({"redact": 60}, {"events": {"m.room.redaction": 60}}):
        alice = await server.person(f"alice{len(levels)}{next(iter(levels))}")
        bob = await server.person(f"bob{next(iter(levels))}")
        carol = await server.person(f"carol{next(iter(levels))}")
        override = {**levels, "users": {carol.user_id: 50}}
        room = await alice.create_room(
            preset="public_chat", room_version="12", power_level_content_override=override
        )
        await bob.join(room)
        await carol.join(room)
        await bob.say(room, "stays")
        await carol.ok("POST", at(room, "ban"), body={"user_id": bob.user_id, FLAG: True})
        assert await next_job_at(stored(server), 0) is None
        assert await texts(alice, room) == ["stays"]


async def test_leaving_with_the_flag_redacts_nothing(server: Running) -> None:
    alice, bob, room, _ = await spammed(server)
    await bob.put_state(room, "m.room.member", {"membership": "leave", FLAG: True}, bob.user_id)
    assert await next_job_at(stored(server), 0) is None
    assert len(await texts(alice, room)) == 8


async def test_who_comes_back_may_speak(server: Running) -> None:
    alice, bob, room, _ = await spammed(server)
    await alice.ok("POST", at(room, "kick"), body={"user_id": bob.user_id, FLAG: True})
    await bob.join(room)
    await bob.say(room, "sorry")
    await until_texts(alice, room, ["sorry", "welcome"])
    await server.restart()
    assert await texts(alice, room) == ["sorry", "welcome"]


@pytest.mark.usefixtures("short_pages")
async def test_it_goes_on_where_a_stopped_server_was(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, room, _ = await spammed(server)
    pages: list[int] = []
    stopped = asyncio.Event()

    async def twice(*args: Any) -> list[TailEvent]:
        if len(pages) == 2:
            stopped.set()
            await asyncio.Event().wait()
        pages.append(args[3])
        return await tail(*args)

    monkeypatch.setattr("homeserver.rooms.mass_redaction.tail", twice)
    await alice.ok("POST", at(room, "ban"), body={"user_id": bob.user_id, FLAG: True})
    await stopped.wait()
    assert 1 < len(await texts(alice, room)) < 8
    nothing_again: list[int] = []

    async def followed(*args: Any) -> list[TailEvent]:
        nothing_again.append(args[3])
        return await tail(*args)

    monkeypatch.setattr("homeserver.rooms.mass_redaction.tail", followed)
    await server.restart()
    await until_texts(alice, room, ["welcome"])
    assert max(nothing_again) < min(pages)


async def test_what_comes_late_is_redacted_too(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room(preset="public_chat", room_version="11")
    room = await server.app.services.rooms.find(room_id)
    assert room is not None
    shared = Shared(server, alice, room, Peer(ROOM_VERSIONS["11"], room_id))
    await shared.bob_joins()
    state, prevs = await shared.head()
    first = shared.peer.make(BOB, "m.room.message", message("first"), state=state, prevs=prevs)
    assert await shared.give(first) is Verdict.ACCEPTED
    late = shared.peer.make(BOB, "m.room.message", message("late"), state=state, prevs=prevs)
    await alice.ok("POST", at(room_id, "ban"), body={"user_id": BOB, FLAG: True})
    assert await shared.give(late) is Verdict.SOFT_FAILED
    await until_texts(alice, room_id, [])
    nids = await event_numbers(stored(server), room.nid, [late[0].event_id])
    assert "late" not in str(await stored_pdus(stored(server), nids.values(), room.rules))

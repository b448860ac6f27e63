"""Lazily loaded members: each sender's member event in time, and not more often than needed.

spec: client-server-api#lazy-loading-room-members
"""

from homeserver.streams.lazy import LazyMembers
from tests.serving import Person, Running
from tests.streams.reading import LAZY, filtered, joined, members, moved, said, state_of

LAZILY = filtered(state=LAZY, limit=2)
REDUNDANTLY = filtered(state={**LAZY, "include_redundant_members": True}, limit=2)


async def gathering(server: Running, **options: object) -> tuple[str, list[Person]]:
    """A room with a name, so that no heroes are needed, and its five members."""
    people = [await server.person(name) for name in ("alice", "bob", "carol", "dave", "eve")]
    room = await people[0].create_room(preset="public_chat", **options)
    for person in people[1:]:
        await person.join(room)
    return room, people


async def test_only_senders_and_oneself_at_first(server: Running) -> None:
    room, (alice, bob, carol, *_) = await gathering(server, name="Named")
    await bob.say(room, "1")
    await carol.say(room, "2")
    section = joined(await alice.sync(filter=LAZILY), room)
    assert members(section) == {alice.user_id, bob.user_id, carol.user_id}
    assert ("m.room.power_levels", "") in state_of(section)


async def test_heroes_are_among_them_where_the_room_has_no_name(server: Running) -> None:
    room, people = await gathering(server)
    alice, bob, *_ = people
    last = [await server.person("frank"), await server.person("grace")]
    for person in last:
        await person.join(room)
    await alice.say(room, "1")
    await alice.say(room, "2")
    section = joined(await alice.sync(filter=LAZILY), room)
    assert set(section["summary"]["m.heroes"]) == {
        person.user_id for person in [*people[1:], last[0]]
    }
    assert members(section) == {alice.user_id, *section["summary"]["m.heroes"]}
    # A hero leaves, and the client has never heard of the one who takes the place.
    await moved(bob, room, "leave")
    section = joined(await alice.sync(filter=LAZILY), room)
    assert last[1].user_id in section["summary"]["m.heroes"]
    assert members(section) == {last[1].user_id}


async def test_a_sender_is_told_once(server: Running) -> None:
    room, (alice, bob, carol, dave, *_) = await gathering(server, name="Named")
    await bob.say(room, "1")
    await carol.say(room, "2")
    await alice.sync(filter=LAZILY)
    await bob.say(room, "3")
    assert members(joined(await alice.sync(filter=LAZILY), room)) == set()
    await dave.say(room, "4")
    assert members(joined(await alice.sync(filter=LAZILY), room)) == {dave.user_id}
    await dave.say(room, "5")
    assert members(joined(await alice.sync(filter=LAZILY), room)) == set()
    await dave.say(room, "6")
    assert members(joined(await alice.sync(filter=REDUNDANTLY), room)) == {dave.user_id}
    # Another device knows nothing of that.
    await server.restart()
    await dave.say(room, "7")
    assert members(joined(await alice.sync(filter=LAZILY), room)) == {dave.user_id}


async def test_a_sender_is_owed_again_when_the_answer_was_lost(server: Running) -> None:
    room, (alice, bob, carol, dave, _) = await gathering(server, name="Named")
    await alice.say(room, "1")
    await alice.say(room, "2")
    await alice.sync(filter=LAZILY)
    await bob.say(room, "3")
    lost = joined(await alice.sync(filter=LAZILY, remember=False), room)
    assert members(lost) == {bob.user_id}
    again = joined(await alice.sync(filter=LAZILY, remember=False), room)
    assert members(again) == {bob.user_id}
    # Lost, and pushed out of the next answer by others: owed when he speaks again.
    await carol.say(room, "4")
    await dave.say(room, "5")
    section = joined(await alice.sync(filter=LAZILY), room)
    assert members(section) == {carol.user_id, dave.user_id}
    await bob.say(room, "6")
    assert members(joined(await alice.sync(filter=LAZILY), room)) == {bob.user_id}


async def test_a_client_that_begins_anew_knows_nobody(server: Running) -> None:
    room, (alice, bob, *_) = await gathering(server, name="Named")
    await bob.say(room, "1")
    await alice.sync(filter=LAZILY)
    await alice.say(room, "2")
    await alice.say(room, "3")
    section = joined(await alice.sync(since="", filter=LAZILY), room)
    assert members(section) == {alice.user_id}
    await bob.say(room, "4")
    assert members(joined(await alice.sync(filter=LAZILY), room)) == {bob.user_id}


async def test_who_changed_in_a_gap_is_told_known_or_not(server: Running) -> None:
    room, (alice, bob, carol, dave, eve) = await gathering(server, name="Named")
    await bob.say(room, "1")
    await alice.sync(filter=LAZILY)
    content = {"membership": "join", "displayname": "Bobby"}
    renamed = await bob.put_state(room, "m.room.member", content, bob.user_id)
    await moved(carol, room, "leave")
    for number in range(3):
        await dave.say(room, str(number))
    for name in ("state", "state_after"):
        wanted = "true" if name == "state_after" else None
        answer = await alice.sync(filter=LAZILY, remember=False, use_state_after=wanted)
        section = joined(answer, room)
        assert section["timeline"]["limited"] is True
        told = {key: event for (type_, key), event in state_of(section, name).items()}
        assert set(told) == {bob.user_id, carol.user_id, dave.user_id}
        assert told[bob.user_id]["event_id"] == renamed
        assert told[carol.user_id]["content"]["membership"] == "leave"
    assert eve.user_id not in told


async def test_who_joins_in_the_timeline_is_told_there(server: Running) -> None:
    room, (alice, *_) = await gathering(server, name="Named")
    await alice.sync(filter=LAZILY)
    frank = await server.person("frank")
    await frank.join(room)
    await frank.say(room, "hello")
    section = joined(await alice.sync(filter=LAZILY), room)
    assert len(said(section)) == 2
    assert members(section) == set()
    await frank.say(room, "hello again")
    assert members(joined(await alice.sync(filter=LAZILY), room)) == set()


def test_what_was_sent_counts_from_its_own_token_on() -> None:
    lazy = LazyMembers()
    lazy.sent(1, 2, 10, ["@a", "@b"])
    lazy.sent(1, 2, 20, ["@b", "@c"])
    assert set(lazy.known(1, 2, 20)) == {"@a", "@b", "@c"}
    assert set(lazy.known(1, 2, 10)) == {"@a", "@b"}
    # It asked from 10: what went out with 20 has not arrived.
    assert set(lazy.known(1, 2, 20)) == {"@a", "@b"}
    assert set(lazy.known(2, 2, 20)) == set()
    assert set(lazy.known(1, 3, 20)) == set()
    lazy.forget(1, 2)
    assert set(lazy.known(1, 2, 20)) == set()

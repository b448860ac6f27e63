"""A room whose tables are damaged is found and repaired; clients hear of it by their next sync."""

from typing import Any

import pytest

from homeserver.app import App
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.rooms.judging import Verdict
from storage.changes import Do, Item
from storage.engine import DatabaseSettings, open_database
from tests.rooms.paths import at
from tests.rooms.test_receive import BOB as STRANGER
from tests.rooms.test_receive import Peer, Shared
from tests.serving import Person, Running

ADMIN = "/_homeserver/admin/v1/rooms"
BOBS_KEY = "(SELECT key_nid FROM state_keys JOIN names USING (name_nid) WHERE name LIKE '@bob:%')"
BOB = "(SELECT name_nid FROM names WHERE name LIKE '@bob:%')"
TOPIC = (
    "(SELECT key_nid FROM state_keys JOIN names ON names.name_nid = type_nid"
    " WHERE name = 'm.room.topic')"
)


async def a_room(server: Running) -> tuple[Person, Person, str]:
    """Alice, an administrator, and Bob in a room with a topic; both have heard all of it."""
    alice = await server.person("alice", admin=True)
    bob = await server.person("bob")
    room = await alice.create_room(preset="public_chat", topic="first")
    await bob.join(room)
    await alice.put_state(room, "m.room.topic", {"topic": "second"})
    await alice.say(room, "hello")
    await alice.sync()
    await bob.sync()
    return alice, bob, room


async def damage(server: Running, settings: DatabaseSettings, *statements: str) -> None:
    """Tamper with the stopped server's database, and start it again."""
    await server.app.stop()
    database = await open_database(settings)
    await database.commit([Item([Do(text) for text in statements])])
    await database.close()
    server.app = App(server.config, server.clock)
    await server.app.start()


async def checked(alice: Person, room: str) -> Any:
    return await alice.ok("GET", f"{ADMIN}/{room}/check")


async def test_a_sound_room_is_found_sound_and_left_alone(server: Running) -> None:
    alice, _, room = await a_room(server)
    found = await checked(alice, room)
    assert (found["differences"], found["resets"], found["servers"]) == ([], [], [])
    assert found["joined"]
    repaired = await alice.ok("POST", f"{ADMIN}/{room}/repair", body={"apply": True})
    assert repaired == {"room_id": room, "differences": [], "applied": False}
    answer = await alice.sync()
    assert room not in answer.get("rooms", {}).get("join", {})


async def test_only_administrators_look_and_only_at_rooms_that_exist(server: Running) -> None:
    alice, bob, room = await a_room(server)
    await bob.refused("M_FORBIDDEN", "GET", f"{ADMIN}/{room}/check")
    await bob.refused("M_FORBIDDEN", "POST", f"{ADMIN}/{room}/repair", body={"apply": True})
    await alice.refused("M_NOT_FOUND", "GET", f"{ADMIN}/!nowhere:test.example/check")


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ((f"DELETE FROM current_state WHERE key_nid IN {BOBS_KEY}",), "m.room.member of @bob:"),
        ((f"DELETE FROM memberships WHERE user_nid = {BOB}",), "memberships have nothing for @bob"),
        (
            (f"UPDATE memberships SET membership = 4 WHERE user_nid = {BOB}",),
            "memberships have leave for @bob:test.example, the state says join",
        ),
        (("UPDATE room_summary SET joined = 7, topic = NULL",), "joined = 7 and should say 2"),
        (
            (
                (
                    "UPDATE current_state SET event_nid = (SELECT min(new_nid) FROM state_changes"
                    f" WHERE key_nid = {TOPIC}) WHERE key_nid = {TOPIC}"
                ),
            ),
            "the current state has",
        ),
        (("INSERT INTO room_servers SELECT room_nid, 1, 3 FROM room_heads",), "3 users of"),
    ],
    ids=["state", "membership", "wrong membership", "summary", "old state", "servers"],
)
async def test_damage_is_found_told_and_repaired(
    server: Running, database_settings: DatabaseSettings, statements: tuple[str, ...], said: str
) -> None:
    alice, bob, room = await a_room(server)
    await damage(server, database_settings, *statements)
    found = await checked(alice, room)
    assert any(said in sentence for sentence in found["differences"]), found
    # A dry run, which is the default, changes nothing.
    dry = await alice.ok("POST", f"{ADMIN}/{room}/repair", body={})
    assert dry == {"room_id": room, "differences": found["differences"], "applied": False}
    assert (await checked(alice, room))["differences"] == found["differences"]
    done = await alice.ok("POST", f"{ADMIN}/{room}/repair", body={"apply": True})
    assert done["applied"]
    assert (await checked(alice, room))["differences"] == []
    members = await alice.ok("GET", at(room, "joined_members"))
    assert members["joined"].keys() == {alice.user_id, bob.user_id}
    said_now = await alice.ok("GET", at(room, "state", "m.room.topic"))
    assert said_now == {"topic": "second"}
    # The room goes on, and both hear it.
    event_id = await bob.say(room, "still here")
    for person in (alice, bob):
        section = (await person.sync())["rooms"]["join"][room]
        assert section["timeline"]["events"][-1]["event_id"] == event_id


async def test_clients_that_were_told_the_damage_are_told_the_repair(
    server: Running, database_settings: DatabaseSettings
) -> None:
    """Bob's join was taken away as state resolution would; the repair brings it back by sync."""
    alice, bob, room = await a_room(server)
    await damage(
        server,
        database_settings,
        f"INSERT INTO state_changes SELECT room_nid, (SELECT pos FROM stream), key_nid,"
        f" event_nid, NULL FROM current_state WHERE key_nid IN {BOBS_KEY}",
        f"DELETE FROM current_state WHERE key_nid IN {BOBS_KEY}",
        f"UPDATE memberships SET membership = 4 WHERE user_nid = {BOB}",
        "UPDATE membership_log SET membership = 4 WHERE pos ="
        f" (SELECT max(pos) FROM membership_log WHERE user_nid = {BOB}) AND user_nid = {BOB}",
        "UPDATE room_summary SET joined = 1",
    )
    assert room not in (await bob.sync(remember=False)).get("rooms", {}).get("join", {})
    await bob.refused("M_FORBIDDEN", "PUT", at(room, "send", "m.room.message", "1"), body={})
    waiting = await alice.sync()
    assert room not in waiting.get("rooms", {}).get("join", {})
    await alice.ok("POST", f"{ADMIN}/{room}/repair", body={"apply": True})
    told = (await alice.sync())["rooms"]["join"][room]
    assert told["timeline"]["events"] == []
    (member,) = told["state"]["events"]
    assert (member["state_key"], member["content"]["membership"]) == (bob.user_id, "join")
    assert room in (await bob.sync())["rooms"]["join"]
    await bob.say(room, "back")


async def test_a_repair_survives_a_restart(
    server: Running, database_settings: DatabaseSettings
) -> None:
    alice, bob, room = await a_room(server)
    await damage(
        server, database_settings, f"DELETE FROM current_state WHERE key_nid IN {BOBS_KEY}"
    )
    await alice.ok("POST", f"{ADMIN}/{room}/repair", body={"apply": True})
    await server.restart()
    assert (await checked(alice, room))["differences"] == []
    await bob.say(room, "hello again")


async def test_what_a_fork_takes_away_is_counted_and_listed(server: Running) -> None:
    """A rule that another server made before Bob joined comes after he has."""
    alice = await server.person("alice", admin=True)
    bob = await server.person("bob")
    levels = {"users": {alice.user_id: 100, STRANGER: 100}}
    room_id = await alice.create_room(
        preset="public_chat", room_version="11", power_level_content_override=levels
    )
    room = await server.app.services.rooms.find(room_id)
    assert room is not None
    shared = Shared(server, alice, room, Peer(ROOM_VERSIONS["11"], room_id))
    await shared.bob_joins(STRANGER)
    state, prevs = await shared.head()
    shut = shared.peer.make(
        STRANGER,
        "m.room.join_rules",
        {"join_rule": "invite"},
        state=state,
        prevs=prevs,
        state_key="",
    )
    await bob.join(room_id)
    assert b"homeserver_state_resets_total 0.0" in server.app.metrics.render()
    assert await shared.give(shut) is Verdict.ACCEPTED
    assert b"homeserver_state_resets_total 1.0" in server.app.metrics.render()
    found = await checked(alice, room_id)
    assert [one["sentence"] for one in found["resets"]] == [f"{bob.user_id} went from join to none"]
    assert found["differences"] == []


async def test_what_cannot_be_derived_is_said(
    server: Running, database_settings: DatabaseSettings
) -> None:
    alice, _, room = await a_room(server)
    await server.app.stop()
    database = await open_database(database_settings)
    (head,) = await database.fetch("SELECT snap_nid FROM events ORDER BY event_nid DESC LIMIT 1")
    spoil = Do("UPDATE snapshots SET state_hash = ? WHERE snap_nid = ?", (b"\0" * 8, head[0]))
    (kept,) = await database.fetch("SELECT state_hash FROM snapshots WHERE snap_nid = ?", head[0])
    await database.commit([Item([spoil])])
    await database.close()
    server.app = App(server.config, server.clock)
    await server.app.start()
    reply = await alice.raw("POST", f"{ADMIN}/{room}/repair", body={"apply": True})
    assert reply.status == 500
    assert "Restore the database from a backup" in reply.body["error"]
    await server.app.stop()
    database = await open_database(database_settings)
    mend = Do("UPDATE snapshots SET state_hash = ? WHERE snap_nid = ?", (kept[0], head[0]))
    await database.commit([Item([mend])])
    await database.close()
    server.app = App(server.config, server.clock)
    await server.app.start()

"""The list of what one was notified about.

spec: client-server-api#listing-notifications
"""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.push import notifications, walks
from tests.serving import Person, Running
from tests.streams.reading import ignore, invite, moved, read, redact


async def listed(person: Person, **query: Any) -> list[dict[str, Any]]:
    """All pages; each page begins where the one before says."""
    found: list[dict[str, Any]] = []
    while True:
        page = await person.ok("GET", "/notifications", query=query)
        found += page["notifications"]
        if "next_token" not in page:
            return found
        query["from"] = page["next_token"]


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [one["event"]["event_id"] for one in found]


async def pair(server: Running) -> tuple[Person, Person, str]:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room(preset="public_chat")
    await bob.say(room, "before alice came")
    await alice.join(room)
    return alice, bob, room


async def test_newest_first_with_what_was_read(server: Running) -> None:
    alice, bob, room = await pair(server)
    assert await listed(alice) == []
    first = await bob.say(room, "1")
    await alice.say(room, "mine")
    await bob.send(room, "m.room.message", {"msgtype": "m.notice", "body": "x"})
    content = {"msgtype": "m.text", "body": "hi", "m.mentions": {"user_ids": [alice.user_id]}}
    second = await bob.send(room, "m.room.message", content)
    third = await bob.say(room, "3")
    found = await listed(alice)
    assert ids(found) == [third, second, first]
    assert [one["read"] for one in found] == [False, False, True]
    assert found[1]["room_id"] == room
    assert found[1]["event"]["content"] == content
    assert found[1]["ts"] == found[1]["event"]["origin_server_ts"]
    assert {"set_tweak": "highlight"} in found[1]["actions"]
    assert "notify" in found[0]["actions"]
    assert ids(await listed(alice, only="highlight")) == [second]
    await read(alice, room, second)
    await server.restart()
    assert [one["read"] for one in await listed(alice)] == [False, True, True]


async def test_pages_go_through_all_rooms_in_order(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, room = await pair(server)
    other = await bob.create_room(preset="public_chat")
    await alice.join(other)
    said = [await bob.say((room, other)[number % 3 == 0], str(number)) for number in range(12)]
    said.reverse()
    assert ids(await listed(alice, limit=5)) == said
    # However little one call may read, the next one goes on behind it.
    monkeypatch.setattr(walks, "_READ_AT_ONCE", 2)
    monkeypatch.setattr(notifications, "_MOST_READS", 3)
    assert ids(await listed(alice, limit=5)) == said
    page = await alice.ok("GET", "/notifications", query={"limit": 10})
    assert 0 < len(page["notifications"]) < 10
    page = await alice.ok("GET", "/notifications", query={"limit": 1})
    late = await bob.say(room, "later")
    rest = await alice.ok("GET", "/notifications", query={"from": page["next_token"], "limit": 1})
    assert ids(rest["notifications"]) == [said[1]]
    assert ids(await listed(alice))[0] == late


async def test_what_is_hidden_is_not_listed(server: Running) -> None:
    alice, bob, room = await pair(server)
    carol = await server.person("carol")
    await carol.join(room)
    removed = await bob.say(room, "taken back")
    kept = await bob.say(room, "kept")
    ignored = await carol.say(room, "ignored")
    assert ids(await listed(alice)) == [ignored, kept, removed]
    await redact(bob, room, removed)
    await ignore(alice, carol)
    assert ids(await listed(alice)) == [kept]
    await moved(alice, room, "leave")
    assert await listed(alice) == []
    while_away = await bob.say(room, "while away")
    await alice.join(room)
    found = ids(await listed(alice))
    assert kept in found
    assert while_away not in found


async def test_invites_are_listed_until_answered_and_after(server: Running) -> None:
    alice, bob, _ = await pair(server)
    private = await bob.create_room()
    await bob.say(private, "before")
    await invite(bob, private, alice)
    secret = await bob.say(private, "not for who is invited only")
    (found,) = await listed(alice)
    assert (found["room_id"], found["read"]) == (private, False)
    assert found["event"]["content"]["membership"] == "invite"
    assert found["event"]["state_key"] == alice.user_id
    await alice.join(private)
    said = await bob.say(private, "welcome")
    after = await listed(alice)
    assert ids(after) == [said, found["event"]["event_id"]]
    assert secret not in ids(after)
    assert [one["read"] for one in after] == [False, True]
    third = await bob.create_room()
    await ignore(alice, bob)
    await invite(bob, third, alice)
    assert await listed(alice) == []


async def test_own_rules_and_wrong_tokens(server: Running) -> None:
    alice, bob, room = await pair(server)
    await bob.say(room, "muted")
    path = f"/pushrules/global/room/{quote(room, safe='')}"
    await alice.ok("PUT", path, body={"actions": []})
    assert await listed(alice) == []
    word = {"pattern": "cake", "actions": ["notify", {"set_tweak": "highlight"}]}
    await alice.ok("PUT", "/pushrules/global/content/cake", body=word)
    cake = await bob.say(room, "there is cake")
    assert ids(await listed(alice)) == [cake]
    await alice.ok("DELETE", path)
    assert len(await listed(alice)) == 2
    assert ids(await listed(alice, only="highlight")) == [cake]
    for query in ({"from": "s1"}, {"from": "n1_-1"}, {"limit": 0}, {"limit": "x"}):
        await alice.refused("M_INVALID_PARAM", "GET", "/notifications", query=query)

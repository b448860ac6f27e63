"""Searching messages: every language, filters, order, groups, context, and what may be found."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.rooms import words
from storage.changes import Item, Missed
from storage.engine import Database
from storage.search import Words, found, moved, waiting_words
from tests.serving import Person, Running


async def search(person: Person, term: str, batch: str | None = None, **more: Any) -> Any:
    body = {"search_categories": {"room_events": {"search_term": term, **more}}}
    query = {} if batch is None else {"next_batch": batch}
    reply = await person.ok("POST", "/search", body=body, query=query)
    return reply["search_categories"]["room_events"]


def texts(found: Any) -> list[str]:
    return [result["result"]["content"]["body"] for result in found["results"]]


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("Hello wide world", "world"),
        ("Hello wide world", "HELLO World"),
        ("Hello wide world", "wor"),
        ("Größe und Straße", "STRASSE"),
        ("résumé", "RÉSUMÉ"),
        ("今天天气很好", "天气"),
        ("今天天气很好", "好"),
        ("東京タワーに行く", "タワー"),
        ("안녕하세요 여러분", "하세"),
        ("привет, мир!", "прив"),
        ("नमस्ते दुनिया", "नमस्ते"),
        ("room 4711 is free", "4711"),
        ("it's at #test:example.org", "example"),
    ],
)
async def test_words_of_every_language_are_found(server: Running, said: str, asked: str) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    event = await alice.say(room, said)
    await alice.say(room, "something else")
    found = await search(alice, asked)
    assert [result["result"]["event_id"] for result in found["results"]] == [event]
    assert found["count"] == 1
    assert found["highlights"]
    assert "next_batch" not in found
    # All words must be there.
    assert texts(await search(alice, f"{asked} nowhere")) == []


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_has_the_words_that_it_has_within_any_other(text: str) -> None:
    assert [*words.written(text), *words.written("é")] == words.written(text + " é")


async def test_only_who_may_read_finds(server: Running) -> None:
    alice, bob, eve = [await server.person(name) for name in ("alice", "bob", "eve")]
    room = await alice.create_room(
        preset="public_chat",
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ],
    )
    await alice.say(room, "needle before")
    await bob.join(room)
    await alice.say(room, "needle within")
    await bob.ok("POST", f"/rooms/{quote(room, safe='')}/leave", body={})
    await alice.say(room, "needle after")
    assert texts(await search(bob, "needle")) == ["needle within"]
    assert texts(await search(eve, "needle")) == []
    assert len(texts(await search(alice, "needle"))) == 3
    await bob.ok("POST", f"/rooms/{quote(room, safe='')}/forget", body={})
    assert texts(await search(bob, "needle")) == []


async def test_rooms_that_one_was_never_in_spoil_no_search(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    own = await bob.create_room()
    await bob.say(own, "needle of bob")
    room = await alice.create_room(invite=[bob.user_id])
    await alice.say(room, "needle of alice")
    await bob.ok("POST", f"/rooms/{quote(room, safe='')}/leave", body={})
    other = await alice.create_room()
    await alice.say(other, "needle elsewhere")
    path = f"/rooms/{quote(other, safe='')}/ban"
    await alice.ok("POST", path, body={"user_id": bob.user_id})
    assert texts(await search(bob, "needle")) == ["needle of bob"]


async def test_what_was_redacted_or_ignored_is_not_found(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    event = await alice.say(room, "needle of alice")
    await bob.say(room, "needle of bob")
    path = f"/rooms/{quote(room, safe='')}/redact/{quote(event, safe='')}/r"
    await alice.ok("PUT", path, body={})
    assert texts(await search(alice, "needle")) == ["needle of bob"]
    body: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    user = quote(alice.user_id, safe="")
    await alice.ok("PUT", f"/user/{user}/account_data/m.ignored_user_list", body=body)
    assert texts(await search(alice, "needle")) == []


async def rows_of_words(server: Running) -> tuple[int, int]:
    """How many events' words wait, and how many are in the index."""
    database = opened(server)
    rows = await waiting_words(database, 1_000)
    every = await found(database, [Words(["kbody"])], 2**62, 1_000)
    return len(rows), len(every) - len(rows)


def opened(server: Running) -> Database:
    database = server.app._database  # noqa: SLF001 (where words are shows in no answer)
    assert database is not None
    return database


async def test_words_are_found_before_and_after_they_are_in_the_index(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    events = [await alice.say(room, f"needle {number}") for number in range(3)]
    assert texts(await search(alice, "needle")) == ["needle 2", "needle 1", "needle 0"]
    await server.clock.advance(6)
    await until_moved(server)
    assert await rows_of_words(server) == (0, 3)
    events.append(await alice.say(room, "needle 3"))
    assert len(texts(await search(alice, "needle"))) == 4
    page = await search(alice, "needle", filter={"limit": 2})
    assert texts(page) == ["needle 3", "needle 2"]
    assert texts(await search(alice, "needle", page["next_batch"], filter={"limit": 2})) == [
        "needle 1",
        "needle 0",
    ]
    # Wherever the words are, they go with the event.
    for number in (0, 3):
        path = f"/rooms/{quote(room, safe='')}/redact/{quote(events[number], safe='')}/{number}"
        await alice.ok("PUT", path, body={})
    assert texts(await search(alice, "needle")) == ["needle 2", "needle 1"]
    assert await rows_of_words(server) == (0, 2)


async def test_words_that_waited_when_the_server_stopped_move_when_it_starts(
    server: Running,
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await alice.say(room, "needle")
    await server.restart()
    await until_moved(server)
    assert await rows_of_words(server) == (0, 1)
    assert texts(await search(alice, "needle")) == ["needle"]


async def test_words_that_go_while_they_move_are_gone(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    event = await alice.say(room, "needle")
    await alice.say(room, "hay")
    database = opened(server)
    rows = await waiting_words(database, 10)
    assert len(rows) == 2
    path = f"/rooms/{quote(room, safe='')}/redact/{quote(event, safe='')}/1"
    await alice.ok("PUT", path, body={})
    with pytest.raises(Missed):
        await database.commit([Item(moved(rows))])
    assert await rows_of_words(server) == (1, 0)
    assert texts(await search(alice, "needle")) == []
    assert texts(await search(alice, "hay")) == ["hay"]


async def until_moved(server: Running) -> None:
    for _ in range(6_000):
        if not (await rows_of_words(server))[0]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("words still wait to be moved into the index")


async def test_names_and_topics_are_found_by_their_keys(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(name="needle name", topic="needle topic")
    await alice.say(room, "needle body")
    assert len((await search(alice, "needle"))["results"]) == 3
    for key, type_ in (
        ("content.body", "m.room.message"),
        ("content.name", "m.room.name"),
        ("content.topic", "m.room.topic"),
    ):
        (result,) = (await search(alice, "needle", keys=[key]))["results"]
        assert result["result"]["type"] == type_


async def test_filters_order_and_pages(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    rooms = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for room in rooms:
        await bob.join(room)
    for number in range(6):
        await alice.say(rooms[number % 2], f"needle {number}")
    await bob.say(rooms[0], "needle of bob")
    found = await search(alice, "needle", order_by="recent", filter={"limit": 3})
    assert texts(found) == ["needle of bob", "needle 5", "needle 4"]
    rest = await search(
        alice, "needle", found["next_batch"], order_by="recent", filter={"limit": 10}
    )
    assert texts(rest) == ["needle 3", "needle 2", "needle 1", "needle 0"]
    assert "next_batch" not in rest
    by_bob = await search(alice, "needle", filter={"senders": [bob.user_id]})
    assert texts(by_bob) == ["needle of bob"]
    not_bob = await search(alice, "needle", filter={"not_senders": [bob.user_id]})
    assert len(texts(not_bob)) == 6
    in_one = await search(alice, "needle", order_by="recent", filter={"rooms": [rooms[1]]})
    assert texts(in_one) == ["needle 5", "needle 3", "needle 1"]
    assert texts(await search(alice, "needle", filter={"types": ["m.room.name"]})) == []
    # The whole word fits better than its beginning, however old it is.
    await alice.say(rooms[0], "needles")
    ranked = await search(alice, "needles")
    assert texts(ranked) == ["needles"]
    ranked = await search(alice, "needle", order_by="rank")
    assert texts(ranked)[-1] == "needles"
    assert ranked["results"][0]["rank"] > ranked["results"][-1]["rank"]
    body = {"search_categories": {"room_events": {"search_term": "needle"}}}
    await alice.refused(
        "M_INVALID_PARAM", "POST", "/search", body=body, query={"next_batch": "nonsense"}
    )


async def test_beginnings_count_where_few_have_the_whole_words(server: Running) -> None:
    """Of words that many have the whole ones are found; the rest comes with their last page."""
    alice = await server.person("alice")
    room = await alice.create_room()
    for number in range(14):
        if number in (0, 13):
            await alice.say(room, f"needles 天气 {number}")
        await alice.say(room, f"a needle {number} 天")
    found = await search(alice, "needle", order_by="recent", filter={"limit": 1})
    assert texts(found) == ["a needle 13 天"]
    rest = await search(
        alice, "needle", found["next_batch"], order_by="recent", filter={"limit": 20}
    )
    assert texts(rest) == [
        text
        for number in range(13, -1, -1)
        for text in (f"a needle {number} 天", f"needles 天气 {number}")
        if text != "a needle 13 天" and ("a " in text or number in (0, 13))
    ]
    # One character stands for all words that begin with it, however many it is a word in.
    assert texts(await search(alice, "天", order_by="recent", filter={"limit": 2}))[1] == (
        "needles 天气 13"
    )


@pytest.mark.parametrize("many", [False, True])
async def test_few_and_many_that_have_the_words_are_narrowed_alike(
    server: Running, many: bool
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    rooms = [await alice.create_room(preset="public_chat", name="needle room") for _ in range(2)]
    for room in rooms:
        await bob.join(room)
    elsewhere = await alice.create_room()
    for number in range(3):
        await alice.say(rooms[number % 2], f"needle {number}")
        await bob.say(rooms[number % 2], f"needle of bob {number}")
    for number in range(20 if many else 1):
        await alice.say(elsewhere, f"needle elsewhere {number}")

    async def pages(person: Person, **more: Any) -> list[str]:
        told: list[str] = []
        batch = None
        while True:
            limits = {"limit": 1, **more.get("filter", {})}
            found = await search(
                person, "needle", batch, **{"order_by": "recent", **more, "filter": limits}
            )
            told += [one["result"]["content"].get("body", "a name") for one in found["results"]]
            batch = found.get("next_batch")
            if batch is None:
                return told

    said = [f"needle{of} {number}" for number in (2, 1, 0) for of in (" of bob", "")]
    bodies: dict[str, Any] = {"keys": ["content.body"]}
    assert await pages(bob, **bodies) == said
    assert await pages(bob, keys=["content.name"]) == ["a name", "a name"]
    in_one = await pages(alice, **bodies, filter={"rooms": [rooms[0]]})
    assert in_one == [said[0], said[1], said[4], said[5]]
    of_bob = await pages(alice, **bodies, filter={"senders": [bob.user_id]})
    assert of_bob == said[::2]
    groupings = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
    found = await search(
        bob, "needle", **bodies, order_by="recent", groupings=groupings, filter={"limit": 1}
    )
    for key, name, rest in (("room_id", rooms[0], in_one), ("sender", bob.user_id, of_bob)):
        batch: str | None = found["groups"][key][name]["next_batch"]
        told = []
        while batch is not None:
            page = await search(
                bob, "needle", batch, **bodies, order_by="recent", filter={"limit": 1}
            )
            told += texts(page)
            batch = page.get("next_batch")
        assert [said[0], *told] == rest


async def test_groups_can_be_gone_on_with(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    rooms = [await alice.create_room(preset="public_chat") for _ in range(2)]
    for number in range(4):
        await alice.say(rooms[number % 2], f"needle {number}")
    await bob.join(rooms[0])
    await bob.say(rooms[0], "needle of bob")
    groupings = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
    found = await search(
        alice, "needle", order_by="recent", groupings=groupings, filter={"limit": 3}
    )
    groups = found["groups"]
    assert groups["room_id"].keys() == set(rooms)
    assert groups["sender"].keys() == {alice.user_id, bob.user_id}
    assert len(groups["room_id"][rooms[0]]["results"]) == 2
    batch = groups["room_id"][rooms[1]]["next_batch"]
    rest = await search(alice, "needle", batch, order_by="recent")
    assert texts(rest) == ["needle 1"]


async def test_context_state_and_profiles_come_along(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    for word in ("one", "two", "needle", "three", "four"):
        await alice.say(room, word)
    context = {"before_limit": 1, "after_limit": 5, "include_profile": True}
    found = await search(alice, "needle", event_context=context, include_state=True)
    (result,) = found["results"]
    around = result["context"]
    assert [event["content"]["body"] for event in around["events_before"]] == ["two"]
    assert [event["content"]["body"] for event in around["events_after"]] == ["three", "four"]
    assert around["profile_info"].keys() == {alice.user_id}
    types = {event["type"] for event in found["state"][room]}
    assert {"m.room.create", "m.room.member"} <= types
    page = await alice.ok(
        "GET",
        f"/rooms/{quote(room, safe='')}/messages",
        query={"dir": "b", "from": around["start"], "limit": 1, "filter": json.dumps({})},
    )
    assert page["chunk"][0]["content"]["body"] == "one"


async def test_results_bundle_their_aggregations(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    event = await alice.say(room, "needle")
    relates = {"rel_type": "m.thread", "event_id": event}
    content = {"msgtype": "m.text", "body": "in the thread", "m.relates_to": relates}
    await alice.send(room, "m.room.message", content)
    (result,) = (await search(alice, "needle"))["results"]
    assert result["result"]["unsigned"]["m.relations"]["m.thread"]["count"] == 1


async def test_nothing_is_asked_by_nothing(server: Running) -> None:
    alice = await server.person("alice")
    room = await alice.create_room()
    await alice.say(room, "something")
    for term in ("", "  ", "!?", '"', "* OR (", "w:*|!", "r1"):
        assert texts(await search(alice, term)) == []
    assert await alice.ok("POST", "/search", body={"search_categories": {}}) == {
        "search_categories": {}
    }


def test_words_are_written_in_letters_that_no_database_takes_apart() -> None:
    found = words.written("Ça va? नमस्ते 天气很 it's O'Neil x_y 🎉 ＡＢＣ")
    assert all(word.isascii() and word.isalnum() and word == word.lower() for word in found)
    assert "wabc" in found
    assert len(words.written("a b " * 5_000)) == 2
    assert len(words.written(" ".join(f"word{number}" for number in range(5_000)))) == 500
    assert words.asked("天") == [words.asked("天气")[0][: len(words.asked("天")[0])]]

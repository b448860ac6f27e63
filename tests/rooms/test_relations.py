"""Children of events: pages of them, aggregations, threads, reactions."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running


def relation(rel_type: str, parent: str, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": parent, **more}}


def text(body: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, **more}


async def reply(person: Person, room: str, root: str, body: str) -> str:
    return await person.send(room, "m.room.message", text(body, **relation("m.thread", root)))


async def edit(person: Person, room: str, event: str, body: str) -> str:
    content = text(f"* {body}", **relation("m.replace", event))
    content["m.new_content"] = text(body)
    return await person.send(room, "m.room.message", content)


async def react(person: Person, room: str, event: str, key: str) -> str:
    return await person.send(room, "m.reaction", relation("m.annotation", event, key=key))


def at(room: str, rest: str) -> str:
    return f"/_matrix/client/v1/rooms/{quote(room, safe='')}{rest}"


async def children(person: Person, room: str, event: str, rest: str = "", **query: Any) -> Any:
    path = at(room, f"/relations/{quote(event, safe='')}{rest}")
    return await person.ok("GET", path, query=query)


def ids(answer: Any) -> list[str]:
    return [event["event_id"] for event in answer["chunk"]]


async def bundled(person: Person, room: str, event: str) -> Any:
    path = f"/rooms/{quote(room, safe='')}/event/{quote(event, safe='')}"
    found = await person.ok("GET", path)
    return found["unsigned"].get("m.relations", {})


@pytest.fixture
async def people(server: Running) -> tuple[Person, Person, str]:
    """Two people in a public room of the first."""
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    return alice, bob, room


async def test_children_come_newest_first_and_in_the_order_asked_for(people: Any) -> None:
    alice, bob, room = people
    event = await alice.say(room, "a root")
    made = [await react(bob, room, event, key) for key in "abcde"]
    assert ids(await children(alice, room, event)) == made[::-1]
    assert ids(await children(alice, room, event, dir="f")) == made
    first = await children(alice, room, event, limit=2)
    assert ids(first) == made[:2:-1]
    assert "prev_batch" not in first
    second = await children(alice, room, event, limit=2, **{"from": first["next_batch"]})
    assert ids(second) == [made[2], made[1]]
    assert second["prev_batch"]
    last = await children(alice, room, event, limit=2, **{"from": second["next_batch"]})
    assert ids(last) == [made[0]]
    assert "next_batch" not in last
    up = await children(alice, room, event, dir="f", limit=4)
    rest = await children(alice, room, event, dir="f", **{"from": up["next_batch"]})
    assert ids(up) + ids(rest) == made
    query = {"from": first["next_batch"], "to": second["next_batch"]}
    assert ids(await children(alice, room, event, **query)) == ids(second)


async def test_children_of_one_kind_and_type(people: Any) -> None:
    alice, bob, room = people
    event = await alice.say(room, "a root")
    reaction = await react(bob, room, event, "x")
    threaded = await reply(bob, room, event, "in the thread")
    other = await bob.send(room, "org.test", relation("m.thread", event))
    assert ids(await children(alice, room, event, "/m.annotation")) == [reaction]
    assert ids(await children(alice, room, event, "/m.thread")) == [other, threaded]
    assert ids(await children(alice, room, event, "/m.thread/org.test")) == [other]
    assert ids(await children(alice, room, event, "/m.thread/nobody.uses.this")) == []
    assert ids(await children(alice, room, event, "/org.unknown")) == []


async def test_recursion_goes_three_levels_down(people: Any) -> None:
    alice, bob, room = people
    event = await alice.say(room, "a root")
    threaded = await reply(bob, room, event, "in the thread")
    edited = await edit(bob, room, threaded, "changed")
    reaction = await react(alice, room, edited, "x")
    below = await react(alice, room, reaction, "too deep")
    found = await children(alice, room, event, recurse="true")
    assert ids(found) == [reaction, edited, threaded]
    assert found["recursion_depth"] == 3
    assert below not in ids(found)
    found = await children(alice, room, event, "/m.annotation", recurse="true")
    assert ids(found) == [reaction]
    first = await children(alice, room, event, recurse="true", limit=2, dir="f")
    rest = await children(
        alice, room, event, recurse="true", dir="f", **{"from": first["next_batch"]}
    )
    assert ids(first) + ids(rest) == [threaded, edited, reaction]
    assert "recursion_depth" not in await children(alice, room, event)


async def test_only_who_sees_the_parent_hears_of_children(server: Running, people: Any) -> None:
    alice, _, room = people
    event = await alice.say(room, "a root")
    eve = await server.person("eve")
    path = at(room, f"/relations/{quote(event, safe='')}")
    await eve.refused("M_NOT_FOUND", "GET", path)
    await alice.refused("M_NOT_FOUND", "GET", at(room, "/relations/%24unknown"))
    await alice.refused("M_INVALID_PARAM", "GET", path, query={"from": "nonsense"})


async def test_the_last_valid_edit_is_bundled(server: Running, people: Any) -> None:
    alice, bob, room = people
    event = await alice.say(room, "first")
    assert await bundled(bob, room, event) == {}
    await edit(alice, room, event, "second")
    await server.clock.advance(1)
    third = await edit(alice, room, event, "third")
    await edit(bob, room, event, "by somebody else")
    await alice.send(room, "m.room.message", text("no new", **relation("m.replace", event)))
    found = (await bundled(bob, room, event))["m.replace"]
    assert found["event_id"] == third
    assert found["content"]["m.new_content"]["body"] == "third"
    assert found["room_id"] == room
    assert found["sender"] == alice.user_id
    # An edit of an edit counts for nothing.
    await edit(alice, room, third, "fourth")
    assert "m.replace" not in await bundled(bob, room, third)


async def test_redaction_takes_edits_and_reactions_back(server: Running, people: Any) -> None:
    alice, bob, room = people
    event = await alice.say(room, "first")
    second = await edit(alice, room, event, "second")
    await server.clock.advance(1)
    third = await edit(alice, room, event, "third")
    await redact(alice, room, third)
    assert (await bundled(bob, room, event))["m.replace"]["event_id"] == second
    assert ids(await children(bob, room, event)) == [second]
    reaction = await react(bob, room, event, "x")
    await redact(bob, room, reaction)
    again = await react(bob, room, event, "x")
    assert ids(await children(bob, room, event, "/m.annotation")) == [again]
    await redact(alice, room, event)
    assert "m.replace" not in await bundled(bob, room, event)


async def redact(person: Person, room: str, event: str) -> None:
    path = f"/rooms/{quote(room, safe='')}/redact/{quote(event, safe='')}/{event[1:9]}"
    await person.ok("PUT", path, body={})


async def test_references_are_listed(people: Any) -> None:
    alice, bob, room = people
    event = await alice.say(room, "first")
    made = [await bob.send(room, "org.test", relation("m.reference", event)) for _ in range(3)]
    assert await bundled(alice, room, event) == {
        "m.reference": {"chunk": [{"event_id": id_} for id_ in made]}
    }


async def test_a_second_equal_reaction_is_refused(people: Any) -> None:
    alice, bob, room = people
    event = await alice.say(room, "first")
    content = relation("m.annotation", event, key="👍")
    first = await bob.send(room, "m.reaction", content, "one")
    path = f"/rooms/{quote(room, safe='')}/send/m.reaction/"
    await bob.refused("M_DUPLICATE_ANNOTATION", "PUT", path + "two", body=content)
    # The same transaction is no second one; other people, keys and types are others.
    assert await bob.send(room, "m.reaction", content, "one") == first
    await alice.send(room, "m.reaction", content)
    await react(bob, room, event, "👎")
    await bob.send(room, "org.test.reaction", content)
    assert len(ids(await children(alice, room, event))) == 4


async def test_of_equal_reactions_at_once_one_wins(people: Any) -> None:
    import asyncio

    alice, bob, room = people
    event = await alice.say(room, "first")
    content = relation("m.annotation", event, key="x")
    path = f"/rooms/{quote(room, safe='')}/send/m.reaction/"
    replies = await asyncio.gather(
        *(bob.raw("PUT", f"{path}{number}", body=content) for number in range(5))
    )
    assert sorted(reply.status for reply in replies) == [200, 400, 400, 400, 400]
    assert len(ids(await children(alice, room, event))) == 1


async def test_a_thread_says_who_takes_part_and_how_it_ends(server: Running, people: Any) -> None:
    alice, bob, room = people
    carol = await server.person("carol")
    await carol.join(room)
    root = await alice.say(room, "a root")
    await reply(bob, room, root, "one")
    last = await reply(bob, room, root, "two")
    changed = await edit(bob, room, last, "two, changed")
    thread = (await bundled(carol, room, root))["m.thread"]
    assert thread["count"] == 2
    assert thread["current_user_participated"] is False
    assert thread["latest_event"]["event_id"] == last
    assert thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == changed
    for member in (alice, bob):
        thread = (await bundled(member, room, root))["m.thread"]
        assert thread["current_user_participated"] is True
    await redact(bob, room, last)
    thread = (await bundled(carol, room, root))["m.thread"]
    assert thread["count"] == 1
    assert thread["latest_event"]["content"]["body"] == "one"


async def test_a_thread_cannot_begin_at_a_child(people: Any) -> None:
    alice, bob, room = people
    root = await alice.say(room, "a root")
    threaded = await reply(bob, room, root, "one")
    path = f"/rooms/{quote(room, safe='')}/send/m.room.message/t"
    content = text("nested", **relation("m.thread", threaded))
    assert (await bob.refused("M_UNKNOWN", "PUT", path, body=content)).status == 400


async def test_threads_are_listed_by_their_last_event(people: Any) -> None:
    alice, bob, room = people
    roots = [await alice.say(room, f"root {number}") for number in range(3)]
    own = await bob.say(room, "bob's")
    for root in (*roots, own):
        await reply(alice, room, root, "first")
    await reply(bob, room, roots[1], "last")
    path = at(room, "/threads")
    listed = await bob.ok("GET", path)
    assert ids(listed) == [roots[1], own, roots[2], roots[0]]
    assert all("m.thread" in event["unsigned"]["m.relations"] for event in listed["chunk"])
    assert "next_batch" not in listed
    mine = await bob.ok("GET", path, query={"include": "participated"})
    assert ids(mine) == [roots[1], own]
    first = await bob.ok("GET", path, query={"limit": 3})
    rest = await bob.ok("GET", path, query={"limit": 3, "from": first["next_batch"]})
    assert ids(first) + ids(rest) == ids(listed)


async def test_ignored_users_are_in_no_aggregation(server: Running, people: Any) -> None:
    alice, bob, room = people
    root = await alice.say(room, "a root")
    first = await reply(alice, room, root, "one")
    await reply(bob, room, root, "two")
    await bob.send(room, "org.test", relation("m.reference", root))
    bobs = await bob.say(room, "a root of bob's")
    await reply(alice, room, bobs, "under it")
    carol = await server.person("carol")
    await carol.join(room)
    user = quote(carol.user_id, safe="")
    body: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    await carol.ok("PUT", f"/user/{user}/account_data/m.ignored_user_list", body=body)
    found = await bundled(carol, room, root)
    assert found.keys() == {"m.thread"}
    assert found["m.thread"]["count"] == 1
    assert found["m.thread"]["latest_event"]["event_id"] == first
    assert ids(await children(carol, room, root)) == [first]
    listed = (await carol.ok("GET", at(room, "/threads")))["chunk"]
    (hidden,) = [event for event in listed if event["event_id"] == bobs]
    assert hidden["content"] == {}


async def test_who_has_left_hears_nothing_of_what_came_later(people: Any) -> None:
    alice, bob, room = people
    root = await alice.say(room, "a root")
    await reply(bob, room, root, "one")
    await bob.ok("POST", f"/rooms/{quote(room, safe='')}/leave", body={})
    await edit(alice, room, root, "secret")
    await reply(alice, room, root, "secret")
    found = await bundled(bob, room, root)
    assert found.keys() == {"m.thread"}
    assert found["m.thread"]["count"] == 1
    assert len(ids(await children(bob, room, root))) == 1


@pytest.mark.parametrize("visibility", ["joined", "invited", "shared"])
async def test_a_thread_counts_what_its_reader_may_see(people: Any, visibility: str) -> None:
    """What was said while the reader was away is not even counted where it may not be read."""
    alice, bob, room = people
    await alice.put_state(room, "m.room.history_visibility", {"history_visibility": visibility})
    root = await alice.say(room, "a root")
    await reply(alice, room, root, "one")
    await bob.ok("POST", f"/rooms/{quote(room, safe='')}/leave", body={})
    await reply(alice, room, root, "while bob is away")
    await reply(alice, room, root, "and more")
    await bob.join(room)
    last = await reply(alice, room, root, "two")
    thread = (await bundled(bob, room, root))["m.thread"]
    assert thread["count"] == (4 if visibility == "shared" else 2)
    assert thread["latest_event"]["event_id"] == last
    assert (await bundled(alice, room, root))["m.thread"]["count"] == 4


async def test_aggregations_stand_wherever_they_should(people: Any) -> None:
    alice, bob, room = people
    root = await alice.say(room, "a root")
    await reply(bob, room, root, "one")
    for number in range(5):
        await alice.say(room, f"{number}")
    await bob.sync()
    second = await alice.say(room, "another root")
    await reply(alice, room, second, "under it")
    for number in range(9):
        await alice.say(room, f"{number}")
    path = f"/rooms/{quote(room, safe='')}"
    page = await bob.ok("GET", f"{path}/messages", query={"dir": "b", "limit": 50})
    roots = {event["event_id"]: event for event in page["chunk"]}
    assert roots[root]["unsigned"]["m.relations"]["m.thread"]["count"] == 1
    context = await bob.ok("GET", f"{path}/context/{quote(root, safe='')}")
    assert context["event"]["unsigned"]["m.relations"]["m.thread"]["count"] == 1
    after = context["events_after"][0]
    context = await bob.ok("GET", f"{path}/context/{quote(after['event_id'], safe='')}")
    before = {event["event_id"]: event for event in context["events_before"]}
    assert before[root]["unsigned"]["m.relations"]["m.thread"]["count"] == 1
    timeline = (await bob.sync(filter='{"room":{"timeline":{"limit":11}}}'))["rooms"]["join"]
    assert timeline[room]["timeline"]["limited"] is False
    answer = await bob.sync(since=None, filter='{"room":{"timeline":{"limit":11}}}')
    timeline = answer["rooms"]["join"][room]["timeline"]
    assert timeline["limited"] is True
    found = {event["event_id"]: event for event in timeline["events"]}
    thread = found[second]["unsigned"]["m.relations"]["m.thread"]
    assert thread["count"] == 1
    assert thread["current_user_participated"] is False


@pytest.mark.parametrize(
    "relates",
    [
        "text",
        {"rel_type": 5, "event_id": "$x"},
        {"rel_type": "m.thread"},
        {"rel_type": "m.thread", "event_id": "$" + "x" * 300},
        {"rel_type": "m\0", "event_id": "$x"},
        {"rel_type": "m.annotation", "event_id": "$x", "key": {}},
        {"rel_type": "m.annotation", "event_id": "$x", "key": "k" * 5000},
    ],
)
async def test_nonsense_is_sent_like_anything_else(people: Any, relates: Any) -> None:
    alice, bob, room = people
    event = await alice.send(room, "m.room.message", text("x", **{"m.relates_to": relates}))
    path = f"/rooms/{quote(room, safe='')}/event/{quote(event, safe='')}"
    assert (await bob.ok("GET", path))["content"]["m.relates_to"] == relates


async def test_subscriptions_to_threads(people: Any) -> None:
    alice, bob, room = people
    root = await alice.say(room, "a root")
    other = await alice.say(room, "another")
    cause = await reply(alice, room, root, "bob?")
    base = "/_matrix/client/unstable/io.element.msc4306/rooms/"
    path = f"{base}{quote(room, safe='')}/thread/{quote(root, safe='')}/subscription"
    await bob.refused("M_NOT_FOUND", "GET", path)
    await bob.refused("IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "PUT", path, body={"automatic": other})
    await bob.ok("PUT", path, body={"automatic": cause})
    assert await bob.ok("GET", path) == {"automatic": True}
    await bob.ok("PUT", path, body={})
    assert await bob.ok("GET", path) == {"automatic": False}
    await bob.ok("PUT", path, body={"automatic": cause})
    assert await bob.ok("GET", path) == {"automatic": False}
    await bob.ok("DELETE", path)
    await bob.ok("DELETE", path)
    await bob.refused("M_NOT_FOUND", "GET", path)
    refused = await bob.refused(
        "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", "PUT", path, body={"automatic": cause}
    )
    assert refused.status == 409
    later = await reply(alice, room, root, "bob!")
    await bob.ok("PUT", path, body={"automatic": later})
    assert await bob.ok("GET", path) == {"automatic": True}
    missing = f"{base}{quote(room, safe='')}/thread/%24unknown/subscription"
    await bob.refused("M_NOT_FOUND", "PUT", missing, body={})


async def test_what_a_reader_may_not_see_is_in_no_aggregation(people: Any) -> None:
    """Of references not even the ids of events from while the reader was away."""
    alice, bob, room = people
    await alice.put_state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    root = await alice.send(room, "m.room.message", text("root"))
    seen = await alice.send(room, "org.test", relation("m.reference", root))
    await bob.ok("POST", f"/rooms/{quote(room, safe='')}/leave", body={})
    hidden = await alice.send(room, "org.test", relation("m.reference", root))
    await edit(alice, room, root, "changed")
    await bob.join(room)
    later = await alice.send(room, "org.test", relation("m.reference", root))
    told = [{"event_id": id_} for id_ in (seen, hidden, later)]
    assert (await bundled(alice, room, root))["m.reference"] == {"chunk": told}
    assert await bundled(bob, room, root) == {"m.reference": {"chunk": [told[0], told[2]]}}
    page = await bob.ok("GET", f"/rooms/{quote(room, safe='')}/messages", query={"dir": "b"})
    (event,) = (event for event in page["chunk"] if event["event_id"] == root)
    assert event["unsigned"]["m.relations"] == {"m.reference": {"chunk": [told[0], told[2]]}}

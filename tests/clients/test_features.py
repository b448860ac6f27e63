"""Spaces, threads, search, upgrades, knocks and sticky events, as the SDKs offer them."""

from typing import Any

import nio as sdk

from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.clients.person import RoomView


def good(kind: type, answer: Any) -> Any:
    """The answer of nio, which gives errors back as answers of another kind."""
    assert isinstance(answer, kind), answer
    return answer


async def room_of_both(js: JsPerson, nio: NioPerson) -> str:
    room = await js.create_room("The garden")
    await js.invite(room, nio.user_id)
    await nio.until(room, lambda view: view.membership == "invite")
    await nio.join(room)
    await js.until(room, lambda view: view.members[nio.user_id].membership == "join")
    return room


async def test_spaces_threads_and_search(js: JsPerson, nio: NioPerson) -> None:
    room = await room_of_both(js, nio)
    made = await js.call(
        "createRoom", {"name": "All", "creation_content": {"type": "m.space"}, "invite": []}
    )
    space = str(made["room_id"])
    await js.call("sendStateEvent", space, "m.space.child", {"via": ["localhost"]}, room)
    await js.invite(space, nio.user_id)
    await nio.until(space, lambda view: view.membership == "invite")
    await nio.join(space)
    rooms = (await js.call("getRoomHierarchy", space, 20))["rooms"]
    assert [(one["room_id"], one.get("room_type")) for one in rooms] == [
        (space, "m.space"),
        (room, None),
    ]
    found = good(sdk.SpaceGetHierarchyResponse, await nio.client.space_get_hierarchy(space))
    assert [one["room_id"] for one in found.rooms] == [space, room]

    root = await js.say(room, "Who waters the tomatoes?")
    relation = {"rel_type": "m.thread", "event_id": root}
    content = {"msgtype": "m.text", "body": "I do", "m.relates_to": relation}
    answer = good(
        sdk.RoomSendResponse, await nio.client.room_send(room, "m.room.message", content)
    ).event_id
    await js.until_seen(room, answer)
    (thread,) = (await js.call("createThreadListMessagesRequest", room, None, 10))["chunk"]
    bundled = thread["unsigned"]["m.relations"]["m.thread"]
    assert (thread["event_id"], bundled["count"]) == (root, 1)
    assert bundled["latest_event"]["event_id"] == answer
    threads = [one async for one in nio.client.room_get_threads(room)]
    assert [one.event_id for one in threads] == [root]
    replies = nio.client.room_get_event_relations(room, root)
    assert [one.event_id async for one in replies] == [answer]

    asked = {"term": "tomatoes", "filter": {"rooms": [room]}}
    results = await js.call("search", {"body": {"search_categories": {"room_events": {
        "search_term": asked["term"], "filter": asked["filter"]}}}})  # fmt: skip
    events = results["search_categories"]["room_events"]
    assert [one["result"]["event_id"] for one in events["results"]] == [root]


async def test_an_upgrade_leads_both_to_the_new_room(js: JsPerson, nio: NioPerson) -> None:
    old = await room_of_both(js, nio)
    new = str((await js.call("upgradeRoom", old, "12"))["replacement_room"])
    await js.until(new, lambda view: view.name == "The garden")
    await js.invite(new, nio.user_id)
    await nio.until(new, lambda view: view.membership == "invite")
    await nio.join(new)
    create = good(
        sdk.RoomGetStateEventResponse, await nio.client.room_get_state_event(new, "m.room.create")
    )
    assert create.content["predecessor"]["room_id"] == old
    tombstone = await nio.client.room_get_state_event(old, "m.room.tombstone")
    assert good(sdk.RoomGetStateEventResponse, tombstone).content["replacement_room"] == new
    refused = await nio.client.room_send(old, "m.room.message", {"msgtype": "m.text", "body": "x"})
    assert isinstance(refused, sdk.RoomSendError)


async def test_who_knocks_is_let_in(js: JsPerson, nio: NioPerson) -> None:
    knocking = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    made = await js.call("createRoom", {"name": "The shed", "initial_state": [knocking]})
    room = str(made["room_id"])
    await js.until(room, lambda view: view.name == "The shed")
    good(sdk.RoomKnockResponse, await nio.client.room_knock(room, reason="it rains"))

    def knocked(view: RoomView) -> bool:
        return nio.user_id in view.members and view.members[nio.user_id].membership == "knock"

    await js.until(room, knocked)
    await js.invite(room, nio.user_id)
    await nio.until(room, lambda view: view.membership == "invite")
    await nio.join(room)
    await js.until(room, lambda view: view.members[nio.user_id].membership == "join")


async def test_sticky_events_are_held_while_they_last(js: JsPerson, nio: NioPerson) -> None:
    room = await room_of_both(js, nio)
    content = {"msc4354_sticky_key": "PHONE", "application": "m.call"}
    sent = await js.call("_unstable_sendStickyEvent", room, 600_000, None, "m.rtc.member", content)
    await nio.until_heard(room, sent["event_id"])
    await js.until_seen(room, sent["event_id"])
    (held,) = await js.sticky_events(room)
    assert (held["sender"], held["content"]["application"]) == (js.user_id, "m.call")

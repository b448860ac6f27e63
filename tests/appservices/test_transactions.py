"""What application services are sent. spec: application-service-api#pushing-events"""

from tests.appservices.conftest import Bridge
from tests.serving import Person, Running

BOT = "@_bridge_bot:test.example"


async def room_with_bot(bridge: Bridge, server: Running) -> tuple[Person, str]:
    alice = await server.person("alice")
    room = await alice.create_room(invite=[BOT])
    joined = await bridge.call("POST", f"/join/{room}")
    assert joined.status == 200, joined.body
    return alice, room


async def test_events_of_rooms_with_its_users_come_in_order(
    bridge: Bridge, server: Running
) -> None:
    alice, room = await room_with_bot(bridge, server)
    other = await alice.create_room()
    await alice.say(other, "not yours")
    for number in range(30):
        await alice.say(room, f"message {number}")
    await bridge.until(lambda: len(bridge.bodies()) == 30)
    assert bridge.bodies() == [f"message {number}" for number in range(30)]
    first = bridge.events()[0]
    assert (first["type"], first["state_key"], first["room_id"]) == ("m.room.member", BOT, room)
    assert first["content"]["membership"] == "invite"
    numbers = [int(txn_id) for txn_id, _ in bridge.transactions]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_what_happened_during_an_outage_comes_once_and_in_order(
    bridge: Bridge, server: Running
) -> None:
    alice, room = await room_with_bot(bridge, server)
    await bridge.until(lambda: any(e["sender"] == BOT for e in bridge.events()))
    bridge.fail = 503
    for number in range(250):
        await alice.say(room, f"message {number}")
    await bridge.until(lambda: bridge.tries > 2)
    await server.restart()
    assert bridge.bodies() == []
    bridge.fail = 200
    while len(bridge.bodies()) < 250:
        await server.clock.advance(400)
    assert bridge.bodies() == [f"message {number}" for number in range(250)]
    assert max(len(body["events"]) for _, body in bridge.transactions) <= 100


async def test_a_lost_answer_is_followed_by_the_same_transaction(
    bridge: Bridge, server: Running
) -> None:
    alice, room = await room_with_bot(bridge, server)
    await bridge.until(lambda: any(e["sender"] == BOT for e in bridge.events()))
    bridge.transactions.clear()
    bridge.lose_answers = True
    await alice.say(room, "once")
    await bridge.until(lambda: len(bridge.transactions) == 1)
    await server.app.stop()  # as a crash would: the transaction was begun, not acknowledged
    bridge.lose_answers = False
    await server.restart()
    await alice.say(room, "twice")
    await bridge.until(lambda: "twice" in bridge.bodies())
    seen: dict[str, list[list[str]]] = {}
    for txn_id, body in bridge.transactions:
        seen.setdefault(txn_id, []).append([e["content"]["body"] for e in body["events"]])
    first, second = seen.values()
    assert len(first) > 1
    assert all(bodies == ["once"] for bodies in first)
    assert second == [["twice"]]


async def test_services_of_before_version_1_are_sent_to_on_their_paths(
    bridge: Bridge, server: Running
) -> None:
    bridge.old_paths = True
    alice, room = await room_with_bot(bridge, server)
    await alice.say(room, "hello")
    await bridge.until(lambda: "hello" in bridge.bodies())


async def test_a_service_that_knows_no_alias_is_not_taken_for_an_old_one(
    bridge: Bridge, server: Running
) -> None:
    alice, room = await room_with_bot(bridge, server)
    await alice.refused("M_NOT_FOUND", "GET", "/directory/room/%23_bridge_no:test.example")
    await alice.say(room, "hello")
    await bridge.until(lambda: "hello" in bridge.bodies())
    assert bridge.asked == ["/rooms/#_bridge_no:test.example"]
    assert not bridge.older


async def test_receipts_and_typing_come_as_ephemeral(bridge: Bridge, server: Running) -> None:
    alice, room = await room_with_bot(bridge, server)
    event_id = await alice.say(room, "read me")
    await alice.raw("POST", f"/rooms/{room}/receipt/m.read/{event_id}", body={})
    await alice.raw("POST", f"/rooms/{room}/receipt/m.read.private/{event_id}", body={})
    await alice.raw("PUT", f"/rooms/{room}/typing/{alice.user_id}", body={"typing": True})

    def ephemeral() -> list[dict[str, object]]:
        return [one for _, body in bridge.transactions for one in body.get("ephemeral", [])]

    await bridge.until(lambda: {one["type"] for one in ephemeral()} >= {"m.receipt", "m.typing"})
    assert all(one["room_id"] == room for one in ephemeral())
    receipts = [one for one in ephemeral() if one["type"] == "m.receipt"]
    assert "m.read.private" not in str(receipts)
    typing = [one for one in ephemeral() if one["type"] == "m.typing"]
    assert typing[-1]["content"] == {"user_ids": [alice.user_id]}


async def test_events_before_the_join_and_after_the_leave_do_not_come(
    bridge: Bridge, server: Running
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(preset="public_chat")
    await alice.say(room, "before")
    await bridge.call("POST", f"/join/{room}")
    await alice.say(room, "within")
    await bridge.call("POST", f"/rooms/{room}/leave", body={})
    await alice.say(room, "after")
    await bridge.call("POST", f"/join/{room}")
    await alice.say(room, "again")
    await bridge.until(lambda: "again" in bridge.bodies())
    assert bridge.bodies() == ["within", "again"]


async def test_rooms_with_an_alias_of_the_namespace_are_followed(
    bridge: Bridge, server: Running
) -> None:
    alice = await server.person("alice")
    room = await alice.create_room(preset="public_chat")
    user = await bridge.register("_bridge_x")
    await bridge.call("POST", f"/join/{room}", user)
    alias = "%23_bridge_room:test.example"
    put = await bridge.call("PUT", f"/directory/room/{alias}", user, body={"room_id": room})
    assert put.status == 200, put.body
    await bridge.call("POST", f"/rooms/{room}/leave", user, body={})
    await alice.say(room, "nobody of yours is here")
    await bridge.until(lambda: "nobody of yours is here" in bridge.bodies())


async def test_replay_sends_the_last_positions_again(bridge: Bridge, server: Running) -> None:
    alice, room = await room_with_bot(bridge, server)
    await alice.say(room, "first")
    await alice.say(room, "second")
    await bridge.until(lambda: "second" in bridge.bodies())
    await server.app.services.appservices.replay("bridge", 1)
    await bridge.until(lambda: bridge.bodies().count("second") == 2)
    assert bridge.bodies() == ["first", "second", "second"]
    numbers = [txn_id for txn_id, _ in bridge.transactions]
    assert len(set(numbers)) == len(numbers)

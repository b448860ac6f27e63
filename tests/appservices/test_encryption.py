"""What application services that encrypt are told of devices. spec: MSC3202, MSC4203"""

import functools
from dataclasses import dataclass
from typing import Any

import pytest

from tests.appservices.conftest import AS_TOKEN, Bridge
from tests.e2ee.keyed import Keyed, keyed, messages, write
from tests.serving import Person, Reply, Running

BOT = "@_bridge_bot:test.example"
COUNTS = "device_one_time_keys_count"
SPARE = "device_unused_fallback_key_types"


@dataclass
class Ghost(Person):
    """A user of the service, as the service acts for it: one token, the user and device named."""

    async def raw(self, method: str, path: str, **options: Any) -> Reply:
        named = {"user_id": self.user_id, "device_id": self.device_id}
        options["query"] = {**named, **options.get("query", {})}
        return await super().raw(method, path, **options)


async def ghost(bridge: Bridge, user_id: str = BOT, device_id: str = "GHOST") -> Ghost:
    """A user of the service with a device, which nobody is logged in with."""
    made = await bridge.call("PUT", f"/devices/{device_id}", user_id, body={})
    assert made.status in {200, 201}, made.body
    return Ghost(bridge.server, user_id, AS_TOKEN, device_id)


def told(bridge: Bridge) -> list[dict[str, Any]]:
    """The to-device messages, in order; both names hold the same."""
    for _, body in bridge.transactions:
        assert body.get("to_device") == body.get("de.sorunome.msc2409.to_device")
    return [one for _, body in bridge.transactions for one in body.get("to_device", [])]


def texts(bridge: Bridge) -> list[Any]:
    return [event["content"]["text"] for event in told(bridge)]


def has(bridge: Bridge, text: str) -> bool:
    return text in texts(bridge)


def latest(bridge: Bridge, name: str, who: Person) -> Any:
    """What was told last of a device under a name, None if nothing ever was."""
    for _, body in reversed(bridge.transactions):
        assert body.get(name) == body.get(f"org.matrix.msc3202.{name}")
        if who.device_id in body.get(name, {}).get(who.user_id, {}):
            return body[name][who.user_id][who.device_id]
    return None


def lists(bridge: Bridge, which: str) -> set[str]:
    """The users that stood in `changed` or `left`."""
    found: set[str] = set()
    for _, body in bridge.transactions:
        assert body.get("device_lists") == body.get("org.matrix.msc3202.device_lists")
        found |= set(body.get("device_lists", {}).get(which, ()))
    return found


@pytest.fixture
async def encrypting(bridge: Bridge, server: Running) -> Bridge:
    """The bridge with what its registration says when it encrypts."""
    await server.app.services.appservices.add(bridge.registration(**{"org.matrix.msc3202": True}))
    return bridge


async def test_messages_for_its_users_come_in_order_and_say_for_whom(
    encrypting: Bridge, server: Running
) -> None:
    alice = await server.person("alice")
    bot = await ghost(encrypting)
    user = await encrypting.register("_bridge_bob")  # a new account, in no room
    bob = await ghost(encrypting, user, "BOBS")
    await write(alice, alice, "not yours", "t0")
    for n in range(5):
        await write(alice, (bot, bob)[n % 2], n, f"t{n + 1}")
    await encrypting.until(lambda: len(told(encrypting)) == 5)
    assert texts(encrypting) == list(range(5))
    assert told(encrypting)[1] == {
        "type": "test.message", "sender": alice.user_id, "content": {"text": 1},
        "to_user_id": user, "to_device_id": "BOBS",
    }  # fmt: skip


async def test_what_it_has_is_gone_and_what_it_has_not_stays(
    encrypting: Bridge, server: Running
) -> None:
    """A crash between the service's answer and the cursor repeats the transaction, whole."""
    alice, bot = await server.person("alice"), await ghost(encrypting)
    encrypting.lose_answers = True
    for n in range(3):
        await write(alice, bot, n, f"t{n}")
    await encrypting.until(lambda: len(encrypting.transactions) > 0)
    first, body = encrypting.transactions[0]
    await server.app.stop()
    encrypting.lose_answers = False
    await server.restart()
    for text in ("after", "last"):  # a transaction is begun when the one before is done with
        await write(alice, bot, text, text)
        await encrypting.until(functools.partial(has, encrypting, text))
    bodies = [again for txn, again in encrypting.transactions if txn == first]
    assert len(bodies) > 1
    assert all(again == body for again in bodies)
    once = dict(encrypting.transactions).values()
    seen = [one["content"]["text"] for given in once for one in given["to_device"]]
    assert seen == [0, 1, 2, "after", "last"]
    left = messages(await bot.sync(timeout=0))
    assert [event["content"]["text"] for event in left] in ([], ["last"])


async def test_a_long_outage_is_caught_up_in_pages_and_in_order(
    encrypting: Bridge, server: Running
) -> None:
    alice, bot = await server.person("alice"), await ghost(encrypting)
    room = await alice.create_room(invite=[BOT])
    await encrypting.call("POST", f"/join/{room}")
    encrypting.fail, encrypting.tries = 503, 0
    for n in range(130):
        await write(alice, bot, n, f"t{n}")
        if n % 2:
            await alice.say(room, str(n))
    await encrypting.until(lambda: encrypting.tries > 0)
    await server.restart()
    encrypting.fail = 200
    while len(texts(encrypting)) < 130 or len(encrypting.bodies()) < 65:
        await server.clock.advance(400)
    assert texts(encrypting) == list(range(130))
    assert encrypting.bodies() == [str(n) for n in range(1, 130, 2)]
    assert max(len(body.get("to_device", ())) for _, body in encrypting.transactions) <= 100


@pytest.mark.parametrize("exclusive", [True, False])
async def test_messages_of_who_may_log_in_elsewhere_stay_for_sync(
    bridge: Bridge, server: Running, exclusive: bool
) -> None:
    """As they do where the service has not said that it takes them all from transactions."""
    spaces = {"users": [{"exclusive": exclusive, "regex": "@(_bridge_|carol).*"}]}
    registration = bridge.registration(namespaces=spaces, **{"org.matrix.msc3202": not exclusive})
    alice, carol = await server.person("alice"), await server.person("carol")
    await server.app.services.appservices.add(registration)
    await write(alice, carol, 1, "t1")
    await bridge.until(lambda: texts(bridge) == [1])
    await write(alice, carol, 2, "t2")
    await bridge.until(lambda: texts(bridge) == [1, 2])
    assert [event["content"]["text"] for event in messages(await carol.sync(timeout=0))] == [1, 2]


async def test_key_counts_come_when_keys_are_uploaded_or_claimed(
    encrypting: Bridge, server: Running
) -> None:
    alice, bot = await server.person("alice"), await ghost(encrypting)
    asking = await keyed(alice)
    keys = Keyed(bot)
    await keys.upload(3)
    await encrypting.until(lambda: latest(encrypting, COUNTS, bot) == {"signed_curve25519": 3})
    assert latest(encrypting, SPARE, bot) == []
    await keys.upload(fallback_keys={"signed_curve25519:F": keys.key(fallback=True)})
    await encrypting.until(lambda: latest(encrypting, SPARE, bot) == ["signed_curve25519"])
    for _ in range(4):
        await asking.claim(keys)
    await encrypting.until(lambda: latest(encrypting, SPARE, bot) == [])
    assert latest(encrypting, COUNTS, bot) == {"signed_curve25519": 0}
    encrypting.transactions.clear()
    await server.restart()  # what moved meanwhile is not known: all are told once
    await encrypting.until(lambda: latest(encrypting, COUNTS, bot) is not None)
    assert latest(encrypting, COUNTS, bot) == {"signed_curve25519": 0}


async def test_changed_lists_of_those_it_shares_a_room_with(
    encrypting: Bridge, server: Running
) -> None:
    alice, bob, eve = [await server.person(name) for name in ("alice", "bob", "eve")]
    bot = await ghost(encrypting)
    await Keyed(bot).upload(1)
    await encrypting.until(lambda: latest(encrypting, COUNTS, bot) is not None)
    room = await alice.create_room(preset="public_chat")
    await encrypting.call("POST", f"/join/{room}")
    await encrypting.until(lambda: alice.user_id in lists(encrypting, "changed"))
    encrypting.transactions.clear()
    await keyed(eve)
    await keyed(alice)
    await encrypting.until(lambda: alice.user_id in lists(encrypting, "changed"))
    await bob.join(room)
    await encrypting.until(lambda: bob.user_id in lists(encrypting, "changed"))
    await bob.ok("POST", f"/rooms/{room}/leave", body={})
    await encrypting.until(lambda: bob.user_id in lists(encrypting, "left"))
    await encrypting.call("POST", f"/rooms/{room}/leave", body={})
    await encrypting.until(lambda: alice.user_id in lists(encrypting, "left"))
    assert lists(encrypting, "left") == {alice.user_id, bob.user_id}
    assert lists(encrypting, "changed") == {alice.user_id, bob.user_id}


async def test_lists_that_changed_while_it_was_away_are_told(
    encrypting: Bridge, server: Running
) -> None:
    alice, bot = await server.person("alice"), await ghost(encrypting)
    room = await alice.create_room(preset="public_chat")
    await Keyed(bot).upload(1)
    await encrypting.call("POST", f"/join/{room}")
    await encrypting.until(lambda: alice.user_id in lists(encrypting, "changed"))
    encrypting.transactions.clear()
    encrypting.fail, encrypting.tries = 503, 0
    await keyed(alice)
    await encrypting.until(lambda: encrypting.tries > 0)
    await server.restart()
    encrypting.fail = 200
    while alice.user_id not in lists(encrypting, "changed"):
        await server.clock.advance(400)


async def test_a_service_that_asked_for_nothing_is_told_nothing_of_devices(
    bridge: Bridge, server: Running
) -> None:
    await server.app.services.appservices.add(bridge.registration(receive_ephemeral=False))
    alice, bot = await server.person("alice"), await ghost(bridge)
    room = await alice.create_room(invite=[BOT])
    await bridge.call("POST", f"/join/{room}")
    await Keyed(bot).upload(1)
    await keyed(alice)
    await write(alice, bot, 1, "t1")
    await alice.say(room, "after it")
    await bridge.until(lambda: "after it" in bridge.bodies())
    assert all(set(body) == {"events"} for _, body in bridge.transactions)
    assert [event["content"]["text"] for event in messages(await bot.sync(timeout=0))] == [1]

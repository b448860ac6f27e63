"""Whatever lets a count fall is told to gateways within two seconds, by a badge alone.

spec: push-gateway-api#post_matrixpushv1notify
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

import pytest

from tests.api.test_devices import second_device
from tests.push.conftest import PushGateway
from tests.rooms.paths import at
from tests.serving import Person, Running
from tests.streams.reading import ignore, moved, read, redact


@dataclass
class Scene:
    """Alice has two unread messages of Bob's in `room`, the second in a thread of `root`'s."""

    alice: Person
    bob: Person
    room: str
    root: str
    reply: str


Way = Callable[[Scene], Awaitable[object]]
WAYS: list[tuple[Way, int]] = []


def leaves(unread: int) -> Callable[[Way], Way]:
    """So many are unread when this was done."""

    def add(way: Way) -> Way:
        WAYS.append((way, unread))
        return way

    return add


@leaves(0)
async def a_receipt(scene: Scene) -> None:
    await read(scene.alice, scene.room, scene.reply)


@leaves(0)
async def a_private_receipt(scene: Scene) -> None:
    await read(scene.alice, scene.room, scene.reply, "m.read.private")


@leaves(0)
async def a_receipt_with_the_read_marker(scene: Scene) -> None:
    body = {"m.fully_read": scene.reply, "m.read": scene.reply}
    await scene.alice.ok("POST", at(scene.room, "read_markers"), body=body)


@leaves(1)
async def a_receipt_of_the_thread(scene: Scene) -> None:
    await read(scene.alice, scene.room, scene.reply, thread_id=scene.root)


@leaves(1)
async def a_receipt_of_the_main_timeline(scene: Scene) -> None:
    await read(scene.alice, scene.room, scene.root, thread_id="main")


@leaves(1)
async def an_answer(scene: Scene) -> None:
    """In the main timeline, so the thread is still unread."""
    await scene.alice.say(scene.room, "I know")


@leaves(1)
async def a_redaction(scene: Scene) -> None:
    await redact(scene.bob, scene.room, scene.reply)


@leaves(0)
async def leaving(scene: Scene) -> None:
    await moved(scene.alice, scene.room, "leave")


@leaves(0)
async def a_kick(scene: Scene) -> None:
    await moved(scene.bob, scene.room, "kick", scene.alice)


@leaves(0)
async def a_ban(scene: Scene) -> None:
    await moved(scene.bob, scene.room, "ban", scene.alice)


@leaves(0)
async def ignoring(scene: Scene) -> None:
    await ignore(scene.alice, scene.bob)


@leaves(0)
async def muting_the_room(scene: Scene) -> None:
    path = f"/pushrules/global/room/{quote(scene.room, safe='')}"
    await scene.alice.ok("PUT", path, body={"actions": []})


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("way", "unread"), WAYS, ids=lambda one: getattr(one, "__name__", ""))
async def test_the_badge_falls(
    server: Running, gateway: PushGateway, way: Way, unread: int
) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await bob.create_room(preset="public_chat")
    await alice.join(room)
    await gateway.register(alice)
    root = await bob.say(room, "root")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    content = {"msgtype": "m.text", "body": "in a thread", **thread}
    reply = await bob.send(room, "m.room.message", content)
    await gateway.until(lambda: len(gateway.events()) == 2)
    assert gateway.told[-1]["counts"] == {"unread": 2}
    # On another device than the one that is told.
    other = Person(server, alice.user_id, await second_device(alice), "TWO")
    await way(Scene(other, bob, room, root, reply))
    await gateway.noticed()
    await server.clock.advance(1.5)
    await gateway.until(lambda: len(gateway.told) == 3)
    assert gateway.told[2]["counts"] == {"unread": unread}
    assert "event_id" not in gateway.told[2]

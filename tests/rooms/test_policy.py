"""Rooms that use no policy server pay nothing for those that do.

spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
"""

import pytest

from homeserver.matrix.policy import Policy
from homeserver.rooms.head import Head
from homeserver.rooms.policy import policy_of
from tests.serving import SERVER_NAME, Running


async def test_whether_a_room_uses_one_is_known_without_reading(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    rooms = server.app.services.rooms
    room = await rooms.find(room_id)
    assert room is not None
    looks = 0

    def look(head: Head) -> Policy | None:
        nonlocal looks
        looks += 1
        return policy_of(head, SERVER_NAME)

    assert await rooms.read(room, look) is None
    # A look that lacked something would have been repeated.
    assert looks == 1


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"via": "policy.example"},
        {"via": 1, "public_keys": {"ed25519": "x"}},
        {"via": "no name", "public_keys": {"ed25519": "x"}},
        {"via": "policy.example", "public_keys": ["ed25519"]},
        {"via": "policy.example", "public_keys": {"ed25519": None}},
    ],
)
def test_a_policy_that_lacks_a_field_is_none(content: dict[str, object]) -> None:
    assert Policy.read(content) is None


async def test_a_room_that_names_this_server_uses_none(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    content = {"via": SERVER_NAME, "public_keys": {"ed25519": "x"}}
    await alice.put_state(room_id, "m.room.policy", content)
    await alice.say(room_id, "hello")

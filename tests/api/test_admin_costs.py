"""What costs most, as administrators and Prometheus are told."""

from tests.rooms.paths import at
from tests.serving import Running

COSTS = "/_homeserver/admin/v1/costs"


async def test_rooms_users_and_endpoints_are_named(server: Running) -> None:
    admin = await server.person("admin", admin=True)
    ada = await server.person("ada")
    room_id = await ada.create_room()
    for number in range(5):
        await ada.say(room_id, f"message {number}")
    await ada.ok("GET", at(room_id, "messages"), query={"dir": "b"})
    found = await admin.ok("GET", COSTS)
    (room,) = [row for row in found["rooms"] if row["name"] == room_id]
    assert room["requests"] == 6
    assert room["loop_us"] > 0
    assert room["database_us"] > 0
    assert ada.user_id in [row["name"] for row in found["users"]]
    send = "PUT /_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}"
    assert send in [row["name"] for row in found["endpoints"]]
    assert len((await admin.ok("GET", COSTS, query={"limit": 1}))["endpoints"]) == 1
    assert (await ada.raw("GET", COSTS)).status == 403
    shown = server.app.metrics.render().decode()
    assert f'homeserver_cost_loop_seconds{{kind="room",name="{room_id}"}}' in shown

"""Reports become tickets that administrators read and close."""

from urllib.parse import quote

from tests.serving import Running

TICKETS = "/_synapse/admin/v1/event_reports"


async def test_reports_are_tickets(server: Running) -> None:
    admin = await server.person("admin", admin=True)
    alice, bob = await server.person("alice"), await server.person("bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    event = await alice.say(room, "bad words")
    path = f"/rooms/{quote(room, safe='')}/report"
    await bob.ok("POST", f"{path}/{quote(event, safe='')}", body={"reason": "rude", "score": -100})
    await bob.ok("POST", path, body={"reason": ""})
    await bob.ok("POST", f"/users/{quote(alice.user_id, safe='')}/report", body={"reason": "x"})
    await bob.ok("POST", "/users/%40nobody%3Atest.example/report", body={"reason": "x"})
    listed = (await admin.ok("GET", TICKETS))["event_reports"]
    assert [ticket["reason"] for ticket in listed] == ["x", "x", "", "rude"]
    ticket = listed[-1]
    assert ticket["user_id"] == bob.user_id
    assert ticket["room_id"] == room
    assert ticket["event_id"] == event
    assert ticket["reported_user_id"] == alice.user_id
    assert ticket["state"] == "open"
    one = f"{TICKETS}/{ticket['id']}"
    await admin.ok("PUT", one, body={"state": "closed", "note": "warned"})
    assert (await admin.ok("GET", one))["note"] == "warned"
    closed = (await admin.ok("GET", TICKETS, query={"state": "closed"}))["event_reports"]
    assert [found["id"] for found in closed] == [ticket["id"]]
    first = await admin.ok("GET", TICKETS, query={"limit": 2})
    rest = await admin.ok("GET", TICKETS, query={"limit": 2, "from": first["next_token"]})
    assert len(first["event_reports"]) + len(rest["event_reports"]) == 3
    await admin.refused("M_NOT_FOUND", "GET", f"{TICKETS}/999")
    await bob.refused("M_FORBIDDEN", "GET", TICKETS)


async def test_only_members_report_events(server: Running) -> None:
    alice, eve = await server.person("alice"), await server.person("eve")
    room = await alice.create_room(preset="public_chat")
    event = await alice.say(room, "hello")
    path = f"/rooms/{quote(room, safe='')}/report"
    await eve.refused("M_NOT_FOUND", "POST", f"{path}/{quote(event, safe='')}", body={})
    await alice.refused("M_NOT_FOUND", "POST", f"{path}/%24unknown", body={})
    await eve.ok("POST", path, body={"reason": "a stranger may report the room"})
    await eve.refused("M_INVALID_PARAM", "POST", path, body={"reason": "x" * 5_000})

"""A server that sends more than its share is refused, and slows no other down.

spec: server-server-api#transactions
"""

import asyncio
from pathlib import Path

import trustme

from tests.federation.branch import Branch
from tests.federation.house import heard, house
from tests.serving import Reply

AT_ONCE = 8


async def test_a_flood_is_refused_and_slows_nobody_down(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with house(authority, tmp_path) as made:
        a = made.server("a.example", limits=True)
        few = '[limits]\nserver_send = "1/s, 20 at once"'
        a.config.write_text(a.config.read_text().replace("[limits]", few))
        await made.start("a.example")
        alice = await a.person("alice")
        room = await alice.create_room(preset="public_chat", room_version="11")
        flooding = await Branch.join(await made.guest("flood.example"), a, room)
        honest = await Branch.join(await made.guest("honest.example"), a, room)
        await alice.sync()
        refused: list[Reply] = []
        taken = 0
        over, is_refused = asyncio.Event(), asyncio.Event()

        async def flood() -> None:
            nonlocal taken
            while not over.is_set():
                reply = await flooding.guest.send(a)
                if reply.status == 429:
                    refused.append(reply)
                    is_refused.set()
                else:
                    assert reply.status == 200, reply.body
                    taken += 1

        floods = [asyncio.create_task(flood()) for _ in range(AT_ONCE)]
        await asyncio.wait_for(is_refused.wait(), 100)
        # The flood goes on; whoever else sends is taken, and heard.
        for number in range(15):
            event = honest.add("m.room.message", {"msgtype": "m.text", "body": str(number)})
            sent = await honest.guest.send(a, event.pdu)
            assert sent.body == {"pdus": {event.event_id: {}}}
            await heard(alice, room, event.event_id)
        over.set()
        await asyncio.gather(*floods)
        assert taken >= 20
        for reply in refused:
            assert reply.errcode == "M_LIMIT_EXCEEDED"
            assert 0 < reply.body["retry_after_ms"] <= 1_000
        assert "limit server_send refuses flood.example" in a.log.read_text()

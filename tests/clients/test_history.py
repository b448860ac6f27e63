"""A long room: both programs page back to its start and find every event once and in order."""

from functools import partial

from bench.client import Client
from bench.meter import in_parallel
from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.processes import Server
from tests.serving import PASSWORD

MESSAGES = 500


async def test_both_page_back_to_the_start_of_500_messages(
    server: Server, nio: NioPerson, js: JsPerson
) -> None:
    room_id = await nio.create_room("Archive")
    writer = Client("127.0.0.1", server.port)
    await writer.login("nina", PASSWORD)
    jobs = [partial(writer.say, room_id, f"message {number}") for number in range(MESSAGES)]
    sent = await in_parallel(8, jobs)
    await nio.invite(room_id, js.user_id)
    await js.join(room_id)
    await js.until(room_id, lambda view: view.membership == "join")
    last = await js.say(room_id, "I have arrived")
    await nio.until_seen(room_id, last)

    history = [event["event_id"] for event in await writer.history(room_id)][::-1]
    writer.close()
    assert len(history) == len(set(history))
    assert set(sent) < set(history)
    for person in (nio, js):
        await person.until_seen(room_id, last)
        assert await person.page_back(room_id) == history

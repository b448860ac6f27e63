"""Two people with different programs do what people do in a room."""

import pytest

from tests.clients.js_person import JsPerson
from tests.clients.nio_person import NioPerson
from tests.clients.person import Person, in_one_piece


@pytest.fixture(params=["nio first", "js first"])
def pair(request: pytest.FixtureRequest, nio: NioPerson, js: JsPerson) -> tuple[Person, Person]:
    """The one who makes the room, and the one who is invited."""
    return (nio, js) if request.param == "nio first" else (js, nio)


async def test_a_conversation_from_the_invite_to_the_leave(pair: tuple[Person, Person]) -> None:
    await converse(*pair)


async def converse(host: Person, guest: Person) -> None:
    """Everything that two people do in a room, seen by both."""
    room_id = await host.create_room("The garden")
    await host.until(room_id, lambda view: view.name == "The garden")

    await host.invite(room_id, guest.user_id)
    await guest.until(room_id, lambda view: view.membership == "invite")
    await guest.join(room_id)
    view = await guest.until(room_id, lambda view: view.membership == "join")
    assert view.members[host.user_id].membership == "join"
    await host.until(room_id, lambda view: view.members[guest.user_id].membership == "join")

    question = await host.say(room_id, "Is it raining?")
    seen = (await guest.until_seen(room_id, question)).event(question)
    assert seen is not None
    assert (seen.body, seen.sender) == ("Is it raining?", host.user_id)
    answer = await guest.say(room_id, "Not here")
    await host.until_seen(room_id, answer)

    await guest.edit(room_id, answer, "Not here, not yet")
    await host.until(room_id, lambda view: _body(view.event(answer)) == "Not here, not yet")

    reaction = await host.react(room_id, answer, "👍")
    await guest.until(room_id, lambda view: _reactions(view.event(answer)) == ("👍",))
    await guest.until_seen(room_id, reaction)

    await host.redact(room_id, question)
    await guest.until(room_id, lambda view: _redacted(view.event(question)))

    await guest.type(room_id, typing=True)
    await host.until(room_id, lambda view: guest.user_id in view.typing)
    await guest.type(room_id, typing=False)
    await host.until(room_id, lambda view: guest.user_id not in view.typing)

    await host.read(room_id, answer)
    await guest.until(room_id, lambda view: view.receipts.get(host.user_id) == answer)

    await guest.rename("The Guest")
    await host.until(room_id, lambda view: view.members[guest.user_id].name == "The Guest")
    await host.name_room(room_id, "The winter garden")
    await guest.until(room_id, lambda view: view.name == "The winter garden")

    await guest.leave(room_id)
    await host.until(
        room_id,
        lambda view: (
            guest.user_id not in view.members or view.members[guest.user_id].membership == "leave"
        ),
    )
    for person in (host, guest):
        heard = in_one_piece(await person.heard(room_id))
        assert len(heard) == len(set(heard)), "an event was delivered twice"


async def test_a_program_that_logged_out_can_log_in_again(nio: NioPerson, js: JsPerson) -> None:
    room_id = await js.create_room("Door")
    await js.invite(room_id, nio.user_id)
    await nio.until(room_id, lambda view: view.membership == "invite")
    await nio.join(room_id)
    await nio.quit()
    await nio.log_out()
    await nio.login("nina")
    greeting = await nio.say(room_id, "back again")
    await js.until_seen(room_id, greeting)


def _body(seen: object) -> str | None:
    return getattr(seen, "body", None)


def _reactions(seen: object) -> tuple[str, ...]:
    return getattr(seen, "reactions", ())


def _redacted(seen: object) -> bool:
    return getattr(seen, "redacted", False)

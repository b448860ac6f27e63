"""Awkward cases of unread counts: what is done in a room, and what its reader must be told then.

Owns the table `CASES`. The expected answer is the specification's; where Synapse gives another one,
the case says which, and why it isn't taken over.
spec: client-server-api#receiving-notifications and client-server-api#threaded-read-receipts
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.rooms.paths import at
from tests.serving import Person
from tests.streams.reading import ignore, invite, keep, moved, read, redact

Pair = tuple[int, int]
NOTHING: Pair = (0, 0)


class Told(NamedTuple):
    """Notifications and highlights of the main timeline, and of threads by the order of roots."""

    main: Pair
    threads: tuple[Pair, ...] = ()


@dataclass
class Scene:
    """Bob's room, which Alice has joined; `roots` are the threads that the case looks at."""

    alice: Person
    bob: Person
    carol: Person
    room: str
    roots: list[str] = field(default_factory=list)

    async def text(self, body: str = "x", by: Person | None = None, **more: Any) -> str:
        content = {"msgtype": "m.text", "body": body, **more}
        return await (by or self.bob).send(self.room, "m.room.message", content)

    async def root(self) -> str:
        """A message of Bob's that a thread hangs on."""
        self.roots.append(await self.text("root"))
        return self.roots[-1]

    async def in_thread(self, root: str, by: Person | None = None, **more: Any) -> str:
        return await self.text("in a thread", by, **thread(root), **more)

    async def rule(self, kind: str, rule_id: str, **body: Any) -> None:
        path = f"/pushrules/global/{kind}/{quote(rule_id, safe='')}"
        await self.alice.ok("PUT", path, body=body)

    async def read(self, event_id: str, kind: str = "m.read", **body: Any) -> None:
        await read(self.alice, self.room, event_id, kind, **body)


@dataclass(frozen=True)
class Case:
    """`deviation` is what Synapse says instead; `own_reader`: the case changes Alice's account."""

    name: str
    play: Callable[[Scene], Awaitable[object]]
    expected: Told
    deviation: Told | None
    reason: str
    own_reader: bool


CASES: list[Case] = []
SAYING = "clients send no receipts for what they say, so that is one; Synapse waits for receipts"
RULES = "rules say what is wanted now, of what is unread too; Synapse keeps what they said before"
Play = Callable[[Scene], Awaitable[object]]


def case(
    main: Pair,
    *threads: Pair,
    synapse: Told | None = None,
    reason: str = "",
    own_reader: bool = False,
) -> Callable[[Play], Play]:
    """Add a case to the table."""

    def add(play: Play) -> Play:
        assert (synapse is None) == (not reason), "a deviation has a reason"
        name = getattr(play, "__name__", "")
        CASES.append(Case(name, play, Told(main, threads), synapse, reason, own_reader))
        return play

    return add


def mention(*people: Person, **more: Any) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": [person.user_id for person in people], **more}}


def thread(root: str) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


def edit(event_id: str) -> dict[str, Any]:
    new = {"msgtype": "m.text", "body": "edited"}
    return {"m.new_content": new, "m.relates_to": {"rel_type": "m.replace", "event_id": event_id}}


# What counts


@case((1, 0))
async def a_message(scene: Scene) -> None:
    await scene.text()


@case((1, 0))
async def an_encrypted_message(scene: Scene) -> None:
    await scene.bob.send(scene.room, "m.room.encrypted", {"algorithm": "x", "ciphertext": "x"})


@case((1, 1))
async def an_encrypted_message_that_mentions_in_the_clear(scene: Scene) -> None:
    content = {"algorithm": "x", "ciphertext": "x", **mention(scene.alice)}
    await scene.bob.send(scene.room, "m.room.encrypted", content)


@case(NOTHING)
async def a_notice(scene: Scene) -> None:
    await scene.text(msgtype="m.notice")


@case(NOTHING)
async def a_notice_that_mentions(scene: Scene) -> None:
    await scene.text(msgtype="m.notice", **mention(scene.alice))


@case(NOTHING)
async def a_sticker(scene: Scene) -> None:
    content = {"body": "x", "url": "mxc://a/b", "info": {}}
    await scene.bob.send(scene.room, "m.sticker", content)


@case((1, 0))
async def a_reaction_to_a_message(scene: Scene) -> None:
    event_id = await scene.text()
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "+"}}
    await scene.bob.send(scene.room, "m.reaction", content)


@case(NOTHING)
async def state_and_members(scene: Scene) -> None:
    await scene.bob.put_state(scene.room, "m.room.topic", {"topic": "x"})
    await scene.carol.join(scene.room)
    await scene.bob.put_state(scene.room, "m.room.server_acl", {"allow": ["*"]})


@case((1, 1))
async def a_tombstone(scene: Scene) -> None:
    elsewhere = await scene.bob.create_room()
    content = {"body": "x", "replacement_room": elsewhere}
    await scene.bob.put_state(scene.room, "m.room.tombstone", content)


@case(NOTHING)
async def ones_own_messages(scene: Scene) -> None:
    await scene.text(by=scene.alice, **mention(scene.alice))


# Mentions


@case((1, 1))
async def a_mention(scene: Scene) -> None:
    await scene.text(**mention(scene.alice))


@case((1, 0))
async def a_mention_of_somebody_else(scene: Scene) -> None:
    await scene.text(scene.alice.user_id, **mention(scene.carol))


@case((1, 0))
async def a_mention_of_the_wrong_form(scene: Scene) -> None:
    wrong: dict[str, Any] = {"m.mentions": {"user_ids": scene.alice.user_id}}
    await scene.text(**wrong)


@case((1, 1))
async def a_mention_of_the_room(scene: Scene) -> None:
    await scene.text(**mention(room=True))


@case((1, 0))
async def a_mention_of_the_room_without_the_power(scene: Scene) -> None:
    await scene.carol.join(scene.room)
    await scene.text(by=scene.carol, **mention(room=True))


@case((1, 0))
async def an_edit(scene: Scene) -> None:
    await scene.text(**edit(await scene.text()))


@case((2, 1))
async def an_edit_that_mentions(scene: Scene) -> None:
    await scene.text(**edit(await scene.text()), **mention(scene.alice))


@case((1, 1))
async def an_edit_of_what_mentioned(scene: Scene) -> None:
    event_id = await scene.text(**mention(scene.alice))
    await scene.text(**edit(event_id), **mention())


# Redactions


@case((1, 0))
async def a_redacted_message(scene: Scene) -> None:
    await scene.text()
    await redact(scene.bob, scene.room, await scene.text(**mention(scene.alice)))


@case((0, 0))
async def a_redacted_message_that_was_read(scene: Scene) -> None:
    event_id = await scene.text()
    await scene.read(event_id)
    await redact(scene.bob, scene.room, event_id)


@case((1, 0), NOTHING)
async def a_redacted_message_of_a_thread(scene: Scene) -> None:
    event_id = await scene.in_thread(await scene.root())
    await redact(scene.bob, scene.room, event_id)


@case((0, 0), (1, 0))
async def a_redacted_root(scene: Scene) -> None:
    root = await scene.root()
    await scene.in_thread(root)
    await redact(scene.bob, scene.room, root)


# Receipts


@case((1, 0))
async def a_receipt_of_the_first_of_two(scene: Scene) -> None:
    event_id = await scene.text()
    await scene.text()
    await scene.read(event_id)


@case(NOTHING)
async def a_private_receipt(scene: Scene) -> None:
    await scene.read(await scene.text(**mention(scene.alice)), "m.read.private")


@case(NOTHING)
async def a_private_receipt_ahead_of_the_public_one(scene: Scene) -> None:
    first = await scene.text()
    await scene.read(await scene.text(), "m.read.private")
    await scene.read(first)


@case(NOTHING)
async def a_public_receipt_ahead_of_the_private_one(scene: Scene) -> None:
    first = await scene.text()
    await scene.read(await scene.text())
    await scene.read(first, "m.read.private")


@case(NOTHING)
async def a_receipt_that_goes_back(scene: Scene) -> None:
    first = await scene.text()
    await scene.read(await scene.text())
    await scene.read(first)


@case((1, 0))
async def somebody_elses_receipt(scene: Scene) -> None:
    event_id = await scene.text()
    await read(scene.bob, scene.room, event_id)


@case((1, 0))
async def a_read_marker_without_a_receipt(scene: Scene) -> None:
    path = at(scene.room, "read_markers")
    await scene.alice.ok("POST", path, body={"m.fully_read": await scene.text()})


@case(NOTHING)
async def a_read_marker_with_a_private_receipt(scene: Scene) -> None:
    event_id = await scene.text()
    body = {"m.fully_read": event_id, "m.read.private": event_id}
    await scene.alice.ok("POST", at(scene.room, "read_markers"), body=body)


@case(NOTHING)
async def a_room_marked_as_unread(scene: Scene) -> None:
    await scene.read(await scene.text())
    await keep(scene.alice, "m.marked_unread", {"unread": True}, scene.room)


@case((1, 0), synapse=Told((2, 1)), reason=SAYING)
async def ones_own_message_and_one_after_it(scene: Scene) -> None:
    await scene.text(**mention(scene.alice))
    await scene.text(by=scene.alice)
    await scene.text()


@case((1, 0))
async def ones_own_redaction_is_no_reading(scene: Scene) -> None:
    own = await scene.text(by=scene.alice)
    await scene.text()
    await redact(scene.alice, scene.room, own)


@case(
    (1, 0),
    synapse=Told(NOTHING),
    reason="who changes a name has read nothing; Synapse counts from the last member event",
)
async def ones_own_state_is_no_reading(scene: Scene) -> None:
    await scene.text()
    content = {"membership": "join", "displayname": "Al"}
    await scene.alice.put_state(scene.room, "m.room.member", content, scene.alice.user_id)


# Threads


@case((1, 0), (2, 1))
async def messages_of_a_thread(scene: Scene) -> None:
    root = await scene.root()
    await scene.in_thread(root)
    await scene.in_thread(root, **mention(scene.alice))


@case(NOTHING, (1, 0))
async def a_receipt_of_the_main_timeline(scene: Scene) -> None:
    root = await scene.root()
    await scene.in_thread(root)
    await scene.read(await scene.text(), thread_id="main")


@case((1, 0), NOTHING, (1, 0))
async def a_receipt_of_one_of_two_threads(scene: Scene) -> None:
    first, second = await scene.root(), await scene.root()
    await scene.read(second, thread_id="main")
    event_id = await scene.in_thread(first)
    await scene.in_thread(second)
    await scene.read(event_id, thread_id=first)
    await scene.text()


@case(NOTHING, NOTHING)
async def a_receipt_without_a_thread_is_for_all(scene: Scene) -> None:
    root = await scene.root()
    await scene.text()
    await scene.read(await scene.in_thread(root))


@case(NOTHING, (1, 0))
async def a_receipt_without_a_thread_is_for_what_came_before(scene: Scene) -> None:
    root = await scene.root()
    await scene.in_thread(root)
    await scene.read(await scene.text())
    await scene.in_thread(root)


@case((1, 0), NOTHING)
async def a_receipt_of_a_thread_behind_one_for_all(scene: Scene) -> None:
    root = await scene.root()
    first = await scene.in_thread(root)
    await scene.read(await scene.in_thread(root))
    await scene.read(first, thread_id=root)
    await scene.text()


@case((1, 0), NOTHING, synapse=Told((1, 0), ((1, 0),)), reason=SAYING)
async def ones_own_message_in_a_thread(scene: Scene) -> None:
    root = await scene.root()
    await scene.in_thread(root)
    await scene.in_thread(root, scene.alice)


@case(NOTHING, (1, 0), synapse=Told((1, 0), ((1, 0),)), reason=SAYING)
async def ones_own_message_beside_a_thread(scene: Scene) -> None:
    root = await scene.root()
    await scene.in_thread(root)
    await scene.text(by=scene.alice)


@case((2, 0), NOTHING)
async def a_private_receipt_of_a_thread(scene: Scene) -> None:
    event_id = await scene.in_thread(await scene.root())
    await scene.text()
    await scene.read(event_id, "m.read.private", thread_id=scene.roots[0])


@case((1, 0), (1, 0))
async def a_redacted_mention_of_a_thread(scene: Scene) -> None:
    root = await scene.root()
    event_id = await scene.in_thread(root, **mention(scene.alice))
    await scene.in_thread(root)
    await redact(scene.bob, scene.room, event_id)


@case((1, 0), (1, 0))
async def an_edit_and_a_reaction_in_a_thread(scene: Scene) -> None:
    root = await scene.root()
    event_id = await scene.in_thread(root)
    await scene.text(**edit(event_id))
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "+"}}
    await scene.bob.send(scene.room, "m.reaction", content)


# Coming and going


@case(NOTHING)
async def what_was_said_before_one_came(scene: Scene) -> None:
    await moved(scene.alice, scene.room, "leave")
    await scene.text(**mention(scene.alice))
    await scene.alice.join(scene.room)


@case((1, 0))
async def unread_when_one_left_and_came_again(scene: Scene) -> None:
    await scene.text(**mention(scene.alice))
    await moved(scene.alice, scene.room, "leave")
    await scene.alice.join(scene.room)
    await scene.text()


@case(NOTHING)
async def kicked_and_invited_again(scene: Scene) -> None:
    await scene.text()
    await moved(scene.bob, scene.room, "kick", scene.alice)
    await scene.text()
    await invite(scene.bob, scene.room, scene.alice)
    await scene.alice.join(scene.room)


@case((1, 0))
async def banned_and_back(scene: Scene) -> None:
    await scene.text()
    await moved(scene.bob, scene.room, "ban", scene.alice)
    await moved(scene.bob, scene.room, "unban", scene.alice)
    await scene.alice.join(scene.room)
    await scene.text()


@case(NOTHING)
async def left_forgotten_and_back(scene: Scene) -> None:
    await scene.text(**mention(scene.alice))
    await moved(scene.alice, scene.room, "leave")
    await scene.alice.ok("POST", at(scene.room, "forget"), body={})
    await scene.text(**mention(scene.alice))
    await scene.alice.join(scene.room)


@case((2, 1))
async def in_a_room_that_was_upgraded(scene: Scene) -> None:
    """The tombstone mentions everybody; what was unread before still is."""
    await scene.text()
    await scene.bob.ok("POST", at(scene.room, "upgrade"), body={"new_version": "11"})


# Rules and ignored users


@case(NOTHING, own_reader=True)
async def from_an_ignored_user(scene: Scene) -> None:
    await ignore(scene.alice, scene.bob)
    await scene.text(**mention(scene.alice))


@case(
    NOTHING,
    own_reader=True,
    synapse=Told((1, 1)),
    reason="what is shown nowhere counts nowhere; Synapse keeps what it has counted",
)
async def from_somebody_ignored_later(scene: Scene) -> None:
    await scene.text(**mention(scene.alice))
    await ignore(scene.alice, scene.bob)


@case((1, 1), own_reader=True)
async def in_a_muted_room(scene: Scene) -> None:
    await scene.rule("room", scene.room, actions=[])
    await scene.text()
    await scene.text(**mention(scene.alice))


@case(
    (1, 0),
    own_reader=True,
    synapse=Told((2, 0)),
    reason="the rule of a sender matches the sender; Synapse compares user_id, which no event has",
)
async def from_a_muted_sender(scene: Scene) -> None:
    await scene.carol.join(scene.room)
    await scene.rule("sender", scene.carol.user_id, actions=[])
    await scene.text(by=scene.carol)
    await scene.text()


@case((2, 1), own_reader=True)
async def a_keyword(scene: Scene) -> None:
    actions = ["notify", {"set_tweak": "highlight"}]
    await scene.rule("content", "sweet", pattern="cake", actions=actions)
    await scene.text("there is CAKE!")
    await scene.text("there are pancakes")


@case(NOTHING, own_reader=True)
async def everything_switched_off(scene: Scene) -> None:
    path = "/pushrules/global/override/.m.rule.master/enabled"
    await scene.alice.ok("PUT", path, body={"enabled": True})
    await scene.text(**mention(scene.alice))


@case((1, 0), own_reader=True)
async def in_a_thread_from_an_ignored_user(scene: Scene) -> None:
    await scene.carol.join(scene.room)
    await ignore(scene.alice, scene.carol)
    root = await scene.root()
    scene.roots.clear()
    await scene.in_thread(root, scene.carol, **mention(scene.alice))


@case(
    (2, 1),
    own_reader=True,
    synapse=Told((1, 1)),
    reason="what is shown again counts again; Synapse has not counted it",
)
async def from_somebody_ignored_no_more(scene: Scene) -> None:
    await ignore(scene.alice, scene.bob)
    await scene.text()
    await ignore(scene.alice)
    await scene.text(**mention(scene.alice))


@case(NOTHING, own_reader=True, synapse=Told((1, 0)), reason=RULES)
async def muted_after_it_was_said(scene: Scene) -> None:
    await scene.text()
    await scene.rule("room", scene.room, actions=[])


@case((1, 1), own_reader=True, synapse=Told((1, 0)), reason=RULES)
async def a_keyword_that_came_later(scene: Scene) -> None:
    await scene.text("cake")
    actions = ["notify", {"set_tweak": "highlight"}]
    await scene.rule("content", "sweet", pattern="cake", actions=actions)


@case((1, 0), own_reader=True)
async def a_rule_that_was_taken_away(scene: Scene) -> None:
    await scene.rule("room", scene.room, actions=[])
    await scene.alice.ok("DELETE", f"/pushrules/global/room/{quote(scene.room, safe='')}")
    await scene.text()


@case((1, 1), own_reader=True)
async def a_rule_that_is_switched_off(scene: Scene) -> None:
    await scene.rule("override", "quiet", actions=[], conditions=[])
    path = "/pushrules/global/override/quiet/enabled"
    await scene.alice.ok("PUT", path, body={"enabled": False})
    await scene.text(**mention(scene.alice))

"""The table of awkward unread counts (`counts.py`), played on ours and on Synapse."""

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio

from tests.federation.servers import Peer
from tests.interop.counts import CASES, Case, Pair, Scene, Told
from tests.serving import Person
from tests.sliding.client import Sliding, window
from tests.streams.reading import joined

pytestmark = pytest.mark.asyncio(loop_scope="module")

People = dict[str, tuple[Person, Person, Person]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(peers: dict[str, Peer]) -> People:
    """Alice, Bob and Carol of each server."""
    made: People = {}
    for kind, peer in peers.items():
        made[kind] = (await peer.person(), await peer.person(), await peer.person())
    return made


def pair(counts: Any) -> Pair:
    return counts["notification_count"], counts["highlight_count"]


async def told(case: Case, peer: Peer, people: tuple[Person, Person, Person]) -> Told:
    """What the reader of a case is told in the end, by a first sync and by the next one alike.

    Ours says so by sliding sync and to push gateways, too; Synapse has no counts in the one.
    """
    alice, bob, carol = people
    if case.own_reader:
        alice = await peer.person()
    room = await bob.create_room(preset="public_chat")
    await alice.join(room)
    scene = Scene(alice, bob, carol, room)
    since = (await alice.sync(remember=False, since=None, filter=shown(room, 1)))["next_batch"]
    sliding = Sliding(alice, subscriptions={room: window(limit=1)})
    if peer.server.kind == "ours":
        await sliding.sync()
    await case.play(scene)
    # Synapse answers a first sync that was asked before from memory.
    first = await alice.sync(remember=False, since=None, filter=shown(room, 2))
    live = await alice.sync(remember=False, since=since, filter=shown(room, 1))
    answer = counts(joined(first, room), scene)
    if room in live.get("rooms", {}).get("join", {}):
        assert counts(joined(live, room), scene) == answer
    if peer.server.kind == "ours":
        afresh = Sliding(alice, subscriptions={room: window(limit=1)}, conn_id="afresh")
        pairs = [answer.main, *answer.threads]
        for connection in (sliding, afresh):
            await connection.sync()
            fields = connection.rooms[room].fields
            assert fields["notification_count"] == sum(one for one, _ in pairs)
            assert fields["highlight_count"] == sum(one for _, one in pairs)
    return answer


def shown(room: str, limit: int) -> str:
    """A filter for the counts of one room."""
    timeline = {"limit": limit, "unread_thread_notifications": True}
    return json.dumps({"room": {"rooms": [room], "timeline": timeline}})


def counts(section: Any, scene: Scene) -> Told:
    """What a section says of its room and of the threads that the case looks at."""
    threads = section.get("unread_thread_notifications", {})
    nothing = {"notification_count": 0, "highlight_count": 0}
    return Told(
        pair(section["unread_notifications"]),
        tuple(pair(threads.get(root, nothing)) for root in scene.roots),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_unread(case: Case, peers: dict[str, Peer], people: People) -> None:
    kinds = list(peers)
    found = await asyncio.gather(*(told(case, peers[kind], people[kind]) for kind in kinds))
    answers = dict(zip(kinds, found, strict=True))
    assert answers["ours"] == case.expected
    assert answers["synapse"] == (case.deviation or case.expected), (
        "Synapse says something else by now: see whether the reason still holds"
    )

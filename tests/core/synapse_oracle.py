"""Resolves states with the code of matrix-synapse; runs in Synapse's own environment.

One request a line on standard input, one answer a line on standard output, both JSON:
  {"version": "10", "room_id": "!...", "events": [[event id, PDU], ...],
   "cases": [[[event id, ...] for each state], ...]}
  {"results": [[event id, ...] for each case]} or {"error": "..."}
Chains, differences and subgraphs are found here by naive search, apart from the code under test.
"""

# mypy: disable-error-code="import-not-found"

import asyncio
import json
import sys
import traceback
from typing import Any

import synapse.server  # noqa: F401 - the others can't be imported first
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference


class Clock:
    """Synapse's resolver takes a breath between steps."""

    async def sleep(self, duration: object) -> None:
        """No breath is needed here."""


class Store:
    """The events of one request, as Synapse's resolver asks for them."""

    def __init__(self, version: Any, events: list[tuple[str, dict[str, Any]]]) -> None:
        self.events: dict[str, Any] = {}
        self.chains: dict[str, set[str]] = {}
        for event_id, pdu in events:
            event = make_event_from_dict(pdu, version)
            if event.event_id != event_id:
                raise ValueError(f"{event_id} is {event.event_id} to Synapse")
            self.events[event_id] = event
            above = (self.chains[parent] for parent in event.auth_event_ids())
            self.chains[event_id] = {event_id}.union(*above)

    async def fetch(self, event_ids: Any) -> dict[str, Any]:
        """Version 1's way of asking for events."""
        return {event_id: self.events[event_id] for event_id in event_ids}

    async def get_events(self, event_ids: Any, allow_rejected: bool = False) -> dict[str, Any]:
        """Version 2's."""
        return await self.fetch(event_ids)

    async def get_auth_chain_difference(
        self, room_id: str, state_sets: Any, conflicted: Any, additional: Any
    ) -> StateDifference:
        """Auth difference and, if conflicted events are given, the conflicted subgraph."""
        chains = [set().union(*(self.chains[nid] for nid in state)) for state in state_sets]
        difference = set().union(*chains) - set(chains[0]).intersection(*chains)
        subgraph = None
        if conflicted is not None:
            below = set().union(*(self.chains[event_id] for event_id in conflicted))
            subgraph = {event_id for event_id in below if self.chains[event_id] & set(conflicted)}
        return StateDifference(auth_difference=difference, conflicted_subgraph=subgraph)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The resolution of each case of a request."""
    version = KNOWN_ROOM_VERSIONS[request["version"]]
    room_id = request["room_id"]
    store = Store(version, request["events"])

    def resolved(case: list[list[str]]) -> list[str]:
        states = [
            {(store.events[one].type, store.events[one].get_state_key()): one for one in state}
            for state in case
        ]
        if request["version"] == "1":
            work = v1.resolve_events_with_store(room_id, version, states, None, store.fetch)
        else:
            work = v2.resolve_events_with_store(Clock(), room_id, version, states, None, store)
        return sorted(asyncio.run(work).values())

    return {"results": [resolved(case) for case in request["cases"]]}


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception:  # whatever it is belongs to the test that asked
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

"""Our state resolution and that of matrix-synapse agree on rooms that grew at random.

A failure names version and seed: `ForkedRoom(version, seed)` is that room again.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homeserver.matrix.versions import ROOM_VERSIONS
from tests.core.forks import ForkedRoom
from tests.synapse_env import SynapseUnavailable, synapse_python

VERSIONS = list(ROOM_VERSIONS)


class Oracle:
    """Synapse's resolver as a process that answers line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, request: dict[str, Any]) -> list[list[str]]:
        """The event ids of the resolved state of each case, sorted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline())
        assert "error" not in reply, reply["error"]
        results: list[list[str]] = reply["results"]
        return results


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """Fails where there is no Synapse in continuous integration, is skipped elsewhere."""
    try:
        python = synapse_python()
    except SynapseUnavailable as unavailable:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"matrix-synapse can't be installed: {unavailable}")
    program = Path(__file__).with_name("synapse_oracle.py")
    with subprocess.Popen(
        [python, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Oracle(process)
        assert process.stdin is not None
        process.stdin.close()


def assert_same(oracle: Oracle, version: str, seed: int) -> None:
    room = ForkedRoom(version, seed)
    names = {nid: event.event_id for nid, event in room.events.items()}
    theirs = oracle.ask(
        {
            "version": version,
            "room_id": room.room_id,
            "events": [[event.event_id, event.pdu] for event in room.events.values()],
            "cases": [[[names[nid] for nid in state.values()] for state in c] for c in room.cases],
        }
    )
    for place, (case, expected) in enumerate(zip(room.cases, theirs, strict=True)):
        ours = sorted(names[nid] for nid in room.resolve(case).values())
        assert ours == expected, f"version {version}, seed {seed}, case {place}"


@pytest.mark.parametrize("version", VERSIONS)
def test_25_random_rooms_resolve_as_in_synapse(oracle: Oracle, version: str) -> None:
    for seed in range(25):
        assert_same(oracle, version, seed)


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("part", range(1, 18))
def test_100_more_random_rooms(oracle: Oracle, version: str, part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        assert_same(oracle, version, seed)

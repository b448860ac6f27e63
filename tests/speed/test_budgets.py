"""The benchmark's scenarios in small: they hold, and none costs a multiple of what it may.

The true figures are taken by `python -m bench` on a quiet machine. Here other tests run beside, so
a budget is broken only by a cost of a different order.
"""

from pathlib import Path

import pytest

from bench.meter import Meter
from bench.report import TARGETS
from bench.scenarios import CHAT, QUICK, Bench
from tests.processes import Server, judged, running

MARGIN = 4.0


@pytest.mark.parametrize("name", CHAT)
async def test_a_scenario_holds_and_stays_near_its_budget(name: str, tmp_path: Path) -> None:
    server: Server = judged()(tmp_path / "server")
    with running(server):
        bench = Bench(server, Meter(server.pid), QUICK)
        try:
            cost = await CHAT[name](bench)
        finally:
            bench.close()
    if server.kind == "ours" and name in TARGETS:
        assert cost.cpu_ms < MARGIN * TARGETS[name]

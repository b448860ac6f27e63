"""Steps that hold the event loop are named."""

import asyncio
import logging
import time

import pytest

from homeserver.runtime.metrics import Metrics
from homeserver.runtime.watch import LoopWatch


def hold_the_loop(metrics: Metrics) -> None:
    """Compute without a pause until the watch must have seen it."""
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass


async def test_a_step_that_holds_the_loop_is_logged_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()
    watch = LoopWatch(metrics, limit=0.02)
    with caplog.at_level(logging.WARNING):
        watch.start()
        hold_the_loop(metrics)
        async with asyncio.timeout(5):
            while not metrics.slow_steps:  # noqa: ASYNC110  # the watch is a thread
                await asyncio.sleep(0)
        watch.stop()
    assert "hold_the_loop" in caplog.text
    assert "held the event loop for" in caplog.text

"""Names the steps that hold the event loop.

Owns one thread that asks the loop for a sign of life; while none comes it looks at what the loop's
thread is executing. A step over the limit is logged with the place that was seen. It never
interrupts anything, and costs some twenty wake-ups a second.
"""

import asyncio
import logging
import sys
import threading
import time
from types import FrameType

from homeserver.runtime.metrics import Metrics

log = logging.getLogger(__name__)

LIMIT = 0.05


class LoopWatch:
    """Watches the running loop between `start` and `stop`."""

    def __init__(self, metrics: Metrics, limit: float = LIMIT) -> None:
        self._metrics = metrics
        self._limit = limit
        self._stop = threading.Event()
        self._alive = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch the loop that is running in this thread."""
        loop = asyncio.get_running_loop()
        watched = threading.get_ident()
        self._thread = threading.Thread(
            target=self._watch, args=(loop, watched), name="loop watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._alive.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, loop: asyncio.AbstractEventLoop, watched: int) -> None:
        while not self._stop.wait(self._limit):
            self._alive.clear()
            asked = time.monotonic()
            try:
                loop.call_soon_threadsafe(self._alive.set)
            except RuntimeError:
                return  # the loop is closed
            if self._alive.wait(self._limit):
                continue
            place = _place(sys._current_frames().get(watched))  # noqa: SLF001
            while not self._alive.wait(self._limit):
                # `stop` runs in the loop's own step: then there will be no sign of life.
                if self._stop.is_set():
                    return
            held = time.monotonic() - asked
            self._metrics.slow_steps += 1
            log.warning("A step held the event loop for %.0f ms in %s", held * 1000, place)


def _place(frame: FrameType | None) -> str:
    """The innermost function and those of ours around it, as `module.function:line`."""
    names: list[str] = []
    while frame is not None and len(names) < 4:
        module = str(frame.f_globals.get("__name__", "?"))
        ours = module.split(".")[0] in {"homeserver", "client_api", "federation", "storage"}
        if ours or not names:
            names.append(f"{module}.{frame.f_code.co_qualname}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names) or "an unknown place"

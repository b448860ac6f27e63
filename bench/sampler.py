"""Runs a module and samples where its main thread spends CPU time.

`python -m bench.sampler OUT -m MODULE ARGS`. A timer that counts CPU time only interrupts each
millisecond (each clock tick, if those are longer) and the Python stack is noted, so a function
written in C counts for the line that calls it or for the next Python function. SIGUSR1 forgets the
samples, SIGUSR2 writes them to OUT as JSON: for each stack, innermost function last, how often it
was seen.
"""

import json
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.001
_samples: Counter[tuple[str, ...]] = Counter()


def _take(_signal: int, frame: FrameType | None) -> None:
    stack = []
    while frame is not None:
        code = frame.f_code
        stack.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        frame = frame.f_back
    _samples[tuple(reversed(stack))] += 1


def hot_spots(path: Path, top: int = 30) -> list[str]:
    """Lines that say which functions were running, alone and with all that they called."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for stack, number in json.loads(path.read_text()):
        alone[stack[-1]] += number
        for function in {entry.rsplit(":", 1)[0] + ")" for entry in stack}:
            within[function] += number
    total = sum(alone.values()) or 1
    lines = [f"{total} samples", "", "of all samples, in this line itself:"]
    lines += [f"{100 * n / total:6.1f} %  {name}" for name, n in alone.most_common(top)]
    lines += ["", "in this function and what it called:"]
    lines += [f"{100 * n / total:6.1f} %  {name}" for name, n in within.most_common(top * 2)]
    return lines


def main() -> None:
    """Set the timer and run the module as if it had been started itself."""
    out = Path(sys.argv[1])
    module = sys.argv[3]
    sys.argv = [module, *sys.argv[4:]]
    signal.signal(signal.SIGUSR1, lambda _signal, _frame: _samples.clear())
    signal.signal(signal.SIGUSR2, lambda _s, _f: _write(out))
    signal.signal(signal.SIGPROF, _take)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _write(out: Path) -> None:
    part = out.with_suffix(".part")
    part.write_text(json.dumps(list(_samples.items())))
    part.rename(out)


if __name__ == "__main__":
    main()

"""Tables of figures: ours, Synapse's, the ratio, and what each was to be.

Targets are CPU times of one operation on SQLite; on PostgreSQL, database included, twice as much is
allowed, and 5 ms for a send by a single client (the round trips of a commit rule there).
"""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from bench.runs import NAMES, Figure

LABELS = {
    "registration": "registration (cheap hash)",
    "room-creation": "room creation",
    "send-1": "send, 1 client",
    "send-64": "send, 64 clients",
    "fan-out": "live delivery, 50 long polls",
    "idle-sync": "empty incremental sync",
    "initial-sync": "initial sync, 100 rooms",
    "join": "join",
    "messages": "/messages, a page of 50",
    "keys-upload": "upload of 50 one-time keys",
    "keys-query": "keys of 500 users",
    "keys-claim": "claim of 500 one-time keys",
    "to-device": "a message to a device that was off: 100 devices a request, 100 messages a sync",
    "to-device-live": "a message to a device that waits for it, 20 devices a request",
    "hierarchy": "a space of 50 rooms",
    "search": "search, 20 of 1,000 messages",
    "relations": "a page of 50 of a thread",
    "messages-deep": "/messages, 100 of 5,000 at any depth",
    "media-upload": "upload, 100 KB",
    "media-download": "download, 100 KB",
    "thumbnails": "a picture uploaded and its thumbnail",
    "big-room": "send into a room of 2,000 local members",
    "parked": "waking one of 10,000 parked polls",
    "login-storm": "others' p99 in a storm of logins (x calm)",
    "initial-1000": "initial sync, 1,000 rooms (s of CPU)",
    "hostile": "others' p99 under the worst attack (x calm)",
    "service-catch-up": "an event to a service that was down",
    "memory-after-work": "memory after all this (MB)",
    "cold-start": "cold start (s of CPU)",
    "idle-memory": "idle memory, 10 users (MB)",
}
TARGETS = {
    "send-64": 0.8,
    "send-1": 1.2,
    "fan-out": 0.25,
    "idle-sync": 0.3,
    "join": 2.0,
    "room-creation": 5.0,
    "parked": 0.1,
    "login-storm": 2.0,
    "initial-1000": 5.0,
    "hostile": 2.0,
    "cold-start": 0.8,
    "idle-memory": 100.0,
}
COLUMNS = (
    "CPU ms an operation",
    "target",
    "ours",
    "Synapse",
    "ratio",
    "verdict",
    "ours: per s, p50, p99 ms",
    "Synapse: per s, p50, p99 ms",
    "others' cores, ours / Synapse",
)
RESIDENT_TARGETS = {"parked": 160.0}
LEAST_RATIO = {
    "send-1": 25.0,
    "send-64": 25.0,
    "fan-out": 25.0,
    "keys-upload": 10.0,
    "keys-query": 10.0,
    "keys-claim": 10.0,
    "to-device": 10.0,
    "to-device-live": 10.0,
    "media-upload": 3.0,
    "media-download": 3.0,
    "thumbnails": 3.0,
    "big-room": 50.0,
}


def target(scenario: str, database: str) -> float | None:
    """The most that it may cost, None where only being below Synapse is asked."""
    if database == "sqlite" or scenario in ("cold-start", "idle-memory"):
        return TARGETS.get(scenario)
    if scenario == "send-1":
        return 5.0
    allowed = TARGETS.get(scenario)
    return None if allowed is None else 2 * allowed


def verdict(
    scenario: str,
    database: str,
    ours: float,
    synapse: float | None,
    resident_mb: float | None = None,
) -> str:
    """`met`, or what is missing, in words."""
    missing = []
    allowed = target(scenario, database)
    if allowed is not None and ours > allowed:
        missing.append("over target")
    if resident_mb is not None and resident_mb > RESIDENT_TARGETS.get(scenario, resident_mb):
        missing.append("too much memory")
    if synapse is not None and ours:
        least = LEAST_RATIO.get(scenario, 1.0)
        if synapse / ours < least:
            missing.append(f"ratio under {least:.0f}")
    return ", ".join(missing) or "met"


def tables(figures: Sequence[Figure]) -> str:
    """A table in Markdown for each database."""
    parts = []
    for database in dict.fromkeys(figure.database for figure in figures):
        found = {(f.scenario, f.server): f for f in figures if f.database == database}
        parts.append(_table(database, found))
    return "\n\n".join(parts)


def _table(database: str, found: dict[tuple[str, str], Figure]) -> str:
    lines = [
        f"### {'SQLite' if database == 'sqlite' else 'PostgreSQL, its processes included'}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---:|---:|---:|---:|---|---|---|---|",
    ]
    for name in NAMES:
        ours, synapse = found.get((name, "ours")), found.get((name, "synapse"))
        if ours is None and synapse is None:
            continue
        allowed = target(name, database)
        values = [f.value if f else None for f in (ours, synapse)]
        ratio = f"{values[1] / values[0]:.1f}" if values[0] and values[1] else ""
        judged = (
            ""
            if values[0] is None
            else verdict(name, database, values[0], values[1], ours.resident_mb if ours else None)
        )
        cells = [
            LABELS[name],
            "" if allowed is None else f"{allowed:g}",
            _value(ours),
            _value(synapse),
            ratio,
            judged,
            _speed(ours),
            _speed(synapse),
            " / ".join(_foreign(f) for f in (ours, synapse)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _value(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.value is None:
        return f"failed: {figure.failure}".replace("|", "/")[:120]
    text = f"{figure.value:.0f}" if figure.unit == "MB" else f"{figure.value:.2f}"
    if figure.resident_mb is not None:
        text += f", {figure.resident_mb:.0f} MB"
    if figure.database_share:
        text += f" (of it database {figure.database_share:.2f})"
    return text


def _speed(figure: Figure | None) -> str:
    if figure is None or figure.per_second is None:
        return ""
    return f"{figure.per_second:.0f}, {figure.p50_ms:.1f}, {figure.p99_ms:.1f}"


def _foreign(figure: Figure | None) -> str:
    return "" if figure is None or figure.per_second is None else f"{figure.foreign_cores:.2f}"


def machine() -> str:
    """One line on where it ran."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    )


def as_json(figures: Sequence[Figure]) -> str:
    """All figures, for programs."""
    return json.dumps(
        {"machine": machine(), "figures": [asdict(figure) for figure in figures]}, indent=1
    )


def write_page(path: Path, command: str, figures: Sequence[Figure]) -> None:
    """Replace the part of the page between its two marks by these figures."""
    page = path.read_text()
    begin, end = "<!-- figures -->", "<!-- end of figures -->"
    head, rest = page.split(begin, 1)
    tail = rest.split(end, 1)[1]
    text = f"{begin}\n\nLast run: `{command}` on {machine()}.\n\n{tables(figures)}\n\n{end}"
    path.write_text(head + text + tail)

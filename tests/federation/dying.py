"""The server's command, in a process that kills itself (SIGKILL) at a step that is named.

    python -m tests.federation.dying STEP -m homeserver run -c FILE

Owns the names of the steps at which a transaction can be broken off, on the side that receives it
and on the one that sends it. The server's own code knows nothing of them: its functions are wrapped
here before it starts. A step counts from the moment at which the server is served with the first
transaction (`RECEIVING`), or at once (`SENDING`).
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from storage.changes import Delete, Do, Insert, Item, Put
from storage.postgresql import PostgresDatabase
from storage.sqlite import SQLiteDatabase

Step = Callable[[], None]
Holds = Callable[[Sequence[Item]], bool]


def die() -> None:
    """No buffer is written, nothing is closed."""
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(place: str, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
    """Have `before(*arguments)` and `after(result)` called around an async function."""
    module, _, owner = place.partition(":")
    holder: Any = import_module(module)
    if owner:
        holder = getattr(holder, owner)
    original = getattr(holder, name)

    async def wrapped(*args: Any, **options: Any) -> Any:
        before(*args)
        found = await original(*args, **options)
        after(found)
        return found

    setattr(holder, name, wrapped)


def nothing(*_: Any) -> None:
    """Go on."""


def ends(*_: Any) -> None:
    die()


def on_entering(place: str, name: str) -> Step:
    """Die when this is called."""
    return lambda: wrap(place, name, ends, nothing)


def on_return(place: str, name: str) -> Step:
    """Die when this has returned something."""

    def after(found: Any) -> None:
        if found is None or found:
            die()

    return lambda: wrap(place, name, nothing, after)


def writes(*rows: str) -> Holds:
    """Whether a batch puts or inserts a row of one of these types."""
    return lambda items: any(
        isinstance(change, Put | Insert) and type(change.row).__name__ in rows
        for item in items
        for change in item.changes
    )


def drops(table: str) -> Holds:
    """Whether a batch deletes from a table."""

    def holds(items: Sequence[Item]) -> bool:
        for item in items:
            for change in item.changes:
                if isinstance(change, Do) and change.sql.startswith(f"DELETE FROM {table} "):
                    return True
                if isinstance(change, Delete) and change.row_type.__name__ == table:
                    return True
        return False

    return holds


def around_commit(holds: Holds, *, after: bool) -> Step:
    """Die right before, or right after, a batch is in the database: nobody has heard of it."""

    def patch() -> None:
        for engine in (SQLiteDatabase, PostgresDatabase):
            patch_engine(engine)

    def patch_engine(engine: Any) -> None:
        original = engine.commit

        async def commit(self: Any, items: Sequence[Item]) -> list[int]:
            if not holds(items):
                return list(await original(self, items))
            if after:
                await original(self, items)
            die()
            raise AssertionError("dead")

        engine.commit = commit

    return patch


def once_received(step: Step) -> Step:
    """Arm a step when the first transaction has come."""

    def patch() -> None:
        armed = False

        def arm(*_: Any) -> None:
            nonlocal armed
            if not armed:
                armed = True
                step()

        wrap("federation.transactions:Transactions", "_take", arm, nothing)

    return patch


def before_and_after(what: str, holds: Holds) -> dict[str, Step]:
    return {
        f"before {what}": around_commit(holds, after=False),
        f"after {what}": around_commit(holds, after=True),
    }


TAKING = "federation.transactions:Transactions"
QUEUE = "federation.outbound_queue"

RECEIVING: dict[str, Step] = {
    "body read": on_entering(TAKING, "_take"),
    **{
        name: once_received(step)
        for name, step in {
            **before_and_after("list committed", writes("DeviceListRow")),
            "list told": on_return("federation.device_copies:DeviceCopies", "device_changed"),
            **before_and_after("messages committed", writes("ToDeviceRow")),
            "all EDUs taken": on_return("federation.edus:Edus", "take"),
            **before_and_after("answer committed", writes("InboundTxnRow")),
            "before events committed": around_commit(writes("EventRow"), after=False),
            "after events committed": around_commit(writes("EventRow"), after=True),
            **before_and_after("events judged", drops("inbound_pdus")),
        }.items()
    },
    "before the answer": on_return(TAKING, "_take"),
}
"""What kills the server of who receives."""

SENDING: dict[str, Step] = {
    **before_and_after("messages queued", writes("EduOutboxRow")),
    **before_and_after("list changed", writes("DeviceListRow")),
    **before_and_after("event sent", writes("EventRow")),
    "handed out": on_return("federation.outbound:Sender", "_hand_out"),
    "messages read": on_return(f"{QUEUE}:store", "edus_waiting"),
    "before the request": on_entering(QUEUE, "deliver"),
    "request sent": on_entering("aiohttp:ClientResponse", "start"),
    "answered": on_return(QUEUE, "deliver"),
    **before_and_after("messages dropped", drops("EduOutboxRow")),
    **before_and_after("cursor moved", writes("DeliveryRow")),
}
"""What kills the server of who sends."""


def main() -> None:
    """Arm the step, and be the command."""
    name, module = sys.argv[1], sys.argv[3]
    sys.argv = [module, *sys.argv[4:]]
    {**RECEIVING, **SENDING}[name]()
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()

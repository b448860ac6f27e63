"""EDUs from other servers: each is given to who knows its type.

Owns the registry of handlers and the order in which their work is committed: everything that must
not be lost is in the tables before the transaction that brought it is answered. A handler checks
that what it is told is the sender's to tell; what is malformed or not allowed it passes over.
spec: server-server-api#edus
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.streams.commit import CommitQueue, Publish
from storage.changes import Change, Conflict, DatabaseGone

log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """What an EDU changes: an item of the commit queue."""

    changes: Sequence[Change]
    positions: int = 0
    publish: Publish | None = None


Handler = Callable[[str, JsonObject], Awaitable[Sequence[Taken]]]
"""`handler(origin, content)`: what is to be committed, in order; nothing where it passes over."""


class Edus:
    """See the module."""

    def __init__(self, commits: CommitQueue) -> None:
        self._commits = commits
        self._handlers: dict[str, Handler] = {}

    def handle(self, type_: str, handler: Handler) -> None:
        """Have EDUs of this type handled; one handler for each type."""
        self._handlers[type_] = handler

    async def take(self, origin: str, edus: Sequence[object]) -> None:
        """Handle the EDUs of a transaction one after the other; returns when all is committed.

        Raises `MatrixError` 429 or 503, or `DatabaseGone`, when it can't be now: the transaction is
        not answered for, and comes again.
        """
        waiting = []
        for edu in edus:
            if not isinstance(edu, dict):
                continue
            type_, content = edu.get("edu_type"), edu.get("content")
            handler = self._handlers.get(type_) if isinstance(type_, str) else None
            if handler is None or not isinstance(content, dict):
                continue
            try:
                taken = await handler(origin, content)
            except MatrixError as error:
                if error.status == 429 or error.status >= 500:
                    raise  # it is not durable: the sender must send it again
                log.info("an EDU %s of %s was refused: %s", type_, origin, error)
                continue
            except DatabaseGone:
                raise
            except Exception:
                log.exception("an EDU %s of %s could not be handled", type_, origin)
                continue
            waiting += [self._commits.submit(*one) for one in taken if one.changes]
        for done in waiting:
            with suppress(Conflict):  # it was taken just now, in another transaction
                await done

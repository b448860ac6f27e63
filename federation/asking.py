"""One question to several servers: the first answer that is of use.

Owns whom to ask and when the next one: when a server fails, says nothing that is of use, or nothing
at all for some seconds. Whoever was of use is asked first from then on, so that a server that
stalls or talks nonsense costs its seconds once and not with every question. What is of use is the
caller's judgement; nothing is believed here.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from homeserver.errors import RemoteError, Unreachable
from homeserver.matrix.errors import Malformed

log = logging.getLogger(__name__)
T = TypeVar("T")

SILENCE = 5.0
"""Seconds after which the next server is asked, too."""


def some_of(preferred: Iterable[str], others: Iterable[str], most: int) -> list[str]:
    """At most `most` servers: the preferred ones, then others by chance.

    By chance, so that no server has itself asked before all others by its name, and who asks again
    later asks others.
    """
    first = list(dict.fromkeys(preferred))
    rest = [server for server in dict.fromkeys(others) if server not in first]
    return [*first, *random.sample(rest, len(rest))][:most]


class Asking:
    """Some servers, in the order in which they are asked."""

    def __init__(self, servers: Iterable[str]) -> None:
        self._order = list(dict.fromkeys(servers))

    async def first(self, ask: Callable[[str], Awaitable[T | None]]) -> T | None:
        """The first of `ask(server)` that is not None; None when no server has one.

        `ask` may raise Unreachable, RemoteError and Malformed. It may run for several servers at a
        time; those that are late are cancelled.
        """
        rest = list(self._order)
        asked: dict[asyncio.Future[T | None], str] = {}
        try:
            while rest or asked:
                if rest:
                    server = rest.pop(0)
                    asked[asyncio.ensure_future(_of_use(ask, server))] = server
                done, _ = await asyncio.wait(
                    asked,
                    timeout=SILENCE if rest else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    server = asked.pop(task)
                    found = task.result()
                    if found is not None:
                        last = [one for one in self._order if one not in (server, *rest)]
                        self._order = [server, *rest, *last]
                        return found
            return None
        finally:
            for task in asked:
                task.cancel()
            if asked:
                await asyncio.wait(asked)


async def _of_use(ask: Callable[[str], Awaitable[T | None]], server: str) -> T | None:
    try:
        return await ask(server)
    except (Unreachable, RemoteError, Malformed) as error:
        log.debug("asking %s was in vain: %s", server, error)
        return None

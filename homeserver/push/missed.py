"""What a pusher missed while its gateway failed and the server was stopped.

Owns the finding: of each room the newest event that notifies the user and is still unread, and the
open invites, between two positions. It is found as `/notifications` is (`walks.py`), from the
newest event back to the first that counts, never further than where the unread begin: what it costs
does not grow with the time for which a gateway is away.
"""

import logging

from homeserver.push.audience import Audience, read_happened
from homeserver.push.gateway import Waiting
from homeserver.push.walks import Walk, Walker, Walks
from homeserver.users.sessions import Session
from storage.engine import Database

log = logging.getLogger(__name__)


class Missed:
    """See the module."""

    def __init__(self, database: Database, walks: Walks, audience: Audience) -> None:
        self._database = database
        self._walks = walks
        self._audience = audience

    async def of(
        self, user_nid: int, since: int, until: int, *, all_or_none: bool
    ) -> list[Waiting]:
        """What is to be told of what came in (since, until], in its order.

        A room on which the looking fails is left out, unless it is `all_or_none`.
        """
        user_id = self._audience.user_id(user_nid)
        if user_id is None:
            return []
        session = Session(user_id, user_nid, None, None, False, False, b"")
        walker = await self._walks.walker(session)
        waiting: list[Waiting] = []
        for room_nid, walk in (await self._walks.begin(walker, until)).items():
            if walk.end <= since:
                continue
            try:
                waiting += await self._in(room_nid, walker, walk, since)
            except Exception:
                if all_or_none:
                    raise
                log.exception("nobody can be told what was missed in %s", walk.room.room_id)
        waiting.sort(key=lambda one: one.pos)
        return waiting

    async def _in(self, room_nid: int, walker: Walker, walk: Walk, since: int) -> list[Waiting]:
        newest = await self._newest(walker, walk, since)
        if newest is None:
            return []
        pos, nid = newest
        user_nid = walker.reader.user_nid
        invited = {pos: user_nid} if walk.invited else {}
        return [
            Waiting(room_nid, pos, notice, walk.invited)
            for told in await read_happened(self._database, [(pos, room_nid, nid)], invited)
            for notice in (await self._audience.notices(told, only=user_nid)).values()
        ]

    async def _newest(self, walker: Walker, walk: Walk, since: int) -> tuple[int, int] | None:
        """(position, number) of the newest unread event that notifies."""
        now = self._walks.now
        while True:
            await self._walks.read(walker, walk, walk.end, now, since)
            for found in walk.waiting:
                if not found.read:
                    return found.pos, found.view.nid
            walk.waiting.clear()
            if walk.last or not walk.unread or walk.end < min(walk.unread):
                return None

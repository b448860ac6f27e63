"""The list of what a user was notified about.

Owns the answer: notifications of all rooms and invites, newest first, found on read (`walks.py`),
so that nothing is stored per message and user. Invariant: one call reads a bounded number of
events, and says where to go on.
spec: client-server-api#listing-notifications
"""

import heapq
import re

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.pushmatch import outcome_of
from homeserver.push.walks import Found, Walk, Walks
from homeserver.rooms.history import History
from homeserver.users.sessions import Session

MOST_SHOWN = 100
_MOST_READS = 40
_TOKEN = re.compile(r"n1_([0-9]{1,18})")


class Notifications:
    """See the module."""

    def __init__(self, walks: Walks, history: History) -> None:
        self._walks = walks
        self._history = history

    async def __call__(
        self, session: Session, start: str | None, limit: int, *, highlights: bool
    ) -> bytes:
        """The answer: at most `limit` notifications from `start` on, those of `highlights` only.

        Raises `MatrixError` M_INVALID_PARAM for a token that isn't ours.
        """
        now = self._walks.now
        until = min(now, _position(start)) if start is not None else now
        walker = await self._walks.walker(session)
        walks = await self._walks.begin(walker, until)
        order = [(-walk.end, nid) for nid, walk in walks.items()]
        heapq.heapify(order)
        shown: list[bytes] = []
        reads, passed = 0, until + 1
        limit = min(limit, MOST_SHOWN)
        while order and len(shown) < limit:
            end, nid = heapq.heappop(order)
            walk = walks[nid]
            if not walk.waiting:
                if reads == _MOST_READS:
                    heapq.heappush(order, (end, nid))
                    break
                reads += 1
                await self._walks.read(walker, walk, -end, now)
            else:
                found = walk.waiting.popleft()
                passed = found.pos
                if outcome_of(found.actions).highlight or not highlights:
                    shown.append(await self._shown(session, walk, found))
            if walk.waiting:
                heapq.heappush(order, (-walk.waiting[0].pos, nid))
            elif not walk.last:
                heapq.heappush(order, (-walk.end, nid))
        answer = b'"notifications":[%b]' % b",".join(shown)
        if order:
            answer += b',"next_token":"n1_%d"' % min(-order[0][0], passed - 1)
        return b"{%b}" % answer

    async def _shown(self, session: Session, walk: Walk, found: Found) -> bytes:
        if walk.looking is not None:
            json = await self._history.whole(walk.looking, found.view)
        else:
            json = await self._history.own_event(session, walk.room, found.view.nid)
        return b'{"actions":%b,"event":%b,"read":%b,"room_id":%b,"ts":%d}' % (
            canonical.encode(found.actions),
            json,
            b"true" if found.read else b"false",
            canonical.encode(walk.room.room_id),
            found.view.ts,
        )


def _position(token: str) -> int:
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise MatrixError.invalid_param("from: this is not a token of this server")
    return int(found[1])

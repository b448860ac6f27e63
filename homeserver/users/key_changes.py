"""/keys/changes: whose keys changed between two tokens of a client.

Owns nothing: what is told is what /sync would have told in between.
spec: client-server-api#get_matrixclientv3keyschanges
"""

from homeserver.matrix.canonical import JsonObject
from homeserver.streams.device_news import DeviceNews
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from homeserver.streams.sync import NewsDesk
from homeserver.streams.tokens import Timelines
from homeserver.users.sessions import Session


class KeyChanges:
    """See the module."""

    def __init__(
        self,
        names: Names,
        memberships: Memberships,
        news: DeviceNews,
        desk: NewsDesk,
        timelines: Timelines,
    ) -> None:
        self._names = names
        self._memberships = memberships
        self._news = news
        self._desk = desk
        self._timelines = timelines

    async def between(self, session: Session, start: str, end: str) -> JsonObject:
        """`changed` and `left` since `start`; `end` only has to be a token of this server.

        Raises `MatrixError` M_INVALID_PARAM for what is no token.
        """
        self._timelines.parse_sync(end, self._desk.pos)
        since = self._timelines.parse_sync(start, self._desk.pos)
        user = await self._memberships.of(session.user_nid)
        if since.pos < 0:
            changed, left = await self._news.everybody(session.user_nid, user), set[int]()
        else:
            news = self._desk.since(since.pos, stored=True)
            changed, left = await self._news.moved(session.user_nid, news, user)
        names = await self._names.names(changed | left)
        return {
            "changed": sorted(names[nid] for nid in changed),
            "left": sorted(names[nid] for nid in left),
        }

"""Which threads a user has subscribed to.

Owns what MSC4306 has clients say of threads: subscribed by the user, or automatically because of
an event; an automatic subscription never undoes what the user did after that event. What was said
is told again by the stream (MSC4308), the last of each thread; a little memory of who said
anything spares those who didn't a look at the table.
"""

from collections import OrderedDict
from collections.abc import Callable

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.relations import THREAD, relation_of
from homeserver.rooms.history import History, content_of
from homeserver.streams.commit import CommitQueue
from homeserver.streams.publish import Publisher
from homeserver.streams.tokens import Timelines
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session
from storage.changes import Pos, Put
from storage.engine import Database
from storage.relations import subscriptions, subscriptions_between
from storage.schema import ThreadSubscriptionRow

PAGE = 100
_MAX_USERS = 20_000


class SubscriptionNews:
    """Who said something of threads, and when; what isn't known is looked for."""

    def __init__(
        self, database: Database, timelines: Timelines, position: Callable[[], int]
    ) -> None:
        """`position` gives where the stream stands: nothing is known of what came before."""
        self._database = database
        self._timelines = timelines
        self._position = position
        self._floor = position()
        self._last: OrderedDict[int, int] = OrderedDict()

    def changed(self, user_nid: int, pos: int) -> None:
        """The user said something."""
        self._last[user_nid] = pos
        self._last.move_to_end(user_nid)
        if len(self._last) > _MAX_USERS:
            self._floor = self._last.popitem(last=False)[1]

    def lost(self) -> None:
        """Something may have been said of which nothing is known."""
        self._floor = self._position()

    async def between(self, user_nid: int, after: int, until: int, limit: int) -> bytes | None:
        """What the user said in (after, until], at most `limit` of it, as JSON; None for nothing.

        `prev_batch` is the token with which `page` goes on.
        """
        if after >= self._floor and self._last.get(user_nid, 0) <= after:
            return None
        told = await self._told(user_nid, after, until, limit, "prev_batch")
        return canonical.encode(told) if told else None

    async def page(self, user_nid: int, start: str | None, end: str | None, limit: int) -> bytes:
        """What the user said from one token back to another, the JSON of a reply.

        Raises `MatrixError` M_INVALID_PARAM for what is no token.
        """
        until = self._position() if start is None else self._timelines.parse_room(start, "from")
        after = -1 if end is None else self._timelines.parse_room(end, "to")
        return canonical.encode(await self._told(user_nid, after, until, limit, "end"))

    async def _told(
        self, user_nid: int, after: int, until: int, limit: int, more: str
    ) -> JsonObject:
        most = min(max(limit, 1), PAGE)
        found = await subscriptions_between(self._database, user_nid, after, until, most + 1)
        subscribed: JsonObject = {}
        unsubscribed: JsonObject = {}
        for entry in found[:most]:
            said: JsonObject = {"bump_stamp": entry.pos}
            if entry.subscribed:
                said["automatic"] = entry.automatic
            rooms = subscribed if entry.subscribed else unsubscribed
            rooms.setdefault(entry.room_id, {})[entry.root_id] = said
        token = self._timelines.room_token(found[most].pos) if len(found) > most else None
        parts = {"subscribed": subscribed, "unsubscribed": unsubscribed, more: token}
        return {name: part for name, part in parts.items() if part}


class ThreadSubscriptions:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        history: History,
        inbox: UserInbox,
        publisher: Publisher,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._commits = commits
        self._history = history
        self._inbox = inbox

    async def get(self, session: Session, room_id: str, root_id: str) -> bool:
        """Whether the subscription is automatic; M_NOT_FOUND where there is none."""
        room_nid = await self._visible(session, room_id, root_id)
        row = await self._row(session, room_nid, root_id)
        if row is None or not row.subscribed:
            raise MatrixError.not_found("You have not subscribed to this thread")
        return bool(row.automatic)

    async def subscribe(
        self, session: Session, room_id: str, root_id: str, because: str | None
    ) -> None:
        """Subscribe; `because` is the event in the thread for which a client does so by itself.

        Raises `MatrixError` M_NOT_FOUND for a thread that can't be read, and MSC4306's errors
        for an event of another thread or from before the user unsubscribed.
        """
        room_nid = await self._visible(session, room_id, root_id)
        pos = 0
        if because is not None:
            looking = await self._history.look(session, room_id, hide=True)
            event = await self._history.event(looking, because)
            relation = relation_of(content_of(event))
            if relation is None or relation[:2] != (THREAD, root_id):
                raise MatrixError(
                    "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "The event is not in the thread", 400
                )
            pos = event.pos or 0

        async def turn() -> None:
            known = await self._row(session, room_nid, root_id)
            if known is not None and because is not None:
                if not known.subscribed and known.pos >= pos:
                    raise MatrixError(
                        "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION",
                        "You have unsubscribed after this event",
                        409,
                    )
                if known.subscribed:
                    return
            await self._write(session, room_nid, root_id, subscribed=True, because=because)

        await self._inbox.run(session.user_nid, turn)

    async def unsubscribe(self, session: Session, room_id: str, root_id: str) -> None:
        """Unsubscribe; nothing happens where there is no subscription."""
        room_nid = await self._visible(session, room_id, root_id)

        async def turn() -> None:
            known = await self._row(session, room_nid, root_id)
            if known is not None and known.subscribed:
                await self._write(session, room_nid, root_id, subscribed=False, because=None)

        await self._inbox.run(session.user_nid, turn)

    async def _visible(self, session: Session, room_id: str, root_id: str) -> int:
        looking = await self._history.look(session, room_id, hide=True)
        await self._history.event(looking, root_id)
        return looking.room.nid

    async def _row(
        self, session: Session, room_nid: int, root_id: str
    ) -> ThreadSubscriptionRow | None:
        rows = await subscriptions(self._database, session.user_nid, room_nid, [root_id])
        return rows.get(root_id)

    async def _write(
        self,
        session: Session,
        room_nid: int,
        root_id: str,
        *,
        subscribed: bool,
        because: str | None,
    ) -> None:
        row = ThreadSubscriptionRow(
            user_nid=session.user_nid,
            room_nid=room_nid,
            root_id=root_id,
            subscribed=int(subscribed),
            automatic=int(because is not None),
            pos=Pos(0),
        )

        def publish(pos: int) -> None:
            self._publisher.subscription(session.user_nid, pos)

        await self._commits.commit([Put(row)], 1, publish)

"""Which threads a user has subscribed to.

Owns what MSC4306 has clients say of threads: subscribed by the user, or automatically because of
an event; an automatic subscription never undoes what the user did after that event.
"""

from homeserver.errors import MatrixError
from homeserver.matrix.relations import THREAD, relation_of
from homeserver.rooms.history import History, content_of
from homeserver.streams.commit import CommitQueue
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session
from storage.changes import Pos, Put
from storage.engine import Database
from storage.relations import subscriptions
from storage.schema import ThreadSubscriptionRow


class ThreadSubscriptions:
    """See the module."""

    def __init__(
        self, database: Database, commits: CommitQueue, history: History, inbox: UserInbox
    ) -> None:
        self._database = database
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
        await self._commits.commit([Put(row)], 1)

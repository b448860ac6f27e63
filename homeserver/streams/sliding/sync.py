"""Simplified sliding sync: from what a connection knows to what it asks for.

Owns the stretch that an answer covers, and the waiting. What a connection knows is in
`connections.py`, how an answer is made in `answering.py`. Invariant: an answer is made from what
its client had by the `pos` that it presents, so what was lost on its way is told again.
spec: MSC4186
"""

from typing import NamedTuple

from homeserver.runtime.clock import Clock
from homeserver.streams.asker import Asker
from homeserver.streams.ignored import Ignored
from homeserver.streams.memberships import Memberships
from homeserver.streams.notifier import Notifier
from homeserver.streams.sliding.answering import EAGER, Answering, Makers, SlidingAnswer
from homeserver.streams.sliding.asked import Asked, SlidingRequest
from homeserver.streams.sliding.connections import Connections, State
from homeserver.streams.tokens import SlidingToken, Timelines
from homeserver.users.sessions import Session


class After(NamedTuple):
    """After which positions a client lacks what has places of its own."""

    messages: int = 0
    sticky: int = 0


class SlidingSync:
    """See the module; one instance serves all clients of this process."""

    def __init__(
        self,
        makers: Makers,
        connections: Connections,
        memberships: Memberships,
        ignored: Ignored,
        notifier: Notifier,
        timelines: Timelines,
        clock: Clock,
    ) -> None:
        self._makers = makers
        self._desk = makers.desk
        self._extending = makers.extending
        self._typing = makers.typing
        self.connections = connections
        self._memberships = memberships
        self._ignored = ignored
        self._notifier = notifier
        self._timelines = timelines
        self._clock = clock

    async def __call__(self, request: SlidingRequest) -> bytes:
        """The answer's JSON.

        Raises `MatrixError`: M_UNKNOWN_POS for a `pos` with which nothing can be begun any more,
        M_INVALID_PARAM for a wrong token of messages.
        """
        session, extensions = request.session, request.asked.extensions
        messages, sticky = extensions.messages, extensions.sticky
        after = After()
        if messages is not None:
            place = await self._extending.received(session, messages, self._desk.pos)
            after = after._replace(messages=place)
        if sticky is not None:
            after = after._replace(sticky=self._extending.sticky_after(sticky, self._desk.pos))
        key = (session.user_nid, session.device_nid or 0, request.conn_id)
        deadline = self._clock.monotonic()
        before = self.connections.of(key)
        if request.pos is None:
            connection = self.connections.begin(key)
        else:
            deadline += request.timeout
            token = self._timelines.parse_sliding(request.pos, self._desk.pos)
            connection = self.connections.resume(key, token)
        if before is not None:
            before.turn += 1
            if before.waiting:
                # What waits there was given up by its client for this request.
                self._notifier.wake((session.user_nid,))
        turn = connection.turn
        reached = connection.known
        while True:
            answer, reached = await self._look(request, reached, after)
            if answer or request.pos is None or connection.turn != turn:
                break
            if self._desk.pos > reached.pos or self._typing_moved(request.asked, reached):
                # Something came while this was looked at; it may concern this user.
                continue
            left = deadline - self._clock.monotonic()
            connection.waiting += 1
            try:
                woken = await self._notifier.wait(session.user_nid, left)
            finally:
                connection.waiting -= 1
            if not woken or connection.turn != turn:
                break
        if connection.turn != turn:
            # The client has given this request up for another one.
            answer, reached = SlidingAnswer(connection.known.counts), connection.known
        if reached is not connection.known:
            reached = self.connections.offer(key, connection, reached)
        if request.asked.extensions.e2ee:
            await self._extending.pool(answer.extended, session, stored=request.stored)
        number = SlidingToken(self.connections.incarnation, reached.number)
        return answer.json(self._timelines.sliding_token(reached.pos, number))

    def _typing_moved(self, asked: Asked, state: State) -> bool:
        return asked.extensions.typing is not None and self._typing.counter > state.typing

    async def _look(
        self, request: SlidingRequest, base: State, after: After
    ) -> tuple[SlidingAnswer, State]:
        """What a client must know who knows `base`, and what it knows then."""
        session, asked = request.session, _without_place(request.asked)
        if (
            base.complete
            and base.pos == self._desk.pos
            and base.asked == asked
            and not self._typing_moved(asked, base)
            and (base.matched is not None or request.asked.extensions.sticky is None)
        ):
            # There is nothing to say; but only users whose rooms are known are woken.
            await self._memberships.of(session.user_nid)
            answer, reached = SlidingAnswer(base.counts, matched=base.matched), base
        else:
            answer, reached = await self._answer(request, asked, base)
        await self._add_sticky(request, answer, after.sticky, reached.pos)
        messages = request.asked.extensions.messages
        if messages is not None:
            await self._extending.messages(
                answer.extended,
                session,
                messages,
                after.messages,
                reached.pos,
                stored=request.stored,
            )
        return answer, reached

    async def _answer(
        self, request: SlidingRequest, asked: Asked, base: State
    ) -> tuple[SlidingAnswer, State]:
        session = request.session
        ignored = await self._ignored.by(session.user_nid, session.user_id)
        stored = request.stored
        while True:
            user = await self._memberships.of(session.user_nid)
            # From here to the first await below, everything is as of one position.
            news = self._desk.since(base.pos, stored=stored)
            asker = self._asker(session, ignored, stored=stored)
            answering = Answering(
                self._makers, asker, user, news, base, asked, self._typing.counter
            )
            answer, reached = await answering.answer()
            if all(self._desk.still_whole(used) for used in answering.news.values()):
                return answer, reached
            stored = True

    async def _add_sticky(
        self, request: SlidingRequest, answer: SlidingAnswer, after: int, until: int
    ) -> None:
        """The sticky events that the client lacks and the timelines don't have."""
        wanted, session = request.asked.extensions.sticky, request.session
        if wanted is None or answer.matched is None:
            return
        ignored = await self._ignored.by(session.user_nid, session.user_id)
        user = await self._memberships.of(session.user_nid)
        await self._extending.sticky(
            answer.extended,
            self._asker(session, ignored, stored=request.stored),
            user,
            wanted,
            answer.matched.passing,
            after,
            until,
            answer.events,
        )

    def _asker(self, session: Session, ignored: frozenset[str], *, stored: bool) -> Asker:
        return Asker(
            user_id=session.user_id,
            user_nid=session.user_nid,
            device_nid=session.device_nid,
            filter=EAGER,
            full_state=False,
            state_name="state_after",
            ignored=ignored,
            now=self._clock.now_ms(),
            stored=stored,
        )


def _without_place(asked: Asked) -> Asked:
    """What is asked for, wherever messages and sticky events stand."""
    return asked._replace(extensions=asked.extensions._replace(messages=None, sticky=None))

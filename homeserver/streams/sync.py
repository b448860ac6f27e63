"""/sync: from a client's token to everything that has happened since.

Owns the stretch that an answer covers, the waiting, and the token of the answer. Invariant: what
lies between two tokens that a client was given is in the answer that came with the second, once; an
answer's token never names a position whose events are not in it. Which rooms an answer holds is in
`answer.py`, how one is told in `sections.py`.
spec: client-server-api#get_matrixclientv3sync
"""

from collections.abc import Collection
from typing import NamedTuple

from homeserver.matrix.filters import Filter
from homeserver.ports import SyncMetrics
from homeserver.rooms.timeline import Timeline
from homeserver.runtime.clock import Clock
from homeserver.streams.answer import Answer, RoomAnswers
from homeserver.streams.asker import Asker, StateName
from homeserver.streams.device_news import DeviceNews
from homeserver.streams.ignored import Ignored
from homeserver.streams.lazy import LazyMembers
from homeserver.streams.memberships import Memberships, UserRooms
from homeserver.streams.news import News, RingNews, StoredNews
from homeserver.streams.notifier import Notifier
from homeserver.streams.numbers import Names
from homeserver.streams.presence import PresenceNews
from homeserver.streams.ring import Ring
from homeserver.streams.tokens import SyncToken, Timelines
from homeserver.users.sessions import Session
from homeserver.users.typing import Typing
from storage.engine import Database


class SyncRequest(NamedTuple):
    """What a client asks: `since` None for everything, `timeout` in seconds.

    `state_name` is the name of the rooms' state sections; any but `state` means the state at the
    end of the timeline. `stored`: answer from the tables also where memory would do; the two must
    say the same. `devices` off: what concerns the device, messages to it above all, is left alone.
    """

    session: Session
    since: str | None
    filter: Filter
    timeout: float
    full_state: bool = False
    state_name: StateName = "state"
    stored: bool = False
    devices: bool = True


class NewsDesk:
    """Gives the news of a stretch, from memory where it reaches back far enough."""

    def __init__(
        self,
        ring: Ring,
        database: Database,
        names: Names,
        timeline: Timeline,
        metrics: SyncMetrics,
    ) -> None:
        self._ring = ring
        self._database = database
        self._names = names
        self._timeline = timeline
        self._metrics = metrics
        self._latest: RingNews | None = None

    @property
    def pos(self) -> int:
        """The last position that was published."""
        return self._ring.pos

    def between(self, since: int, until: int, *, stored: bool = False) -> News:
        """`since`, up to an earlier position than the last."""
        if not stored and since >= 0 and self._ring.floor <= since:
            return RingNews(self._ring, self._database, since, until)
        return StoredNews(self._database, self._names, self._timeline, since, until)

    def since(self, since: int, *, stored: bool = False) -> News:
        """What happened in (since, pos]; `stored` reads the tables whatever the ring holds."""
        in_memory = not stored and since >= 0 and self._ring.floor <= since
        self._metrics.news(in_memory=in_memory)
        if in_memory:
            latest = self._latest
            if latest is None or latest.since != since or latest.until != self._ring.pos:
                latest = RingNews(self._ring, self._database, since, self._ring.pos)
                self._latest = latest
            return latest
        return StoredNews(self._database, self._names, self._timeline, since, self._ring.pos)

    def still_whole(self, news: News) -> bool:
        """Whether nothing was dropped from memory while the news were read."""
        return isinstance(news, StoredNews) or self._ring.floor <= news.since


class Sync:
    """See the module; one instance serves all clients of this process."""

    def __init__(
        self,
        desk: NewsDesk,
        answers: RoomAnswers,
        memberships: Memberships,
        ignored: Ignored,
        notifier: Notifier,
        typing: Typing,
        presence: PresenceNews,
        devices: DeviceNews,
        lazy: LazyMembers,
        timelines: Timelines,
        clock: Clock,
        incarnation: str,
    ) -> None:
        self._desk = desk
        self._answers = answers
        self._memberships = memberships
        self._ignored = ignored
        self._notifier = notifier
        self._typing = typing
        self._presence = presence
        self._devices = devices
        self._lazy = lazy
        self._timelines = timelines
        self._clock = clock
        self._incarnation = incarnation

    @property
    def position(self) -> SyncToken:
        """Where a client stands that has been told everything so far."""
        return SyncToken(
            self._desk.pos,
            self._incarnation,
            self._typing.counter,
            presence=self._presence.counter,
        )

    async def __call__(self, request: SyncRequest) -> bytes:
        """The answer's JSON. Raises `MatrixError` M_INVALID_PARAM for a wrong `since`."""
        token = SyncToken(-1, "", 0)
        if request.since is not None:
            token = self._timelines.parse_sync(request.since, self._desk.pos)
            if request.devices:
                await self._devices.received(request.session, token)
        deadline = self._clock.monotonic() + request.timeout
        woken = request.timeout <= 0
        answer: Answer | None = None
        while True:
            if self._is_current(token) and not request.full_state:
                # There is nothing to say; but only users whose rooms are known are woken.
                await self._memberships.of(request.session.user_nid)
                reached = token
            else:
                known = token.presence if token.incarnation == self._incarnation else 0
                answer, reached = await self._answer(request, token)
                if answer or token.pos < 0 or request.full_state:
                    break
                token = reached
                if answer.presence:
                    if woken:
                        break
                    # Presence is no reason to answer at once: it wakes in its own time.
                    token = reached._replace(presence=known)
                    self._presence.wake_later(request.session.user_nid)
                else:
                    answer = None
            if self._desk.pos > reached.pos or self._typing.counter > reached.ephemeral:
                # Something came while this was looked at; it may concern this user.
                continue
            left = deadline - self._clock.monotonic()
            woken = await self._notifier.wait(request.session.user_nid, left)
            if not woken:
                break
        if answer is None:
            answer = Answer()
        if request.devices:
            answer.pool = await self._devices.pool(request.session, stored=request.stored)
        return answer.json(self._timelines.sync_token(reached))

    def _is_current(self, token: SyncToken) -> bool:
        """Whether nothing at all has happened since the token."""
        return (
            token.pos == self._desk.pos
            and token.to_device is None
            and token.ephemeral == self._typing.counter
            and token.incarnation == self._incarnation
            and token.presence == self._presence.counter
        )

    async def _answer(self, request: SyncRequest, token: SyncToken) -> tuple[Answer, SyncToken]:
        """What has happened since `token`, and the token that says so."""
        session = request.session
        ignored = await self._ignored.by(session.user_nid, session.user_id)
        stored = request.stored
        while True:
            user = await self._memberships.of(session.user_nid)
            # From here to the first await below, everything is as of one position.
            news = self._desk.since(token.pos, stored=stored)
            reached = SyncToken(
                news.until,
                self._incarnation,
                self._typing.counter,
                typing=bool(self._typing.changed_since(-1, user.joined)),
                presence=self._presence.counter,
            )
            typing = self._typing_rooms(token, user)
            asker = Asker(
                user_id=session.user_id,
                user_nid=session.user_nid,
                device_nid=session.device_nid,
                filter=request.filter,
                full_state=request.full_state,
                state_name=request.state_name,
                ignored=ignored,
                now=self._clock.now_ms(),
                members=(
                    self._lazy.of(session.device_nid) if session.device_nid is not None else None
                ),
                misled=request.since is not None and token.pos < 0,
                stored=request.stored,
            )
            answer = Answer()
            if news.until > news.since or typing or request.full_state:
                await self._answers.fill(answer, asker, news, user, typing)
            if request.devices:
                upto = await self._devices.fill(answer, asker, news, user, token)
                if upto is not None:
                    reached = reached._replace(to_device=upto)
            if self._desk.still_whole(news):
                answer.presence = await self._presence_events(asker, user, token, reached)
                return answer, reached
            stored = True

    async def _presence_events(
        self, asker: Asker, user: UserRooms, token: SyncToken, reached: SyncToken
    ) -> list[bytes]:
        """The presence that the client must be told, as of `reached` or later."""
        foreign = token.incarnation != self._incarnation
        afresh = token.pos < 0 or asker.full_state or user.latest > token.pos
        if reached.presence == (0 if foreign else token.presence) and not afresh:
            return []
        since = token.presence
        if foreign:
            # Who was shown before this process began may be shown still.
            since = reached.presence if token.pos < 0 and not asker.misled else 0
        return await self._presence.events(asker, user, since, afresh=afresh)

    def _typing_rooms(self, token: SyncToken, user: UserRooms) -> Collection[int]:
        """The rooms whose typing users the client must be told."""
        if token.incarnation == self._incarnation and token.ephemeral >= self._typing.floor:
            return self._typing.changed_since(token.ephemeral, user.joined)
        if token.typing:
            # Who typed at the time may be shown still, in any room.
            return user.joined
        return self._typing.changed_since(-1, user.joined)

"""The JSON of the endpoints that page through a room.

Owns the replies of /messages, /context, /members and /joined_members: tokens, and the members that
lazily loading clients need. What may be read is decided in `history.py`.
"""

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.filters import EventFilter
from homeserver.rooms.history import History, Looking, Page, content_of
from homeserver.rooms.views import EventView
from homeserver.streams.ring import Ring
from homeserver.streams.tokens import Timelines

_MAX_CONTEXT = 100


class Pages:
    """See the module."""

    def __init__(self, history: History, timelines: Timelines, ring: Ring) -> None:
        self._history = history
        self._timelines = timelines
        self._ring = ring

    async def messages(
        self,
        looking: Looking,
        event_filter: EventFilter,
        *,
        start: str | None,
        to: str | None,
        limit: int,
        backwards: bool,
    ) -> bytes:
        """A page of history. spec: client-server-api#get_matrixclientv3roomsroomidmessages"""
        if start is not None:
            pos = self._timelines.parse_room(start, "from")
        else:
            pos = self._ring.pos if backwards else 0
        stop = self._timelines.parse_room(to, "to") if to is not None else None
        if event_filter.limit is not None:
            limit = min(limit, event_filter.limit)
        page = Page([], pos)
        if limit:
            page = await self._history.page(
                looking,
                event_filter,
                pos=None if start is None and not backwards else pos,
                to=stop,
                limit=limit,
                backwards=backwards,
            )
        parts = [
            b'"chunk":' + await self._history.whole_list(looking, page.views),
            b'"start":"%b"' % (start or self._timelines.room_token(pos)).encode(),
        ]
        if page.next_pos is not None:
            parts.append(b'"end":"%b"' % self._timelines.room_token(page.next_pos).encode())
        if event_filter.lazy_load_members and page.views:
            last = page.views[0 if backwards else -1].pos
            members = await self._history.senders(looking, page.views, last)
            parts.append(b'"state":' + self._history.json_list(looking, members))
        return b"{%b}" % b",".join(parts)

    async def context(
        self, looking: Looking, event_id: str, limit: int, event_filter: EventFilter
    ) -> bytes:
        """An event and what surrounds it.

        spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
        """
        history = self._history
        view = await history.event(looking, event_id)
        pos = view.pos or 0
        limit = min(limit, _MAX_CONTEXT)
        before, after = Page([], pos - 1), Page([], pos)
        if limit:
            before = await history.page(
                looking,
                event_filter,
                pos=pos - 1,
                to=None,
                limit=(limit + 1) // 2,
                backwards=True,
            )
        if limit > 1:
            after = await history.page(
                looking, event_filter, pos=pos, to=None, limit=limit // 2, backwards=False
            )
        last = (after.views[-1].pos if after.views else pos) or 0
        shown = [*before.views, view, *after.views]
        senders = {event.sender for event in shown} if event_filter.lazy_load_members else None
        state = await history.state(looking, last, senders)
        state = [event for event in state if _passes(event_filter, looking, event)]
        bundles = await history.bundles(looking, shown)
        texts = [history.json(looking, event, bundles.get(event.nid)) for event in shown]
        middle = len(before.views)
        first = (before.views[-1].pos if before.views else pos) or 0
        start = before.next_pos if before.next_pos is not None else first - 1
        end = after.next_pos if after.next_pos is not None else last
        return b'{"event":%b,"events_before":[%b],"events_after":[%b],"state":%b,%b,%b}' % (
            texts[middle],
            b",".join(texts[:middle]),
            b",".join(texts[middle + 1 :]),
            history.json_list(looking, state),
            b'"start":"%b"' % self._timelines.room_token(start).encode(),
            b'"end":"%b"' % self._timelines.room_token(end).encode(),
        )

    async def members(
        self, looking: Looking, *, at: str | None, only: str | None, but: str | None
    ) -> bytes:
        """Member events. spec: client-server-api#get_matrixclientv3roomsroomidmembers

        With both `only` and `but` the two are joined by "or".
        """
        pos = self._timelines.parse_room(at, "at") if at is not None else None
        members = await self._history.members(looking, pos)
        if only is not None or but is not None:
            members = [view for view in members if _chosen(_membership(view), only, but)]
        return b'{"chunk":%b}' % self._history.json_list(looking, members)

    async def joined_members(self, looking: Looking) -> JsonObject:
        """User id to display name and avatar of the joined members, for one of them.

        Raises `MatrixError` M_FORBIDDEN for who isn't in the room.
        spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
        """
        if not looking.reader.is_member:
            raise MatrixError.forbidden("You are not in this room")
        joined: JsonObject = {}
        for view in await self._history.members(looking):
            content = content_of(view)
            if content.get("membership") == "join" and view.state_key is not None:
                names = (("displayname", "display_name"), ("avatar_url", "avatar_url"))
                joined[view.state_key] = {
                    shown: content[key] for key, shown in names if isinstance(content.get(key), str)
                }
        return joined


def _membership(view: EventView) -> object:
    return content_of(view).get("membership")


def _chosen(membership: object, only: str | None, but: str | None) -> bool:
    if only is not None and membership == only:
        return True
    return but is not None and membership != but


def _passes(event_filter: EventFilter, looking: Looking, view: EventView) -> bool:
    if view.type == "m.room.member" and event_filter.lazy_load_members:
        return True
    return event_filter.matches(view.type, view.sender, looking.room.room_id, view.contains_url)

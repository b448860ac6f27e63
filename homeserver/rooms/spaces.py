"""Spaces: the tree of rooms below one.

Owns the walk: depth first, each room once, children in the order that their space gives them, and
only rooms that the user may see. A page's token says how much of the walk was told; what the walk
finds is kept for a while, so the next page costs little. What other servers say of their rooms is
kept as long for all walks, and that they know nothing, too: it depends on nobody who asks.
spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_room_id, is_server_name
from homeserver.ports import RemoteDirectory
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.stored import load_events
from homeserver.rooms.summaries import Summaries
from homeserver.runtime.clock import Clock
from homeserver.streams.numbers import Names
from homeserver.users.sessions import Session
from storage.engine import Database
from storage.state import current_of_type

_CHILD = "m.space.child"
_KEPT_SECONDS = 60.0
_KEPT = 500
_HEARD_BYTES = 8 * 1_048_576
_MOST_ROOMS = 50
_MOST_WALKED = 2_000
_DEEPEST = 20
_MOST_REMOTE = 30
_MOST_SERVERS = 5
_ORDER = re.compile(r"[\x20-\x7e]{1,50}")
_TOKEN = re.compile(r"h1_(\d{1,6})_(\d{1,3})_([01])")


@dataclass(slots=True)
class _Space:
    """What is known of one room: its entry with `children_state`, and what others say of those."""

    entry: JsonObject
    children: dict[str, JsonObject] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Heard:
    """What other servers said of a room, and how many bytes that is as JSON."""

    until: float
    space: _Space | None
    size: int


@dataclass(slots=True)
class _Step:
    room_id: str
    depth: int
    via: Sequence[str]
    said: JsonObject | None = None


@dataclass(slots=True)
class _Walk:
    """The rooms told so far, and what is still to be looked at (the next one last)."""

    told: list[JsonObject]
    ahead: list[_Step]
    seen: set[str]
    until: float
    asked: int = 0


class Spaces:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        names: Names,
        summaries: Summaries,
        elsewhere: Elsewhere,
        remote: RemoteDirectory,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._names = names
        self._summaries = summaries
        self._elsewhere = elsewhere
        self._remote = remote
        self._clock = clock
        self._walks: OrderedDict[tuple[int, str, int, bool], _Walk] = OrderedDict()
        self._heard: OrderedDict[tuple[str, ...], _Heard] = OrderedDict()
        self._heard_bytes = 0

    async def page(
        self,
        session: Session,
        room_id: str,
        *,
        suggested_only: bool,
        max_depth: int | None,
        limit: int | None,
        start: str | None,
    ) -> JsonObject:
        """A page of the tree.

        Raises `MatrixError` M_FORBIDDEN for a room that may not be seen, M_INVALID_PARAM for a
        token that is none or of another walk.
        """
        depth = _DEEPEST if max_depth is None else min(max_depth, _DEEPEST)
        offset = 0
        if start is not None:
            match = _TOKEN.fullmatch(start)
            if match is None or match.groups()[1:] != (str(depth), str(int(suggested_only))):
                raise MatrixError.invalid_param(
                    "from: not a token of this server, or suggested_only or max_depth has changed"
                )
            offset = int(match.group(1))
        size = max(1, min(limit or _MOST_ROOMS, _MOST_ROOMS))
        walk = await self._walk(session, room_id, depth, suggested_only, fresh=start is None)
        while len(walk.told) <= offset + size and walk.ahead and len(walk.seen) < _MOST_WALKED:
            await self._go_on(session, walk, depth, suggested_only)
        reply: JsonObject = {"rooms": walk.told[offset : offset + size]}
        if len(walk.told) > offset + size:
            reply["next_batch"] = f"h1_{offset + size}_{depth}_{int(suggested_only)}"
        return reply

    async def local(
        self, room: Room, suggested_only: bool, may_see: Callable[[Room], Awaitable[bool]]
    ) -> JsonObject:
        """What this server says of a space and the rooms right below it.

        `may_see` says whether the asking server may be told of a room; the space itself is not
        asked. spec: server-server-api#get_matrixfederationv1hierarchyroomid
        """
        space = await self._local(room)
        children: list[JsonObject] = []
        hidden: list[str] = []
        for event in _children(space.entry, suggested_only)[:_MOST_ROOMS]:
            child = await self._rooms.find(event["state_key"])
            if child is None or not await self._elsewhere.present(child):
                continue
            if await may_see(child):
                children.append(await self._summaries.entry(child))
            else:
                hidden.append(child.room_id)
        entry = {**space.entry, "children_state": _children(space.entry, suggested_only)}
        return {"room": entry, "children": children, "inaccessible_children": hidden}

    async def _walk(
        self, session: Session, room_id: str, depth: int, suggested_only: bool, *, fresh: bool
    ) -> _Walk:
        key = (session.user_nid, room_id, depth, suggested_only)
        now = self._clock.monotonic()
        walk = self._walks.get(key)
        if walk is None or fresh or walk.until < now:
            first = await self._found(session, _Step(room_id, 0, ()), None)
            if first is None:
                raise MatrixError.forbidden("You are not in this space, and may not see it")
            walk = _Walk([], [_Step(room_id, 0, ())], set(), now + _KEPT_SECONDS)
            self._walks[key] = walk
            while len(self._walks) > _KEPT:
                self._walks.popitem(last=False)
        return walk

    async def _go_on(
        self, session: Session, walk: _Walk, max_depth: int, suggested_only: bool
    ) -> None:
        """Look at the next room of the walk."""
        step = walk.ahead.pop()
        if step.room_id in walk.seen:
            return
        walk.seen.add(step.room_id)
        space = await self._found(session, step, walk)
        if space is None:
            return
        children = _children(space.entry, suggested_only)
        walk.told.append({**space.entry, "children_state": children})
        if step.depth >= max_depth:
            return
        for event in reversed(children):
            child_id = event["state_key"]
            if child_id not in walk.seen and child_id not in space.hidden:
                names = event["content"]["via"]
                via = [name for name in names if isinstance(name, str) and is_server_name(name)]
                said = space.children.get(child_id)
                walk.ahead.append(_Step(child_id, step.depth + 1, via, said))

    async def _found(self, session: Session, step: _Step, walk: _Walk | None) -> _Space | None:
        """What is known of a room; None when it isn't, or may not be told to the user."""
        room = await self._rooms.find(step.room_id)
        if room is not None and await self._elsewhere.present(room):
            if not await self._summaries.may_see(session, room):
                return None
            return await self._local(room)
        if step.said is not None and step.said.get("room_type") != "m.space":
            space: _Space | None = _Space({**step.said, "children_state": []})
        elif walk is None or not step.via:
            return None
        else:
            space = await self._elsewhere_said(step, walk)
        if space is None or not await self._summaries.may_see_remote(session, space.entry):
            return None
        return space

    async def _local(self, room: Room) -> _Space:
        entry = await self._summaries.entry(room)
        entry["children_state"] = []
        if entry.get("room_type") == "m.space":
            type_nid = (await self._names.nids([_CHILD]))[_CHILD]
            nids = await current_of_type(self._database, room.nid, type_nid)
            events = await load_events(self._database, nids, room.rules)
            entry["children_state"] = [
                {
                    "content": event.content,
                    "origin_server_ts": event.origin_server_ts,
                    "sender": event.sender,
                    "state_key": event.state_key,
                    "type": event.type,
                }
                for event in events.values()
            ]
        return _Space(entry)

    async def _elsewhere_said(self, step: _Step, walk: _Walk) -> _Space | None:
        """What other servers say of a room, or have said lately."""
        key = (step.room_id, *step.via[:_MOST_SERVERS])
        now = self._clock.monotonic()
        heard = self._heard.get(key)
        if heard is not None and heard.until >= now:
            return heard.space
        if walk.asked >= _MOST_REMOTE:
            return None
        walk.asked += 1
        space = await self._asked(step)
        size = 0 if space is None else len(msgspec.json.encode((space.entry, space.children)))
        before = self._heard.pop(key, None)
        self._heard[key] = _Heard(now + _KEPT_SECONDS, space, size)
        self._heard_bytes += size - (before.size if before is not None else 0)
        while len(self._heard) > _KEPT or self._heard_bytes > _HEARD_BYTES:
            self._heard_bytes -= self._heard.popitem(last=False)[1].size
        return space

    async def _asked(self, step: _Step) -> _Space | None:
        """What another server says of a space; nothing of it is believed to have its form."""
        answer = await self._remote.hierarchy(step.via[:_MOST_SERVERS], step.room_id, False)
        entry = answer.get("room") if answer is not None else None
        if answer is None or not isinstance(entry, dict) or entry.get("room_id") != step.room_id:
            return None
        if not isinstance(entry.get("children_state"), list):
            return None
        listed, hidden = answer.get("children"), answer.get("inaccessible_children")
        children = {
            child["room_id"]: child
            for child in (listed if isinstance(listed, list) else [])
            if isinstance(child, dict) and isinstance(child.get("room_id"), str)
        }
        names = hidden if isinstance(hidden, list) else []
        return _Space(entry, children, frozenset(name for name in names if isinstance(name, str)))


def _children(entry: JsonObject, suggested_only: bool) -> list[Any]:
    """The valid children of a space, in their order.

    spec: client-server-api#ordering-of-children-within-a-space
    """
    valid = [event for event in entry["children_state"] if _is_child(event)]
    if suggested_only:
        valid = [event for event in valid if event["content"].get("suggested") is True]
    return sorted(valid, key=_place)


def _is_child(event: Any) -> bool:
    if not isinstance(event, dict) or event.get("type") != _CHILD:
        return False
    content, key = event.get("content"), event.get("state_key")
    if not isinstance(content, dict) or not isinstance(key, str) or not is_room_id(key):
        return False
    via = content.get("via")
    return (
        isinstance(via, list)
        and any(isinstance(name, str) for name in via)
        and isinstance(event.get("origin_server_ts"), int)
    )


def _place(event: JsonObject) -> tuple[bool, str, int, str]:
    order = event["content"].get("order")
    text = order if isinstance(order, str) and _ORDER.fullmatch(order) else None
    return text is None, text or "", event["origin_server_ts"], event["state_key"]

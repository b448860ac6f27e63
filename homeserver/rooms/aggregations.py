"""What is told of an event's children together with it, as `m.relations` in its `unsigned`.

Owns the aggregation of replacements, references and threads for a page of events, with a few
statements for all of them. Invariant: nothing of an event that the viewer may not see, or of whom
the viewer ignores, is in it. Annotations are not aggregated, and state has no aggregations.
spec: client-server-api#aggregations-of-child-events
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.relations import ANNOTATION, REFERENCE, REPLACE, THREAD, relation_of
from homeserver.rooms.actor import Room
from homeserver.rooms.readable import Reader
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.views import EventView
from homeserver.streams.numbers import Names
from storage import relations as store
from storage.engine import Database
from storage.schema import REDACTED

_AGGREGATED = frozenset((REPLACE, REFERENCE, THREAD))
_MOST_EDITS_TRIED = 5
_MOST_TOLD = 1_000
_THREAD_TAIL = 50


class Viewer(NamedTuple):
    """For whom is aggregated.

    `until` bounds what is counted, `reader` says which events may be shown (None: all, to who was
    in the room all along), `json` shows one with its own aggregations.
    """

    user_nid: int
    user_id: str
    ignored: frozenset[str]
    until: int
    reader: Reader | None
    json: Callable[[EventView, bytes | None], bytes]

    async def shown(self, views: Iterable[EventView]) -> list[EventView]:
        """Those of the events that may be shown, in their order."""
        views = [view for view in views if view.sender not in self.ignored]
        return views if self.reader is None else await self.reader.seen(views)


class Aggregations:
    """See the module."""

    def __init__(self, database: Database, timeline: Timeline, names: Names) -> None:
        self._database = database
        self._timeline = timeline
        self._names = names

    async def of(
        self, room: Room, views: Collection[EventView], viewer: Viewer
    ) -> Mapping[int, bytes]:
        """The JSON of `m.relations` of those of the room's events that have children to tell of."""
        parents = {view.event_id: view for view in views if view.state_key is None}
        if not parents:
            return {}
        counted = await store.counted(self._database, room.nid, parents.keys(), viewer.until)
        by_type: dict[str, dict[str, store.Children]] = {name: {} for name in _AGGREGATED}
        for parent_id, children in counted.items():
            for rel_type, found in children.items():
                if rel_type in _AGGREGATED:
                    by_type[rel_type][parent_id] = found
        parts: dict[str, list[bytes]] = {}
        for name, texts in (
            (REPLACE, await self._edits(room, parents, by_type[REPLACE], viewer)),
            (REFERENCE, await self._references(room, by_type[REFERENCE], viewer)),
            (THREAD, await self._threads(room, parents, by_type[THREAD], viewer)),
        ):
            for parent_id, text in texts.items():
                parts.setdefault(parent_id, []).append(b'"%b":%b' % (name.encode(), text))
        return {
            parents[parent_id].nid: b"{%b}" % b",".join(found) for parent_id, found in parts.items()
        }

    async def _edits(
        self,
        room: Room,
        parents: Mapping[str, EventView],
        edited: Collection[str],
        viewer: Viewer,
    ) -> dict[str, bytes]:
        """spec: client-server-api#server-side-aggregation-of-mreplace-relationships"""
        wanted = [id_ for id_ in edited if _may_be_edited(parents[id_])]
        if not wanted:
            return {}
        found = await store.edits(self._database, room.nid, wanted, viewer.until)
        tried = {id_: nids[:_MOST_EDITS_TRIED] for id_, nids in found.items()}
        views = await self._timeline.views(
            [nid for nids in tried.values() for nid in nids], room.rules
        )
        shown = {view.nid: view for view in await viewer.shown(views.values()) if _replaces(view)}
        texts: dict[str, bytes] = {}
        for parent_id, nids in tried.items():
            latest = next((shown[nid] for nid in nids if nid in shown), None)
            if latest is not None:
                texts[parent_id] = viewer.json(latest, None)
        return texts

    async def _references(
        self, room: Room, referred: Collection[str], viewer: Viewer
    ) -> dict[str, bytes]:
        """spec: client-server-api#server-side-aggregation-of-mreference"""
        if not referred:
            return {}
        ignored = await self._ignored(viewer)
        told = await self._told(room, REFERENCE, referred, ignored, viewer)
        return {
            parent_id: canonical.encode(
                {"chunk": [{"event_id": child.event_id} for child in children]}
            )
            for parent_id, children in told.items()
            if children
        }

    async def _told(
        self,
        room: Room,
        rel_type: str,
        parent_ids: Collection[str],
        ignored: Collection[int],
        viewer: Viewer,
    ) -> dict[str, list[store.Referring]]:
        """By parent the children by this relation that the viewer may see, `_MOST_TOLD` at most."""
        found = await store.referring(
            self._database, room.nid, rel_type, parent_ids, viewer.until, _MOST_TOLD
        )
        told: dict[str, list[store.Referring]] = {}
        for parent_id, children in found.items():
            known = [child for child in children if child.sender_nid not in ignored]
            told[parent_id] = known if viewer.reader is None else await viewer.reader.seen(known)
        return told

    async def _threads(
        self,
        room: Room,
        parents: Mapping[str, EventView],
        threads: Mapping[str, store.Children],
        viewer: Viewer,
    ) -> dict[str, bytes]:
        """spec: client-server-api#server-side-aggregation-of-mthread-relationships"""
        if not threads:
            return {}
        database = self._database
        own = {id_ for id_ in threads if parents[id_].sender == viewer.user_id}
        others = threads.keys() - own
        if others:
            own |= await store.participated(database, room.nid, others, viewer.user_nid)
        ignored = await self._ignored(viewer)
        latest = await self._latest(room, threads, ignored, viewer)
        counts = await self._lengths(room, threads, latest, ignored, viewer)
        bundles = await self.of(room, latest.values(), viewer) if latest else {}
        return {
            id_: b'{"count":%d,"current_user_participated":%b,"latest_event":%b}'
            % (
                counts[id_],
                b"true" if id_ in own else b"false",
                viewer.json(view, bundles.get(view.nid)),
            )
            for id_, view in latest.items()
        }

    async def _lengths(
        self,
        room: Room,
        threads: Mapping[str, store.Children],
        shown: Collection[str],
        ignored: Collection[int],
        viewer: Viewer,
    ) -> dict[str, int]:
        """How many events of each shown thread the viewer may see."""
        if viewer.reader is not None and not viewer.reader.sees_all(viewer.until):
            counts = {}
            for id_ in shown:
                told = await self._told(room, THREAD, [id_], ignored, viewer)
                counts[id_] = len(told.get(id_, ()))
            return counts
        counts = {id_: threads[id_].number for id_ in shown}
        if not ignored:
            return counts
        hidden = await store.counted_by(self._database, room.nid, shown, ignored, viewer.until)
        return {id_: count - hidden.get(id_, 0) for id_, count in counts.items()}

    async def _latest(
        self,
        room: Room,
        threads: Mapping[str, store.Children],
        ignored: Collection[int],
        viewer: Viewer,
    ) -> dict[str, EventView]:
        """The last event of each thread that the viewer may see."""
        last = {found.last_pos: id_ for id_, found in threads.items()}
        nids = await store.at_positions(self._database, room.nid, last.keys())
        views = await self._timeline.views(nids.values(), room.rules)
        shown = {view.nid: view for view in await viewer.shown(views.values())}
        latest = {last[pos]: shown[nid] for pos, nid in nids.items() if nid in shown}
        for root_id in threads.keys() - latest.keys():
            tail = await store.thread_tail(
                self._database, room.nid, root_id, viewer.until, _THREAD_TAIL
            )
            wanted = [nid for nid, sender_nid in tail if sender_nid not in ignored]
            views = await self._timeline.views(wanted, room.rules)
            tail_views = await viewer.shown(views[nid] for nid in wanted if nid in views)
            if tail_views:
                latest[root_id] = tail_views[0]
        return latest

    async def _ignored(self, viewer: Viewer) -> frozenset[int]:
        if not viewer.ignored:
            return frozenset()
        return frozenset((await self._names.nids(viewer.ignored)).values())


def _may_be_edited(view: EventView) -> bool:
    """Whether a replacement of the event can be valid.

    spec: client-server-api#validity-of-replacement-events
    """
    if view.flags & REDACTED:
        return False
    relation = relation_of(_content(view))
    return relation is None or relation.rel_type not in (REPLACE, ANNOTATION)


def _replaces(view: EventView) -> bool:
    if view.state_key is not None:
        return False
    return view.type == "m.room.encrypted" or isinstance(_content(view).get("m.new_content"), dict)


def _content(view: EventView) -> JsonObject:
    content: JsonObject = canonical.decode_object(view.body + b"}")["content"]
    return content

"""Staged events of one room that wait for others: what each lacks, and what frees them.

Owns no event, only ids. What was asked for in vain rests: nobody is asked for it until it is due,
but it is freed like all others. An event about which a policy server must be asked lacks nothing
else; that server is asked, and nobody for what waits for the event. Invariant: an event that waits
for one that came is freed in the order in which they stand behind each other, without being judged
in between; who waits for what nobody here has is found for each server that sent it.
"""

from collections import deque
from collections.abc import Iterable, Sequence


class Lacking:
    """See the module."""

    def __init__(self) -> None:
        self._lacks: dict[str, set[str]] = {}
        self._origins: dict[str, str] = {}
        self._behind: dict[str, dict[str, None]] = {}
        self._freed: dict[str, None] = {}
        self._resting: set[str] = set()
        self._asked: set[str] = set()

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._lacks or event_id in self._freed

    def __bool__(self) -> bool:
        return bool(self._lacks or self._freed)

    def add(self, event_id: str, origin: str, lacks: Iterable[str]) -> None:
        """The event, sent by `origin`, waits for these."""
        self._lacks[event_id] = set(lacks)
        self._origins[event_id] = origin
        for id_ in self._lacks[event_id]:
            self._behind.setdefault(id_, {})[event_id] = None

    def ask(self, event_id: str, policy_server: str) -> None:
        """The policy server must be asked about the event: it counts as sent by that one."""
        self.add(event_id, policy_server, ())
        self._asked.add(event_id)

    def is_asked(self, event_id: str) -> bool:
        """Whether it is a policy server that the event waits for."""
        return event_id in self._asked

    def came(self, event_ids: Iterable[str]) -> None:
        """These have a place in the room: what waited for nothing else can be judged, and then
        what waited for that.
        """
        queue = deque(event_ids)
        while queue:
            id_ = queue.popleft()
            for behind in self._behind.pop(id_, ()):
                left = self._lacks[behind]
                left.discard(id_)
                if not left:
                    del self._lacks[behind], self._origins[behind]
                    self._resting.discard(behind)
                    self._freed[behind] = None
                    queue.append(behind)

    def take(self, most: int) -> list[str]:
        """Up to `most` of those that were freed, in the order in which they can be judged."""
        taken = list(self._freed)[:most]
        for event_id in taken:
            del self._freed[event_id]
        return taken

    def recheck(self) -> None:
        """Events that nobody here waited for came, too: have all judged again but those at rest."""
        again = [id_ for id_ in self._lacks if id_ not in self._resting]
        self.drop(again)
        self._freed |= dict.fromkeys(again)

    def rest(self, event_ids: Iterable[str]) -> None:
        """Have nobody asked for what these lack until they are `due`."""
        self._resting |= self._lacks.keys() & set(event_ids)

    def due(self, event_id: str) -> None:
        """The event's rest is over."""
        self._resting.discard(event_id)

    def drop(self, event_ids: Iterable[str]) -> None:
        """These wait no longer."""
        for event_id in event_ids:
            self._freed.pop(event_id, None)
            self._origins.pop(event_id, None)
            self._resting.discard(event_id)
            self._asked.discard(event_id)
            for id_ in self._lacks.pop(event_id, ()):
                waiting = self._behind[id_]
                del waiting[event_id]
                if not waiting:
                    del self._behind[id_]

    def origins(self) -> set[str]:
        """The servers for some of whose events others can be asked."""
        return {sent_by for id_, sent_by in self._origins.items() if self._is_sought(id_)}

    def first(self, origin: str) -> str | None:
        """The first event of a server that waits for none that it has sent itself."""
        for event_id in self.of(origin):
            if all(self._origins.get(id_) != origin for id_ in self._lacks[event_id]):
                return event_id
        return None

    def of(self, origin: str) -> Sequence[str]:
        """All events of a server that wait and are not at rest."""
        return [
            id_
            for id_, sent_by in self._origins.items()
            if sent_by == origin and self._is_sought(id_)
        ]

    def _is_sought(self, event_id: str) -> bool:
        """Whether somebody is to be asked for what the event lacks."""
        return event_id not in self._resting and self._asked.isdisjoint(self._lacks[event_id])

    def with_those_behind(self, event_id: str) -> Sequence[str]:
        """The event, and what the same server sent that waits for it, directly or not."""
        found = {event_id: None}
        queue = deque(found)
        while queue:
            for behind in self._behind.get(queue.popleft(), ()):
                if behind not in found and self._origins[behind] == self._origins.get(event_id):
                    found[behind] = None
                    queue.append(behind)
        return list(found)

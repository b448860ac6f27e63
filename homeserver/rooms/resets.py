"""State resets: what state resolution takes from users though no event says so.

Owns the judgement on a change of the current state that an event from elsewhere has brought with
it, and what becomes of a loss: a count, a line in the log, rows that `homeserver room check` lists.
A join or a ban is lost when the state falls back to an event that stands behind it, or to none; a
power when no power levels event of the branch that now counts has lowered it. It changes no state.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from homeserver.matrix.authgraph import AuthGraph
from homeserver.matrix.event import Event
from homeserver.matrix.powerlevels import PowerLevels
from homeserver.rooms.actor import Room
from homeserver.runtime.clock import Clock
from homeserver.runtime.metrics import Metrics
from storage.changes import Change, Pos, Put
from storage.resets import forget_older
from storage.schema import StateResetRow

log = logging.getLogger(__name__)

EVERYBODY = "*"
"""Stands for the users of whom the power levels say nothing."""
MAX_LOOKED_AT = 200
"""More changes of one event are not looked at; a reset of a whole room shows in these."""
MAX_NAMED = 5

_MEMBER = "m.room.member"
_POWER_LEVELS = ("m.room.power_levels", "")


@dataclass(frozen=True, slots=True)
class Loss:
    """What a user has lost: `what` is "membership" or "power"; `was` and `now` in words.

    `lost_nid` is the state event that counted before, `left_nid` the one that counts now, if any.
    """

    user_id: str
    what: str
    was: str
    now: str
    lost_nid: int
    left_nid: int | None


class Lineage:
    """Which state events stand behind which, in one room.

    `new` is an event that may not be in `graph`: its number and those of its auth events.
    """

    def __init__(self, graph: AuthGraph, new: tuple[int, Sequence[int]]) -> None:
        self._graph = graph
        self._new, self._auths = new

    def stands_behind(self, nid: int, other: int) -> bool:
        """Whether `other` is in the auth chain of `nid`."""
        if nid == self._new:
            return any(auth == other or self.stands_behind(auth, other) for auth in self._auths)
        return nid in self._graph and self._graph.reaches(nid, other)

    def levels_behind(self, nid: int | None, levels: Iterable[int]) -> int | None:
        """The last power levels event that both `nid` and `levels`, a line of such, stand on."""
        known = set(levels)
        for step in self.line(nid):
            if step in known:
                return step
        return None

    def line(self, nid: int | None) -> Iterable[int]:
        """A power levels event, the one that it was authorised by, and so on."""
        if nid is not None and nid == self._new and nid not in self._graph:
            yield nid
            nid = next(
                (
                    auth
                    for auth in self._auths
                    if auth in self._graph and self._graph.is_power_levels(auth)
                ),
                None,
            )
        while nid is not None and nid in self._graph:
            yield nid
            nid = self._graph.power_levels_of(nid)


def is_suspicious(before: Event | None, after: Event | None, event: Event) -> bool:
    """Whether a change of the current state from `before` to `after`, at the arrival of `event`,
    may be a loss that nobody has spoken of.
    """
    if before is None:
        return False
    if before.key == _POWER_LEVELS:
        return True
    if before.type != _MEMBER or after is event:
        return False
    was = before.content.get("membership")
    return was in ("join", "ban") and (after is None or after.content.get("membership") != was)


def losses(
    changes: Mapping[int, tuple[int, int | None]],
    events: Mapping[int, Event],
    creators: frozenset[str],
    lineage: Lineage,
) -> list[Loss]:
    """What suspicious changes (by key, from one event number to another) take from whom.

    `events` has the events of the changes. Raises `LevelsMissing` for power levels events that must
    be among them, too.
    """
    found: list[Loss] = []
    for old, new in list(changes.values())[:MAX_LOOKED_AT]:
        before, after = events[old], events[new] if new is not None else None
        if before.key == _POWER_LEVELS:
            found += _powers(old, new, events, creators, lineage)
        elif new is None or lineage.stands_behind(old, new):
            now = after.content.get("membership") if after is not None else None
            found.append(
                Loss(
                    before.state_key or "",
                    "membership",
                    str(before.content.get("membership")),
                    str(now) if now is not None else "none",
                    old,
                    new,
                )
            )
    return found


class LevelsMissing(Exception):
    """The power levels event of this number is needed."""

    def __init__(self, nid: int) -> None:
        super().__init__("power levels are needed")
        self.nid = nid


def _powers(
    old: int,
    new: int | None,
    events: Mapping[int, Event],
    creators: frozenset[str],
    lineage: Lineage,
) -> list[Loss]:
    rules = events[old].rules

    def levels(nid: int | None) -> PowerLevels:
        if nid is not None and nid not in events:
            raise LevelsMissing(nid)
        return PowerLevels(rules, events[nid].content if nid is not None else None, creators)

    common = lineage.levels_behind(new, lineage.line(old))
    had, has, behind = levels(old), levels(new), levels(common)
    users = {user_id for nid in (old, new) if nid is not None for user_id in _users(events[nid])}
    found = []
    for user_id in sorted(users):
        was, now = had.user_level(user_id), has.user_level(user_id)
        if now < was and behind.user_level(user_id) <= now:
            found.append(Loss(user_id, "power", str(was), str(now), old, new))
    if has.users_default < had.users_default and behind.users_default <= has.users_default:
        was, now = had.users_default, has.users_default
        found.append(Loss(EVERYBODY, "power", str(was), str(now), old, new))
    return found[:MAX_LOOKED_AT]


def _users(event: Event) -> Iterable[str]:
    users = event.content.get("users")
    return users.keys() if isinstance(users, dict) else ()


class Resets:
    """What becomes of losses; see the module."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock

    def rows(self, room_nid: int, event_nid: int, lost: Sequence[Loss]) -> list[Change]:
        """The changes that keep losses; they belong to the commit of the event, at its position."""
        now = self._clock.now_ms()
        rows: list[Change] = [
            Put(
                StateResetRow(
                    room_nid=room_nid,
                    pos=Pos(0),
                    what=loss.what,
                    user_id=loss.user_id,
                    event_nid=event_nid,
                    lost_nid=loss.lost_nid,
                    left_nid=loss.left_nid,
                    was=loss.was,
                    now=loss.now,
                    ts=now,
                )
            )
            for loss in lost
        ]
        return [*rows, forget_older(room_nid)] if rows else []

    def happened(self, room: Room, event: Event, lost: Sequence[Loss]) -> Callable[[int], None]:
        """What is to be done when they are committed."""

        def told(pos: int) -> None:
            self._metrics.state_resets += len(lost)
            named = "; ".join(
                in_words(loss.user_id, loss.what, loss.was, loss.now) for loss in lost[:MAX_NAMED]
            )
            more = f", and {len(lost) - MAX_NAMED} more" if len(lost) > MAX_NAMED else ""
            log.warning(
                "state reset in %s at the arrival of %s, and no event says so: %s%s",
                room.room_id,
                event.event_id,
                named,
                more,
            )

        return told


def in_words(user_id: str, what: str, was: str, now: str) -> str:
    """A loss, for people."""
    who = "everybody else" if user_id == EVERYBODY else user_id
    if what == "power":
        return f"{who} has power {now} instead of {was}"
    return f"{who} went from {was} to {now}"

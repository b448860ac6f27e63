"""The checks on receipt of an event that need the room, by their numbers in the specification.

Owns what an event lacks to be judged, and what becomes of it: `check` has the steps. Checks 1 to 3
(format, signatures, hash) need no room and were made before (`federation/events.py`). A rejected
event is part of no state; a soft-failed one is shown to nobody, though others may stand behind it.
spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from homeserver.matrix.auth import AuthState, auth_keys, authorise, check_auth_events
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.policy import Policy
from homeserver.rooms.at_hand import AtHand
from homeserver.rooms.states import State
from storage.schema import OUTLIER, REJECTED, SOFT_FAILED, EventRow

CREATE = ("m.room.create", "")


@dataclass(frozen=True, slots=True)
class Missing:
    """Ids of the auth events and previous events that must be had before an event can be judged."""

    auth: tuple[str, ...]
    prev: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unasked:
    """This policy server must be asked about an event before it can be judged."""

    server: str


class Failed(enum.Enum):
    """The number of the check that an event fails."""

    AUTH_EVENTS = 4
    STATE_BEFORE = 5
    CURRENT_STATE = 6
    POLICY = 7

    @property
    def flags(self) -> int:
        """What the event is by that: REJECTED or SOFT_FAILED."""
        return REJECTED if self in (Failed.AUTH_EVENTS, Failed.STATE_BEFORE) else SOFT_FAILED


def lacking(at_hand: AtHand) -> Missing:
    """What the event lacks to be judged.

    The state behind some events is not known: as previous events they are missing, too.
    """
    event, nids = at_hand.event, at_hand.shelf.nids
    return Missing(
        tuple(id_ for id_ in event.auth_event_ids if id_ not in nids),
        tuple(
            id_
            for id_ in event.prev_event_ids
            if id_ not in nids or _is_stateless(at_hand.row(nids[id_]))
        ),
    )


def check(
    at_hand: AtHand,
    before: State,
    policy: Callable[[], Policy | None],
    *,
    linear: bool,
    asked: bool,
) -> Failed | Unasked | None:
    """The first of the checks 4 to 7 that the event fails.

    `before` is the state before the event; `linear`: it is the room's current one, too. `policy`
    finds the room's policy server; `asked`: that was asked for its signature.
    """
    if not allowed_by_auth_events(at_hand):
        return Failed.AUTH_EVENTS
    if not _allowed_by(at_hand, before):
        return Failed.STATE_BEFORE
    if not linear and not _allowed_by(at_hand, at_hand.head.state):
        return Failed.CURRENT_STATE
    used = policy()
    if used is not None and not used.recommends(at_hand.event):
        return Failed.POLICY if asked else Unasked(used.server)
    return None


def allowed_by_auth_events(at_hand: AtHand) -> bool:
    """Whether the rules allow the event by the events that it names for that. All are stored."""
    event, head = at_hand.event, at_hand.head
    wanted = at_hand.auths()
    at_hand.need(wanted)
    auths = [at_hand.known(nid) for nid in wanted]
    rejected = {
        auth.event_id for nid, auth in zip(wanted, auths, strict=True) if at_hand.is_rejected(nid)
    }
    by_key = {auth.key: auth for auth in auths if auth.is_state}

    def state(type_: str, state_key: str) -> Event | None:
        found = by_key.get((type_, state_key))
        if found is None and (type_, state_key) == CREATE:
            # From version 12 on the room's id names it.
            return head.event(*CREATE)
        return found

    try:
        check_auth_events(event, auths, rejected)
        authorise(event, state)
    except Rejected:
        return False
    return True


def _allowed_by(at_hand: AtHand, state: State) -> bool:
    """Whether the rules allow the event by a state of the room."""
    try:
        authorise(at_hand.event, _lookup(at_hand, state))
    except Rejected:
        return False
    return True


def _lookup(at_hand: AtHand, state: State) -> AuthState:
    """Events of a state by key, those that authorising the event looks at being loaded."""
    event, names = at_hand.event, at_hand.head.names
    keys = auth_keys(event.rules, event.type, event.sender, event.state_key, event.content)
    wanted = [state.get(names.key_nid(*key)) for key in (*keys, CREATE)]
    at_hand.need([nid for nid in wanted if nid is not None])

    def look(type_: str, state_key: str) -> Event | None:
        nid = state.get(names.key_nid(type_, state_key))
        return None if nid is None else at_hand.known(nid)

    return look


def _is_stateless(row: EventRow) -> bool:
    """Whether the state before an event is not known: an outlier, or history that was fetched."""
    return bool(row.flags & OUTLIER) or (row.snap_nid is None and (row.pos or 0) < 0)

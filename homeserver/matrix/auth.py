"""The authorisation rules of room versions 1 to 12: may this event stand, given that state?

`authorise` asks for state through a function and looks at nothing but the keys that `auth_keys`
names, so the same rules serve an event's auth events, the state before it, the current state and
the steps of state resolution. Whatever an event's content holds, the answer is `Rejected` or
silence, never another exception.
It verifies no signature of an event (`sign` does; also that of the server that authorised a
restricted join), only those inside a third-party invite. It fetches nothing.
"""

from collections.abc import Callable, Container, Sequence

from homeserver.matrix import powerlevels
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_user_id
from homeserver.matrix.powerlevels import PowerLevels
from homeserver.matrix.thirdparty import verify_invite
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules

AuthState = Callable[[str, str], Event | None]
"""The state event at (type, state key), if there is one."""

_CREATE = ("m.room.create", "")
_POWER_LEVELS = ("m.room.power_levels", "")
_JOIN_RULES = ("m.room.join_rules", "")


def creators(create: Event) -> frozenset[str]:
    """The room's creators: one, or none if the content lacks it; several from version 12 on."""
    if not create.rules.creator_is_sender:
        creator = create.content.get("creator")
        return frozenset((creator,)) if isinstance(creator, str) else frozenset()
    if not create.rules.privileged_creators:
        return frozenset((create.sender,))
    additional = create.content.get("additional_creators")
    if not isinstance(additional, list):
        additional = []
    return frozenset((create.sender, *(user for user in additional if isinstance(user, str))))


def power_levels(state: AuthState) -> PowerLevels:
    """The levels in force; Rejected if the state has no create event."""
    create = _create(state)
    event = state(*_POWER_LEVELS)
    return PowerLevels(create.rules, event.content if event else None, creators(create))


def auth_keys(
    rules: RoomRules, event_type: str, sender: str, state_key: str | None, content: JsonObject
) -> list[tuple[str, str]]:
    """The state keys that an event's auth events are chosen from, each once.

    From version 12 on the create event isn't among them.
    spec: server-server-api#auth-events-selection
    """
    if event_type == "m.room.create":
        return []
    keys = [] if rules.room_id_is_hash else [_CREATE]
    keys += [_POWER_LEVELS, ("m.room.member", sender)]
    if event_type != "m.room.member":
        return keys
    if state_key is not None and state_key != sender:
        keys.append(("m.room.member", state_key))
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        keys.append(_JOIN_RULES)
    if membership == "invite":
        token = _object(_object(content.get("third_party_invite")).get("signed")).get("token")
        if isinstance(token, str):
            keys.append(("m.room.third_party_invite", token))
    if membership == "join" and rules.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and ("m.room.member", authoriser) not in keys:
            keys.append(("m.room.member", authoriser))
    return keys


def check_auth_events(
    event: Event, auth_events: Sequence[Event], rejected: Container[str] = frozenset()
) -> None:
    """The rule that considers the event's `auth_events`: duplicates, strangers, rejected ones.

    `auth_events` are the events of `event.auth_event_ids`, in any order; `rejected` holds the ids
    of rejected events (asked for these, and for the create event that a version 12 room id names).
    Raises Rejected. spec: rooms/v12#authorisation-rules (2, 3), rooms/v1#authorisation-rules (2)
    """
    if event.type == "m.room.create":
        return
    if event.rules.room_id_is_hash and f"${event.room_id[1:]}" in rejected:
        raise Rejected("The room's create event was rejected.")
    if len(set(event.auth_event_ids)) != len(event.auth_event_ids):
        raise Rejected("An auth event is named twice.")
    wanted = set(auth_keys(event.rules, event.type, event.sender, event.state_key, event.content))
    seen: set[tuple[str, str | None]] = set()
    for auth_event in auth_events:
        key = (auth_event.type, auth_event.state_key)
        if key in seen:
            raise Rejected(f"Two auth events have the type {auth_event.type} and the same key.")
        if key not in wanted:
            raise Rejected(f"An auth event of type {auth_event.type} is not one that is needed.")
        if auth_event.event_id in rejected:
            raise Rejected(f"The auth event {auth_event.event_id} was rejected.")
        if auth_event.room_id != event.room_id:
            raise Rejected(f"The auth event {auth_event.event_id} is of another room.")
        seen.add(key)
    if not event.rules.room_id_is_hash and _CREATE not in seen:
        raise Rejected("The create event is not among the auth events.")


def authorise(event: Event, state: AuthState) -> None:
    """All rules but that of `check_auth_events`; raises Rejected.

    `state` answers for the keys of `auth_keys`, and for ("m.room.create", "") in all versions.
    spec: rooms/v12#authorisation-rules, rooms/v1#authorisation-rules
    """
    if event.type == "m.room.create":
        _check_create(event)
        return
    create = _create(state)
    if create.room_id != event.room_id:
        raise Rejected("The room id is not that of the create event.")
    closed = create.content.get("m.federate") is False
    if closed and _domain(event.sender) != _domain(create.sender):
        raise Rejected("This room can't be used from other servers.")
    if event.type == "m.room.aliases" and event.rules.aliases_by_domain:
        if event.state_key is None or event.state_key != _domain(event.sender):
            raise Rejected("Aliases may only be set for the sender's own server.")
        return
    if event.type == "m.room.member":
        _check_member(event, state, create)
        return
    _check_joined(state, event.sender)
    levels = power_levels(state)
    power = levels.user_level(event.sender)
    if event.type == "m.room.third_party_invite":
        if power < levels.invite:
            raise Rejected("The sender may not invite.")
        return
    if power < levels.event_level(event.type, event.is_state):
        raise Rejected(f"The sender may not send events of type {event.type}.")
    state_key = event.state_key or ""
    if state_key.startswith("@") and state_key != event.sender:
        raise Rejected("The state key is another user's id.")
    if event.type == "m.room.power_levels":
        old = state(*_POWER_LEVELS)
        old_content = old.content if old else None
        powerlevels.check_change(
            event.rules, old_content, event.content, event.sender, levels, creators(create)
        )
    elif event.type == "m.room.redaction" and not event.rules.redaction_at_delivery:
        own_server = event.redacts and _domain(event.redacts) == _domain(event.event_id)
        if power < levels.redact and not own_server:
            raise Rejected("The sender may not redact this event.")


def _check_create(event: Event) -> None:
    rules, content = event.rules, event.content
    if event.prev_event_ids:
        raise Rejected("The create event has previous events.")
    if rules.room_id_is_hash:
        if "room_id" in event.pdu:
            raise Rejected("The create event has a room id.")
    elif _domain(event.room_id) != _domain(event.sender):
        raise Rejected("The room id is of another server than the creator.")
    version = content.get("room_version", "1")
    if not isinstance(version, str) or version not in ROOM_VERSIONS:
        raise Rejected("The room version is not known.")
    if not rules.creator_is_sender and "creator" not in content:
        raise Rejected("The create event names no creator.")
    if rules.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(
            isinstance(user, str) and is_user_id(user, historical=True) for user in additional
        ):
            raise Rejected("additional_creators is not a list of user ids.")


def _check_member(event: Event, state: AuthState, create: Event) -> None:
    """The rules for `m.room.member`; the target is the user of the state key."""
    content, target = event.content, event.state_key
    membership = content.get("membership")
    if target is None or membership is None:
        raise Rejected("A membership event lacks its state key or its membership.")
    if event.rules.restricted_joins and "join_authorised_via_users_server" in content:
        # Only a user id names a server, whose signature `sign` demands.
        authoriser = content["join_authorised_via_users_server"]
        if not isinstance(authoriser, str) or not is_user_id(authoriser, historical=True):
            raise Rejected("join_authorised_via_users_server is not a user id.")
    if membership == "join":
        _check_join(event, state, create, target)
    elif membership == "invite":
        _check_invite(event, state, target)
    elif membership == "leave":
        _check_leave(event, state, target)
    elif membership == "ban":
        _check_joined(state, event.sender)
        levels = power_levels(state)
        power = levels.user_level(event.sender)
        if power < levels.ban or power <= levels.user_level(target):
            raise Rejected(f"The sender may not ban {target}.")
    elif membership == "knock" and event.rules.knocking:
        _check_knock(event, state, target)
    else:
        raise Rejected("The membership is unknown.")


def _check_join(event: Event, state: AuthState, create: Event, target: str) -> None:
    creator = create.sender if event.rules.creator_is_sender else create.content.get("creator")
    if event.prev_event_ids == [create.event_id] and target == creator:
        return
    if event.sender != target:
        raise Rejected("Nobody can be made to join.")
    membership = _membership(state, target)
    if membership == "ban":
        raise Rejected("The user is banned.")
    rule = _join_rule(state)
    rules = event.rules
    if rule == "public":
        return
    by_invite = rule == "invite" or (rule == "knock" and rules.knocking)
    restricted = (rule == "restricted" and rules.restricted_joins) or (
        rule == "knock_restricted" and rules.knock_restricted
    )
    if not by_invite and not restricted:
        raise Rejected("The join rule of the room lets nobody join.")
    if membership in ("invite", "join"):
        return
    if by_invite:
        raise Rejected("The user is not invited.")
    authoriser = event.content.get("join_authorised_via_users_server")
    if not isinstance(authoriser, str) or _membership(state, authoriser) != "join":
        raise Rejected("No member of the room has authorised the join.")
    levels = power_levels(state)
    if levels.user_level(authoriser) < levels.invite:
        raise Rejected("The member who authorised the join may not invite.")


def _check_invite(event: Event, state: AuthState, target: str) -> None:
    membership = _membership(state, target)
    if membership == "ban":
        raise Rejected(f"{target} is banned.")
    if "third_party_invite" in event.content:
        _check_third_party(event, state, target)
        return
    _check_joined(state, event.sender)
    if membership == "join":
        raise Rejected(f"{target} is in the room already.")
    levels = power_levels(state)
    if levels.user_level(event.sender) < levels.invite:
        raise Rejected("The sender may not invite.")


def _check_third_party(event: Event, state: AuthState, target: str) -> None:
    signed = _object(_object(event.content["third_party_invite"]).get("signed"))
    token = signed.get("token")
    if not isinstance(token, str) or "mxid" not in signed:
        raise Rejected("The third-party invite lacks its signed token and user id.")
    if signed["mxid"] != target:
        raise Rejected("The third-party invite was signed for another user.")
    invite = state("m.room.third_party_invite", token)
    if invite is None:
        raise Rejected("The room has no such third-party invite.")
    if invite.sender != event.sender:
        raise Rejected("The third-party invite was sent by another user.")
    if not verify_invite(signed, invite.content):
        raise Rejected("No signature of the third-party invite is right.")


def _check_leave(event: Event, state: AuthState, target: str) -> None:
    membership = _membership(state, event.sender)
    if event.sender == target:
        if membership not in ("invite", "join") and not (
            membership == "knock" and event.rules.knocking
        ):
            raise Rejected("Who is not in the room, invited or knocking can't leave.")
        return
    _check_joined(state, event.sender)
    levels = power_levels(state)
    power = levels.user_level(event.sender)
    if _membership(state, target) == "ban" and power < levels.ban:
        raise Rejected(f"The sender may not unban {target}.")
    if power < levels.kick or power <= levels.user_level(target):
        raise Rejected(f"The sender may not remove {target}.")


def _check_knock(event: Event, state: AuthState, target: str) -> None:
    rule = _join_rule(state)
    if rule != "knock" and not (rule == "knock_restricted" and event.rules.knock_restricted):
        raise Rejected("The join rule of the room doesn't allow to knock.")
    if event.sender != target:
        raise Rejected("Nobody can knock for another user.")
    if _membership(state, target) in ("ban", "invite", "join"):
        raise Rejected("Who is banned, invited or in the room can't knock.")


def _create(state: AuthState) -> Event:
    create = state(*_CREATE)
    if create is None:
        raise Rejected("The room has no create event.")
    return create


def _check_joined(state: AuthState, user_id: str) -> None:
    if _membership(state, user_id) != "join":
        raise Rejected(f"{user_id} is not in the room.")


def _membership(state: AuthState, user_id: str) -> object:
    event = state("m.room.member", user_id)
    return event.content.get("membership") if event else None


def _join_rule(state: AuthState) -> object:
    event = state(*_JOIN_RULES)
    return event.content.get("join_rule", "invite") if event else "invite"


def _domain(identifier: str) -> str:
    return identifier.partition(":")[2]


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}

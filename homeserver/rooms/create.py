"""Making rooms.

Owns which events a new room begins with, in the specification's order, all in one commit together
with the room itself, its alias and its directory entry: a room is there whole or not at all.
spec: client-server-api#post_matrixclientv3createroom
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.matrix.ids import is_user_id
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.canonical_alias import CANONICAL_ALIAS, added, misled
from homeserver.rooms.head import Head
from homeserver.rooms.send import Draft, Sending, random_id
from homeserver.rooms.snapshots import SnapshotChain
from homeserver.runtime.clock import Clock
from homeserver.streams.invite_permissions import InvitePermissions
from homeserver.streams.numbers import Names, Numbers
from storage.changes import Conflict, Insert
from storage.schema import AliasRow, RoomRow, empty_summary

log = logging.getLogger(__name__)

Invite = Callable[[str, Room, str, bool], Awaitable[None]]

_PRESETS = {
    # preset: join rule, history visibility, guest access
    "private_chat": ("invite", "shared", "can_join"),
    "trusted_private_chat": ("invite", "shared", "can_join"),
    "public_chat": ("public", "shared", "forbidden"),
}
_LOCAL_ROOM, _NOT_FEDERATED = 1, 2
_MAX_INVITES = 100
# A room is several milliseconds of work: a flood of them must leave the loop to others in between.
_AT_ONCE = 4
_MAX_INITIAL_STATE = 250


@dataclass(frozen=True, slots=True)
class InitialState:
    """One state event a client wants the room to begin with."""

    type: str
    content: JsonObject
    state_key: str = ""


@dataclass(frozen=True, slots=True)
class NewRoom:
    """What a client may say of a new room; None where it says nothing."""

    preset: str | None = None
    public: bool = False
    alias: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: tuple[str, ...] = ()
    room_version: str | None = None
    creation_content: JsonObject = field(default_factory=dict)
    initial_state: tuple[InitialState, ...] = ()
    is_direct: bool = False
    power_levels: JsonObject | None = None


class CreateRoom:
    """Creates rooms for local users."""

    def __init__(
        self,
        rooms: Rooms,
        names: Names,
        numbers: Numbers,
        clock: Clock,
        server_name: str,
        default_version: str,
        permissions: InvitePermissions,
        invite: Invite,
    ) -> None:
        """`invite(inviter, room, user id, is it a direct chat)` is for users of other servers."""
        self._rooms = rooms
        self._names = names
        self._numbers = numbers
        self._clock = clock
        self._server_name = server_name
        self._default_version = default_version
        self._permissions = permissions
        self._invite = invite
        self._last_creation = 0
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, creator: str, profile: JsonObject, new: NewRoom) -> str:
        """Create the room; returns its id.

        `profile` is what the creator's member event shows (displayname, avatar_url). `new.alias` is
        a complete alias. Raises `MatrixError`: M_UNSUPPORTED_ROOM_VERSION, M_ROOM_IN_USE,
        M_INVALID_ROOM_STATE, M_INVALID_PARAM, and M_BAD_ALIAS for a canonical alias in the initial
        state that isn't the room's own; M_INVITE_BLOCKED, and no room, when a user of ours doesn't
        take the invite. Users of other servers are invited to the room once it is
        there; who can't be is left out, and can be invited again.
        """
        rules = self._rules(new)
        strangers = [user for user in dict.fromkeys(new.invite) if not self._is_ours(user)]
        await self._permissions.check(
            creator, [user for user in dict.fromkeys(new.invite) if self._is_ours(user)]
        )
        async with self._turns:
            room = await self._create(creator, profile, new, rules)

        async def invite(user_id: str) -> None:
            try:
                await self._invite(creator, room, user_id, new.is_direct)
            except (MatrixError, Rejected) as error:
                log.warning("%s could not be invited to a new room: %s", user_id, error)

        await asyncio.gather(*map(invite, strangers))
        return room.room_id

    def _is_ours(self, user_id: str) -> bool:
        return user_id.endswith(":" + self._server_name)

    async def _create(
        self, creator: str, profile: JsonObject, new: NewRoom, rules: RoomRules
    ) -> Room:
        drafts = [
            draft
            for draft in _drafts(rules, creator, profile, new)
            if draft.type != "m.room.member" or self._is_ours(draft.state_key or "")
        ]
        keys = [(draft.type, draft.state_key or "") for draft in drafts]
        await self._names.load([creator], keys)
        for counter in ("event", "snapshot"):
            if not self._numbers.room_for(counter, len(drafts)):
                await self._numbers.refill(counter)
        room_nid = await self._numbers.take_soon("room")
        federated = new.creation_content.get("m.federate") is not False
        now = self._distinct_now()
        drafts[0] = replace(drafts[0], ts=now)

        def new_head() -> Head:
            return Head(
                room_nid=room_nid,
                room_id="" if rules.room_id_is_hash else f"!{random_id()}:{self._server_name}",
                rules=rules,
                names=self._names,
                extremities=[],
                depth=0,
                state={},
                summary=empty_summary(room_nid, published=new.public),
                snapshots=SnapshotChain(),
            )

        def verb(sending: Sending) -> None:
            for number, draft in enumerate(drafts):
                try:
                    event = sending.add(draft)
                except Rejected as error:
                    raise MatrixError(
                        "M_INVALID_ROOM_STATE", f"{draft.type}: {error.reason}"
                    ) from error
                if number == 0:
                    sending.head.room_id = event.room_id
            flags = _LOCAL_ROOM | (0 if federated else _NOT_FEDERATED)
            sending.changes.append(
                Insert(RoomRow(room_nid, sending.head.room_id, rules.version, flags, now))
            )
            if new.alias is not None:
                creator_nid = self._names.nid(creator)
                sending.changes.append(Insert(AliasRow(new.alias, room_nid, creator_nid)))

        try:
            room = await self._rooms.create(room_nid, new_head, verb)
        except Conflict as error:
            if error.table == "aliases":
                raise MatrixError("M_ROOM_IN_USE", f"{new.alias} is taken") from error
            raise
        return room

    def _distinct_now(self) -> int:
        """The time in ms, later than that of any room before: it may be all that tells two apart.

        From version 12 a room's id is the hash of its create event.
        """
        self._last_creation = max(self._clock.now_ms(), self._last_creation + 1)
        return self._last_creation

    def _rules(self, new: NewRoom) -> RoomRules:
        version = self._default_version if new.room_version is None else new.room_version
        if version not in ROOM_VERSIONS:
            raise MatrixError(
                "M_UNSUPPORTED_ROOM_VERSION", f"This server doesn't know room version {version!r}"
            )
        if len(new.invite) > _MAX_INVITES:
            raise MatrixError.invalid_param(f"invite: more than {_MAX_INVITES} users at once")
        if len(new.initial_state) > _MAX_INITIAL_STATE:
            raise MatrixError.invalid_param(f"initial_state: more than {_MAX_INITIAL_STATE} events")
        return ROOM_VERSIONS[version]


def _drafts(rules: RoomRules, creator: str, profile: JsonObject, new: NewRoom) -> list[Draft]:
    preset = new.preset or ("public_chat" if new.public else "private_chat")
    if preset not in _PRESETS:
        raise MatrixError.invalid_param(f"preset: {preset!r} is not a preset")
    trusted = preset == "trusted_private_chat"
    initial = {(state.type, state.state_key): state.content for state in new.initial_state}
    invites = [user for user in dict.fromkeys(new.invite) if user != creator]

    create = _create_content(rules, creator, new.creation_content, invites if trusted else [])
    levels = initial.pop(("m.room.power_levels", ""), None)
    if levels is None:
        levels = _power_levels(rules, creator, invites if trusted else [])
        if new.power_levels:
            levels = levels | new.power_levels

    state: dict[tuple[str, str], JsonObject] = {
        ("m.room.create", ""): create,
        ("m.room.member", creator): {"membership": "join", **profile},
        ("m.room.power_levels", ""): levels,
    }
    if new.alias is not None:
        state[CANONICAL_ALIAS, ""] = {"alias": new.alias}
    join_rule, visibility, guests = _PRESETS[preset]
    for type_, content in (
        ("m.room.join_rules", {"join_rule": join_rule}),
        ("m.room.history_visibility", {"history_visibility": visibility}),
        ("m.room.guest_access", {"guest_access": guests}),
    ):
        if (type_, "") not in initial:
            state[type_, ""] = content
    for taken in ("m.room.create", "m.room.member"):
        if any(type_ == taken for type_, _ in initial):
            raise MatrixError("M_INVALID_ROOM_STATE", f"initial_state may not hold {taken}")
    for alias in added(initial.get((CANONICAL_ALIAS, ""), {}), {}):
        if alias != new.alias:
            raise misled(alias)
    state.update(initial)
    if new.name is not None:
        state.pop(("m.room.name", ""), None)
        state["m.room.name", ""] = {"name": new.name}
    if new.topic is not None:
        state.pop(("m.room.topic", ""), None)
        state["m.room.topic", ""] = {
            "topic": new.topic,
            "m.topic": {"m.text": [{"body": new.topic, "mimetype": "text/plain"}]},
        }
    invitation: JsonObject = {"membership": "invite"}
    if new.is_direct:
        invitation["is_direct"] = True
    for user in invites:
        state["m.room.member", user] = invitation
    return [
        Draft(sender=creator, type=type_, state_key=key, content=content)
        for (type_, key), content in state.items()
    ]


def _create_content(
    rules: RoomRules, creator: str, asked: JsonObject, trusted: list[str]
) -> JsonObject:
    content = dict(asked)
    content.pop("creator", None)
    if not rules.creator_is_sender:
        content["creator"] = creator
    content["room_version"] = rules.version
    if rules.privileged_creators:
        others: Any = content.get("additional_creators", [])
        if not isinstance(others, list) or not all(
            isinstance(user, str) and is_user_id(user) for user in others
        ):
            raise MatrixError.invalid_param("additional_creators: must be a list of user ids")
        others = [user for user in dict.fromkeys([*others, *trusted]) if user != creator]
        if others or "additional_creators" in content:
            content["additional_creators"] = others
    return content


def _power_levels(rules: RoomRules, creator: str, trusted: list[str]) -> JsonObject:
    users = {} if rules.privileged_creators else dict.fromkeys([creator, *trusted], 100)
    return {
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": 150 if rules.privileged_creators else 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        "historical": 100,
    }

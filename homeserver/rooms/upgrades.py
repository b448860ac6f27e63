"""Room upgrades: a new room in a room's place, that takes along everything that can go.

Owns what goes along: the state that says what the room is and who may do what in it, bans, the
children of a space, aliases, the directory's entry, and, as each local user comes over, tags, push
rules and direct chats. The links of other rooms are `relinking`'s. The new room is whole before the
old one says that it is closed; what fails after that leaves two rooms that lead to each other.
spec: client-server-api#room-upgrades
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed, Rejected
from homeserver.matrix.event import Event
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from homeserver.rooms.actor import Room, Rooms
from homeserver.rooms.canonical_alias import CANONICAL_ALIAS
from homeserver.rooms.create import CreateRoom, InitialState, NewRoom
from homeserver.rooms.head import Head
from homeserver.rooms.relinking import CHILD, PARENT, Relinking
from homeserver.rooms.send import Draft, Sending
from homeserver.rooms.state import RoomState
from homeserver.rooms.stored import load_events
from homeserver.streams.numbers import Names
from homeserver.users.account_data import GLOBAL, TAGS, AccountData
from homeserver.users.profiles import Profiles
from homeserver.users.push_rules import PushRules
from storage.changes import Put
from storage.engine import Database
from storage.memberships import of_user_in
from storage.rooms import aliases_of
from storage.schema import AliasRow

_TOMBSTONE = "m.room.tombstone"
_LEVELS = "m.room.power_levels"
_CARRIED = frozenset(
    (
        "m.room.server_acl",
        "m.room.encryption",
        "m.room.name",
        "m.room.avatar",
        "m.room.topic",
        "m.room.guest_access",
        "m.room.history_visibility",
        "m.room.join_rules",
        "m.room.image_pack",
        "im.ponies.room_emotes",
        CHILD,
        PARENT,
    )
)
_MOST_CARRIED = 200
_AT_ONCE = 100


class Upgrades:
    """See the module."""

    def __init__(
        self,
        rooms: Rooms,
        database: Database,
        names: Names,
        state: RoomState,
        create: CreateRoom,
        profiles: Profiles,
        account_data: AccountData,
        push_rules: PushRules,
        relinking: Relinking,
    ) -> None:
        self._rooms = rooms
        self._database = database
        self._names = names
        self._state = state
        self._create = create
        self._profiles = profiles
        self._account_data = account_data
        self._push_rules = push_rules
        self._relinking = relinking

    async def upgrade(
        self, user_id: str, old: Room, version: str, additional_creators: Sequence[str]
    ) -> str:
        """Put a new room of this version in the room's place; returns its id.

        Raises `MatrixError` M_UNSUPPORTED_ROOM_VERSION, or M_FORBIDDEN for who may not send the
        tombstone.
        """
        if version not in ROOM_VERSIONS:
            raise MatrixError(
                "M_UNSUPPORTED_ROOM_VERSION", f"This server doesn't know room version {version!r}"
            )
        rules = ROOM_VERSIONS[version]
        await self._rooms.read(old, lambda head: _check_may_close(head, user_id))
        last = await self._rooms.read(old, lambda head: head.extremities[-1][1])
        events = await self._events(old)
        published = await self._rooms.read(old, lambda head: bool(head.summary.published))
        levels = _levels(events, rules, user_id, additional_creators)
        creation = _creation(events, old, last, rules, additional_creators)
        carried = [event for key, event in events.items() if key[0] in _CARRIED and event.content]
        state = [
            InitialState(event.type, event.content, event.state_key or "")
            for event in carried[:_MOST_CARRIED]
        ]
        able = _able(levels, rules, user_id)
        state.insert(0, InitialState(_LEVELS, able))
        new = NewRoom(
            public=published,
            room_version=version,
            creation_content=creation,
            initial_state=tuple(state),
        )
        profile = await self._profiles.in_rooms(user_id)
        new_id = await self._create(user_id, profile, new)
        room = await self._rooms.known(new_id)
        await self._finish_new(user_id, room, events, carried[_MOST_CARRIED:])
        await self._move_aliases(user_id, old, room, events)
        await self._close(user_id, old, new_id)
        if able != levels:
            await self._try(room, Draft(user_id, _LEVELS, levels, ""))
        await self.came_over(user_id, room)
        return new_id

    async def came_over(self, user_id: str, room: Room) -> None:
        """A local user has joined `room`: if it replaces one, what the user made of that follows.

        spec: client-server-api#room-upgrades
        """
        old_id = await self._rooms.read(room, _predecessor)
        old = await self._rooms.find(old_id) if old_id is not None else None
        if old is None:
            return
        user_nid = (await self._names.nids([user_id]))[user_id]
        if old.nid not in await of_user_in(self._database, user_nid, [old.nid]):
            return
        tags = await self._account_data.tags(user_nid, old.nid)
        if tags and not await self._account_data.tags(user_nid, room.nid):
            await self._account_data.put(user_nid, room.nid, TAGS, {"tags": tags})
        rules = await self._push_rules.ruleset(user_id, user_nid)
        for rule in rules.get("room", ()):
            if rule.get("rule_id") == old.room_id:
                # The join stands also where there is no place for one more rule.
                with suppress(MatrixError):
                    await self._push_rules.put(
                        user_nid, "room", room.room_id, {"actions": rule["actions"]}
                    )
                    if not rule.get("enabled", True):
                        await self._push_rules.enable(user_nid, "room", room.room_id, False)
        stored = await self._account_data.stored(user_nid, GLOBAL, "m.direct")
        if stored is not None:
            with suppress(Malformed):
                direct = canonical.decode_object(stored)
                if _replace_in(direct, old.room_id, room.room_id):
                    await self._account_data.put(user_nid, GLOBAL, "m.direct", direct)

    async def _events(self, old: Room) -> dict[tuple[str, str], Event]:
        """The state that is looked at: all but the members who are not banned."""
        state = await self._state.current(old)
        keys = await self._state.keys(state)
        nids = {keys[key_nid]: nid for key_nid, nid in state.items()}
        events = await load_events(self._database, nids.values(), old.rules)
        return {
            key: events[nid]
            for key, nid in nids.items()
            if nid in events
            and (key[0] != "m.room.member" or events[nid].content.get("membership") == "ban")
        }

    async def _finish_new(
        self, user_id: str, room: Room, events: dict[tuple[str, str], Event], rest: Sequence[Event]
    ) -> None:
        """Bans, and the state that was too much for the beginning."""
        drafts = [Draft(user_id, event.type, event.content, event.state_key) for event in rest]
        for (type_, target), event in events.items():
            if type_ == "m.room.member":
                reason = event.content.get("reason")
                content: JsonObject = {"membership": "ban"}
                if isinstance(reason, str):
                    content["reason"] = reason
                drafts.append(Draft(user_id, type_, content, target))
        for start in range(0, len(drafts), _AT_ONCE):
            part = drafts[start : start + _AT_ONCE]

            def verb(sending: Sending, part: Sequence[Draft] = part) -> None:
                for draft in part:
                    with suppress(Rejected):
                        sending.add(draft)

            await self._rooms.change(room, verb)

    async def _move_aliases(
        self, user_id: str, old: Room, room: Room, events: dict[tuple[str, str], Event]
    ) -> None:
        rows = (await aliases_of(self._database, [old.nid])).get(old.nid, ())
        canonical_event = events.get((CANONICAL_ALIAS, ""))

        def verb(sending: Sending) -> None:
            sending.changes.extend(
                Put(AliasRow(row.alias, room.nid, row.creator_nid)) for row in rows
            )
            if canonical_event is not None and canonical_event.content:
                with suppress(Rejected):
                    sending.add(Draft(user_id, CANONICAL_ALIAS, canonical_event.content, ""))

        await self._rooms.change(room, verb)
        if canonical_event is not None and canonical_event.content:
            await self._try(old, Draft(user_id, CANONICAL_ALIAS, {}, ""))

    async def _close(self, user_id: str, old: Room, new_id: str) -> None:
        """The tombstone, and as little as possible after it."""
        content: JsonObject = {"body": "This room has been replaced", "replacement_room": new_id}
        job = await self._relinking.begin(user_id, old.room_id, new_id)

        def verb(sending: Sending) -> None:
            head = sending.head
            sending.add(Draft(user_id, _TOMBSTONE, content, ""))
            sending.changes.append(job)
            found = head.event(_LEVELS)
            levels: JsonObject = dict(found.content) if found is not None else {}
            default = levels.get("users_default", 0)
            least = max(50, (default if isinstance(default, int) else 0) + 1)
            closed = {
                **levels,
                "events_default": max(least, _number(levels.get("events_default"), 0)),
                "invite": max(least, _number(levels.get("invite"), 0)),
            }
            if closed != levels:
                with suppress(Rejected):
                    sending.add(Draft(user_id, _LEVELS, closed, ""))
            if head.summary.published:
                head.summary = head.summary._replace(published=0)
                sending.changes.append(Put(head.summary))

        await self._rooms.change(old, verb)
        self._relinking.wake()

    async def _try(self, room: Room, draft: Draft) -> None:
        """Send what would be good, and do without it where the rules forbid it."""

        def verb(sending: Sending) -> None:
            with suppress(Rejected):
                sending.add(draft)

        await self._rooms.change(room, verb)


def _check_may_close(head: Head, user_id: str) -> None:
    levels = head.power_levels()
    if head.membership(user_id) != "join" or levels.user_level(user_id) < levels.event_level(
        _TOMBSTONE, True
    ):
        raise MatrixError.forbidden("You may not upgrade this room")


def _predecessor(head: Head) -> str | None:
    create = head.event("m.room.create")
    found = create.content.get("predecessor") if create is not None else None
    room_id = found.get("room_id") if isinstance(found, dict) else None
    return room_id if isinstance(room_id, str) else None


def _creation(
    events: dict[tuple[str, str], Event],
    old: Room,
    last: str,
    rules: RoomRules,
    additional_creators: Sequence[str],
) -> JsonObject:
    before = events["m.room.create", ""].content
    content: JsonObject = {"predecessor": {"room_id": old.room_id, "event_id": last}}
    if isinstance(before.get("type"), str):
        content["type"] = before["type"]
    if before.get("m.federate") is False:
        content["m.federate"] = False
    if rules.privileged_creators and additional_creators:
        content["additional_creators"] = list(additional_creators)
    return content


def _levels(
    events: dict[tuple[str, str], Event],
    rules: RoomRules,
    user_id: str,
    additional_creators: Sequence[str],
) -> JsonObject:
    """The power levels of the new room: the same, as far as its version has them."""
    found = events.get((_LEVELS, ""))
    levels: JsonObject = dict(found.content) if found is not None else {}
    given = levels.get("users")
    users: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    create = events["m.room.create", ""]
    if rules.privileged_creators:
        for creator in (user_id, *additional_creators):
            users.pop(creator, None)
    else:
        named = create.content.get("additional_creators")
        old_creators = [create.sender, *(named if isinstance(named, list) else ())]
        if create.rules.privileged_creators or found is None:
            # Those who stood above all levels get the highest that there is.
            highest = max([100, *(level for level in users.values() if isinstance(level, int))])
            users |= {creator: highest for creator in old_creators if isinstance(creator, str)}
    levels["users"] = users
    return _whole(levels) if rules.integer_power_levels else levels


def _whole(levels: JsonObject) -> JsonObject:
    """Levels as numbers, where older versions let them be texts."""
    whole: JsonObject = {}
    for key, value in levels.items():
        if isinstance(value, dict):
            whole[key] = {name: _number(level, 0) for name, level in value.items()}
        else:
            whole[key] = _number(value, 0)
    return whole


def _able(levels: JsonObject, rules: RoomRules, user_id: str) -> JsonObject:
    """The levels with which the user can make the new room: the same, or with more power."""
    if rules.privileged_creators:
        return levels
    events = levels.get("events")
    wanted = list(events.values()) if isinstance(events, dict) else []
    wanted += [levels.get("state_default", 50), levels.get("ban", 50)]
    needed = max([_number(level, 0) for level in wanted])
    users = dict(levels["users"])
    if _number(users.get(user_id), _number(levels.get("users_default"), 0)) >= needed:
        return levels
    return {**levels, "users": {**users, user_id: needed}}


def _number(value: Any, default: int) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return default
    return value if isinstance(value, int) else default


def _replace_in(direct: JsonObject, old_id: str, new_id: str) -> bool:
    """Name the new room wherever the old one is a direct chat; whether it was any."""
    changed = False
    for rooms in direct.values():
        if isinstance(rooms, list) and old_id in rooms and new_id not in rooms:
            rooms[rooms.index(old_id)] = new_id
            changed = True
    return changed

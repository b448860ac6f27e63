"""What the content of `m.room.power_levels` means, and who may change it.

Owns the reading of levels by room version: numbers and, up to version 9, strings and floats. What
stands in a room's state is read leniently, since it was accepted long ago by whatever rules: a
level that makes no sense counts as absent. What is new is checked strictly by `check_change`.
Nothing is copied: a room may name thousands of users, and one question must not parse them all.
It doesn't know events; `auth` decides which content and which creators apply.
"""

import math
import re
from collections.abc import Iterator

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.matrix.ids import is_user_id
from homeserver.matrix.versions import RoomRules

CREATOR_LEVEL = 1 << 64
"""The level of a creator from version 12 on: above all that an event of that version can hold."""

_SCALARS = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")
# int() refuses longer texts; nobody means them.
_MAX_DIGITS = 4_000
_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{_MAX_DIGITS}}}")


def parse_level(rules: RoomRules, value: object) -> int | None:
    """The integer that a level stands for in this room version; None if it stands for none.

    spec: rooms/v1#mroompower_levels-events-accept-values-as-strings,
    spec: rooms/v1#mroompower_levels-events-accept-values-as-floats
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if rules.integer_power_levels:
        return None
    if isinstance(value, float) and not rules.strict_json:
        return int(value) if math.isfinite(value) else None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _INTEGER.fullmatch(text) else None
    return None


class PowerLevels:
    """The levels of a room: `content` of its power levels event, None when it has no such event.

    `creators` are those that `auth.creators` names: infinitely powerful from version 12 on, before
    at 100 as long as the room has no power levels event.
    """

    __slots__ = ("_content", "_creators", "_events", "_rules", "_users")

    def __init__(
        self, rules: RoomRules, content: JsonObject | None, creators: frozenset[str]
    ) -> None:
        self._rules = rules
        self._content = content
        self._creators = creators
        self._users = _object(content, "users")
        self._events = _object(content, "events")

    def user_level(self, user_id: str) -> int:
        """The power of a user, member or not."""
        if user_id in self._creators:
            if self._rules.privileged_creators:
                return CREATOR_LEVEL
            if self._content is None:
                return 100
        level = parse_level(self._rules, self._users.get(user_id))
        return self.users_default if level is None else level

    def event_level(self, event_type: str, is_state: bool) -> int:
        """The required power level of an event type.

        spec: server-server-api#definitions
        """
        level = parse_level(self._rules, self._events.get(event_type))
        if level is not None:
            return level
        return self._level("state_default", 50) if is_state else self._level("events_default", 0)

    def notification_level(self, kind: str) -> int:
        """The power needed to notify in this way, as `room` for everybody in it."""
        level = parse_level(self._rules, _object(self._content, "notifications").get(kind))
        return 50 if level is None else level

    @property
    def users_default(self) -> int:
        """The power of users who are not named."""
        return self._level("users_default", 0)

    @property
    def invite(self) -> int:
        """The power needed to invite."""
        return self._level("invite", 0)

    @property
    def kick(self) -> int:
        """The power needed to remove a user."""
        return self._level("kick", 50)

    @property
    def ban(self) -> int:
        """The power needed to ban, and with that of `kick` to unban."""
        return self._level("ban", 50)

    @property
    def redact(self) -> int:
        """The power needed to redact what others sent."""
        return self._level("redact", 50)

    def _level(self, name: str, default: int) -> int:
        if self._content is None:
            return default
        level = parse_level(self._rules, self._content.get(name))
        return default if level is None else level


def check_change(
    rules: RoomRules,
    old: JsonObject | None,
    new: JsonObject,
    sender: str,
    levels: PowerLevels,
    creators: frozenset[str],
) -> None:
    """The auth rule of `m.room.power_levels`: may `sender` put `new` in the place of `old`?

    `levels` are those before the change; `old` is None if the room has no power levels event.
    Raises Rejected. spec: rooms/v12#authorisation-rules (10), rooms/v1#authorisation-rules (10)
    """
    _check_format(rules, new)
    if rules.privileged_creators:
        for user_id in creators:
            if user_id in _object(new, "users"):
                raise Rejected(f"Power levels must not name the room's creator {user_id}.")
    if old is None:
        return
    power = levels.user_level(sender)
    for name in _SCALARS:
        _check_alteration(rules, name, old.get(name), new.get(name), power)
    maps = ("events", "notifications") if rules.notification_levels else ("events",)
    for name in maps:
        for key, before, after in _altered(old, new, name):
            _check_alteration(rules, f"{name}.{key}", before, after, power)
    for user_id, before, after in _altered(old, new, "users"):
        changed = _check_alteration(rules, f"users.{user_id}", before, after, power)
        if changed and user_id != sender and parse_level(rules, before) == power:
            raise Rejected(f"The level of {user_id}, as powerful as the sender, must not change.")


def _check_format(rules: RoomRules, content: JsonObject) -> None:
    users = content.get("users", {})
    if not isinstance(users, dict):
        raise Rejected("users of the power levels is not an object.")
    for user_id, level in users.items():
        if not is_user_id(user_id, historical=True):
            raise Rejected("users of the power levels has a key that is no user id.")
        if parse_level(rules, level) is None:
            raise Rejected(f"The level of {user_id} is not an integer.")
    if not rules.integer_power_levels:
        return
    for name in _SCALARS:
        if name in content and parse_level(rules, content[name]) is None:
            raise Rejected(f"{name} of the power levels is not an integer.")
    for name in ("events", "notifications"):
        entries = content.get(name, {})
        if not isinstance(entries, dict):
            raise Rejected(f"{name} of the power levels is not an object.")
        if any(parse_level(rules, level) is None for level in entries.values()):
            raise Rejected(f"{name} of the power levels has a level that is not an integer.")


def _altered(old: JsonObject, new: JsonObject, name: str) -> Iterator[tuple[str, object, object]]:
    """The entries of an object that differ, as (key, value before, value after); None: absent."""
    before, after = _object(old, name), new.get(name, {})
    if not isinstance(after, dict):
        raise Rejected(f"{name} of the power levels is not an object.")
    for key, value in after.items():
        if key not in before or before[key] != value:
            yield key, before.get(key), value
    for key, value in before.items():
        if key not in after:
            yield key, value, None


def _check_alteration(
    rules: RoomRules, name: str, before: object, after: object, power: int
) -> bool:
    """Whether the level differs; Rejected if either value is beyond the sender's power."""
    old, new = parse_level(rules, before), parse_level(rules, after)
    if after is not None and new is None:
        raise Rejected(f"{name} of the power levels is not an integer.")
    if old == new:
        return False
    if old is not None and old > power:
        raise Rejected(f"{name} of the power levels is above the sender's own level.")
    if new is not None and new > power:
        raise Rejected(f"{name} of the power levels would be above the sender's own level.")
    return True


def _object(content: JsonObject | None, name: str) -> JsonObject:
    value = content.get(name) if content is not None else None
    return value if isinstance(value, dict) else {}

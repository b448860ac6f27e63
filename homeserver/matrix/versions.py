"""What differs between room versions 1 to 12, as flags.

Owns the one table of room versions. Code elsewhere asks for a flag and never compares version
strings. It holds no algorithm: those read the flags.
spec: rooms#feature-matrix
"""

from dataclasses import dataclass
from typing import Literal

DEFAULT_ROOM_VERSION = "12"


@dataclass(frozen=True, slots=True)
class RoomRules:
    """The rules of one room version; each flag names the version that brought the rule.

    event_ids: `sender` the sending server chooses them (1, 2), `base64` hash in standard alphabet
      (3), `base64url` hash in the URL-safe alphabet (4 on). From 3 on events refer to others by
      plain ids, before by `[id, {hashes}]` pairs.
    """

    version: str
    event_ids: Literal["sender", "base64", "base64url"]
    state_resolution: Literal["1", "2", "2.1"]
    # 3: redactions are checked when applied, not by the auth rules.
    redaction_at_delivery: bool
    # 5: keys must have been valid when the event was made.
    enforce_key_validity: bool
    # 1 to 5: m.room.aliases is authorised by its domain and kept by redaction.
    aliases_by_domain: bool
    # 6: canonical JSON is enforced; notifications are checked in power levels.
    strict_json: bool
    notification_levels: bool
    # 7
    knocking: bool
    # 8: restricted joins, and `allow` survives redaction of join rules.
    restricted_joins: bool
    # 9: join_authorised_via_users_server survives redaction.
    keep_join_authorised: bool
    # 10: power levels are integers, knock_restricted.
    integer_power_levels: bool
    knock_restricted: bool
    # 11: the creator is the sender of create, `redacts` is in content, new redaction rules.
    creator_is_sender: bool
    redacts_in_content: bool
    redaction_v11: bool
    # 12: the room id is the create event's hash; creators outrank everybody.
    room_id_is_hash: bool
    privileged_creators: bool

    @property
    def hashed_event_ids(self) -> bool:
        """Whether event ids are reference hashes (3 on)."""
        return self.event_ids != "sender"


def _rules(number: int) -> RoomRules:
    return RoomRules(
        version=str(number),
        event_ids="sender" if number < 3 else "base64" if number == 3 else "base64url",
        state_resolution="1" if number == 1 else "2" if number < 12 else "2.1",
        redaction_at_delivery=number >= 3,
        enforce_key_validity=number >= 5,
        aliases_by_domain=number <= 5,
        strict_json=number >= 6,
        notification_levels=number >= 6,
        knocking=number >= 7,
        restricted_joins=number >= 8,
        keep_join_authorised=number >= 9,
        integer_power_levels=number >= 10,
        knock_restricted=number >= 10,
        creator_is_sender=number >= 11,
        redacts_in_content=number >= 11,
        redaction_v11=number >= 11,
        room_id_is_hash=number >= 12,
        privileged_creators=number >= 12,
    )


ROOM_VERSIONS: dict[str, RoomRules] = {str(number): _rules(number) for number in range(1, 13)}

"""Policy servers: what a room says of its own, and whether it has recommended an event.

Owns the one reading of `m.room.policy` and what it holds for an event, for those that are made here
and those that come. A policy server must not be asked about its own state event, so that is never
held back by it. Whether it has a user in the room is the caller's matter.
spec: server-server-api#policy-servers
"""

from dataclasses import dataclass
from typing import Self

from homeserver.matrix.canonical import JsonObject, decode_unpadded
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.matrix.ids import is_server_name
from homeserver.matrix.sign import POLICY_KEY_ID, verify_event

POLICY = "m.room.policy"


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy server of a room, and the key with which it signs what it recommends.

    The key is empty where the room names none that could be one: then nothing is recommended.
    """

    server: str
    key: bytes

    @classmethod
    def read(cls, content: JsonObject) -> Self | None:
        """What the content of `m.room.policy` says, None where it is not valid.

        spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
        """
        server, keys = content.get("via"), content.get("public_keys")
        text = keys.get("ed25519") if isinstance(keys, dict) else None
        if not isinstance(server, str) or not isinstance(text, str) or not is_server_name(server):
            return None
        try:
            return cls(server, decode_unpadded(text))
        except Malformed:
            return cls(server, b"")

    def recommends(self, event: Event) -> bool:
        """Whether the event carries the policy server's valid signature, or needs none."""
        if event.type == POLICY and event.state_key == "":
            return True
        return verify_event(event, self.server, {POLICY_KEY_ID: self.key})


def is_own_leave(event: Event) -> bool:
    """Whether a user leaves: nobody can be kept in a room."""
    return (
        event.type == "m.room.member"
        and event.sender == event.state_key
        and event.content.get("membership") == "leave"
    )

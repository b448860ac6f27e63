"""Whether a room uses a policy server, as its current state has it.

Owns nothing; what is made here and what comes both ask it. Nobody else is asked here
(`ports.PolicyServers`).
spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
"""

from homeserver.matrix.event import Event
from homeserver.matrix.policy import POLICY, Policy
from homeserver.rooms.head import Head, ServersMissing


class Unrecommended(Exception):
    """The policy server of the room must be asked about this event before it can be sent.

    `number` counts the events of the same verb about which it was asked.
    """

    def __init__(self, policy: Policy, event: Event, number: int) -> None:
        super().__init__("the room's policy server was not asked")
        self.policy = policy
        self.event = event
        self.number = number


def policy_of(head: Head, local_server: str) -> Policy | None:
    """The policy server that the room uses: the one it names, if that has a user in the room.

    This server is none, so that a room which names it uses none. Raises what `Head.event` raises,
    and `ServersMissing`.
    """
    event = head.event(POLICY)
    policy = None if event is None else Policy.read(event.content)
    if policy is None or policy.server == local_server:
        return None
    if policy.server not in head.servers:
        raise ServersMissing([policy.server])
    return policy if head.servers[policy.server] else None

"""Asking policy servers to sign events.

Owns what is sent, how long is waited, and what of an answer counts: one signature, by the key that
the room names, added to those that the event has. A policy server is asked about an event once at a
time, whoever wants to know, and left alone for a moment after it could not be asked: a room that
has chosen one that stalls costs little but itself. What becomes of the event is not decided here.
spec: server-server-api#asking-for-a-policy-server-signature-on-an-event
"""

import asyncio
from collections import OrderedDict

from federation.requests import Requests, path_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import MAX_PDU_BYTES, Event
from homeserver.matrix.policy import Policy
from homeserver.matrix.sign import POLICY_KEY_ID
from homeserver.runtime.clock import Clock

SECONDS = 10.0
PAUSE = 5.0
"""Seconds in which a server that could not be asked is not asked again."""
MAX_BYTES = 65_536
MAX_REMEMBERED = 1_000

_PATH = path_of("policy/v1/sign")
# What a policy server may say to our client; anything else would speak of something else.
_TOLD = frozenset({"M_FORBIDDEN", "M_BAD_JSON", "M_NOT_JSON", "M_NOT_FOUND", "M_LIMIT_EXCEEDED"})
_STATUSES = frozenset({400, 403, 404, 429})


class PolicyClient:
    """See the module."""

    def __init__(self, requests: Requests, clock: Clock) -> None:
        self._requests = requests
        self._clock = clock
        self._under_way: dict[tuple[Policy, str], asyncio.Task[Event]] = {}
        self._failed: OrderedDict[str, tuple[float, MatrixError]] = OrderedDict()

    async def sign(self, policy: Policy, event: Event) -> Event:
        """The event with the policy server's signature; see `PolicyServers`."""
        key = (policy, event.event_id)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(policy, event))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _over(self, key: tuple[Policy, str], task: "asyncio.Task[Event]") -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # whoever asked may have gone

    async def _ask(self, policy: Policy, event: Event) -> Event:
        server = policy.server
        failed = self._failed.get(server)
        if failed is not None and self._clock.monotonic() < failed[0]:
            raise failed[1]
        try:
            answer = await self._requests.request(
                server,
                "POST",
                _PATH,
                body=event.pdu,
                timeout=SECONDS,
                max_bytes=MAX_BYTES,
                despite_pause=True,
            )
        except RemoteError as error:
            raise _refusal(error) from None
        except Unreachable as error:
            raise self._silent(server, f"could not be asked: {error.reason}") from None
        self._failed.pop(server, None)
        signed = _signed(event, server, answer)
        if signed is None or not policy.recommends(signed):
            raise _unclear(server, "has not signed the event as the room demands")
        if len(canonical.encode(signed.pdu)) > MAX_PDU_BYTES:
            raise MatrixError.too_large("With its policy server's signature the event is too long")
        return signed

    def _silent(self, server: str, what: str) -> MatrixError:
        error = _unclear(server, what)
        self._failed[server] = self._clock.monotonic() + PAUSE, error
        self._failed.move_to_end(server)
        if len(self._failed) > MAX_REMEMBERED:
            self._failed.popitem(last=False)
        return error


def _signed(event: Event, server: str, answer: JsonObject) -> Event | None:
    """The event with the one signature of an answer that counts, added to those that it has."""
    given = answer.get(server)
    signature = given.get(POLICY_KEY_ID) if isinstance(given, dict) else None
    if not isinstance(signature, str):
        return None
    signatures = dict(event.pdu.get("signatures", {}))
    signatures[server] = {**signatures.get(server, {}), POLICY_KEY_ID: signature}
    return Event.stored({**event.pdu, "signatures": signatures}, event.rules, event.event_id)


def _refusal(error: RemoteError) -> MatrixError:
    """What a client is told of an answer that is no signature.

    The server's own error where it is one of those that mean a refusal; others, such as that of an
    access token that has ended, would have the client believe something of this server.
    """
    if error.errcode in _TOLD and error.status in _STATUSES:
        message = error.message or "The room's policy server refuses this event"
        extra: JsonObject = {}
        if error.status == 429 and error.retry_after_ms is not None and error.retry_after_ms > 0:
            extra["retry_after_ms"] = error.retry_after_ms
        return MatrixError(error.errcode, message, error.status, extra=extra)
    if 400 <= error.status < 500:
        return MatrixError.forbidden(f"The room's policy server refuses this event: {error}")
    return _unclear(error.server, f"could not be asked: {error}")


def _unclear(server: str, what: str) -> MatrixError:
    return MatrixError("M_UNKNOWN", f"The room's policy server {server} {what}", 502)

"""EDUs for other servers: those that must not be lost, and those that may.

Owns how an EDU becomes rows, and the memory of servers for whom rows may just have been committed.
Sending them is `outbound`'s; what they mean is known to those who put them here.
spec: server-server-api#edus
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, encode
from homeserver.runtime.clock import Clock
from storage.changes import Change, Insert, Pos
from storage.outbound import edu_replaced, orphaned_edus_forgotten
from storage.schema import EduOutboxRow, EduRow

MAX_BYTES = 65_536
"""The most that the content of an EDU has, as of an event."""
FULL_BYTES = 50_000
"""Messages to devices are put into one EDU up to this size; only a single one may be longer."""
MAX_MESSAGE_ID = 32
KEPT_MS = 3_600_000
# Numbers are made from the time, this many for each millisecond.
_IN_A_MS = 4_096

Ephemeral = Callable[[str, str, bytes, str], None]


class Outbox:
    """Implements the port `Outbox`; `connect` says who sends what is put in."""

    def __init__(self, server_name: str, clock: Clock) -> None:
        self._server_name = server_name
        self._clock = clock
        self._last = 0
        self._noted: set[str] = set()
        self._wake: Callable[[str], None] = _nobody
        self._ephemeral: Ephemeral = _nowhere

    def connect(self, wake: Callable[[str], None], ephemeral: Ephemeral) -> None:
        """Have `wake(server)` called when EDUs wait for it, and give the others to `ephemeral`.

        That is called with server, type, JSON of the content, and key.
        """
        self._wake = wake
        self._ephemeral = ephemeral

    def edu(
        self,
        destinations: Collection[str],
        type: str,  # noqa: A002
        content: JsonObject,
        key: str | None = None,
        pos: int = 0,
    ) -> list[Change]:
        """See the port."""
        servers = self._others(destinations)
        if not servers:
            return []
        changes: list[Change] = []
        if key is not None:
            changes.append(edu_replaced(servers, key))
        for part in _parts(content):
            nid = self._number()
            changes.append(Insert(EduRow(nid, type, part)))
            changes.extend(Insert(EduOutboxRow(server, Pos(pos), nid, key)) for server in servers)
        self._noted.update(servers)
        return changes

    def wake(self, destinations: Collection[str]) -> None:
        """See the port."""
        for server in self._others(destinations):
            self._noted.discard(server)
            self._wake(server)

    def ephemeral(
        self,
        destinations: Collection[str],
        type: str,  # noqa: A002
        content: JsonObject,
        key: str,
    ) -> None:
        """See the port."""
        servers = self._others(destinations)
        encoded = encode(content) if servers else b""
        for server in servers:
            self._ephemeral(server, type, encoded, key)

    def wake_noted(self) -> None:
        """Wake all for whom something was queued and who were not woken since."""
        self.wake(list(self._noted))

    def forgotten(self) -> Change:
        """The change that drops what replaced EDUs have left behind, when they are old enough."""
        return orphaned_edus_forgotten((self._clock.now_ms() - KEPT_MS) * _IN_A_MS)

    def _others(self, destinations: Collection[str]) -> list[str]:
        return sorted({server for server in destinations if server != self._server_name})

    def _number(self) -> int:
        """A number that no EDU had before, also not before a restart, in the order of asking."""
        self._last = max(self._last + 1, self._clock.now_ms() * _IN_A_MS)
        return self._last


def _parts(content: JsonObject) -> list[bytes]:
    """The content as JSON, in as many parts as it takes."""
    whole = encode(content)
    if len(whole) <= (FULL_BYTES if "messages" in content else MAX_BYTES):
        return [whole]
    return list(_split(content))


def _split(content: JsonObject) -> Iterator[bytes]:
    """Parts of a message to devices, each with an id of its own.

    spec: server-server-api#send-to-device-messaging
    """
    messages = content.get("messages")
    if not isinstance(messages, dict):
        raise MatrixError.too_large("This can't be sent to another server: it is too long")
    rest = {name: value for name, value in content.items() if name != "messages"}
    overhead = len(encode(rest)) + 100
    number, size = 0, overhead
    part: dict[str, dict[str, Any]] = {}

    def made() -> bytes:
        named = dict(rest)
        if number and isinstance(rest.get("message_id"), str):
            mark = f".{number}"
            named["message_id"] = rest["message_id"][: MAX_MESSAGE_ID - len(mark)] + mark
        return encode({**named, "messages": part})

    for user_id, devices in messages.items():
        for device_id, message in devices.items():
            more = len(encode({user_id: {device_id: message}}))
            if overhead + more > MAX_BYTES:
                raise MatrixError.too_large(f"The message to {user_id} is too long")
            if part and size + more > FULL_BYTES:
                yield made()
                number, size, part = number + 1, overhead, {}
            part.setdefault(user_id, {})[device_id] = message
            size += more
    yield made()


def _nobody(server: str) -> None:
    """Nobody sends."""


def _nowhere(server: str, type: str, content: bytes, key: str) -> None:  # noqa: A002
    """Nobody sends."""

"""One transaction to another server: made from ready bytes, sent, its answer judged.

Owns the form and the limits of transactions, and what an answer to one means. Nothing is encoded
here that was encoded before: events and EDUs are joined, and the same bytes are signed and sent.
spec: server-server-api#transactions
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from federation.outbound_events import Pdu
from federation.outbound_lists import ListNote
from federation.requests import Requests
from homeserver.errors import RemoteError
from homeserver.matrix.canonical import encode
from storage.outbound import WaitingEdu

log = logging.getLogger(__name__)

MAX_PDUS = 50
MAX_EDUS = 100
MAX_EDU_BYTES = 1_048_576
SECONDS = 60.0
# Answers that refuse what was sent, not the server that sent it.
_REFUSED = frozenset({400, 413})


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """An EDU that may be lost."""

    type: str
    key: str
    content: bytes


@dataclass(slots=True)
class Transaction:
    """What goes to one server together; it keeps its id however often it is tried.

    `pdus` without JSON among `json` are gone and left out; `until` is the position up to which the
    server has had all events when the last one that it missed has arrived. `told` are the EDUs of
    `lists`. It is `ready` when all that goes with its events was added.
    """

    id: str
    until: int
    pdus: Sequence[Pdu] = ()
    json: dict[int, bytes] = field(default_factory=dict)
    lists: Sequence[ListNote] = ()
    told: Sequence[tuple[str, bytes]] = ()
    edus: Sequence[WaitingEdu] = ()
    ephemeral: Sequence[Ephemeral] = ()
    ready: bool = False

    @property
    def size(self) -> int:
        """How many things it holds."""
        return len(self.pdus) + len(self.lists) + len(self.edus) + len(self.ephemeral)

    def body(self, origin: str, now: int) -> bytes:
        """Its canonical JSON."""
        edus = [_edu(*told) for told in self.told]
        edus += [_edu(edu.type, edu.content) for edu in self.edus]
        edus += [_edu(edu.type, edu.content) for edu in self.ephemeral]
        pdus = [self.json[pdu.nid] for pdu in self.pdus if pdu.nid in self.json]
        head = b'"edus":[%b],' % b",".join(edus) if edus else b""
        return b'{%b"origin":%b,"origin_server_ts":%d,"pdus":[%b]}' % (
            head,
            encode(origin),
            now,
            b",".join(pdus),
        )


class Refused(Exception):
    """The server takes this transaction for malformed or too long, as a whole."""


class Busy(Exception):
    """The server wants to be left alone for so many milliseconds."""

    def __init__(self, wait_ms: int) -> None:
        super().__init__(f"it asks for {wait_ms} ms")
        self.wait_ms = wait_ms


async def deliver(
    requests: Requests, server: str, transaction: Transaction, origin: str, now: int
) -> None:
    """Send it, and return when the server has it.

    Raises Unreachable (which `requests` has noted), Refused, or Busy. Events that the server could
    not use are logged: it has had them, and sending them again would change nothing.
    """
    body = transaction.body(origin, now)
    try:
        answer = await requests.transaction(server, transaction.id, body, SECONDS)
    except RemoteError as error:
        if error.status in _REFUSED:
            raise Refused(f"{error.status} {error.errcode}") from None
        raise Busy(error.retry_after_ms or 1_000) from None
    results = answer.get("pdus")
    if isinstance(results, dict):
        for event_id, result in results.items():
            if isinstance(result, dict) and "error" in result:
                log.info("%s could not use event %.255r: %.500r", server, event_id, result["error"])


def _edu(edu_type: str, content: bytes) -> bytes:
    return b'{"content":%b,"edu_type":%b}' % (content, encode(edu_type))

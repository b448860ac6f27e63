"""Events of strangers made into events that are believed: format, id, signatures, content hash.

Owns the first checks on receipt for every way in which events come: in batches, the keys of all
servers together, the cryptography in a thread. An event whose content hash is wrong is kept
redacted. Whether an event is allowed is not asked here.
spec: server-server-api#validating-hashes-and-signatures-on-received-events
"""

import asyncio
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from federation.keyring import PATIENCE, Keyring
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event
from homeserver.matrix.redact import redact
from homeserver.matrix.sign import (
    POLICY_KEY_ID,
    content_hash_fits,
    required_signers,
    verify_event,
)
from homeserver.matrix.versions import RoomRules

T = TypeVar("T")

_INLINE = 3

Keys = Mapping[str, Mapping[str, bytes]]


class Refused(enum.Enum):
    """Why an event is not believed; NO_KEY: a key that has signed it can't be had now."""

    MALFORMED = "malformed"
    UNSIGNED = "unsigned"
    NO_KEY = "no key"


class Verifier:
    """See the module."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def verify(
        self,
        pdus: Sequence[object],
        rules: RoomRules,
        *,
        patience: float = PATIENCE,
        without: Collection[str] = (),
    ) -> list[Event | Refused]:
        """The event of each PDU, or why it is refused.

        `patience` is how many seconds missing keys are waited for (they are fetched in any case).
        Signatures of the servers in `without` are not demanded.
        """
        events = await _off_loop(len(pdus), _parsed, pdus, rules)
        wanted = [_wanted(event, without) for event in events if isinstance(event, Event)]
        criteria: dict[str, dict[str, int]] = {}
        for by_server, until in wanted:
            for server, key_ids in by_server.items():
                known = criteria.setdefault(server, {})
                for key_id in key_ids:
                    known[key_id] = max(until, known.get(key_id, 0))
        keys = await self._keyring.many(criteria, patience=patience)
        verified = await _off_loop(len(pdus), _verified, events, keys, without)
        if rules.enforce_key_validity:
            verified = [await self._by_own_time(event, without) for event in verified]
        return [_kept(event) for event in verified]

    async def keys_of(self, event: Event, server: str) -> Mapping[str, bytes]:
        """Those keys of a server with which it may have signed the event."""
        until = event.origin_server_ts if event.rules.enforce_key_validity else 0
        return await self._keyring.keys(
            server, list(event.pdu["signatures"].get(server, ())), until
        )

    async def _by_own_time(
        self, event: "Event | Refused | _NoKey", without: Collection[str]
    ) -> "Event | Refused | _NoKey":
        """The event once more where a key was absent: it may have been valid at its own time."""
        if not isinstance(event, _NoKey):
            return event
        by_server, until = _wanted(event.event, without)
        keys = {
            server: await self._keyring.keys(server, key_ids, until, patience=0.0)
            for server, key_ids in by_server.items()
        }
        return _verified([event.event], keys, without)[0]


class _NoKey:
    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        self.event = event


async def _off_loop(count: int, work: Callable[..., T], *args: object) -> T:
    if count <= _INLINE:
        return work(*args)
    return await asyncio.to_thread(work, *args)


def _parsed(pdus: Sequence[object], rules: RoomRules) -> list[Event | Refused]:
    events: list[Event | Refused] = []
    for pdu in pdus:
        try:
            event = Event.parse(pdu, rules)
        except Malformed:
            events.append(Refused.MALFORMED)
            continue
        events.append(event)
    return events


def _wanted(event: Event, without: Collection[str]) -> tuple[dict[str, list[str]], int]:
    """By server the keys that it has signed the event with, and when they had to be valid."""
    signatures = event.pdu["signatures"]
    until = event.origin_server_ts if event.rules.enforce_key_validity else 0
    return {
        # A policy server's key is in the room, and no key of its server.
        server: [key_id for key_id in signatures.get(server, ()) if key_id != POLICY_KEY_ID]
        for server in required_signers(event)
        if server not in without
    }, until


def _verified(
    events: Sequence["Event | Refused"], keys: Keys, without: Collection[str]
) -> list["Event | Refused | _NoKey"]:
    found: list[Event | Refused | _NoKey] = []
    for event in events:
        if isinstance(event, Refused):
            found.append(event)
            continue
        servers = [server for server in required_signers(event) if server not in without]
        if any(server in event.pdu["signatures"] and not keys.get(server) for server in servers):
            found.append(_NoKey(event))
        elif all(verify_event(event, server, keys.get(server, {})) for server in servers):
            if not content_hash_fits(event.pdu):
                pdu = redact(event.pdu, event.rules)
                event = Event.stored(pdu, event.rules, event.event_id)
            found.append(event)
        else:
            found.append(Refused.UNSIGNED)
    return found


def _kept(event: "Event | Refused | _NoKey") -> Event | Refused:
    return Refused.NO_KEY if isinstance(event, _NoKey) else event

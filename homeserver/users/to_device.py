"""To-device messages: kept for each device until it has them.

Owns the inboxes. Invariants: a message is answered for once it is committed; it leaves its inbox
only when the device presents a token that was given out behind it, or when the device ends; a
device is told its messages in the order of their commits, at most `PAGE` at a time. An inbox is
bounded, with fair shares for all who write to it: a full one loses the oldest messages of who has
sent most, and an alarm says so; so nobody who floods it pushes out what others have sent. Messages
that were sent twice with one transaction id are taken once.
spec: client-server-api#send-to-device-messaging
"""

import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_user_id, server_of
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from homeserver.streams.publish import Publisher
from homeserver.streams.ring import MessagesEntry, Ring
from homeserver.users.device_lists import Told
from homeserver.users.e2e_keys import own_device
from homeserver.users.parcels import Parcels
from homeserver.users.sessions import Session
from storage import accounts as accounts_store
from storage import to_device as store
from storage.changes import Change, Conflict, Insert
from storage.engine import Database
from storage.schema import MessageIdRow

log = logging.getLogger(__name__)

PAGE = 100
MAX_INBOX = 50_000
"""Messages that wait for one device; a device that is off for a year stays well below."""
MAX_RECIPIENTS = 10_000
MAX_SENT = 67_108_864
"""Bytes of what one request puts into inboxes: a long message to all of very many devices."""
KEPT_MS = 7 * 86_400_000
"""How long transactions are remembered."""
_TIDY_SECONDS = 60.0
_FORGET_EVERY_MS = 3_600_000
_MAX_CACHED = 50_000
_READ_AT_ONCE = 2_000
_REMOVED_AT_ONCE = 1_000
ALL = "*"

Messages = Mapping[str, Mapping[str, JsonObject]]


class Departing(Protocol):
    """Takes messages for users of other servers."""

    def messages(self, sender: str, type: str, messages: Messages) -> Told:  # noqa: A002
        """What sends them, to be committed with those that stay here."""


_Owners = Mapping[str, tuple[int, Mapping[str, int]]]
"""By local user id the user's number, and the numbers of the user's devices by id."""


@dataclass(slots=True)
class _Inbox:
    """The positions of the first and the last message that may wait; 0 when none does."""

    first: int = 0
    last: int = 0

    def received(self, until: int) -> None:
        """What stands up to a position waits no more."""
        if self.last <= until:
            self.first = self.last = 0
        else:
            self.first = until + 1


class Inboxes:
    """The messages of all devices."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        names: Names,
        publisher: Publisher,
        ring: Ring,
        parcels: Parcels,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._names = names
        self._publisher = publisher
        self._ring = ring
        self._parcels = parcels
        self._clock = clock
        self._suffix = ":" + server_name
        self._inboxes: OrderedDict[int, _Inbox] = OrderedDict()
        self._changes = 0
        self._departing: Departing | None = None
        self._forget_at = 0
        self.cut = 0
        """How many messages were removed from full inboxes since the start."""

    def send_elsewhere(self, departing: Departing) -> None:
        """Have this take the messages for users of other servers."""
        self._departing = departing

    async def send(
        self, session: Session, type_: str, txn: tuple[int, str], messages: Messages
    ) -> None:
        """Send a client's messages; nothing happens when its transaction was taken before.

        `txn` is the hash of the path and the id. Raises `MatrixError`: M_INVALID_PARAM for what is
        no user, M_TOO_LARGE for too many recipients, or too much for all of them.
        spec: client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid
        """
        device_nid, _ = own_device(session)
        if sum(len(devices) for devices in messages.values()) > MAX_RECIPIENTS:
            raise MatrixError.too_large(f"At most {MAX_RECIPIENTS} devices are written to at once")
        owners = await self._devices(messages)
        strangers = [one for one in messages if one not in owners]
        for user_id in strangers:
            if not is_user_id(user_id):
                raise MatrixError.invalid_param(f"messages: {user_id[:300]} is no user ID")
        seen = Insert(MessageIdRow(f"{device_nid}", f"{txn[0]} {txn[1]}", self._clock.now_ms()))
        told = await self._arriving(session.user_id, type_, messages, owners)
        changes, publishers = [seen, *told.changes], [told.publish]
        elsewhere = {one: messages[one] for one in strangers if not one.endswith(self._suffix)}
        if elsewhere and self._departing is not None:
            left = self._departing.messages(session.user_id, type_, elsewhere)
            changes += left.changes
            publishers.append(left.publish)

        def publish(pos: int) -> None:
            for one in publishers:
                if one is not None:
                    one(pos)

        try:
            await self._commits.commit(changes, 1, publish)
        except Conflict as error:
            if error.table != "message_ids":
                raise

    async def arriving(self, sender: str, type_: str, messages: Messages) -> Told:
        """What puts messages for local users into their devices' inboxes, at one position.

        Raises `MatrixError` M_TOO_LARGE.
        """
        return await self._arriving(sender, type_, messages, await self._devices(messages))

    async def _devices(self, user_ids: Collection[str]) -> _Owners:
        """The local users among these who have devices."""
        nids = await self._names.find([one for one in user_ids if one.endswith(self._suffix)])
        devices = await accounts_store.device_nids_of(self._database, [*nids.values()])
        return {one: (nid, devices[nid]) for one, nid in nids.items() if nid in devices}

    async def _arriving(self, sender: str, type_: str, messages: Messages, owners: _Owners) -> Told:
        end = b',"sender":%b,"type":%b}' % (canonical.encode(sender), canonical.encode(type_))
        encode = canonical.encode
        sent: dict[int, bytes] = {}
        users: dict[int, int] = {}
        for user_id, (nid, own) in owners.items():
            given = messages[user_id]
            # What is meant for one device goes before what is meant for all.
            if ALL in given:
                json = b'{"content":%b%b' % (encode(given[ALL]), end)
                for device_nid in own.values():
                    sent[device_nid], users[device_nid] = json, nid
            for device_id, content in given.items():
                if device_id in own:
                    device_nid = own[device_id]
                    sent[device_nid] = b'{"content":%b%b' % (encode(content), end)
                    users[device_nid] = nid
        if sum(map(len, sent.values())) > MAX_SENT:
            raise MatrixError.too_large(f"At most {MAX_SENT} bytes are put into inboxes at once")
        changes = await self._parcels.packed(sent)

        def publish(pos: int) -> None:
            if not sent:
                return
            self._changes += 1
            inboxes = self._inboxes
            for device_nid in sent:
                inbox = inboxes.get(device_nid)
                if inbox is not None:
                    inbox.last = pos
                    inbox.first = inbox.first or pos
            entry = MessagesEntry(pos, sent)
            self._parcels.arrived(pos, entry.size)
            self._publisher.messages(entry, users)

        return Told(changes, 1, publish)

    async def waiting(
        self, device_nid: int, after: int, until: int, *, most: int = PAGE, stored: bool = False
    ) -> tuple[list[bytes], int | None]:
        """The next messages for a device at positions in (after, until], as JSON, at most `most`.

        And the position of the last of them when there are more, else None. `stored` reads the
        tables also where memory would do.
        """
        inbox = await self._inbox(device_nid)
        if not stored and inbox.last <= after:
            return [], None
        after = max(after, inbox.first - 1)
        if not stored and self._ring.floor <= after:
            found = self._ring.messages(device_nid, after, until)[: most + 1]
        else:
            await self._parcels.sort()
            found = await store.waiting(self._database, device_nid, after, until, most + 1)
        if len(found) <= most:
            return [json for _, json in found], None
        return [json for _, json in found[:most]], found[most - 1][0]

    async def page(self, device_nid: int, after: int, most: int) -> tuple[list[bytes], int, bool]:
        """The next messages behind a position, for who doesn't sync.

        And where they end, and whether there are more.
        """
        await self._parcels.sort()
        most = min(most, PAGE)
        found = await store.waiting(self._database, device_nid, after, self._ring.pos, most + 1)
        told = found[:most]
        return [json for _, json in told], told[-1][0] if told else after, len(found) > most

    async def received(self, device_nid: int, until: int) -> None:
        """The device has presented a token: what it has been told up to there is removed."""
        inbox = await self._inbox(device_nid)
        if not inbox.first or inbox.first > until:
            return
        changes = self._parcels.fetched([device_nid], inbox.first, until)
        if changes:
            try:
                self._commits.submit(changes)
            except MatrixError:
                return  # the queue is full: it will present a token again
        inbox.received(until)

    async def taken(self, device_nids: Collection[int], until: int) -> list[Change]:
        """What removes the messages up to a position that these devices have by another way."""
        if not device_nids:
            return []
        for device_nid in device_nids:
            (await self._inbox(device_nid)).received(until)
        return self._parcels.fetched(device_nids, 0, until)

    def forget(self, device_nids: Collection[int]) -> None:
        """These devices have ended."""
        self._changes += 1
        for device_nid in device_nids:
            self._inboxes.pop(device_nid, None)
        self._parcels.forget(device_nids)

    async def run(self) -> None:
        """Forget old transactions, and look after inboxes that grow, until cancelled."""
        while True:
            await self.tidy()
            await self._clock.sleep(_TIDY_SECONDS)

    async def tidy(self) -> None:
        """See `run`; once."""
        now = self._clock.now_ms()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY_MS
            await self._commits.commit([store.message_ids_forgotten(now - KEPT_MS)])
        await self._parcels.sort()
        for device_nid in self._parcels.grown():
            await self._cut(device_nid)

    async def _cut(self, device_nid: int) -> None:
        size = await store.size(self._database, device_nid)
        if size <= MAX_INBOX // 2:
            return
        device = (await accounts_store.devices(self._database, [device_nid])).get(device_nid)
        if device is None:
            return
        user_id = (await self._names.names([device.user_nid])).get(device.user_nid)
        log.warning(
            "%d to-device messages wait for %s of %s, who does not fetch them; an inbox holds %d",
            size,
            device.device_id,
            user_id,
            MAX_INBOX,
        )
        if size > MAX_INBOX:
            cut = await self._too_many(device_nid)
            log.error("%d of them are removed, the oldest of who has sent most", len(cut))
            self.cut += len(cut)
            for start in range(0, len(cut), _REMOVED_AT_ONCE):
                part = cut[start : start + _REMOVED_AT_ONCE]
                await self._commits.commit([store.removed(device_nid, part)])

    async def _too_many(self, device_nid: int) -> list[int]:
        """The positions of what is more in an inbox than the shares of those who have sent it.

        Each user of ours has a share, and each other server, which can have any number of users.
        """
        sent: dict[str, list[int]] = {}
        after = 0
        while page := await store.senders(self._database, device_nid, after, _READ_AT_ONCE):
            for pos, sender in page:
                by = sender if sender.endswith(self._suffix) else server_of(sender)
                sent.setdefault(by, []).append(pos)
            after = page[-1][0]
        cut: list[int] = []
        room = MAX_INBOX
        for number, positions in enumerate(sorted(sent.values(), key=len)):
            kept = min(len(positions), room // (len(sent) - number))
            room -= kept
            cut += positions[: len(positions) - kept]
        return cut

    async def _inbox(self, device_nid: int) -> _Inbox:
        inbox = self._inboxes.get(device_nid)
        if inbox is None:
            # What comes from here on is in nobody's memory, and perhaps not in the inbox either.
            changes = self._changes
            await self._parcels.sort()
            span = await store.span(self._database, device_nid)
            inbox = _Inbox(*span) if span else _Inbox()
            if changes == self._changes:
                self._inboxes[device_nid] = inbox
                if len(self._inboxes) > _MAX_CACHED:
                    self._inboxes.popitem(last=False)
        return inbox

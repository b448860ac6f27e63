"""Sending to one application service what concerns it, in order, each thing once.

Owns the service's cursor: everything up to it was acknowledged; with it the to-device messages go
that the service has. Invariants: a transaction is noted before it is sent, so that after a crash
the same number stands for the same events; the next one begins only when it was acknowledged, and
what has no position is told in transactions that are not repeated after a crash. While the service
fails, the pauses grow; nothing is lost and nobody else waits. It reads behind the commit and is
never called from the way of an event.
spec: application-service-api#pushing-events
"""

import asyncio
import logging
from collections.abc import Callable

from homeserver.appservices.client import ServiceClient, ServiceFailed
from homeserver.appservices.devices import ServiceDevices
from homeserver.appservices.feed import Feed, Page
from homeserver.appservices.interest import Interest
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage.appservices import cursor_moved
from storage.engine import Database
from storage.schema import AppserviceRow

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
SECONDS = 60.0
RESTART_SECONDS = 5.0
# A cursor over events that concern nobody is saved when it has moved by so much.
SAVED_EVERY = 10_000
MAX_TYPING = 1_000


class Sender:
    """See the module. `error` says in words why the last try failed; empty while all is well."""

    def __init__(
        self,
        row: AppserviceRow,
        interest: Interest,
        feed: Feed,
        client: ServiceClient,
        commits: CommitQueue,
        clock: Clock,
        position: Callable[[], int],
    ) -> None:
        self.interest = interest
        self.devices = ServiceDevices(interest)
        self.acked_pos = row.acked_pos
        self.sent = 0
        self.failing_since: int | None = None
        self.error = ""
        self._pending_pos = row.pending_pos
        self._txn_nid = row.txn_nid
        self._saved = row.acked_pos
        self._feed = feed
        self._client = client
        self._commits = commits
        self._clock = clock
        self._position = position
        self._dirty: dict[int, None] = {}
        self._everything = True
        self._typing: dict[int, None] = {}
        self._delivered: set[int] = set()
        self._woken = asyncio.Event()
        self._again = asyncio.Event()

    @property
    def behind(self) -> int:
        """How many positions of the stream have not been looked at or acknowledged."""
        return max(0, self._position() - self.acked_pos)

    def happened(self, room_nid: int) -> None:
        """Something that has a position happened in a room that is looked at."""
        self._dirty[room_nid] = None
        self._woken.set()

    def wake(self) -> None:
        """Something was noted in `devices`."""
        self._woken.set()

    def missed(self) -> None:
        """Something may have happened that nobody was told of: look everywhere."""
        self._everything = True
        self._woken.set()

    def typing(self, room_nid: int) -> None:
        """Who types in a room has changed."""
        if self.interest.service.ephemeral and len(self._typing) < MAX_TYPING:
            self._typing[room_nid] = None
            self._woken.set()

    def try_now(self) -> None:
        """End the pause after a failure."""
        self._again.set()

    async def replay(self, pos: int) -> None:
        """Begin again after position `pos`; in a transaction of a number that is new."""
        self._txn_nid += 1
        await self._commits.commit(
            [cursor_moved(self.interest.service.id, pos, pos, self._txn_nid)]
        )

    async def run(self, database: Database) -> None:
        """Send until cancelled; a fault of ours is logged, and sending begins anew."""
        while True:
            try:
                self._everything = True
                await self.interest.load(database, self.acked_pos)
                await self._feed.devices.load(self.devices, self.acked_pos)
                while True:
                    self._woken.clear()
                    await self._catch_up()
                    await self._woken.wait()
            except Exception:
                log.exception("sending to %s broke off", self.interest.service.id)
                await self._clock.sleep(RESTART_SECONDS)

    async def _catch_up(self) -> None:
        while True:
            until = self._position()
            if self.acked_pos >= until and not self._typing and not self.devices.waiting:
                if self._saved != self.acked_pos and self._pending_pos == self.acked_pos:
                    await self._save()
                return
            again = self._pending_pos > self.acked_pos
            everywhere = self._everything or again
            rooms = list(self.interest.rooms if everywhere else self._dirty)
            if not again:
                self._everything = False
            dirty, self._dirty = self._dirty, {}
            devices, end = self.devices, self._pending_pos if again else until
            inboxes, devices.inboxes = devices.inboxes, {}
            page = await self._feed.page(devices, rooms, inboxes, self.acked_pos, end, whole=again)
            if page.end < until:
                self._dirty = {**dirty, **self._dirty}
                devices.inboxes = {**inboxes, **devices.inboxes}
                self._everything = self._everything or everywhere
            if not again:
                await self._add_passing(page)
            if page.says_something or again:
                await self._send(page, begun=again)
            self.acked_pos = page.end
            if self.acked_pos - self._saved >= SAVED_EVERY:
                await self._save()

    async def _add_passing(self, page: Page) -> None:
        """Add what has no position: who types, and how many keys there are."""
        typing, self._typing = list(self._typing), {}
        page.ephemeral += await self._feed.typing(self.interest, typing)
        page.counts, page.fallbacks = await self._feed.devices.counts(self.devices)

    async def _send(self, page: Page, *, begun: bool) -> None:
        service = self.interest.service
        if service.url is None:
            return
        if not begun:
            self._txn_nid += 1
            self._pending_pos = page.end
            await self._save()
        body = page.body()
        path = f"/transactions/{self._txn_nid}"
        pause = FIRST_PAUSE
        while True:
            try:
                await self._client.request(
                    service,
                    "PUT",
                    "/_matrix/app/v1" + path,
                    path,
                    body=body,
                    seconds=SECONDS,
                )
                break
            except ServiceFailed as failed:
                self._failed(failed)
                await self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        if self.failing_since is not None:
            log.info("the application service %s is back", service.id)
        self.failing_since, self.error = None, ""
        self.sent += len(page.events)
        self.acked_pos = page.end
        self._delivered |= {message.device_nid for message in page.messages}

    async def _save(self) -> None:
        self._saved = self.acked_pos
        pending = max(self._pending_pos, self.acked_pos)
        moved = cursor_moved(self.interest.service.id, self.acked_pos, pending, self._txn_nid)
        delivered = list(self._delivered)
        gone = await self._feed.devices.removed(self.devices, delivered, self.acked_pos)
        await self._commits.commit([moved, *gone])
        self._delivered.difference_update(delivered)

    def _failed(self, failed: ServiceFailed) -> None:
        if self.failing_since is None:
            self.failing_since = self._clock.now_ms()
            log.warning(
                "the application service %s fails: %s", self.interest.service.id, failed.reason
            )
        self.error = failed.reason

    async def _pause(self, seconds: float) -> None:
        timer = self._clock.call_later(seconds, self._again.set)
        try:
            await self._again.wait()
        finally:
            timer.cancel()
            self._again.clear()

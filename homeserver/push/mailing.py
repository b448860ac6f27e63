"""Telling users by mail what they have not read.

Owns when mails of pushers of the kind `email` are sent, and each one's durable cursor: all up to
its `mailed_pos` was mailed or needs no mail. Invariant: nobody is flooded. The first notification
waits `DELAY_MS`, so that who reads anyway gets no mail; then one mail tells of all that is unread.
The pause before the next one grows up to a day, until the user reads something. A mail goes to an
address of the account only, and what fails is tried again with all that is unread then. After a
crash the last mail may come twice; none is lost. What it says is chosen in `digests.py`.
spec: client-server-api#post_matrixclientv3pushersset
"""

import asyncio
import heapq
import logging
from collections.abc import Iterable
from urllib.parse import urlencode

from homeserver.push.digests import Digest, Digests
from homeserver.runtime.clock import Clock
from homeserver.runtime.mail import Mailer, MailFailed
from homeserver.streams.commit import CommitQueue
from homeserver.streams.numbers import Names
from storage import push as store
from storage.changes import Change
from storage.engine import Database
from storage.schema import PusherRow
from storage.threepids import owners

log = logging.getLogger(__name__)

APP_ID = "m.email"
PATH = "/_homeserver/mail/stop"
DELAY_MS = 10 * 60_000
PAUSES_S = (0, 600, 3_600, 6 * 3_600, 24 * 3_600)
"""How long no mail follows one, by how many were sent since the user has read anything."""
FIRST_RETRY_S = 300
LONGEST_RETRY_S = 6 * 3_600
_AT_ONCE = 8


class Mailing:
    """See the module."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        names: Names,
        mailer: Mailer,
        digests: Digests,
        clock: Clock,
        base_url: str,
    ) -> None:
        self._database = database
        self._commits = commits
        self._names = names
        self._mailer = mailer
        self._digests = digests
        self._clock = clock
        self._base_url = base_url
        self._due: dict[store.Key, int] = {}
        self._agenda: list[tuple[int, store.Key]] = []
        self._tries: dict[store.Key, int] = {}
        self._woken = asyncio.Event()
        self._under_way = 0
        self.sent = self.failures = 0

    @property
    def due(self) -> int:
        """Mails that should be sent by now, or are being sent."""
        now = self._clock.now_ms()
        return self._under_way + sum(at <= now for at in self._due.values())

    @property
    def possible(self) -> bool:
        """Whether this server sends mail."""
        return self._mailer.enabled

    @property
    def now(self) -> int:
        """The position from which on a new pusher is told."""
        return self._digests.now

    def known(self, row: PusherRow) -> None:
        """Go on with a pusher as it is stored."""
        if row.due_ts is not None and row.enabled:
            self._plan(row[:3], row.due_ts)

    async def notify(self, row: PusherRow, pos: int) -> None:
        """The pusher's user is notified of what stands at this position."""
        if row.mailed_pos is None or pos <= row.mailed_pos or row[:3] in self._due:
            return
        await self._put_off(row, max(self._clock.now_ms() + DELAY_MS, row.rest_until_ts))

    async def read(self, rows: Iterable[PusherRow]) -> None:
        """The user of these pushers has read something: mails need no pause any more."""
        soon = self._clock.now_ms() + DELAY_MS
        for row in rows:
            if row.rest_s:
                await self._commits.commit([store.rested(row[:3])])
                if self._due.get(row[:3], 0) > soon:
                    await self._put_off(row, soon)

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            now = self._clock.now_ms()
            due: list[store.Key] = []
            while self._agenda and self._agenda[0][0] <= now and len(due) < _AT_ONCE:
                at, key = heapq.heappop(self._agenda)
                if self._due.get(key) == at:
                    del self._due[key]
                    due.append(key)
            if due:
                self._under_way = len(due)
                await asyncio.gather(*map(self._send_safely, due))
                self._under_way = 0
                continue
            self._woken.clear()
            wait = asyncio.ensure_future(self._woken.wait())
            if self._agenda:
                pause = (self._agenda[0][0] - now) / 1_000
                timer = self._clock.call_later(pause, self._woken.set)
                try:
                    await wait
                finally:
                    timer.cancel()
            else:
                await wait

    async def stop(self, token: str, *, end: bool) -> str | None:
        """The address whose mails this token ends, and with `end` end them; None for no address."""
        row = await store.pusher_by_token(self._database, token)
        if row is None:
            return None
        if end:
            await self._commits.commit([store.pusher_ended(row[:3])])
        return row.pushkey

    async def test(self, row: PusherRow) -> str | None:
        """Send a mail that only says that mails arrive; what went wrong in words, or None."""
        if await self._owner(row) != row.user_nid:
            return "the address is not one of the account's (any more)"
        try:
            await self._post(row, "Mails about unread messages arrive", "push_test", {})
        except MailFailed as error:
            await self._note(row, error.message)
            return error.message
        await self._commits.commit([store.succeeded(row[:3], self._clock.now_ms())])
        return None

    async def backlog(self, row: PusherRow) -> int:
        """How many unread messages the next mail is to tell of."""
        if row.due_ts is None or row.mailed_pos is None:
            return 0
        user_id = (await self._names.names([row.user_nid]))[row.user_nid]
        digest = await self._digests.of(row.user_nid, user_id, row.mailed_pos)
        return sum(room.messages for room in digest.rooms)

    async def _put_off(self, row: PusherRow, due_ts: int) -> None:
        await self._commits.commit([store.mail_due(row[:3], due_ts)])
        self._plan(row[:3], due_ts)

    def _plan(self, key: store.Key, due_ts: int) -> None:
        self._due[key] = due_ts
        heapq.heappush(self._agenda, (due_ts, key))
        self._woken.set()

    async def _send_safely(self, key: store.Key) -> None:
        row = await store.pusher(self._database, key)
        if row is None or not row.enabled or row.mailed_pos is None:
            return
        try:
            if await self._owner(row) != row.user_nid:
                await self._commits.commit([store.pusher_ended(key)])
                return
            if row.rest_until_ts > self._clock.now_ms():
                await self._put_off(row, row.rest_until_ts)
                return
            user_id = (await self._names.names([row.user_nid]))[row.user_nid]
            digest = await self._digests.of(row.user_nid, user_id, row.mailed_pos)
            await self._send(row, digest)
        except MailFailed as error:
            log.info("a mail about unread messages fails: %s", error.message)
            await self._again(row, error.message)
        except Exception:
            log.exception("a mail about unread messages could not be made")
            await self._again(row, "it could not be made; the log has more")

    async def _send(self, row: PusherRow, digest: Digest) -> None:
        key, now = row[:3], self._clock.now_ms()
        if not digest.rooms:
            # All was read meanwhile.
            done = store.mailed(key, digest.until, now, row.rest_until_ts, row.rest_s)
            await self._commits.commit([done])
            return
        await self._post(row, digest.subject, "digest", digest.values())
        self._tries.pop(key, None)
        self.sent += 1
        rest = next((pause for pause in PAUSES_S if pause > row.rest_s), PAUSES_S[-1])
        changes: list[Change] = [
            store.mailed(key, digest.until, now, now + 1_000 * rest, rest),
            store.succeeded(key, now),
        ]
        await self._commits.commit(changes)

    async def _post(
        self, row: PusherRow, subject: str, template: str, values: dict[str, object]
    ) -> None:
        stop = f"{self._base_url}{PATH}?{urlencode({'token': row.stop_token})}"
        headers = {
            "List-Unsubscribe": f"<{stop}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
        await self._mailer.send(row.pushkey, subject, template, {"stop": stop, **values}, headers)

    async def _owner(self, row: PusherRow) -> int | None:
        found = (await owners(self._database, "email", [row.pushkey])).get(row.pushkey)
        return found.user_nid if found is not None else None

    async def _again(self, row: PusherRow, error: str) -> None:
        """Try later, with all that is unread then."""
        key = row[:3]
        self.failures += 1
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        pause = min(FIRST_RETRY_S * 2 ** (tries - 1), LONGEST_RETRY_S)
        due = self._clock.now_ms() + 1_000 * pause
        await self._note(row, error, store.mail_due(key, due))
        self._plan(key, due)

    async def _note(self, row: PusherRow, error: str, *also: Change) -> None:
        noted = store.failed(row[:3], error, self._clock.now_ms())
        await self._commits.commit([noted, *also])

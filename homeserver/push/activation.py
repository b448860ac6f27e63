"""Showing that an app gets what its pusher is sent, before it is sent anything (MSC4174).

Owns the token that a pusher of the kind `webpush` gets as its first message, and what becomes of it
when the app brings the token back. Until then the pusher's row is switched off, and `activation` in
its `json` has the token, its end, and whether the app wants the pusher switched on; so nobody makes
this server tell what does not listen. A token is good for five minutes; an app that was away for
longer sets its pusher again and gets a new one.
"""

import asyncio
import hmac
import uuid
from collections.abc import Awaitable, Callable
from itertools import count

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.push import webpush
from homeserver.push.gateway import Gateway, GatewayFailed, Target
from homeserver.push.patience import pause_after
from homeserver.push.queues import MAX_ERROR
from homeserver.push.turns import Spawn
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.inbox import UserInbox
from storage import push as store
from storage.changes import Put
from storage.engine import Database
from storage.schema import PusherRow

GOOD_SECONDS = 300
_PENDING = "activation"
_DONE = "acknowledged"


class Activation:
    """See the module; `changed(user number)` is awaited after each change."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        inbox: UserInbox,
        clock: Clock,
        gateway: Gateway,
        changed: Callable[[int], Awaitable[None]],
        spawn: Spawn,
    ) -> None:
        self._database = database
        self._commits = commits
        self._inbox = inbox
        self._clock = clock
        self._gateway = gateway
        self._changed = changed
        self._spawn = spawn
        self._bringing: dict[store.Key, asyncio.Task[object]] = {}

    def begun(self, row: PusherRow, before: PusherRow | None) -> PusherRow:
        """The row to store of a pusher that is set, which was stored as `before`.

        It is pending, unless its app has shown already that it is told there.
        """
        told = decode_object(row.json)
        if before is not None:
            known = decode_object(before.json)
            active = known["kind"] in webpush.KINDS and _PENDING not in known
            if active and webpush.same(told["data"], known["data"]):
                return row
        told[_PENDING] = {
            "token": str(uuid.uuid4()),
            "until_ts": self._clock.now_ms() + GOOD_SECONDS * 1_000,
            "enabled": bool(row.enabled),
        }
        return row._replace(json=encode(told), enabled=0, pending_pos=None)

    def send(self, row: PusherRow) -> None:
        """Bring the token of a pending pusher to its app, in the background."""
        self._spawn("activation of a pusher", self._bring(row))

    async def acknowledge(self, user_nid: int, app_id: str, token: str) -> None:
        """The app has got this token.

        Raises `MatrixError`: M_NOT_FOUND where the user has no such pusher of the application,
        M_UNKNOWN_ACTIVATION_TOKEN, M_EXPIRED_ACTIVATION_TOKEN.
        """

        async def turn() -> None:
            rows = [
                (row, told)
                for row in await store.pushers_of(self._database, [user_nid])
                if row.app_id == app_id
                and (told := decode_object(row.json))["kind"] in webpush.KINDS
            ]
            if not rows:
                raise MatrixError.not_found("You have no such pusher of this application")
            for row, told in rows:
                if _is(told.get(_DONE), token):
                    return
                pending = told.get(_PENDING, {})
                if _is(pending.get("token"), token):
                    if pending["until_ts"] < self._clock.now_ms():
                        raise MatrixError("M_EXPIRED_ACTIVATION_TOKEN", "The token is too old")
                    await self._activate(row, told)
                    return
            raise MatrixError("M_UNKNOWN_ACTIVATION_TOKEN", "No pusher has this token")

        await self._inbox.run(user_nid, turn)
        await self._changed(user_nid)

    async def _activate(self, row: PusherRow, told: JsonObject) -> None:
        pending = told.pop(_PENDING)
        told[_DONE] = pending["token"]
        row = row._replace(json=encode(told), enabled=int(pending["enabled"]))
        await self._commits.commit([Put(row._replace(error=None, error_ts=None))])

    async def _bring(self, row: PusherRow) -> None:
        """Bring the token; what is still done for an earlier one of this pusher is given up."""
        key, task = row[:3], asyncio.current_task()
        assert task is not None
        if key in self._bringing:
            self._bringing[key].cancel()
        self._bringing[key] = task
        try:
            await self._try(row)
        finally:
            if self._bringing.get(key) is task:
                del self._bringing[key]

    async def _try(self, row: PusherRow) -> None:
        """Bring the token, again and again while it is good and the pusher's."""
        target = self._gateway.target(row)
        pending = decode_object(row.json)[_PENDING]
        message = {"app_id": row.app_id, "ack_token": pending["token"]}
        for tries in count(1):
            try:
                if not await self._brought(target, message):
                    await self._inbox.run(row.user_nid, lambda: self._end(row))
                    await self._changed(row.user_nid)
                return
            except GatewayFailed as failed:
                error = str(failed)[:MAX_ERROR]
            await self._commits.commit([store.failed(row[:3], error, self._clock.now_ms())])
            await self._clock.sleep(pause_after(tries))
            if self._clock.now_ms() > pending["until_ts"] or not await self._is_stored(row):
                return

    async def _brought(self, target: Target, message: JsonObject) -> bool:
        way = target.way
        assert isinstance(way, webpush.Subscription)  # none other is pending
        request = way.sealed(message, urgent=True, kept_seconds=GOOD_SECONDS)
        return await self._gateway.bring(way, request)

    async def _end(self, row: PusherRow) -> None:
        """The push service knows the subscription no more; what was set since is another one."""
        if await self._is_stored(row):
            await self._commits.commit([store.pusher_ended(row[:3])])

    async def _is_stored(self, row: PusherRow) -> bool:
        stored = await store.pusher(self._database, row[:3])
        return stored is not None and stored.json == row.json


def is_pending(row: PusherRow) -> bool:
    """Whether a pusher's app has yet to show that it is told."""
    return _PENDING in decode_object(row.json)


def shown(told: JsonObject) -> JsonObject:
    """What is stored of a pusher as clients see it, with the `enabled` of one that is pending."""
    told = {name: value for name, value in told.items() if name != _DONE}
    pending = told.pop(_PENDING, None)
    if told["kind"] in webpush.KINDS:
        told["activated"] = pending is None
    if pending is not None:
        told["enabled"] = pending["enabled"]
    return told


def _is(known: str | None, token: str) -> bool:
    return known is not None and hmac.compare_digest(known.encode(), token.encode())

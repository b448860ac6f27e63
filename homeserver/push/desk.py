"""How it goes with pushers, for operators, and trying them.

Owns the list of pushers with their last success, their last error in words and what waits for them,
and the test of a pusher: a notification that is really sent, to the gateway or as a mail, and says
that it is a test. A key that the gateway rejects then ends, as with every other notification.
"""

import secrets

from homeserver.matrix.canonical import JsonObject, decode_object
from homeserver.push import activation
from homeserver.push.gateway import Gateway, Notice
from homeserver.push.mailing import Mailing
from homeserver.push.queues import Queues
from homeserver.streams.numbers import Names
from storage import push as store
from storage.engine import Database
from storage.schema import PusherRow

MOST_LISTED = 1_000


class PushDesk:
    """See the module."""

    def __init__(
        self,
        database: Database,
        names: Names,
        queues: Queues,
        mailing: Mailing,
        gateway: Gateway,
    ) -> None:
        self._database = database
        self._names = names
        self._queues = queues
        self._mailing = mailing
        self._gateway = gateway

    async def of(self, user_nid: int) -> list[JsonObject]:
        """The pushers of a user."""
        return await self._shown(await store.pushers_of(self._database, [user_nid]))

    async def page(self, after: store.Key) -> tuple[list[JsonObject], store.Key | None]:
        """Up to `MOST_LISTED` pushers of all users after a key, and where to go on."""
        rows = await store.pushers_after(self._database, after, MOST_LISTED)
        return await self._shown(rows), rows[-1][:3] if len(rows) == MOST_LISTED else None

    async def test(self, user_nid: int, user_id: str, pushkey: str | None) -> list[JsonObject]:
        """Try the pushers of a user, or those of one key; one result each, `error` None if well."""
        results: list[JsonObject] = []
        for row in await store.pushers_of(self._database, [user_nid]):
            if pushkey not in (None, row.pushkey):
                continue
            error: str | None
            if activation.is_pending(row):
                error = "its app has not shown yet that it can be told there"
            elif row.mailed_pos is not None:
                error = await self._mailing.test(row)
            else:
                error = await self._queues.test(row, user_id, _notice(user_id))
            results.append({"app_id": row.app_id, "pushkey": row.pushkey, "error": error})
        return results

    async def _shown(self, rows: list[PusherRow]) -> list[JsonObject]:
        names = await self._names.names({row.user_nid for row in rows})
        return [await self._facts(row, names[row.user_nid]) for row in rows]

    async def _facts(self, row: PusherRow, user_id: str) -> JsonObject:
        told = activation.shown(decode_object(row.json))
        by_mail = row.mailed_pos is not None
        state = self._queues.state(row)
        return {
            "user_id": user_id,
            "app_id": row.app_id,
            "pushkey": row.pushkey,
            "kind": told["kind"],
            "device_display_name": told.get("device_display_name"),
            "to": row.pushkey if by_mail else self._gateway.target(row).way.host,
            "enabled": told.get("enabled", bool(row.enabled)),
            "activated": told.get("activated", True),
            "last_success_ts": state.success_ts,
            "last_error": row.error,
            "last_error_ts": row.error_ts,
            "failing": state.failing or (by_mail and _failed_last(row)),
            "waiting": await self._mailing.backlog(row) if by_mail else state.waiting,
            "due_ts": row.due_ts,
        }


def _failed_last(row: PusherRow) -> bool:
    return row.error_ts is not None and row.error_ts > (row.success_ts or 0)


def _notice(user_id: str) -> Notice:
    server = user_id.partition(":")[2]
    content: JsonObject = {"msgtype": "m.text", "body": "This is a test: notifications arrive."}
    return Notice(
        room_id=f"!{secrets.token_urlsafe(12)}:{server}",
        event_id=f"${secrets.token_urlsafe(32)}",
        full={
            "type": "m.room.message",
            "sender": user_id,
            "sender_display_name": server,
            "room_name": "Test",
            "content": content,
        },
        tweaks={"sound": "default"},
        urgent=True,
    )

"""The pushers that clients set.

Owns reading, setting and removing them. A pusher belongs to a user, an application and a key there;
it ends with the device that set it (`sessions.py` removes the row). What is sent is decided in
`sending.py`, which reads the row before each delivery.
spec: client-server-api#post_matrixclientv3pushersset
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session
from storage import push as store
from storage.accounts import devices_of
from storage.changes import Change, Put
from storage.engine import Database
from storage.schema import PusherRow

MAX_PUSHERS = 100
MAX_BYTES = 16_384
_PATH = "/_matrix/push/v1/notify"
_ENABLED = ("enabled", "org.matrix.msc3881.enabled")
_TEXTS = ("app_display_name", "device_display_name", "lang", "profile_tag")


class Pushers:
    """The pushers of all users; `changed(user number)` is awaited after each change."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        inbox: UserInbox,
        clock: Clock,
        changed: Callable[[int], Awaitable[None]],
    ) -> None:
        self._database = database
        self._commits = commits
        self._inbox = inbox
        self._clock = clock
        self._changed = changed

    async def of(self, user_nid: int) -> list[JsonObject]:
        """The user's pushers as clients see them."""
        devices = (await devices_of(self._database, [user_nid])).get(user_nid, {})
        ids = {row.device_nid: row.device_id for row in devices.values()}
        return [
            _shown(row, ids.get(row.device_nid))
            for row in await store.pushers_of(self._database, user_nid)
        ]

    async def set(self, session: Session, body: JsonObject) -> None:
        """Add, replace or (`kind` null) remove a pusher.

        Raises `MatrixError` M_MISSING_PARAM or M_INVALID_PARAM naming the field.
        """
        app_id, pushkey = _text(body, "app_id", 64), _text(body, "pushkey", 512)
        if "kind" not in body:
            raise MatrixError("M_MISSING_PARAM", "kind is missing", 400)
        key = (session.user_nid, app_id, pushkey)
        kind = body["kind"]
        kept = {} if kind is None else _kept(body)

        async def turn() -> None:
            if kind is None:
                await self._commits.commit([store.pusher_ended(key)])
                return
            known = await store.pushers_of(self._database, session.user_nid)
            before = next((row for row in known if row[:3] == key), None)
            if before is None and len(known) >= MAX_PUSHERS:
                raise MatrixError.invalid_param(f"More than {MAX_PUSHERS} pushers")
            row = PusherRow(
                *key,
                device_nid=session.device_nid or 0,
                json=encode(kept),
                enabled=int(_enabled(body)),
                created_ts=self._clock.now_ms(),
                pending_pos=None,
            )
            changes: list[Change] = [Put(row)]
            if body.get("append") is not True:
                changes.insert(0, store.taken_from_others(*key))
            await self._commits.commit(changes)

        await self._inbox.run(session.user_nid, turn)
        await self._changed(session.user_nid)


def _kept(body: JsonObject) -> JsonObject:
    """What is stored of a pusher, checked."""
    if body["kind"] != "http":
        raise MatrixError.invalid_param("kind must be http or null")
    for name in ("app_display_name", "device_display_name", "lang"):
        _text(body, name, 1_024)
    data = body.get("data")
    if not isinstance(data, dict):
        raise MatrixError("M_MISSING_PARAM", "data is missing", 400)
    url = data.get("url")
    if not isinstance(url, str):
        raise MatrixError("M_MISSING_PARAM", "data.url is missing", 400)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable or parts.path != _PATH or "@" in parts.netloc:
        raise MatrixError.invalid_param(f"data.url must be an HTTP URL with the path {_PATH}")
    if data.get("format") not in (None, "event_id_only"):
        raise MatrixError.invalid_param("data.format must be event_id_only, if it is given")
    kept: JsonObject = {"kind": "http", "data": data}
    kept.update({name: body[name] for name in _TEXTS if isinstance(body.get(name), str)})
    if len(encode(kept)) > MAX_BYTES:
        raise MatrixError.too_large(f"A pusher has at most {MAX_BYTES} bytes")
    return kept


def _enabled(body: JsonObject) -> bool:
    value: Any = next((body[name] for name in _ENABLED if name in body), True)
    if not isinstance(value, bool):
        raise MatrixError.invalid_param("enabled must be true or false")
    return value


def _text(body: JsonObject, name: str, most: int) -> str:
    value = body.get(name)
    if value is None:
        raise MatrixError("M_MISSING_PARAM", f"{name} is missing", 400)
    if not isinstance(value, str) or "\0" in value or len(value.encode()) > most:
        raise MatrixError.invalid_param(f"{name} must be a string of at most {most} bytes")
    return value


def _shown(row: PusherRow, device_id: str | None) -> JsonObject:
    shown = decode_object(row.json)
    shown.update(app_id=row.app_id, pushkey=row.pushkey)
    shown["enabled"] = shown["org.matrix.msc3881.enabled"] = bool(row.enabled)
    if device_id is not None:
        shown["device_id"] = shown["org.matrix.msc3881.device_id"] = device_id
    return shown

"""The pushers that clients set.

Owns reading, setting and removing them. A pusher belongs to a user, an application and a key there;
it ends with the device that set it (`sessions.py` removes the row). What is sent is decided in
`queues.py`, which reads the row before each delivery.
spec: client-server-api#post_matrixclientv3pushersset
"""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.push import activation, webpush
from homeserver.push.activation import Activation
from homeserver.push.gateway import PATH, is_address
from homeserver.push.mailing import APP_ID, Mailing
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.inbox import UserInbox
from homeserver.users.sessions import Session
from homeserver.users.validations import canonical_address
from storage import push as store
from storage.accounts import devices_of
from storage.changes import Change, Put
from storage.engine import Database
from storage.schema import PusherRow
from storage.threepids import owners

MAX_PUSHERS = 100
MAX_BYTES = 16_384
_ENABLED = ("enabled", "org.matrix.msc3881.enabled")
_TEXTS = ("app_display_name", "device_display_name", "lang", "profile_tag")


class Pushers:
    """The pushers of all users; `changed(user number)` is awaited after each change.

    Without `activation` there is no Web Push.
    """

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        inbox: UserInbox,
        clock: Clock,
        mailing: Mailing,
        activation: Activation | None,
        changed: Callable[[int], Awaitable[None]],
    ) -> None:
        self._database = database
        self._commits = commits
        self._inbox = inbox
        self._clock = clock
        self._mailing = mailing
        self._activation = activation
        self._changed = changed

    async def of(self, user_nid: int) -> list[JsonObject]:
        """The user's pushers as clients see them."""
        devices = (await devices_of(self._database, [user_nid])).get(user_nid, {})
        ids = {row.device_nid: row.device_id for row in devices.values()}
        return [
            _shown(row, ids.get(row.device_nid))
            for row in await store.pushers_of(self._database, [user_nid])
        ]

    async def set(self, session: Session, body: JsonObject) -> bool:
        """Add, replace or (`kind` null) remove a pusher; whether it is to be activated first.

        Raises `MatrixError` M_MISSING_PARAM or M_INVALID_PARAM naming the field, and
        M_THREEPID_NOT_FOUND for mails to an address that is not one of the account's.
        """
        app_id, pushkey = _text(body, "app_id", 64), _text(body, "pushkey", 512)
        if "kind" not in body:
            raise MatrixError("M_MISSING_PARAM", "kind is missing", 400)
        kind = body["kind"]
        if kind == "email" or (kind is None and app_id == APP_ID):
            pushkey = canonical_address("email", pushkey)
        key = (session.user_nid, app_id, pushkey)
        kept = {} if kind is None else self._kept(body)

        async def turn() -> PusherRow | None:
            if kind is None:
                await self._commits.commit([store.pusher_ended(key)])
                return None
            known = await store.pushers_of(self._database, [session.user_nid])
            before = next((row for row in known if row[:3] == key), None)
            if before is None and len(known) >= MAX_PUSHERS:
                raise MatrixError.invalid_param(f"More than {MAX_PUSHERS} pushers")
            row = PusherRow(
                *key,
                device_nid=session.device_nid or 0,
                json=encode(kept),
                enabled=int(_enabled(body)),
                created_ts=self._clock.now_ms(),
            )
            if before is not None:
                row = _going_on(row, before)
            if kind == "email":
                row = await self._by_mail(row, before)
            elif kind in webpush.KINDS and self._activation is not None:
                row = self._activation.begun(row, before)
            changes: list[Change] = [Put(row)]
            if body.get("append") is not True:
                changes.insert(0, store.taken_from_others(*key))
            await self._commits.commit(changes)
            return row

        row = await self._inbox.run(session.user_nid, turn)
        await self._changed(session.user_nid)
        if row is None or self._activation is None or not activation.is_pending(row):
            return False
        self._activation.send(row)
        return True

    async def acknowledge(self, user_nid: int, app_id: str, token: str) -> None:
        """Activate a pusher; raises `MatrixError` as `Activation.acknowledge` does."""
        if self._activation is None:
            raise MatrixError.not_found("There is no Web Push on this server")
        await self._activation.acknowledge(user_nid, app_id, token)

    def _kept(self, body: JsonObject) -> JsonObject:
        """What is stored of a pusher, checked."""
        kinds = ["http", "email", *(webpush.KINDS if self._activation is not None else ())]
        if body["kind"] not in kinds:
            raise MatrixError.invalid_param(f"kind must be {', '.join(kinds)} or null")
        return _checked(body)

    async def _by_mail(self, row: PusherRow, before: PusherRow | None) -> PusherRow:
        """The row of a pusher by mail, which goes on where it was if it was there."""
        if not self._mailing.possible:
            raise MatrixError("M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server sends no mail", 400)
        owner = (await owners(self._database, "email", [row.pushkey])).get(row.pushkey)
        if owner is None or owner.user_nid != row.user_nid:
            raise MatrixError(
                "M_THREEPID_NOT_FOUND", "pushkey: this is not an address of your account", 400
            )
        if before is None or not before.enabled or not row.enabled:
            token = before.stop_token if before is not None else secrets.token_urlsafe(24)
            return row._replace(mailed_pos=self._mailing.now, stop_token=token)
        return before._replace(device_nid=row.device_nid, json=row.json)


def _checked(body: JsonObject) -> JsonObject:
    if body["kind"] == "email" and body["app_id"] != APP_ID:
        raise MatrixError.invalid_param(f"app_id must be {APP_ID} for mails")
    for name in ("app_display_name", "device_display_name", "lang"):
        _text(body, name, 1_024)
    data = body.get("data")
    if not isinstance(data, dict):
        raise MatrixError("M_MISSING_PARAM", "data is missing", 400)
    if body["kind"] != "email" and data.get("format") not in (None, "event_id_only"):
        raise MatrixError.invalid_param("data.format must be event_id_only, if it is given")
    if body["kind"] == "http":
        _check_gateway(data)
    elif body["kind"] != "email":
        webpush.check(body["pushkey"], data)
    kept: JsonObject = {"kind": body["kind"], "data": data}
    kept.update({name: body[name] for name in _TEXTS if isinstance(body.get(name), str)})
    if len(encode(kept)) > MAX_BYTES:
        raise MatrixError.too_large(f"A pusher has at most {MAX_BYTES} bytes")
    return kept


def _check_gateway(data: JsonObject) -> None:
    url = data.get("url")
    if not isinstance(url, str):
        raise MatrixError("M_MISSING_PARAM", "data.url is missing", 400)
    if not is_address(url, "http", "https") or urlsplit(url).path != PATH:
        raise MatrixError.invalid_param(f"data.url must be an HTTP URL with the path {PATH}")


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


def _going_on(row: PusherRow, before: PusherRow) -> PusherRow:
    """The pusher as it is set now, with what is known of it from before.

    It stays its device's, whichever device sets it (MSC3881). What its gateway was not told is
    still to be told, unless it was switched off meanwhile.
    """
    both = before.enabled and row.enabled
    return row._replace(
        device_nid=before.device_nid,
        pending_pos=before.pending_pos if both else None,
        success_ts=before.success_ts,
        error=before.error,
        error_ts=before.error_ts,
    )


def _shown(row: PusherRow, device_id: str | None) -> JsonObject:
    shown = {"enabled": bool(row.enabled), **activation.shown(decode_object(row.json))}
    shown.update(app_id=row.app_id, pushkey=row.pushkey)
    shown["org.matrix.msc3881.enabled"] = shown["enabled"]
    if device_id is not None:
        shown["device_id"] = shown["org.matrix.msc3881.device_id"] = device_id
    return shown

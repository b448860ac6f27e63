"""Keys and messages of devices across servers: asked for, sent, taken.

Owns the bounds of asking: every server is asked at once, and one that does not answer in time is
named as a failure. Of users who share a room with the asker the kept copies are shown
(`device_copies`), of others what their server says now.
spec: server-server-api#end-to-end-encryption, server-server-api#send-to-device-messaging
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence

from federation.device_answers import keys_of, object_of
from federation.device_copies import DeviceCopies
from federation.edus import Taken
from federation.requests import Requests, path_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.ids import is_user_id, server_of
from homeserver.ports import Outbox
from homeserver.runtime.clock import Clock
from homeserver.streams.numbers import Names
from homeserver.users.device_lists import Told
from homeserver.users.e2e_keys import Claims, Wanted
from homeserver.users.public_keys import UserKeys
from homeserver.users.sessions import Session
from homeserver.users.to_device import Inboxes, Messages
from storage.changes import Insert
from storage.engine import Database
from storage.memberships import joined_rooms
from storage.schema import MessageIdRow
from storage.to_device import known_messages

log = logging.getLogger(__name__)

MAX_MESSAGE_ID = 255
MAX_RECIPIENTS = 10_000
MAX_BYTES = 8 * 1_048_576
MAX_SECONDS = 4.5
"""However long a client would wait for other servers, it has its answer within five seconds."""
SHORTEST = 0.1
"""Seconds that other servers have in any case."""


class RemoteDevices:
    """See the module."""

    def __init__(
        self,
        requests: Requests,
        outbox: Outbox,
        inboxes: Inboxes,
        copies: DeviceCopies,
        names: Names,
        database: Database,
        clock: Clock,
    ) -> None:
        self._copies = copies
        self._names = names
        self._requests = requests
        self._outbox = outbox
        self._inboxes = inboxes
        self._database = database
        self._clock = clock

    # --- messages

    def messages(self, sender: str, type: str, messages: Messages) -> Told:  # noqa: A002
        """What sends messages to users of other servers, to be committed at one position."""
        by_server: dict[str, JsonObject] = {}
        for user_id, devices in messages.items():
            by_server.setdefault(server_of(user_id), {})[user_id] = devices
        changes = [
            change
            for server, given in by_server.items()
            for change in self._outbox.edu(
                [server],
                "m.direct_to_device",
                {
                    "message_id": secrets.token_hex(12),
                    "messages": given,
                    "sender": sender,
                    "type": type,
                },
            )
        ]
        return Told(changes, 1, lambda _: self._outbox.wake(list(by_server)))

    async def take(self, origin: str, content: JsonObject) -> Sequence[Taken]:
        """`m.direct_to_device`: messages for devices of ours, each taken once.

        spec: server-server-api#send-to-device-messaging
        """
        sender, type_ = content.get("sender"), content.get("type")
        message_id, messages = content.get("message_id"), content.get("messages")
        if (
            not isinstance(sender, str)
            or not is_user_id(sender)
            or server_of(sender) != origin
            or not isinstance(type_, str)
            or not isinstance(message_id, str)
            or not 0 < len(message_id) <= MAX_MESSAGE_ID
            or "\0" in message_id
            or not isinstance(messages, dict)
        ):
            return ()
        given = {
            user_id: {name: one for name, one in devices.items() if isinstance(one, dict)}
            for user_id, devices in messages.items()
            if is_user_id(user_id) and isinstance(devices, dict)
        }
        if sum(len(devices) for devices in given.values()) > MAX_RECIPIENTS:
            return ()
        if await known_messages(self._database, origin, [message_id]):
            return ()
        seen = Insert(MessageIdRow(origin, message_id, self._clock.now_ms()))
        try:
            told = await self._inboxes.arriving(sender, type_, given)
        except MatrixError as error:
            if error.errcode != "M_TOO_LARGE":
                raise
            log.warning("messages of %s to devices are dropped: %s", sender, error)
            return ()
        return [Taken([seen, *told.changes], told.positions, told.publish)]

    # --- lists

    async def list_changed(self, origin: str, content: JsonObject) -> Sequence[Taken]:
        """`m.device_list_update`: a user's device is another now.

        Of users who share no room with ours nobody hears. What it changes is committed when this
        returns, because the next update builds upon it.
        """
        user = await self._concerned(origin, content)
        if user is not None:
            await self._copies.device_changed(*user, content)
        return ()

    async def signing_changed(self, origin: str, content: JsonObject) -> Sequence[Taken]:
        """`m.signing_key_update`: as `list_changed`."""
        user = await self._concerned(origin, content)
        if user is not None:
            await self._copies.signing_changed(*user, content)
        return ()

    async def _concerned(self, origin: str, content: JsonObject) -> tuple[int, str] | None:
        user_id = content.get("user_id")
        if not isinstance(user_id, str) or not is_user_id(user_id) or server_of(user_id) != origin:
            return None
        nid = (await self._names.find([user_id])).get(user_id)
        if nid is None or not (await joined_rooms(self._database, [nid])).get(nid):
            return None
        return nid, user_id

    # --- keys

    async def query(
        self, asker: Session, wanted: Wanted, timeout: float
    ) -> tuple[dict[str, UserKeys], JsonObject]:
        """See `homeserver.users.e2e_keys.Elsewhere`."""
        seconds = min(timeout, MAX_SECONDS)
        shared = await self._copies.shared(asker.user_nid, wanted)
        by_server: dict[str, JsonObject] = {}
        for user_id, devices in wanted.items():
            if user_id not in shared:
                by_server.setdefault(server_of(user_id), {})[user_id] = list(devices)
        bodies = {server: {"device_keys": asked} for server, asked in by_server.items()}
        kept, (answers, failures) = await asyncio.gather(
            self._copies.of(shared, seconds), self._ask("query", bodies, seconds)
        )
        found = kept.keys
        for server, answer in answers.items():
            for user_id in by_server[server]:
                found[user_id] = keys_of(user_id, answer)
        missed = {server: _failure(reason) for server, reason in kept.failures.items()}
        return found, {**failures, **missed}

    async def claim(self, wanted: Claims, timeout: float) -> tuple[JsonObject, JsonObject]:
        """See `homeserver.users.e2e_keys.Elsewhere`."""
        by_server: dict[str, JsonObject] = {}
        for user_id, devices in wanted.items():
            by_server.setdefault(server_of(user_id), {})[user_id] = dict(devices)
        answers, failures = await self._ask(
            "claim",
            {server: {"one_time_keys": asked} for server, asked in by_server.items()},
            min(timeout, MAX_SECONDS),
        )
        found: JsonObject = {}
        for server, answer in answers.items():
            told = object_of(answer.get("one_time_keys"))
            for user_id, devices in by_server[server].items():
                given = object_of(told.get(user_id))
                mine = {name: given[name] for name in devices if isinstance(given.get(name), dict)}
                if mine:
                    found[user_id] = mine
        return found, failures

    async def _ask(
        self, what: str, bodies: Mapping[str, JsonObject], timeout: float
    ) -> tuple[dict[str, JsonObject], JsonObject]:
        """The answers by server; which servers gave none, and why.

        How long a client waits says nothing of a server: only one that is silent for all of
        `MAX_SECONDS` counts as one that fails.
        """

        async def one(server: str) -> JsonObject | str:
            path = path_of("federation/v1", "user", "keys", what)
            try:
                return await self._requests.request(
                    server,
                    "POST",
                    path,
                    body=bodies[server],
                    timeout=MAX_SECONDS,
                    max_bytes=MAX_BYTES,
                )
            except Unreachable as error:
                return error.reason
            except RemoteError as error:
                return str(error)

        asking = {asyncio.ensure_future(one(server)): server for server in bodies}
        patience = None if timeout >= MAX_SECONDS else max(timeout, SHORTEST)
        try:
            if asking:
                await asyncio.wait(asking, timeout=patience)
        finally:
            late = [task for task in asking if not task.done()]
            for task in late:
                task.cancel()
        answers: dict[str, JsonObject] = {}
        failures: JsonObject = {}
        for task, server in asking.items():
            answer = "it has not answered in time" if task in late else task.result()
            if isinstance(answer, str):
                failures[server] = _failure(answer)
            else:
                answers[server] = answer
        return answers, failures


def _failure(reason: str) -> JsonObject:
    return {"errcode": "M_UNKNOWN", "error": reason, "status": 503}

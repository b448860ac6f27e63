"""A client of the client-server API with raw access: what the benchmark and the crash tests drive.

It holds an access token and says each request of the specification in one method; replies are plain
JSON. It keeps no picture of rooms. Requests that carry a transaction id can be repeated safely, and
`insist` does so until the server answers.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from bench.wire import Lost, Reply, Wire

Json = dict[str, Any]
Result = TypeVar("Result")
V3 = "/_matrix/client/v3"

_decode = msgspec.json.Decoder(Json).decode
_encode = msgspec.json.Encoder().encode


class Refused(Exception):
    """The server answered with an error of the specification; `status`, `errcode` and its text."""

    def __init__(self, method: str, target: str, reply: Reply) -> None:
        try:
            body = _decode(reply.body)
        except msgspec.DecodeError:
            body = {"error": reply.body[:200].decode(errors="replace")}
        self.status = reply.status
        self.errcode = str(body.get("errcode", ""))
        super().__init__(f"{method} {target}: {reply.status} {self.errcode} {body.get('error')}")


def segment(text: str) -> str:
    """One path segment, percent-encoded throughout: ids hold `!`, `/` and `+`."""
    return quote(text, safe="")


async def insist(
    attempt: Callable[[], Awaitable[Result]], *, pause: float = 0.05, tries: int = 1200
) -> Result:
    """Repeat a request while the connection is lost or the server can't (502 to 504)."""
    for _ in range(tries):
        try:
            return await attempt()
        except Lost:
            await asyncio.sleep(pause)
        except Refused as refused:
            if refused.status not in (502, 503, 504):
                raise
            await asyncio.sleep(pause)
    return await attempt()


class Client:
    """One device of one user."""

    def __init__(self, host: str, port: int) -> None:
        self._wire = Wire(host, port)
        self.user_id = ""
        self.device_id = ""
        self._headers: tuple[str, ...] = ()
        self._transactions = 0

    async def call(
        self,
        method: str,
        target: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Json:
        """One request with this client's token; Refused unless it is answered with 200 or 201."""
        if query:
            target = f"{target}?{urlencode(query)}"
        encoded = None if body is None else _encode(body)
        reply = await self._wire.request(method, target, headers=self._headers, body=encoded)
        if reply.status not in (200, 201):
            raise Refused(method, target, reply)
        return _decode(reply.body)

    def close(self) -> None:
        """Close idle connections."""
        self._wire.close()

    # Accounts

    def _take(self, session: Json) -> None:
        self.user_id = session["user_id"]
        self.device_id = session["device_id"]
        self.use(session["access_token"])

    def use(self, access_token: str) -> None:
        """Use a token that was not asked for, as an application service's."""
        self._headers = (f"Authorization: Bearer {access_token}",)

    async def register(self, username: str, password: str = "secret secret") -> None:
        """Make an account through open registration (one dummy stage) and use its first device."""
        body = {"username": username, "password": password, "auth": {"type": "m.login.dummy"}}
        self._take(await self.call("POST", f"{V3}/register", body))

    async def register_by_secret(
        self, shared_secret: str, username: str, password: str = "secret secret"
    ) -> None:
        """Make an account through the shared secret, as operators' tools do."""
        path = "/_synapse/admin/v1/register"
        nonce = (await self.call("GET", path))["nonce"]
        text = f"{nonce}\0{username}\0{password}\0notadmin"
        proof = hmac.new(shared_secret.encode(), text.encode(), hashlib.sha1).hexdigest()
        body = {
            "nonce": nonce,
            "username": username,
            "password": password,
            "admin": False,
            "mac": proof,
        }
        self._take(await self.call("POST", path, body))

    async def login(self, username: str, password: str = "secret secret") -> None:
        """Log in with the password on a new device."""
        identifier = {"type": "m.id.user", "user": username}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        self._take(await self.call("POST", f"{V3}/login", body))

    # Rooms

    async def create_room(self, **options: object) -> str:
        """Create a room with the options of the specification's body; its id."""
        room_id: str = (await self.call("POST", f"{V3}/createRoom", options))["room_id"]
        return room_id

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invite a user."""
        await self.call("POST", f"{V3}/rooms/{segment(room_id)}/invite", {"user_id": user_id})

    async def join(self, room_id: str) -> str:
        """Join by id; the room's id."""
        joined: str = (await self.call("POST", f"{V3}/join/{segment(room_id)}", {}))["room_id"]
        return joined

    async def leave(self, room_id: str) -> None:
        """Leave the room."""
        await self.call("POST", f"{V3}/rooms/{segment(room_id)}/leave", {})

    async def joined_members(self, room_id: str) -> set[str]:
        """The ids of the joined users."""
        reply = await self.call("GET", f"{V3}/rooms/{segment(room_id)}/joined_members")
        return set(reply["joined"])

    def transaction(self) -> str:
        """A transaction id that this client has not used."""
        self._transactions += 1
        return f"t{self._transactions}"

    async def send(
        self,
        room_id: str,
        content: Mapping[str, object],
        *,
        event_type: str = "m.room.message",
        transaction: str | None = None,
    ) -> str:
        """Send an event; its id. The same transaction id may be sent again."""
        txn_id = transaction or self.transaction()
        target = f"{V3}/rooms/{segment(room_id)}/send/{segment(event_type)}/{segment(txn_id)}"
        event_id: str = (await self.call("PUT", target, content))["event_id"]
        return event_id

    async def say(self, room_id: str, text: str, transaction: str | None = None) -> str:
        """Send a text message; its event id."""
        content = {"msgtype": "m.text", "body": text}
        return await self.send(room_id, content, transaction=transaction)

    async def messages(
        self, room_id: str, *, start: str | None = None, limit: int = 100, direction: str = "b"
    ) -> Json:
        """One page of the room's history."""
        query: dict[str, str | int] = {"dir": direction, "limit": limit}
        if start is not None:
            query["from"] = start
        return await self.call("GET", f"{V3}/rooms/{segment(room_id)}/messages", query=query)

    async def history(self, room_id: str, limit: int = 100) -> list[Json]:
        """The room's events from the newest to the first, page by page."""
        events: list[Json] = []
        start = None
        while True:
            page = await self.messages(room_id, start=start, limit=limit)
            events += page["chunk"]
            start = page.get("end")
            if start is None:
                return events

    # Files

    async def upload(self, data: bytes, content_type: str) -> str:
        """Upload a file; its `mxc:` address."""
        target = "/_matrix/media/v3/upload"
        reply = await self._wire.request(
            "POST", target, headers=self._headers, body=data, content_type=content_type
        )
        if reply.status != 200:
            raise Refused("POST", target, reply)
        address: str = _decode(reply.body)["content_uri"]
        return address

    async def download(
        self, address: str, *, thumbnail: Mapping[str, str | int] | None = None
    ) -> bytes:
        """A file, or its thumbnail as the query asks for it."""
        name = address.removeprefix("mxc://")
        target = f"/_matrix/client/v1/media/download/{name}"
        if thumbnail is not None:
            target = f"/_matrix/client/v1/media/thumbnail/{name}?{urlencode(thumbnail)}"
        reply = await self._wire.request("GET", target, headers=self._headers)
        if reply.status != 200:
            raise Refused("GET", target, reply)
        return reply.body

    # What belongs to a user

    async def typing(self, room_id: str, typing: bool) -> None:
        """Say whether the user is typing."""
        target = f"{V3}/rooms/{segment(room_id)}/typing/{segment(self.user_id)}"
        await self.call("PUT", target, {"typing": typing, "timeout": 20_000})

    async def receipt(self, room_id: str, event_id: str) -> None:
        """Put the public read receipt on an event."""
        target = f"{V3}/rooms/{segment(room_id)}/receipt/m.read/{segment(event_id)}"
        await self.call("POST", target, {})

    async def put_account_data(
        self, kind: str, content: Mapping[str, object], room_id: str | None = None
    ) -> None:
        """Store account data, of the account or of one of its rooms."""
        room = f"/rooms/{segment(room_id)}" if room_id else ""
        target = f"{V3}/user/{segment(self.user_id)}{room}/account_data/{segment(kind)}"
        await self.call("PUT", target, content)

    async def account_data(self, kind: str, room_id: str | None = None) -> Json:
        """The stored account data; Refused (404) when there is none."""
        room = f"/rooms/{segment(room_id)}" if room_id else ""
        target = f"{V3}/user/{segment(self.user_id)}{room}/account_data/{segment(kind)}"
        return await self.call("GET", target)

    async def sync(
        self, since: str | None = None, *, timeout: int = 0, sync_filter: str | None = None
    ) -> Json:
        """One sync; `timeout` in milliseconds, `sync_filter` as JSON or a stored one's id."""
        query: dict[str, str | int] = {"timeout": timeout}
        if since is not None:
            query["since"] = since
        if sync_filter is not None:
            query["filter"] = sync_filter
        return await self.call("GET", f"{V3}/sync", query=query)

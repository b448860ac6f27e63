"""An identity server: associations, stored invites and their signing, with real keys, over TLS.

spec: identity-service-api
"""

import hashlib
import json
import re
from typing import Any

import trustme
from aiohttp import web

from federation.authorization import authorise
from homeserver.matrix.canonical import JsonObject, encode_unpadded, encode_unpadded_urlsafe
from homeserver.matrix.sign import SigningKey, sign_json
from homeserver.runtime import key_file
from tests.federation.house import House
from tests.federation.internet import TlsServer

NAME = "identity.example"
TOKEN = "token-of-the-account"
PEPPER = "matrixrocks"
V2 = "/_matrix/identity/v2"


class IdentityServer:
    """Validated sessions are `sessions`; what it answers may be replaced by path in `says`."""

    def __init__(self, house: House, authority: trustme.CA) -> None:
        self.users: dict[str, str] = {}
        self.sessions: dict[str, str] = {}
        self.invites: list[JsonObject] = []
        self.algorithms = ["sha256", "none"]
        self.says: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, JsonObject]] = []
        self.key = SigningKey.generate()
        self._house = house
        self._server = TlsServer(authority, NAME)
        self._server.handler = self._handle

    @property
    def name(self) -> str:
        return f"{NAME}:{self._server.port}"

    async def start(self) -> None:
        await self._server.start()
        for server in self._house.servers:
            self._house.names_for(server).put(NAME, "A", "127.0.0.1")

    async def stop(self) -> None:
        await self._server.stop()

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.removeprefix(V2)
        body: JsonObject = json.loads(await request.read() or b"{}")
        self.asked.append((path, body))
        if path in self.says:
            status, said = self.says[path]
            return web.json_response(said, status=status)
        if path == "/3pid/unbind":
            return self._unbind(request, body)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": "no"}, status=401)
        if path == "/hash_details":
            return web.json_response({"lookup_pepper": PEPPER, "algorithms": self.algorithms})
        if path == "/lookup":
            return web.json_response({"mappings": self._found(body)})
        if path == "/store-invite":
            return web.json_response(self._store(body))
        if path == "/3pid/bind":
            return await self._bind(body)
        return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "no"}, status=404)

    def _found(self, body: JsonObject) -> JsonObject:
        assert body["pepper"] == PEPPER
        assert body["algorithm"] == self.algorithms[0]
        known = {}
        for address, user_id in self.users.items():
            said = f"{address} email"
            if body["algorithm"] == "sha256":
                digest = hashlib.sha256(f"{said} {PEPPER}".encode()).digest()
                said = encode_unpadded_urlsafe(digest)
            known[said] = user_id
        return {one: known[one] for one in body["addresses"] if one in known}

    def _store(self, body: JsonObject) -> JsonObject:
        ephemeral = SigningKey.generate()
        token = f"token{len(self.invites)}"
        self.invites.append({**body, "token": token})
        url = f"https://{self.name}{V2}/pubkey/"
        public = [
            {
                "public_key": encode_unpadded(self.key.public_key),
                "key_validity_url": url + "isvalid",
            },
            {
                "public_key": encode_unpadded(ephemeral.public_key),
                "key_validity_url": url + "ephemeral/isvalid",
            },
        ]
        return {"token": token, "public_keys": public, "display_name": body["address"][0] + "..."}

    async def _bind(self, body: JsonObject) -> web.StreamResponse:
        address, user_id = self.sessions.get(body["sid"]), body["mxid"]
        if address is None:
            return web.json_response({"errcode": "M_SESSION_NOT_VALIDATED"}, status=400)
        self.users[address] = user_id
        mine = [one for one in self.invites if one["address"] == address]
        told = {"medium": "email", "address": address, "mxid": user_id}
        invites = [
            {
                **told,
                "room_id": one["room_id"],
                "sender": one["sender"],
                "signed": sign_json({"mxid": user_id, "token": one["token"]}, NAME, self.key),
            }
            for one in mine
        ]
        server = self._house.servers[user_id.partition(":")[2]]
        if invites:
            guest = self._house.guests.get("onbind.example")
            guest = guest or await self._house.guest("onbind.example")
            target = "/_matrix/federation/v1/3pid/onbind"
            reply = await guest.request(server, "PUT", target, {**told, "invites": invites})
            assert reply.status == 200, reply.body
        return web.json_response(sign_json({**told, "ts": 1}, NAME, self.key))

    def _unbind(self, request: web.BaseRequest, body: JsonObject) -> web.StreamResponse:
        """For the homeserver of the user only, which signs with its key."""
        said = request.headers["Authorization"]
        origin = re.search(r'origin="?([^",]+)', said)
        assert origin is not None
        (key,) = key_file.read(self._house.servers[origin[1]].folder / "signing.key")
        expected = authorise("POST", request.raw_path, origin[1], self.name, body, key)
        if said != str(expected) or not body["mxid"].endswith(f":{origin[1]}"):
            return web.json_response({"errcode": "M_FORBIDDEN"}, status=403)
        self.users.pop(body["threepid"]["address"], None)
        return web.json_response({})

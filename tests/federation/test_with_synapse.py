"""Ours and matrix-synapse, over HTTPS on loopback: keys of each other, signatures both ways."""

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from aiohttp import web

from federation.wiring import Federation
from homeserver.config import Config
from homeserver.errors import MatrixError, RemoteError
from homeserver.matrix.sign import SigningKey
from homeserver.runtime.clock import SystemClock
from tests.federation.internet import Internet, TlsServer, nothing_here, own_lists
from tests.federation.servers import FederatedServer, FederatedSynapse
from tests.processes import Server, running
from tests.synapse_env import SynapseUnavailable, synapse_python


@pytest.fixture(scope="module")
def synapse(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FederatedSynapse]:
    """A running Synapse."""
    try:
        synapse_python()
    except SynapseUnavailable as error:
        pytest.skip(str(error))
    server = FederatedSynapse(tmp_path_factory.mktemp("synapse"), authority)
    with running(server):
        yield server


def call(server: Server, method: str, path: str, body: Any = None, token: str = "") -> Any:
    """The JSON of an answer of the client listener, errors included."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def test_each_gives_the_others_keys_as_a_notary(
    synapse: FederatedSynapse, authority: trustme.CA, tmp_path: Path
) -> None:
    """A notary has fetched them by HTTPS and has verified their signature."""
    ours = FederatedServer(tmp_path, authority)
    with running(ours):
        by_us = call(ours, "GET", f"/_matrix/key/v2/query/{quote(synapse.name)}")
        (answer,) = by_us["server_keys"]
        assert answer["server_name"] == synapse.name
        assert set(answer["signatures"]) == {synapse.name, ours.name}

        published = by_tls(authority, f"https://{ours.name}/_matrix/key/v2/server")
        until = {"minimum_valid_until_ts": published["valid_until_ts"] - 3_600_000}
        wanted = {ours.name: dict.fromkeys(published["verify_keys"], until)}
        query = f"https://{synapse.name}/_matrix/key/v2/query"
        by_synapse = by_tls(authority, query, {"server_keys": wanted})
        (answer,) = by_synapse["server_keys"]
        assert answer["verify_keys"] == published["verify_keys"]
        assert set(answer["signatures"]) == {synapse.name, ours.name}


def by_tls(authority: trustme.CA, url: str, body: Any = None) -> Any:
    """The JSON of an answer of a federation listener."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=30, context=context) as answer:
        return json.load(answer)


class Ours:
    """This project's keys and judgement behind a TLS server of the test."""

    def __init__(self, federation: Federation, server: TlsServer) -> None:
        self.federation = federation
        self.origins: list[str] = []
        server.handler = self._handle

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/_matrix/key/v2/server":
            return web.json_response(self.federation.own_keys.published())
        headers = request.headers.getall("Authorization", [])
        try:
            origin = await self.federation.inbound.authenticate(
                request.method, request.raw_path, headers, await request.read()
            )
        except MatrixError as error:
            return web.json_response({"errcode": error.errcode}, status=error.status)
        self.origins.append(origin)
        return await nothing_here(request)


async def ours_for(net: Internet, synapse: FederatedSynapse) -> tuple[Ours, str]:
    server = await net.server("localhost")
    name = f"localhost:{server.port}"
    document = {
        "server": {"name": name},
        "federation": {
            "ca_file": str(synapse.certificates.authority),
            "allow_networks": ["127.0.0.0/8", "::1/128"],
        },
    }
    config = Config.read(document, "the test", net.folder, {})
    keys = [SigningKey.generate()]
    federation = await Federation.build(
        config, keys, net.database, net.commits, SystemClock(), own_lists(net.database, name)
    )
    net.parts.append(federation)
    return Ours(federation, server), name


async def test_synapse_believes_our_requests(net: Internet, synapse: FederatedSynapse) -> None:
    ours, _ = await ours_for(net, synapse)
    request = ours.federation.requests.request
    registered = call(
        synapse,
        "POST",
        "/_matrix/client/v3/register",
        {"username": "ann", "password": "secret", "auth": {"type": "m.login.dummy"}},
    )
    path = "/_matrix/federation/v1/query/profile"
    profile = await request(synapse.name, "GET", path, query={"user_id": registered["user_id"]})
    assert profile["displayname"] == "ann"
    nobody = f"@nobody é+%/:{synapse.name}"
    with pytest.raises(RemoteError) as caught:
        await request(synapse.name, "GET", path, query={"user_id": nobody})
    assert caught.value.status in {400, 404}
    body = {"pdus": [], "edus": [], "origin": ours.federation.own_keys.server_name}
    sent = await request(synapse.name, "PUT", "/_matrix/federation/v1/send/1", body=body)
    assert sent == {"pdus": {}}


async def test_we_believe_requests_of_synapse(net: Internet, synapse: FederatedSynapse) -> None:
    ours, name = await ours_for(net, synapse)
    path = f"/_matrix/client/v3/profile/{quote(f'@bob:{name}')}"
    await asyncio.to_thread(call, synapse, "GET", path)
    assert ours.origins == [synapse.name]

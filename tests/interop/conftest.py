"""One of our servers beside matrix-synapse, both as processes, for all tests of this folder.

`ours` and `synapse` are the two; `person(server)` makes a new account on either, with the same
client for both.
"""

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import trustme

from tests.federation.servers import FederatedServer, FederatedSynapse
from tests.processes import Server, running
from tests.serving import PASSWORD, Person, Reply
from tests.synapse_env import SynapseUnavailable, synapse_python

_count = itertools.count()


@dataclass
class Peer:
    """A running homeserver of either kind, as clients reach it."""

    server: Server
    http: aiohttp.ClientSession

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def url(self) -> str:
        return self.server.url

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: Any = None,
        data: bytes | None = None,
        query: dict[str, Any] | None = None,
    ) -> Reply:
        """A request of a client."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        params = {key: str(value) for key, value in (query or {}).items()}
        async with self.http.request(
            method, self.server.url + path, headers=headers, json=body, data=data, params=params
        ) as answer:
            raw = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return Reply(answer.status, json.loads(raw) if is_json else raw, answer.headers)

    async def person(self, localpart: str | None = None) -> Person:
        """A new account with one session."""
        body = {
            "username": localpart or f"user{next(_count)}",
            "password": PASSWORD,
            "auth": {"type": "m.login.dummy"},
        }
        reply = await self.request("POST", "/_matrix/client/v3/register", body=body)
        assert reply.status == 200, reply.body
        made = reply.body
        return Person(self, made["user_id"], made["access_token"], made["device_id"])


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture(scope="package")
def processes(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """Ours and Synapse."""
    try:
        synapse_python()
    except SynapseUnavailable as error:
        pytest.fail(str(error))
    ours = FederatedServer(tmp_path_factory.mktemp("ours"), authority)
    synapse = FederatedSynapse(tmp_path_factory.mktemp("synapse"), authority)
    with running(ours), running(synapse):
        yield ours, synapse


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peers(processes: tuple[Server, Server]) -> AsyncIterator[dict[str, Peer]]:
    """Both by the name of their kind."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        yield {server.kind: Peer(server, http) for server in processes}

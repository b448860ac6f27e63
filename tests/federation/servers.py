"""Homeservers as processes that federate on the loopback address, under a private authority.

Owns the additions to `tests.processes` that federation needs: a name with a port, TLS on it, and
trust in the test's certificate authority and address. A server's name is `localhost:PORT`. `Peer`
is one of either kind as clients reach it.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from tests.processes import OurServer, Server, SynapseServer, free_port
from tests.serving import PASSWORD, Person, Reply

_count = itertools.count()


class Certificates:
    """Files of a certificate for localhost and of the authority that signed it."""

    def __init__(self, authority: trustme.CA, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = folder / "authority.pem"
        self.chain = folder / "chain.pem"
        self.key = folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        issued = authority.issue_cert("localhost")
        for number, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(str(self.chain), append=number > 0)
        issued.private_key_pem.write_to_path(str(self.key))


class FederatedServer(OurServer):
    """This project's server with a federation listener."""

    def __init__(self, folder: Path, authority: trustme.CA, database: str | None = None) -> None:
        self.federation_port = free_port()
        self.certificates = Certificates(authority, folder)
        super().__init__(folder, database, f"localhost:{self.federation_port}")
        self.ports.append(self.federation_port)

    def configure(self) -> None:
        """Add the listener and the section [federation]."""
        super().configure()
        files = self.certificates
        with self.config.open("a") as config:
            config.write(
                "\n".join(
                    [
                        "[[listeners]]",
                        f"port = {self.federation_port}",
                        'apis = ["federation"]',
                        f"tls_certificate = {json.dumps(str(files.chain))}",
                        f"tls_key = {json.dumps(str(files.key))}",
                        "[federation]",
                        f"ca_file = {json.dumps(str(files.authority))}",
                        'allow_networks = ["127.0.0.0/8", "::1/128"]',
                        "",
                    ]
                )
            )


class FederatedSynapse(SynapseServer):
    """Synapse with a federation listener."""

    def __init__(self, folder: Path, authority: trustme.CA, database: str | None = None) -> None:
        self.federation_port = free_port()
        self.certificates = Certificates(authority, folder)
        super().__init__(folder, database, f"localhost:{self.federation_port}")
        self.ports.append(self.federation_port)

    def _settings(self) -> dict[str, object]:
        settings = super()._settings()
        listeners = settings["listeners"]
        assert isinstance(listeners, list)
        federating = {
            "port": self.federation_port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": True,
            "resources": [{"names": ["federation"]}],
        }
        return settings | {
            "listeners": [*listeners, federating],
            "tls_certificate_path": str(self.certificates.chain),
            "tls_private_key_path": str(self.certificates.key),
            "federation_custom_ca_list": [str(self.certificates.authority)],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            # Without it a client is told again, as new state, what was true before branches met.
            "experimental_features": {"msc4222_enabled": True},
            # Else it waits for up to 84 seconds between two tries, also when the server that it
            # tries has come back and speaks to it.
            "federation": {"max_long_retry_delay": "5s"},
        }


@dataclass
class Peer:
    """A running homeserver of either kind, as clients reach it."""

    server: Server
    http: aiohttp.ClientSession

    @property
    def kind(self) -> str:
        return self.server.kind

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

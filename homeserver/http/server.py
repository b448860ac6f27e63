"""Sockets: listeners, TLS, time-outs, and a calm end.

Owns the listening sockets of the process and which of the APIs each carries. Invariant: when `stop`
returns, no request is being worked on and nothing listens. What goes over a connection is the
matter of `connection.py`, and replies are made in `dispatch.py`.
"""

import asyncio
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from homeserver.http.connection import Connections
from homeserver.http.dispatch import Dispatcher
from homeserver.http.endpoint import Endpoint
from homeserver.http.router import Router
from homeserver.runtime.clock import Clock
from homeserver.runtime.health import Health

log = logging.getLogger(__name__)

CERTIFICATE_SECONDS = 60.0
"""How often the files of certificates are looked at."""
DRAIN_SECONDS = 8.0
"""How long requests may take to finish at the end; with what follows the whole end takes ten."""


Place = tuple[str, int, Path | None]


@dataclass(frozen=True, slots=True)
class Binding:
    """Where one listener listens: an address and port (0: any free), or a unix socket's path."""

    address: str
    port: int
    apis: tuple[str, ...]
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    socket: Path | None = None

    @property
    def place(self) -> "Place":
        """What tells listeners apart."""
        return self.address, self.port, self.socket


class Server:
    """All listeners of the process.

    `endpoints` by API name ("client", ...); `dispatcher` makes what answers one router.
    """

    def __init__(
        self,
        bindings: Sequence[Binding],
        endpoints: Mapping[str, Sequence[Endpoint]],
        dispatcher: Callable[[Router], Dispatcher],
        health: Health,
        r0_paths: bool = True,
    ) -> None:
        self._bindings = self._certified = bindings
        self._endpoints = endpoints
        self._dispatcher = dispatcher
        self._health = health
        self._r0_paths = r0_paths
        self._listening: list[asyncio.Server] = []
        self._connections: list[Connections] = []
        self._contexts: dict[Place, ssl.SSLContext] = {}
        self.addresses: list[str] = []
        """What is listened on once started, as URLs or `unix:` paths, in the bindings' order."""

    async def start(self) -> None:
        """Listen everywhere; raises OSError naming the address that can't be had."""
        dispatchers: dict[tuple[str, ...], Dispatcher] = {}
        try:
            for binding in self._bindings:
                if binding.apis not in dispatchers:
                    router = Router(self._of(binding.apis), self._r0_paths)
                    dispatchers[binding.apis] = self._dispatcher(router)
                await self._listen(binding, dispatchers[binding.apis])
        except BaseException:
            await self._close()
            raise

    async def stop(self) -> None:
        """End in order: not ready, no new connections, requests finish in time."""
        self._health.draining.set()
        await self._close()

    def check_certificates(self, bindings: Sequence[Binding]) -> None:
        """Raise OSError (ssl.SSLError is one) when a certificate or key can't be used."""
        for binding in bindings:
            if binding.place in self._contexts:
                _tls(binding)

    def take_certificates(self, bindings: Sequence[Binding]) -> None:
        """Use the certificates of these bindings for connections from now on."""
        for binding in bindings:
            context = self._contexts.get(binding.place)
            if context is not None and binding.tls_certificate is not None:
                context.load_cert_chain(binding.tls_certificate, binding.tls_key)
        self._certified = bindings

    async def watch_certificates(self, clock: Clock) -> None:
        """Take over certificates whose files have changed, each minute, until cancelled.

        Files that can't be used, such as a certificate whose key is still the old one, are left.
        """
        while True:
            seen = self._stamps()
            await clock.sleep(CERTIFICATE_SECONDS)
            if self._stamps() == seen:
                continue
            try:
                self.check_certificates(self._certified)
                self.take_certificates(self._certified)
            except OSError as error:
                log.error("a certificate has changed but can't be used: %s", error)
            else:
                log.info("the certificates were read again")

    def _stamps(self) -> list[tuple[int, int] | None]:
        """When the files of certificates and keys were last changed, with their sizes."""
        stamps: list[tuple[int, int] | None] = []
        for binding in self._certified:
            for path in (binding.tls_certificate, binding.tls_key):
                try:
                    status = path.stat() if path is not None else None
                except OSError:
                    status = None
                stamps.append(status and (status.st_mtime_ns, status.st_size))
        return stamps

    def _of(self, apis: tuple[str, ...]) -> list[Endpoint]:
        chosen: dict[str, Endpoint] = {}
        for api in ("health", *apis):
            for endpoint in self._endpoints.get(api, ()):
                chosen[endpoint.name] = endpoint
        return list(chosen.values())

    async def _listen(self, binding: Binding, dispatcher: Dispatcher) -> None:
        connections = Connections(dispatcher.handle)
        self._connections.append(connections)
        loop = asyncio.get_running_loop()
        if binding.socket is not None:
            _remove_stale(binding.socket)
            path = str(binding.socket)
            self._listening.append(await loop.create_unix_server(connections.protocol, path))
            os.chmod(binding.socket, 0o660)
            self.addresses.append(f"unix:{binding.socket}")
            return
        tls = _tls(binding)
        if tls is not None:
            self._contexts[binding.place] = tls
        try:
            listening = await loop.create_server(
                connections.protocol, binding.address, binding.port, ssl=tls, backlog=1024
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            place = f"{binding.address} port {binding.port}"
            raise OSError(error.errno, f"can't listen on {place}: {reason}") from None
        self._listening.append(listening)
        for one in listening.sockets:
            # What is accepted inherits it: a client that vanished is noticed some day.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        host, port = listening.sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self.addresses.append(f"{'https' if tls else 'http'}://{shown}:{port}")

    async def _close(self) -> None:
        # All listeners close at once: the slowest decides, not the sum.
        for listening in self._listening:
            listening.close()
        await asyncio.gather(*(one.end(DRAIN_SECONDS) for one in self._connections))
        self._listening.clear()
        self._connections.clear()
        for binding in self._bindings:
            if binding.socket is not None:
                _remove_stale(binding.socket)


def _tls(binding: Binding) -> ssl.SSLContext | None:
    if binding.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(binding.tls_certificate, binding.tls_key)
    return context


def _remove_stale(path: Path) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()

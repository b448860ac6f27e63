"""Several of our servers in the test's own loop, on one clock that the test moves.

Owns what they need to find and believe each other: certificates, name servers, and wires, so that
a server can be cut off and come back. Time passes only where a test lets it: while it waits for
work that needs time (`passing`), and when it says so (`pass_by`). Names are like `a.example`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import trustme

from homeserver.app import App
from homeserver.runtime.clock import FakeClock
from storage.engine import DatabaseSettings
from tests.federation.house import HERE
from tests.federation.name_server import NameServer
from tests.federation.wires import Wire
from tests.processes import free_port
from tests.serving import Running, configure

STEP_SECONDS = 0.05
REAL_SECONDS = 0.002
T = TypeVar("T")


class Neighbours:
    """See the module; `servers` by name."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.servers: dict[str, Running] = {}
        self._wires: dict[tuple[str, str], Wire] = {}

    def cut(self, name: str) -> None:
        """Nothing passes between a server and the others any more."""
        for wire in self._of(name):
            wire.cut()

    def mend(self, name: str) -> None:
        """It can reach the others again, and they it."""
        for wire in self._of(name):
            wire.mend()

    async def passing(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work returns; time passes until it does."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait([task], timeout=REAL_SECONDS)
            if not task.done():
                await self.clock.advance(STEP_SECONDS)
        return task.result()

    async def pass_by(self, seconds: float, step: float = 1.0) -> None:
        """So much time passes, in steps in which what comes up can be done."""
        while seconds > 0:
            await self.clock.advance(min(step, seconds))
            await asyncio.sleep(REAL_SECONDS)
            seconds -= step

    def _of(self, name: str) -> list[Wire]:
        return [wire for names, wire in self._wires.items() if name in names]

    async def lead(self, source: str, target: str, port: int, names: NameServer) -> None:
        """Let a server find another one."""
        wire = self._wires[source, target] = Wire(port)
        await wire.start()
        names.put(f"_matrix-fed._tcp.{target}", "SRV", f"0 0 {wire.port} {HERE}.", ttl=86_400)

    async def close(self) -> None:
        """End the wires."""
        for wire in self._wires.values():
            await wire.stop()


def _files(authority: trustme.CA, folder: Path, name: str) -> dict[str, str]:
    issued = authority.issue_cert(name)
    chain, key = folder / "chain.pem", folder / "key.pem"
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(chain), append=number > 0)
    issued.private_key_pem.write_to_path(str(key))
    return {"tls_certificate": str(chain), "tls_key": str(key)}


@contextlib.asynccontextmanager
async def neighbours(folder: Path, *names: str) -> AsyncIterator[Neighbours]:
    """Servers of these names, each with an SQLite database of its own."""
    authority, clock = trustme.CA(), FakeClock()
    bundle = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    made = Neighbours(clock)
    ports = {name: free_port() for name in names}
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        stack.push_async_callback(made.close)
        for name in names:
            home = folder / name
            home.mkdir()
            resolver = NameServer()
            await resolver.start()
            stack.push_async_callback(resolver.stop)
            resolver.put(HERE, "A", "127.0.0.1", ttl=86_400)
            for other in names:
                if other != name:
                    await made.lead(name, other, ports[other], resolver)
            federating = {"port": ports[name], "apis": ["federation"]}
            changed: dict[str, Any] = {
                "server": {"name": name, "data_dir": str(home)},
                "listeners": [{"port": 0}, federating | _files(authority, home, name)],
                "federation": {
                    "ca_file": str(bundle),
                    "allow_networks": ["127.0.0.0/8"],
                    "dns": [resolver.address],
                },
            }
            config = configure(
                DatabaseSettings(path=home / "test.db", durable=False), home, changed
            )
            running = Running(App(config, clock), config, clock, http)
            await running.app.start()
            made.servers[name] = running
        try:
            yield made
        finally:
            for running in made.servers.values():
                await running.app.stop()

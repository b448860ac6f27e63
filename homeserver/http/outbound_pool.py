"""The connections to all hosts that are asked something.

Owns where connections go and which are kept: the rules judge the very address that a socket is
opened to, at that moment, so a name that changes its address does not get around them. Invariants:
no host has more than so many connections in use; a connection is kept for whom it was made for,
which is a host, a port, and the name in its certificate; of unused ones there are `KEPT_IN_ALL`.
It does not know what is asked.
"""

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple, Protocol

from homeserver.http.addresses import AddressRules
from homeserver.http.outbound_connection import Connection, OutboundFailed

KEPT_SECONDS = 30.0
"""How long an unused connection is kept."""
KEPT_IN_ALL = 500
SWEEP_SECONDS = 1.0
"""How often unused connections are looked at that have had their time."""
NEXT_SECONDS = 0.5
"""How long one address of a host has for itself before the next is tried beside it. RFC 8305"""


class ConnectFailed(OutboundFailed):
    """No connection came about, so nothing was sent: another address may be tried."""


class AddressDenied(ConnectFailed):
    """The rules allow no address of the host."""


class _Denied(OSError):
    """The rules don't allow an address."""


class AddressBook(Protocol):
    """Finds the addresses of hosts."""

    async def addresses(self, host: str) -> list[str]:
        """The literal addresses of a host, best first; OSError with a reason when there is none."""


class Place(NamedTuple):
    """Whom a connection is for; `tls_name` is whose certificate is expected, None without TLS."""

    host: str
    port: int
    tls_name: str | None


class _Host:
    """The connections to one place: those unused, the last used last, and `users` of others."""

    __slots__ = ("free", "kept", "users")

    def __init__(self, most: int) -> None:
        self.free = asyncio.Semaphore(most)
        self.kept: list[Connection] = []
        self.users = 0


class Pool:
    """See the module."""

    def __init__(
        self,
        book: AddressBook,
        rules: AddressRules,
        tls: ssl.SSLContext,
        connect_seconds: float,
        per_host: int,
    ) -> None:
        self._book = book
        self._rules = rules
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._per_host = per_host
        self._hosts: dict[Place, _Host] = {}
        self._kept: dict[Connection, tuple[Place, float]] = {}
        self._open: set[Connection] = set()
        self._closed = asyncio.Event()
        self._is_ending = False
        self._sweeper: asyncio.TimerHandle | None = None

    async def take(self, place: Place, deadline: float, *, new: bool = False) -> Connection:
        """A connection, to be given back; raises OutboundFailed when there is none by then.

        One that has been used before is not taken when a `new` one is asked for.
        """
        if self._is_ending:
            raise OutboundFailed("the server is stopping")
        host = self._hosts.get(place)
        if host is None:
            host = self._hosts[place] = _Host(self._per_host)
        host.users += 1
        try:
            if host.free.locked():
                async with asyncio.timeout_at(deadline):
                    await host.free.acquire()
            else:
                await host.free.acquire()
        except BaseException as error:
            self._left(place, host)
            if isinstance(error, TimeoutError):
                raise OutboundFailed("no connection was free in time") from None
            raise
        try:
            while host.kept and not new:
                connection = host.kept.pop()
                del self._kept[connection]
                if connection.is_open:
                    return connection
            return await self._connected(place, deadline)
        except BaseException:
            host.free.release()
            self._left(place, host)
            raise

    def give(self, place: Place, connection: Connection) -> None:
        """Take a connection back, whatever has become of it."""
        host = self._hosts[place]
        if connection.leave():
            host.kept.append(connection)
            self._kept[connection] = place, asyncio.get_running_loop().time() + KEPT_SECONDS
            if len(self._kept) > KEPT_IN_ALL:
                self._drop(next(iter(self._kept)))
            if self._sweeper is None:
                self._plan()
        host.free.release()
        self._left(place, host)

    async def close(self) -> None:
        """Close every connection."""
        self._is_ending = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._open):
            connection.give_up("the server is stopping")
        if self._open:
            await self._closed.wait()

    def _left(self, place: Place, host: _Host) -> None:
        host.users -= 1
        self._forget(place, host)

    def _forget(self, place: Place, host: _Host) -> None:
        if not host.users and not host.kept:
            del self._hosts[place]

    def _drop(self, connection: Connection) -> None:
        """Close an unused connection."""
        place, _ = self._kept.pop(connection)
        host = self._hosts[place]
        host.kept.remove(connection)
        self._forget(place, host)
        connection.abort()

    def _lost(self, connection: Connection) -> None:
        if connection in self._kept:
            self._drop(connection)
        self._open.discard(connection)
        if not self._open:
            self._closed.set()

    def _plan(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection, (_, until) in list(self._kept.items()):
            if until > now:
                break
            self._drop(connection)
        self._sweeper = None
        if self._kept:
            self._plan()

    # Making them.

    async def _connected(self, place: Place, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._addresses(place.host)
                async with asyncio.timeout(self._connect_seconds):
                    return await self._first(place, addresses)
        except TimeoutError as error:
            # The system says so of one address too.
            raise ConnectFailed(error.strerror or "no connection in time") from None
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or "it is not valid"
            raise ConnectFailed(f"its certificate was refused: {reason}") from None
        except _Denied as error:
            raise AddressDenied(f"no connection: {error.strerror}") from None
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            raise ConnectFailed(f"no connection: {reason}") from None
        except ValueError:
            raise OutboundFailed("the address is malformed") from None

    async def _addresses(self, host: str) -> Sequence[str]:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return _by_turns(await self._book.addresses(host))
        return [host]

    async def _first(self, place: Place, addresses: Sequence[str]) -> Connection:
        """The first connection that comes about; raises why the last one did not.

        That an address is not allowed is the reason only if it is so of all.
        """
        loop = asyncio.get_running_loop()
        left = list(reversed(addresses))
        trying: set[asyncio.Task[Connection]] = set()
        failure: BaseException | None = None
        try:
            while left or trying:
                if left:
                    trying.add(loop.create_task(self._to(place, left.pop())))
                done, _ = await asyncio.wait(
                    trying,
                    timeout=NEXT_SECONDS if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    trying.discard(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    if failure is None or not isinstance(error, _Denied):
                        failure = error
            raise failure or OSError("the name has no address")
        finally:
            for task in trying:
                task.add_done_callback(_unwanted)
                task.cancel()

    async def _to(self, place: Place, address: str) -> Connection:
        """A connection to one literal address."""
        family, kind, protocol, _, where = socket.getaddrinfo(
            address, place.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        if not self._rules.allows(str(where[0])):
            raise _Denied(errno.EACCES, f"connections to {where[0]} are not allowed")
        loop = asyncio.get_running_loop()
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            await loop.sock_connect(opened, where)
        except BaseException:
            opened.close()
            raise
        connection = Connection(self._lost)
        try:
            await loop.create_connection(
                lambda: connection,
                sock=opened,
                ssl=self._tls if place.tls_name is not None else None,
                server_hostname=place.tls_name,
            )
        except BaseException:
            # The socket is the transport's by now: closed here, the transport would go on with what
            # is opened next under its number.
            connection.abort()
            raise
        self._open.add(connection)
        self._closed.clear()
        if self._is_ending:
            connection.abort()
        return connection


def _by_turns(addresses: Sequence[str]) -> Sequence[str]:
    """The addresses so that both kinds are tried early, the best first."""
    best = [one for one in addresses if (":" in one) == (":" in addresses[0])]
    other = [one for one in addresses if one not in best]
    return [one for pair in zip_longest(best, other) for one in pair if one is not None]


def _unwanted(task: asyncio.Task[Connection]) -> None:
    """Close a connection that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().abort()

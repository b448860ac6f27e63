"""A DNS server for tests: real messages over UDP and TCP, from records that a test writes.

It answers as an authoritative server of all zones would: following CNAMEs within its records,
NXDOMAIN for names that have none, an SOA with negative answers. A name can also be made to fail.
"""

import asyncio
from collections import Counter
from typing import Literal, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

NEGATIVE_TTL = 120
Failure = Literal["servfail", "silence", "truncated"]


class NameServer:
    """The server; `asked` counts questions as (name, type)."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.port = 0
        self._records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self._failures: dict[str, Failure] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def put(self, name: str, kind: str, *values: str, ttl: int = 300) -> None:
        """Set the records of a name and type; none remove them."""
        if values:
            self._records[name, kind] = (ttl, list(values))
        else:
            self._records.pop((name, kind), None)

    def fail(self, name: str, failure: Failure | None) -> None:
        """Make all questions for a name fail, or no longer."""
        if failure is None:
            self._failures.pop(name, None)
        else:
            self._failures[name] = failure

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self), ("127.0.0.1", 0)
            )
            self.port = self._transport.get_extra_info("sockname")[1]
            try:
                self._tcp = await asyncio.start_server(self._stream, "127.0.0.1", self.port)
            except OSError:
                self._transport.close()
            else:
                return

    async def stop(self) -> None:
        assert self._transport is not None
        assert self._tcp is not None
        self._transport.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    def answer(self, data: bytes, *, over_tcp: bool) -> bytes | None:
        """The reply to a message, None for silence."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = str(question.name).rstrip(".").lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        failure = self._failures.get(name)
        if failure == "silence":
            return None
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        if failure == "servfail":
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif failure == "truncated" and not over_tcp:
            reply.flags |= dns.flags.TC
        else:
            self._fill(reply, name, kind)
        return reply.to_wire()

    def _fill(self, reply: dns.message.Message, name: str, kind: str) -> None:
        while (name, "CNAME") in self._records:
            ttl, values = self._records[name, "CNAME"]
            reply.answer.append(dns.rrset.from_text(f"{name}.", ttl, "IN", "CNAME", *values))
            name = values[0].rstrip(".")
        if (name, kind) in self._records:
            ttl, values = self._records[name, kind]
            reply.answer.append(dns.rrset.from_text(f"{name}.", ttl, "IN", kind, *values))
            return
        soa = f"ns. admin. 1 3600 600 86400 {NEGATIVE_TTL}"
        reply.authority.append(dns.rrset.from_text(f"{name}.", NEGATIVE_TTL, "IN", "SOA", soa))
        if not any(known == name for known, _ in self._records):
            reply.set_rcode(dns.rcode.NXDOMAIN)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = int.from_bytes(await reader.readexactly(2), "big")
            reply = self.answer(await reader.readexactly(length), over_tcp=True)
            if reply is not None:
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        reply = self._server.answer(data, over_tcp=False)
        if reply is not None:
            self._transport.sendto(reply, addr)

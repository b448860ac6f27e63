"""A real SMTP server that keeps what it is given."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP


@dataclass
class Postbox:
    """`mails` by arrival; `refuse` is an answer such as `550 no` given instead of taking one.

    `before` is awaited before a mail is taken.
    """

    port: int = 0
    refuse: str = ""
    before: Callable[[], Awaitable[object]] | None = None
    mails: list[EmailMessage] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.before is not None:
            await self.before()
        if self.refuse:
            return self.refuse
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.arrived.set()
        return "250 taken"

    async def until(self, count: int) -> EmailMessage:
        """The mail of this number, from 1."""
        async with asyncio.timeout(30):
            while len(self.mails) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.mails[count - 1]


def text_of(mail: EmailMessage, kind: str = "plain") -> str:
    """The plain or the html form of a mail."""
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content())


@pytest.fixture
async def postbox() -> AsyncIterator[Postbox]:
    box = Postbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(box, loop=loop), "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    yield box
    server.close()
    await server.wait_closed()

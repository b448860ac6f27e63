"""Certificates of our own listeners: renewed ones are taken over while the server runs."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from homeserver.http.server import CERTIFICATE_SECONDS
from tests.federation.servers import Certificates
from tests.serving import Running


@pytest.fixture
def certificates(authority: trustme.CA, tmp_path: Path) -> Certificates:
    return Certificates(authority, tmp_path / "tls")


@pytest.fixture
def settings(certificates: Certificates) -> dict[str, Any]:
    pair = {"tls_certificate": str(certificates.chain), "tls_key": str(certificates.key)}
    return {"listeners": [{"port": 0}, {"port": 0, "apis": ["federation"], **pair}]}


async def shown(server: Running, authority: trustme.CA) -> bytes:
    """The certificate of a new connection, which must be valid for localhost."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = int(server.app.addresses[1].rpartition(":")[2])
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    await asyncio.sleep(0)
    assert isinstance(certificate, bytes)
    return certificate


async def test_a_renewed_certificate_is_shown_within_a_minute(
    server: Running, authority: trustme.CA, certificates: Certificates
) -> None:
    before = await shown(server, authority)
    renewed = Certificates(authority, certificates.chain.parent / "new")
    renewed.chain.replace(certificates.chain)
    await server.clock.advance(CERTIFICATE_SECONDS)  # the key is still the old one
    assert await shown(server, authority) == before
    renewed.key.replace(certificates.key)
    await server.clock.advance(CERTIFICATE_SECONDS)
    assert await shown(server, authority) != before


async def test_files_that_vanish_change_nothing(
    server: Running, authority: trustme.CA, certificates: Certificates
) -> None:
    before = await shown(server, authority)
    certificates.chain.unlink()
    await server.clock.advance(CERTIFICATE_SECONDS)
    assert await shown(server, authority) == before

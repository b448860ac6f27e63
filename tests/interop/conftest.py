"""One of our servers beside matrix-synapse, both as processes, for all tests of this folder.

`ours` and `synapse` are the two; `person(server)` makes a new account on either, with the same
client for both.
"""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import pytest_asyncio
import trustme

from tests.federation.servers import FederatedServer, FederatedSynapse, Peer
from tests.processes import Server, running
from tests.synapse_env import SynapseUnavailable, synapse_python


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

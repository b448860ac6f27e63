"""What federation is made of, built and connected once.

Owns the order in which `app.py`'s parts of this package are made and ended, and the endpoints that
they answer. Nothing here has behaviour of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from federation.api import hierarchy, media, policy, queries, version
from federation.api.keys import key_endpoints
from federation.client import ServerClient
from federation.destinations import Destinations
from federation.directory import RemoteDirectoryClient
from federation.discovery import DEFAULT_PORT, Discovery
from federation.dns import NameServers
from federation.identity import Identity
from federation.key_store import KeyStore
from federation.keyring import Keyring
from federation.lookups import Lookups
from federation.media import MediaClient
from federation.notary import NotaryService
from federation.outbound import Sender
from federation.outbound_lists import OwnLists
from federation.outbox import Outbox
from federation.own_keys import OwnKeys
from federation.peers import PeersDesk
from federation.policy import PolicyClient
from federation.requests import Inbound, Requests
from federation.wellknown import WELL_KNOWN, WellKnown
from homeserver.config import Config
from homeserver.http.addresses import AddressRules
from homeserver.http.endpoint import Endpoint, endpoints_of
from homeserver.http.outbound import Outbound, tls_context
from homeserver.matrix.sign import SigningKey
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import federation as store
from storage.engine import Database

TIDY_SECONDS = 3_600.0


@dataclass(frozen=True)
class Federation:
    """The parts that others use."""

    clock: Clock
    commits: CommitQueue
    outbound: Outbound
    lookups: Lookups
    discovery: Discovery
    destinations: Destinations
    client: ServerClient
    requests: Requests
    policy: PolicyClient
    own_keys: OwnKeys
    identity: Identity
    keyring: Keyring
    notary: NotaryService
    inbound: Inbound
    directory: RemoteDirectoryClient
    media: MediaClient
    outbox: Outbox
    sender: Sender
    peers: PeersDesk

    @classmethod
    async def build(
        cls,
        config: Config,
        keys: Sequence[SigningKey],
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        lists: OwnLists,
        *,
        web_port: int = 443,
        default_port: int = DEFAULT_PORT,
    ) -> "Federation":
        """Make everything; raises OSError when the file of authorities can't be used.

        The ports of web servers and of servers that name none are others in tests only.
        """
        options, name = config.federation, config.server.name
        lookups = Lookups(database, commits, clock)
        names = NameServers(lookups, options.dns)
        outbound = Outbound(
            names,
            AddressRules(options.deny_networks, options.allow_networks),
            tls_context(options.verify_certificates, options.ca_file),
            options.connect_seconds,
        )
        well_known = WellKnown(lookups, outbound, clock, web_port)
        discovery = Discovery(lookups, names, well_known, default_port)
        destinations = Destinations(database, commits, clock)
        await destinations.load()
        # Only a server that is named like the host, without a port, is delegated by it.
        lookups.on_change(WELL_KNOWN, destinations.reset)
        client = ServerClient(outbound, discovery, destinations, clock)
        own = await OwnKeys.load(name, keys, database, commits, clock)
        key_store = KeyStore(database, commits, clock, destinations.reset)
        keyring = Keyring(own, key_store, client, clock)
        keyring.trust(options.notaries)
        requests = Requests(name, keys[0], client, options.request_seconds, enabled=options.enabled)
        outbox = Outbox(name, clock)
        sender = Sender(name, database, commits, clock, requests, destinations, outbox, lists)
        return cls(
            clock=clock,
            commits=commits,
            outbound=outbound,
            lookups=lookups,
            discovery=discovery,
            destinations=destinations,
            client=client,
            requests=requests,
            policy=PolicyClient(requests, clock),
            own_keys=own,
            identity=Identity(outbound, name, keys[0]),
            keyring=keyring,
            notary=NotaryService(own, key_store, keyring, clock),
            inbound=Inbound(name, keyring, destinations),
            outbox=outbox,
            sender=sender,
            peers=PeersDesk(database, destinations, discovery, sender, lists, clock),
            directory=RemoteDirectoryClient(requests, clock),
            media=MediaClient(requests, client, outbound),
        )

    def endpoints(self) -> list[Endpoint]:
        """The endpoints of the API "federation"."""
        return [
            *endpoints_of(version),
            *endpoints_of(hierarchy),
            *endpoints_of(media),
            *endpoints_of(policy),
            *endpoints_of(queries),
            *key_endpoints(self.own_keys, self.notary),
        ]

    async def tidy(self) -> None:
        """Forget what is too old to be of use, every hour, until cancelled."""
        while True:
            await self.clock.sleep(TIDY_SECONDS)
            await self.commits.commit([store.lookups_forgotten(self.clock.now_ms())])
            await self.destinations.forget_strangers()
            await self.sender.forget_orphans()

    async def close(self) -> None:
        """Give up what is under way and drop every connection."""
        await self.sender.close()
        await self.policy.close()
        await self.keyring.close()
        await self.client.close()
        await self.lookups.close()
        await self.outbound.close()

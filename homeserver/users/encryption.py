"""What end-to-end encryption needs of the server, built and connected once.

Owns the order in which its parts are made, and the names of its metrics. Nothing here has behaviour
of its own.
"""

from dataclasses import dataclass
from functools import partial

from homeserver.runtime.clock import Clock
from homeserver.runtime.metrics import Metrics
from homeserver.streams.commit import CommitQueue
from homeserver.streams.device_news import DeviceNews
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names, Numbers
from homeserver.streams.publish import Publisher
from homeserver.streams.ring import Ring
from homeserver.streams.sync import NewsDesk
from homeserver.streams.tokens import Timelines
from homeserver.users.cross_signing import CrossSigning
from homeserver.users.dehydrated import DehydratedDevices
from homeserver.users.device_ends import DeviceEnds
from homeserver.users.device_lists import DeviceLists
from homeserver.users.e2e_keys import E2EKeys
from homeserver.users.inbox import UserInbox
from homeserver.users.key_backup import KeyBackup
from homeserver.users.key_changes import KeyChanges
from homeserver.users.key_health import KeyHealth
from homeserver.users.one_time_keys import OneTimeKeys
from homeserver.users.parcels import Parcels
from homeserver.users.public_keys import PublicKeys
from homeserver.users.sessions import Sessions
from homeserver.users.shown_devices import ShownDevices
from homeserver.users.to_device import Inboxes
from homeserver.users.uia import Interactive
from storage.engine import Database


@dataclass(frozen=True)
class Encryption:
    """The parts that others use."""

    backup: KeyBackup
    changes: KeyChanges
    cross_signing: CrossSigning
    dehydrated: DehydratedDevices
    device_news: DeviceNews
    ends: DeviceEnds
    health: KeyHealth
    inboxes: Inboxes
    keys: E2EKeys
    lists: DeviceLists
    one_time: OneTimeKeys
    parcels: Parcels
    public: PublicKeys
    shown: ShownDevices

    @classmethod
    def build(
        cls,
        public: PublicKeys,
        database: Database,
        commits: CommitQueue,
        names: Names,
        numbers: Numbers,
        inbox: UserInbox,
        publisher: Publisher,
        ring: Ring,
        memberships: Memberships,
        sessions: Sessions,
        interactive: Interactive,
        desk: NewsDesk,
        timelines: Timelines,
        clock: Clock,
        server_name: str,
    ) -> "Encryption":
        """Make everything."""
        lists = DeviceLists(database, publisher)
        one_time = OneTimeKeys(database, commits, numbers)
        lists.on_change(public.forget)
        parcels = Parcels(database, commits, clock, ring.pos)
        inboxes = Inboxes(database, commits, names, publisher, ring, parcels, clock, server_name)
        keys = E2EKeys(database, commits, names, inbox, lists, one_time, public, server_name)
        ends = DeviceEnds(database, lists, one_time, inboxes)
        sessions.on_end(ends)
        news = DeviceNews(database, names, inboxes, one_time)
        return cls(
            backup=KeyBackup(database, commits, inbox),
            changes=KeyChanges(names, memberships, news, desk, timelines),
            cross_signing=CrossSigning(
                database, commits, names, inbox, lists, public, publisher, interactive
            ),
            dehydrated=DehydratedDevices(database, commits, numbers, inbox, keys, ends, inboxes),
            device_news=news,
            ends=ends,
            health=KeyHealth(database, names, parcels, clock),
            inboxes=inboxes,
            keys=keys,
            lists=lists,
            one_time=one_time,
            parcels=parcels,
            public=public,
            shown=ShownDevices(keys, names, database),
        )

    def measure(self, metrics: Metrics) -> None:
        """Have metrics show how it stands with the keys of devices, and what waits."""
        for name, meaning in (
            ("devices", "Devices of this server's users"),
            ("without_keys", "Devices without keys"),
            ("empty_pools", "Devices with keys and without one-time keys"),
            ("stale_lists", "Lists of other servers' users that must be fetched anew"),
            ("waiting", "Messages that wait for devices of this server's users"),
            ("undelivered", "Messages to devices that other servers have not had yet"),
        ):
            metrics.gauge(f"homeserver_e2ee_{name}", meaning, partial(self.health.figure, name))
        metrics.gauge(
            "homeserver_e2ee_cut",
            "Messages removed from full inboxes since the start",
            lambda: self.inboxes.cut,
        )
        metrics.by_name(
            "homeserver_e2ee_inbox",
            "Messages that wait, of the devices for which most do",
            "device",
            self.health.inboxes,
        )
        for name, meaning in (
            ("messages", "Messages to devices that a server has not had, of those who lack most"),
            ("lists", "Changes of devices and keys that a server has not heard of, of the same"),
        ):
            metrics.by_name(
                f"homeserver_e2ee_undelivered_{name}",
                meaning,
                "server",
                partial(self.health.servers, f"waiting_{name}"),
            )

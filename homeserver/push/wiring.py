"""What push is made of, built and connected once.

Owns the order in which the parts of this package are made. Nothing here has behaviour of its own.
"""

from dataclasses import dataclass

from homeserver.config import Config
from homeserver.http.outbound import Outbound
from homeserver.push.activation import Activation
from homeserver.push.audience import Audience
from homeserver.push.badges import Badges
from homeserver.push.desk import PushDesk
from homeserver.push.digests import Digests
from homeserver.push.gateway import Gateway
from homeserver.push.mailing import Mailing
from homeserver.push.missed import Missed
from homeserver.push.notifications import Notifications
from homeserver.push.patience import Patience
from homeserver.push.pushers import Pushers
from homeserver.push.queues import Queues
from homeserver.push.rules import Rules
from homeserver.push.sending import PushSender
from homeserver.push.turns import PER_GATEWAY, Spawn
from homeserver.push.unifiedpush import Endpoints, OwnGateway
from homeserver.push.unread import UnreadCounts
from homeserver.push.vapid import Vapid, vapid_key
from homeserver.push.walks import Walks
from homeserver.push.ways import Ways
from homeserver.rooms.actor import Rooms
from homeserver.rooms.history import History
from homeserver.rooms.readable import Readers
from homeserver.rooms.timeline import Timeline
from homeserver.runtime.clock import Clock
from homeserver.runtime.limits import RateLimits
from homeserver.runtime.mail import Mailer
from homeserver.streams.commit import CommitQueue
from homeserver.streams.ignored import Ignored
from homeserver.streams.invite_permissions import InvitePermissions
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from homeserver.streams.ring import Ring
from homeserver.users.inbox import UserInbox
from storage.engine import Database


@dataclass(frozen=True)
class Push:
    """The parts that endpoints and others use."""

    pushers: Pushers
    notifications: Notifications
    sender: PushSender
    queues: Queues
    mailing: Mailing
    desk: PushDesk
    own_gateway: OwnGateway
    vapid: Vapid | None
    gateways: Outbound

    @classmethod
    async def build(
        cls,
        config: Config,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        ring: Ring,
        names: Names,
        inbox: UserInbox,
        rooms: Rooms,
        memberships: Memberships,
        ignored: Ignored,
        permissions: InvitePermissions,
        readers: Readers,
        history: History,
        timeline: Timeline,
        rules: Rules,
        unread: UnreadCounts,
        mailer: Mailer,
        outbound: Outbound,
        limits: RateLimits,
        spawn: Spawn,
    ) -> "Push":
        """Make everything, and learn what pushers have not been told yet."""
        walks = Walks(
            database,
            ring,
            rooms,
            memberships,
            ignored,
            permissions,
            history,
            timeline,
            rules,
            unread,
        )
        digests = Digests(database, walks, rooms, config.server.name)
        mailing = Mailing(
            database, commits, names, mailer, digests, clock, config.server.public_base_url
        )
        gateways = outbound.alike(PER_GATEWAY)
        endpoints = Endpoints(
            config.server.public_base_url, config.push.gateways, enabled=config.push.unified_push
        )
        vapid = _vapid(config, clock)
        gateway = Gateway(gateways, Ways(endpoints, vapid).of)
        patience = Patience(clock)
        audience = Audience(database, rooms, names, rules, ignored, permissions, readers, timeline)
        queues = Queues(
            database,
            commits,
            clock,
            audience,
            Badges(unread, memberships, ignored, rooms, ring),
            Missed(database, walks, audience),
            gateway,
            patience,
            spawn,
        )
        sender = PushSender(
            database,
            commits,
            clock,
            audience,
            queues,
            mailing,
            patience,
            lambda: ring.pos,
            spawn,
        )
        await sender.start()
        changed = audience.user_changed
        activation = None
        if vapid is not None:
            activation = Activation(database, commits, inbox, clock, gateway, changed, spawn)
        return cls(
            pushers=Pushers(database, commits, inbox, clock, mailing, activation, changed),
            notifications=Notifications(walks, history),
            sender=sender,
            queues=queues,
            mailing=mailing,
            desk=PushDesk(database, names, queues, mailing, gateway),
            vapid=vapid,
            own_gateway=OwnGateway(database, endpoints, gateway, limits),
            gateways=gateways,
        )

    async def close(self) -> None:
        """Drop the connections to gateways; nothing is told any more."""
        await self.gateways.close()


def _vapid(config: Config, clock: Clock) -> Vapid | None:
    """Who this server is to push services, None without Web Push.

    Raises OSError or ConfigError when the file of its key can't be used.
    """
    if not config.push.web_push:
        return None
    file, support = config.push.vapid_key_file, config.support
    assert file is not None  # the configuration has filled it in
    contact = support.page or config.server.public_base_url
    if support.admin_email:
        contact = f"mailto:{support.admin_email}"
    # Nothing else is a contact. RFC 8292, 2.1
    usable = contact.startswith(("mailto:", "https:"))
    return Vapid(vapid_key(file), contact if usable else "", clock)

"""The process: every object, built once and connected, started and stopped in order.

Owns the wiring and nothing else. Only this module builds services; everything else gets what it
uses in its constructor.
"""

import asyncio
import gc
import logging
import secrets
import signal
from collections.abc import Awaitable, Callable

import client_api
from federation.outbound_edus import LocalEdus, LocalPresence
from federation.outbound_lists import OwnLists
from federation.peers import PeersDesk
from federation.receiving import Receiving
from federation.rooms import RoomFederation
from federation.wiring import Federation
from homeserver.appservices.authentication import Authentication
from homeserver.appservices.devices import DeviceFeed
from homeserver.appservices.feed import Feed
from homeserver.appservices.network_rooms import NetworkRooms
from homeserver.appservices.registry import Registry
from homeserver.appservices.running import Appservices
from homeserver.config import Config
from homeserver.http.dispatch import Dispatcher
from homeserver.http.endpoint import Endpoint
from homeserver.http.proxies import Proxies
from homeserver.http.router import Router
from homeserver.http.server import Binding, Server
from homeserver.http.service import health_endpoints, metrics_endpoints, welcome_endpoints
from homeserver.media.wiring import Media
from homeserver.push.rules import Rules
from homeserver.push.unread import UnreadCounts
from homeserver.push.wiring import Push
from homeserver.rooms import guest_access, redact_events, relinking
from homeserver.rooms import outside as outside_rooms
from homeserver.rooms.actor import Rooms
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.aggregations import Aggregations
from homeserver.rooms.chapters import Chapters
from homeserver.rooms.comparison import Comparison
from homeserver.rooms.create import CreateRoom
from homeserver.rooms.delayed import DelayedEvents
from homeserver.rooms.directory import Directory
from homeserver.rooms.elsewhere import Elsewhere
from homeserver.rooms.entering import Entering
from homeserver.rooms.erased import Erased
from homeserver.rooms.guests import Guests
from homeserver.rooms.history import History
from homeserver.rooms.indexing import Indexing
from homeserver.rooms.inspection import Inspection
from homeserver.rooms.mass_redaction import MassRedaction
from homeserver.rooms.members import Members
from homeserver.rooms.outside import Outside
from homeserver.rooms.pages import Pages
from homeserver.rooms.past import Past
from homeserver.rooms.posting import Posting
from homeserver.rooms.public_rooms import PublicRooms
from homeserver.rooms.readable import Readers
from homeserver.rooms.receive import Receiver
from homeserver.rooms.rederived import Rederiving
from homeserver.rooms.relations import Relating, Relations
from homeserver.rooms.relinking import Relinking
from homeserver.rooms.repair import Repairing
from homeserver.rooms.resets import Resets
from homeserver.rooms.restricted import Restricted
from homeserver.rooms.search import Search
from homeserver.rooms.send import Author
from homeserver.rooms.server_notices import ServerNotices
from homeserver.rooms.server_sight import ServerSight
from homeserver.rooms.spaces import Spaces
from homeserver.rooms.state import RoomState
from homeserver.rooms.states import States
from homeserver.rooms.sticky import StickyEvents
from homeserver.rooms.summaries import Summaries
from homeserver.rooms.third_party import ThirdPartyInvites
from homeserver.rooms.timeline import Timeline
from homeserver.rooms.transactions import OldTransactions
from homeserver.rooms.upgrades import Upgrades
from homeserver.rooms.views import Views
from homeserver.runtime import logs
from homeserver.runtime.clock import Clock, SystemClock
from homeserver.runtime.costs import database_seconds
from homeserver.runtime.files import allow_many_files
from homeserver.runtime.health import Health
from homeserver.runtime.jobs import Jobs
from homeserver.runtime.key_file import signing_keys
from homeserver.runtime.limits import RateLimits
from homeserver.runtime.mail import Mailer
from homeserver.runtime.metrics import Metrics
from homeserver.runtime.reload import Reload
from homeserver.runtime.tasks import Supervisor
from homeserver.runtime.watch import LoopWatch
from homeserver.services import Services
from homeserver.streams.answer import RoomAnswers
from homeserver.streams.commit import CommitQueue
from homeserver.streams.event_stream import EventStream
from homeserver.streams.extras import RoomExtras
from homeserver.streams.ignored import Ignored
from homeserver.streams.initial_sync import InitialSync
from homeserver.streams.invite_permissions import InvitePermissions
from homeserver.streams.lazy import LazyMembers
from homeserver.streams.memberships import Memberships
from homeserver.streams.news import StoredNews
from homeserver.streams.notifier import Notifier
from homeserver.streams.numbers import Names, Numbers
from homeserver.streams.presence import PresenceNews
from homeserver.streams.publish import Publisher
from homeserver.streams.ring import Ring
from homeserver.streams.sections import Sections
from homeserver.streams.sliding import build as sliding
from homeserver.streams.stretches import Stretches
from homeserver.streams.sync import NewsDesk, Sync
from homeserver.streams.tokens import Timelines
from homeserver.users import deactivation, profiles
from homeserver.users.access_tokens import Lifetimes
from homeserver.users.account_data import AccountData
from homeserver.users.accounts import Accounts
from homeserver.users.credentials import Credentials
from homeserver.users.deactivation import Deactivation, Departure
from homeserver.users.devices import Devices
from homeserver.users.encryption import Encryption
from homeserver.users.filters import Filters
from homeserver.users.inbox import UserInbox
from homeserver.users.login_tokens import LoginTokens
from homeserver.users.logins import Logins
from homeserver.users.moderation import Moderation
from homeserver.users.notices_user import NoticesUser, official
from homeserver.users.openid import OpenID
from homeserver.users.operator import OperatorToken
from homeserver.users.own_rooms import OwnRooms
from homeserver.users.parcels import Parcels
from homeserver.users.passwords import PasswordCost, Passwords
from homeserver.users.presence import Presence
from homeserver.users.profile_spread import ProfileSpread
from homeserver.users.profiles import Profiles
from homeserver.users.public_keys import PublicKeys
from homeserver.users.push_rules import PushRules
from homeserver.users.receipts import Receipts
from homeserver.users.registration import Registration, SharedSecret
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.reports import Reports
from homeserver.users.sessions import Sessions
from homeserver.users.thread_subscriptions import SubscriptionNews, ThreadSubscriptions
from homeserver.users.threepids import ThirdPartyIds
from homeserver.users.typing import Typing
from homeserver.users.uia import Interactive
from homeserver.users.user_changes import UserChanges
from homeserver.users.user_directory import UserDirectory
from homeserver.users.user_list import UserList
from homeserver.users.validations import Validations
from storage.engine import Database, DatabaseSettings, open_database

log = logging.getLogger(__name__)

_TIDY_UP_SECONDS = 60.0
# State keys that every room has: known from the start, so that no send waits for them.
_COMMON_KEYS = (
    ("m.room.create", ""),
    ("m.room.power_levels", ""),
    ("m.room.join_rules", ""),
    ("m.room.history_visibility", ""),
    ("m.room.guest_access", ""),
    ("m.room.name", ""),
    ("m.room.topic", ""),
    ("m.room.avatar", ""),
    ("m.room.canonical_alias", ""),
    ("m.room.encryption", ""),
    ("m.room.policy", ""),
)
_COLLECT_AFTER = 20_000
# No part of the process is waited for longer when it stops; the listeners drain within ten.
_END_SECONDS = 12.0
_COMMON_NAMES = ("m.room.member", "m.room.message", "m.room.encrypted", "m.reaction")


def database_settings(config: Config) -> DatabaseSettings:
    """Where the configured database is."""
    return DatabaseSettings(
        path=config.database.sqlite_path,
        dsn=config.database.postgresql_dsn,
        key_file=config.database.key_file,
        durable=config.database.synchronous == "full",
    )


class App:
    """One server process. `start` listens; `stop` ends in order; `services` is there between."""

    services: Services

    def __init__(self, config: Config, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.metrics = Metrics()
        self.health = Health()
        self.notifier = Notifier(clock)
        limits = config.limits
        self.limits = RateLimits(limits.enabled, limits.rates, clock, servers=limits.other_servers)
        self.metrics.refusals = self.limits.refused
        self._tasks = Supervisor(clock)
        self._watch = LoopWatch(self.metrics)
        self._server: Server | None = None
        self._dispatchers: list[Dispatcher] = []
        self._database: Database | None = None
        self._commits: CommitQueue | None = None
        self._inbox = UserInbox()
        self._operator = OperatorToken(config.server.data_dir)
        self._passwords: Passwords | None = None
        self._sessions: Sessions | None = None
        self._presence: Presence | None = None
        self._parcels: Parcels | None = None
        self._federation: Federation | None = None
        self._receiving: Receiving | None = None
        self._past: Past | None = None
        self._appservices: Appservices | None = None
        self._elsewhere: Elsewhere | None = None
        self._room_federation: RoomFederation | None = None
        self._media: Media | None = None
        self._push: Push | None = None

    @property
    def federation(self) -> Federation:
        """What speaks with other servers; once the server has started."""
        if self._federation is None:
            raise RuntimeError("the server has not started")
        return self._federation

    @property
    def addresses(self) -> list[str]:
        """What is listened on, as URLs."""
        return self._server.addresses if self._server is not None else []

    async def start(self) -> None:
        """Open the database, build everything, listen.

        Raises `StorageError` or OSError with a sentence for the operator.
        """
        self.config.server.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._database = await open_database(database_settings(self.config))
        self._database.timed = database_seconds
        try:
            self.services = await self._build(self._database)
            server = self._server = self._listeners()
            await server.start()
            if self._elsewhere is not None and self.config.federation.enabled:
                await self._elsewhere.resume()
            self._tasks.service("certificates", lambda: server.watch_certificates(self.clock))
            if self.config.listeners:
                self._operator.publish()
        except BaseException:
            await self.stop()
            raise
        self._watch.start()
        self.health.started = True
        # What exists now stays: full collections need not look at it again. A request makes about a
        # thousand objects that go without being collected; cycles are rare, and can wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, 10, 10)

    async def stop(self) -> None:
        """Answer what waits, finish what was begun, close the database.

        A part that fails or takes too long is logged and left behind; the others are ended.
        """
        self.health.draining.set()
        self._operator.withdraw()
        self.notifier.close()
        self._watch.stop()
        for name, end in self._ends():
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await end()
            except Exception:
                log.exception("stopping: the %s did not end", name)
        if self._passwords is not None:
            self._passwords.close()
        self._database = None

    def _ends(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """How each part that was started is ended, in order."""
        ends: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        if self._server is not None:
            ends.append(("listeners", self._server.stop))
        ends += [("users' turns", self._inbox.close), ("tasks", self._tasks.stop)]
        if self._sessions is not None and self._commits is not None:
            ends.append(("devices' last use", self._sessions.save_seen))
            if self._presence is not None:
                ends.append(("presence", self._presence.save))
            if self._parcels is not None:
                ends.append(("parcels", self._parcels.sort))
        if self._appservices is not None:
            ends.append(("application services", self._appservices.stop))
        if self._push is not None:
            ends.append(("push gateways", self._push.close))
        if self._federation is not None:
            if self._elsewhere is not None:
                ends.append(("joins", self._elsewhere.close))
            if self._receiving is not None:
                ends.append(("staged events", self._receiving.staging.close))
                ends.append(("copies of device lists", self._receiving.copies.close))
            if self._past is not None:
                ends.append(("the past of rooms", self._past.close))
            ends.append(("federation", self._federation.close))
        if self._media is not None:
            ends.append(("media", self._media.close))
        if self._commits is not None:
            ends.append(("commit queue", self._commits.close))
        if self._database is not None:
            ends.append(("database", self._database.close))
        return ends

    async def _build(self, database: Database) -> Services:
        config, clock, server_name = self.config, self.clock, self.config.server.name
        timeline_rows = await database.start_timeline()
        timelines = Timelines([(row.timeline_nid, row.id, row.from_pos) for row in timeline_rows])
        names, numbers = Names(database), Numbers(database)
        await names.load(_COMMON_NAMES, _COMMON_KEYS)

        ring = Ring(config.sync.ring_bytes, await database.position())
        views = Views(database, names)
        memberships = Memberships(
            database,
            lambda: ring.pos,
            self.notifier.is_waiting,
            forget_on_leave=config.rooms.forget_on_leave,
        )
        ignored = Ignored(database)
        publisher = Publisher(ring, views, memberships, ignored, self.notifier)
        official_user = await official(database, config.server_notices, server_name)
        permissions = InvitePermissions(database, names, official_user)
        publisher.on_account_data(permissions.changed)
        publisher.on_lost(permissions.clear)
        commits = CommitQueue(database, clock, self.metrics, ring.advance, publisher.lost)
        commits.start()
        self._commits = commits
        typing = Typing(clock, publisher.typing)
        publisher.on_leave(typing.stop)
        presence = Presence(database, commits, clock, enabled=config.presence.enabled)
        self._presence = presence
        presence_news = PresenceNews(presence, memberships, self.notifier, clock)
        publisher.on_move(presence_news.moved)
        await presence.restore()

        key_file = config.server.signing_key_file or config.server.data_dir / "signing.key"
        keys = signing_keys(key_file)
        public_keys = PublicKeys(database, names, server_name)
        own_lists = OwnLists(database, names, public_keys)
        federation = await Federation.build(config, keys, database, commits, clock, own_lists)
        self._federation = federation
        self._tasks.service("federation", federation.tidy)
        if config.federation.enabled:
            sender = federation.sender
            publisher.on_events(sender.published)
            publisher.on_lost(sender.lost)
            self._tasks.service("sender", lambda: sender.run(lambda: ring.pos))
            self._tasks.service("sender's positions", sender.save_now_and_then)
            self._measure(federation.peers)
            edus = LocalEdus(server_name, sender, typing, clock)
            publisher.on_receipt(edus.receipt)
            publisher.on_typing(edus.typing)
            if config.federation.presence:
                out = LocalPresence(federation.outbox, presence, memberships, database, clock)
                presence.on_change(out.changed)
                self._tasks.service("presence elsewhere", out.run)
        media = await Media.build(
            config, federation.media, federation.outbound, database, commits, clock
        )
        self._media = media
        self._tasks.service("media", media.tidy)
        author = Author(server_name, keys[0], clock, numbers, media.encrypted)
        rooms = Rooms(
            database,
            names,
            commits,
            author,
            publisher.events,
            federation.policy,
        )
        jobs = Jobs(database, commits, numbers, clock)
        user_profiles = Profiles(
            database, commits, names, self._inbox, jobs, federation.directory, clock, server_name
        )
        state, states = RoomState(database, names), States(database, names)
        resets = Resets(self.metrics, clock)
        receiver = Receiver(rooms, states, database, names, numbers, resets)
        restricted = Restricted(rooms, database, names)
        entering = Entering(rooms, database, commits, names, numbers, receiver, server_name)
        outside = Outside(rooms, database, names, author, jobs, publisher.outside)
        elsewhere = Elsewhere(rooms, database, commits, author, entering, outside, state, receiver)
        self._elsewhere = elsewhere
        publisher.on_events(elsewhere.happened)
        publisher.on_lost(elsewhere.lost)
        members = Members(
            rooms,
            memberships,
            database,
            names,
            user_profiles.in_rooms,
            restricted,
            elsewhere,
            permissions,
            server_name,
            official_user,
        )
        third_party = ThirdPartyInvites(rooms, elsewhere, permissions, server_name)
        room_federation = RoomFederation.build(
            federation,
            rooms,
            receiver,
            restricted,
            elsewhere,
            states,
            state,
            database,
            author,
            third_party,
            permissions,
            ServerSight(database, names, clock),
        )
        self._room_federation = room_federation
        elsewhere.connect(room_federation.joining)
        spread = ProfileSpread(user_profiles, rooms, memberships, names, database)
        erased = Erased(database, commits, names)
        await erased.load()
        departure = Departure(rooms, members, memberships, names, erased)
        guests = Guests(rooms, members, database, names, jobs)
        publisher.on_events(guests.happened)
        jobs.handle(
            {
                profiles.JOB: spread.run,
                deactivation.JOB: departure.run,
                guest_access.JOB: guests.run,
                outside_rooms.LEAVE_JOB: room_federation.joining.leave,
            }
        )

        timeline = Timeline(database, views)
        readers = Readers(
            database, names, states, erased, forget_on_leave=config.rooms.forget_on_leave
        )
        aggregations = Aggregations(database, timeline, names)
        past = self._past = Past(database, clock)
        rules = Rules(database)
        publisher.on_account_data(rules.changed)
        publisher.on_lost(rules.clear)
        unread = UnreadCounts(database, ring, names, rules)
        mass_redaction = MassRedaction(rooms, database, names, jobs, publisher, unread)
        publisher.on_events(mass_redaction.happened)
        jobs.handle({redact_events.JOB: mass_redaction.run})
        history = History(rooms, timeline, state, readers, ignored, aggregations, past, clock)
        stretches = Stretches(timeline, state, names, readers)
        sections = Sections(timeline, state, names, timelines, aggregations, stretches)
        extras = RoomExtras(typing, unread)
        sticky = StickyEvents(
            database, commits, rooms, timeline, clock, server_name, erased, publisher.sticky
        )
        await sticky.load()
        publisher.on_events(sticky.happened)
        receiver.on_held(sticky.held)
        self._tasks.service("sticky events", sticky.run)
        answers = RoomAnswers(
            database,
            rooms,
            sections,
            extras,
            readers,
            state,
            permissions,
            lambda until: StoredNews(database, names, timeline, -1, until),
            sticky,
        )
        account_data = AccountData(database, commits, publisher, self._inbox, server_name)
        passwords = Passwords(
            PasswordCost(*config.passwords.argon2), pepper=config.passwords.bcrypt_pepper
        )
        self._passwords = passwords
        lifetimes = Lifetimes.configured(config.sessions)
        sessions = Sessions(database, commits, numbers, self._inbox, clock, lifetimes)
        self._sessions = sessions
        registration_tokens = RegistrationTokens(database, commits, clock)
        logins = Logins(database, commits, passwords, self.limits, server_name)
        mailer = Mailer(config.mail, server_name)
        validations = Validations(
            database, commits, mailer, self.limits, clock, config.server.public_base_url
        )
        interactive = Interactive(
            database, commits, logins, registration_tokens, validations, clock, server_name
        )
        third_party_ids = ThirdPartyIds(
            database, commits, validations, interactive, federation.identity, clock
        )
        desk = NewsDesk(ring, database, names, timeline, self.metrics)
        encryption = Encryption.build(
            public_keys,
            database,
            commits,
            names,
            numbers,
            self._inbox,
            publisher,
            ring,
            memberships,
            sessions,
            interactive,
            desk,
            timelines,
            clock,
            server_name,
        )
        if config.federation.enabled:
            encryption.lists.on_own_change(federation.sender.list_changed)
            encryption.health.ask(federation.peers)
        incarnation = secrets.token_hex(4)
        sync = Sync(
            desk,
            answers,
            memberships,
            ignored,
            self.notifier,
            typing,
            presence_news,
            encryption.device_news,
            LazyMembers(),
            timelines,
            clock,
            incarnation,
        )
        subscriptions = SubscriptionNews(database, timelines, lambda: ring.pos)
        publisher.on_subscription(subscriptions.changed)
        publisher.on_lost(subscriptions.lost)
        sliding_sync = sliding.build(
            database,
            names,
            desk,
            rooms,
            sections,
            answers,
            extras,
            readers,
            state,
            timeline,
            unread,
            typing,
            encryption.device_news,
            encryption.inboxes,
            subscriptions,
            memberships,
            ignored,
            self.notifier,
            publisher,
            timelines,
            sticky,
            clock,
            incarnation,
        )
        login_tokens = LoginTokens(database, commits, sessions, interactive, clock)
        receipts = Receipts(database, commits, publisher, self._inbox, account_data, names, clock)
        self._receiving = Receiving.build(
            federation,
            room_federation,
            rooms,
            receiver,
            elsewhere,
            database,
            names,
            numbers,
            typing,
            receipts,
            presence,
            encryption,
            self._inbox,
            server_name,
        )
        await self._receiving.copies.begin()
        publisher.on_events(self._receiving.copies.happened)
        self._tasks.service("copies of device lists", self._receiving.copies.run)
        self._tasks.service("stale device lists", self._receiving.refetching)
        past.connect(self._receiving.history)
        self._tasks.service("staged events", self._receiving.staging.run)
        self._tasks.service("transactions", self._receiving.tidy)
        accounts = Accounts(database, commits, names, sessions, passwords, clock, server_name)
        notices_user = NoticesUser(
            database, accounts, user_profiles, config.server_notices, server_name
        )
        accounts.reserve(notices_user.check_free)
        appservices = await self._build_appservices(
            accounts,
            Feed(
                database,
                rooms,
                timeline,
                names,
                typing,
                clock,
                DeviceFeed(
                    database,
                    names,
                    timeline,
                    encryption.inboxes,
                    encryption.parcels,
                    encryption.one_time,
                ),
            ),
            publisher,
            ring,
            names,
        )
        encryption.one_time.on_change(appservices.counted)
        registration = Registration(
            config.registration, config.terms, accounts, interactive, registration_tokens
        )
        push = await Push.build(
            config,
            database,
            commits,
            clock,
            ring,
            names,
            self._inbox,
            rooms,
            memberships,
            ignored,
            permissions,
            readers,
            history,
            timeline,
            rules,
            unread,
            mailer,
            federation.outbound,
            self.limits,
            self._tasks.once,
        )
        self._push = push
        publisher.on_events(push.sender.happened)
        publisher.on_outside(push.sender.outside)
        publisher.on_receipt(push.sender.read)
        publisher.on_account_data(push.sender.account_data)
        self._tasks.service("push", push.sender.run)
        self._tasks.service("push cursor", push.sender.keep_saving)
        self._tasks.service("mails", push.mailing.run)
        self.metrics.gauge(
            "homeserver_push_waiting",
            "Notifications that no gateway has taken yet",
            lambda: push.queues.waiting,
        )
        self.metrics.gauge(
            "homeserver_push_behind",
            "Events that have not been looked at for pushers yet",
            lambda: push.sender.behind,
        )
        self._tasks.service("jobs", jobs.run)
        self._tasks.service("presence", presence.run)
        closing = Deactivation(database, sessions, interactive, jobs, presence)
        user_list = UserList(database, server_name)
        user_changes = UserChanges(
            user_list, commits, accounts, sessions, passwords, user_profiles, closing
        )
        self._tasks.service("to-device messages", encryption.inboxes.run)
        self._parcels = encryption.parcels
        self._tasks.service("parcels", encryption.parcels.run)
        self._tasks.service("health of keys", encryption.health.run)
        encryption.measure(self.metrics)
        self._tasks.service("old transactions", OldTransactions(database, commits, clock).run)
        indexing = Indexing(database, commits, clock)
        publisher.on_events(indexing.happened)
        self._tasks.service("words", indexing.run)
        self._tasks.service("tidy up", lambda: self._tidy_up(sessions, interactive, login_tokens))
        self.metrics.gauge(
            "homeserver_stream_position", "The last position published", lambda: ring.pos
        )
        self.metrics.gauge(
            "homeserver_waiting_syncs", "Parked /sync requests", lambda: self.notifier.waiting
        )
        create_room = CreateRoom(
            rooms,
            names,
            numbers,
            clock,
            server_name,
            config.rooms.default_version,
            permissions,
            members.invite_to_new,
        )
        posting = Posting(rooms, database, Relating(database, timeline, names), clock)
        push_rules = PushRules(account_data, self._inbox)
        summaries = Summaries(rooms, database, restricted, elsewhere, federation.directory)
        links = Relinking(rooms, database, names, jobs, server_name)
        jobs.handle({relinking.JOB: links.run})
        upgrades = Upgrades(
            rooms,
            database,
            names,
            state,
            create_room,
            user_profiles,
            account_data,
            push_rules,
            links,
        )
        members.on_join(upgrades.came_over)
        notices = ServerNotices(
            notices_user,
            database,
            rooms,
            create_room,
            members,
            posting,
            user_profiles,
            account_data,
            self._inbox,
            config.server_notices,
            server_name,
        )
        delayed = DelayedEvents(rooms, posting, members, names, database, commits, clock)
        self._tasks.service("delayed events", delayed.run)
        chapters = Chapters(
            delayed=delayed,
            inspection=Inspection(
                rooms,
                database,
                Rederiving(database, names, states, server_name),
                Repairing(numbers, server_name, publisher.lost),
                Comparison(database, names, states, self._receiving.history),
                elsewhere,
            ),
            reports=Reports(database, commits, numbers, names, history, clock),
            server_notices=notices,
            spaces=Spaces(
                rooms, database, names, summaries, elsewhere, federation.directory, clock
            ),
            search=Search(database, rooms, memberships, history, timeline, names, timelines),
            summaries=summaries,
            upgrades=upgrades,
            user_directory=UserDirectory(database, ignored),
        )
        return Services(
            config=config,
            account_data=account_data,
            accounts=accounts,
            appservices=appservices,
            costs=self.metrics.costs,
            chapters=chapters,
            create_room=create_room,
            credentials=Credentials(database, commits, passwords, sessions, interactive),
            deactivation=closing,
            devices=Devices(database, commits, sessions, interactive, self._inbox, encryption.ends),
            directory=Directory(
                rooms, commits, database, appservices, elsewhere, federation.directory, server_name
            ),
            encryption=encryption,
            event_stream=EventStream(
                sync, history, rooms, memberships, timelines, self.notifier, clock
            ),
            filters=Filters(database, commits),
            history=history,
            initial_sync=InitialSync(sync, history, rooms, memberships, timelines, database),
            interactive=interactive,
            limits=self.limits,
            login_tokens=login_tokens,
            logins=logins,
            media=media,
            members=members,
            memberships=memberships,
            moderation=Moderation(database, commits, sessions, server_name),
            openid=OpenID(database, keys[0], clock),
            operator=self._operator,
            own_rooms=OwnRooms(rooms, memberships, database, names),
            peers=federation.peers,
            pages=Pages(history, timelines, ring),
            passwords=passwords,
            network_rooms=NetworkRooms(database, commits),
            presence=presence,
            presence_news=presence_news,
            posting=posting,
            profiles=user_profiles,
            public_rooms=PublicRooms(database, clock),
            push=push,
            push_rules=push_rules,
            receiver=receiver,
            receipts=receipts,
            registration=registration,
            registration_tokens=registration_tokens,
            remote_directory=federation.directory,
            relations=Relations(database, history, timeline, names, timelines),
            rooms=rooms,
            sessions=sessions,
            shared_secret=SharedSecret(config.registration.shared_secret, accounts, clock),
            sliding_sync=sliding_sync,
            sync=sync,
            subscription_news=subscriptions,
            thread_subscriptions=ThreadSubscriptions(
                database, commits, history, self._inbox, publisher
            ),
            address_invites=AddressInvites(
                rooms, members, federation.identity, user_profiles.in_rooms
            ),
            third_party_invites=third_party,
            typing=typing,
            third_party_ids=third_party_ids,
            user_changes=user_changes,
            user_list=user_list,
            validations=validations,
        )

    async def _build_appservices(
        self, accounts: Accounts, feed: Feed, publisher: Publisher, ring: Ring, names: Names
    ) -> Appservices:
        """The application services, loaded and listening."""
        database, commits, name = self._database, self._commits, self.config.server.name
        assert database is not None
        assert commits is not None

        def position() -> int:
            return ring.pos

        registry = Registry(database, commits, accounts, position, name)
        accounts.reserve(lambda user_id: registry.check_user(user_id, None))
        services = Appservices(registry, feed, database, commits, self.clock, position, names, name)
        self._appservices = services
        publisher.on_events(services.happened)
        publisher.on_receipt(lambda entry: services.receipt(entry.room_nid))
        publisher.on_typing(services.typing)
        publisher.on_messages(services.messages)
        publisher.on_device_list(services.listed)
        publisher.on_lost(services.lost)
        await services.start(self.config.appservices.files)
        self.metrics.gauge(
            "homeserver_appservice_lag",
            "Positions of the stream that the slowest application service is behind",
            lambda: max(services.lags().values(), default=0),
        )
        return services

    def _measure(self, peers: PeersDesk) -> None:
        self.metrics.gauge(
            "homeserver_federation_behind", "Servers that fail or must catch up", peers.behind
        )
        self.metrics.gauge(
            "homeserver_federation_waiting", "Events in memory for other servers", peers.in_memory
        )
        self.metrics.by_name(
            "homeserver_federation_lag_seconds",
            "For how long something has waited for the slowest servers",
            "server",
            peers.lags,
        )

    def reloads(self, load: Callable[[], Config]) -> Reload:
        """What reads the configuration again by `load` and has the running parts go by it."""
        server = self._server
        assert server is not None
        reload = Reload(self.config, load)
        reload.check(lambda config: server.check_certificates(_bindings(config)))
        reload.part((), lambda config: server.take_certificates(_bindings(config)))
        reload.part(["logging.level"], lambda config: logs.set_level(config.logging.level))
        reload.part(["limits"], self._take_limits)
        reload.part(["registration"], self._take_registration)
        return reload

    def _take_limits(self, config: Config) -> None:
        limits = config.limits
        self.limits.configure(limits.enabled, limits.rates, servers=limits.other_servers)
        for dispatcher in self._dispatchers:
            dispatcher.max_body = config.limits.max_request_bytes

    def _take_registration(self, config: Config) -> None:
        self.services.registration.configure(config.registration, config.terms)
        self.services.shared_secret.configure(config.registration.shared_secret)

    def _listeners(self) -> Server:
        config = self.config
        proxies = Proxies(config.server.trusted_proxies)
        federation = self._federation if config.federation.enabled else None

        services = self.services
        authentication = Authentication(services.sessions, services.appservices.registry)

        def dispatcher(router: Router) -> Dispatcher:
            made = Dispatcher(
                router,
                self.services,
                authentication,
                self.metrics,
                proxies,
                self.limits,
                config.limits.max_request_bytes,
                query_tokens=config.compat.old_clients,
                servers=federation.inbound if federation is not None else None,
            )
            self._dispatchers.append(made)
            return made

        endpoints = {
            "health": health_endpoints(self.health),
            "metrics": metrics_endpoints(self.metrics),
            "client": [
                *client_api.endpoints(old_clients=config.compat.old_clients),
                *welcome_endpoints(config.server.name),
            ],
            "admin": client_api.admin_endpoints(),
            "federation": self._federation_endpoints() if federation is not None else [],
        }
        bindings = _bindings(config)
        return Server(bindings, endpoints, dispatcher, self.health, config.compat.old_clients)

    def _federation_endpoints(self) -> list[Endpoint]:
        assert self._room_federation is not None
        assert self._receiving is not None
        parts = (self.federation, self._room_federation, self._receiving)
        return [
            *client_api.location_endpoints(),
            *(declared for part in parts for declared in part.endpoints()),
        ]

    async def _tidy_up(
        self, sessions: Sessions, interactive: Interactive, login_tokens: LoginTokens
    ) -> None:
        while True:
            await self.clock.sleep(_TIDY_UP_SECONDS)
            await sessions.save_seen()
            await interactive.forget_expired()
            await self.services.validations.forget_expired()
            await login_tokens.forget_expired()


def _bindings(config: Config) -> list[Binding]:
    """Where the configured listeners listen."""
    bindings = [
        Binding(
            listener.address,
            listener.port,
            listener.apis,
            listener.tls_certificate,
            listener.tls_key,
            listener.socket,
        )
        for listener in config.listeners
    ]
    if config.metrics.port:
        bindings.append(Binding(config.metrics.address, config.metrics.port, ("metrics",)))
    return bindings


def run(config: Config, load: Callable[[], Config]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP has the configuration read again by `load`."""
    import uvloop

    logs.set_up(config.logging.level, config.logging.format)
    allow_many_files()
    uvloop.run(_serve(config, load))


async def _serve(config: Config, load: Callable[[], Config]) -> None:
    app = App(config, SystemClock())
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await app.start()
    loop.add_signal_handler(signal.SIGHUP, app.reloads(load))
    log.info("%s is served on %s", config.server.name, ", ".join(app.addresses))
    await ended.wait()
    log.info("stopping: finishing what was begun")
    await app.stop()

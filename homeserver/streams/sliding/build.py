"""The wiring of sliding sync."""

from homeserver.push.unread import UnreadCounts
from homeserver.rooms.actor import Rooms
from homeserver.rooms.readable import Readers
from homeserver.rooms.state import RoomState
from homeserver.rooms.sticky import StickyEvents
from homeserver.rooms.timeline import Timeline
from homeserver.runtime.clock import Clock
from homeserver.streams.answer import RoomAnswers
from homeserver.streams.device_news import DeviceNews
from homeserver.streams.extras import RoomExtras
from homeserver.streams.ignored import Ignored
from homeserver.streams.memberships import Memberships
from homeserver.streams.notifier import Notifier
from homeserver.streams.numbers import Names
from homeserver.streams.publish import Publisher
from homeserver.streams.sections import Sections
from homeserver.streams.sliding.answering import Makers
from homeserver.streams.sliding.connections import Connections
from homeserver.streams.sliding.extensions import Extending
from homeserver.streams.sliding.facts import RoomFacts, UserFacts
from homeserver.streams.sliding.lists import Lists
from homeserver.streams.sliding.rooms import RoomTeller
from homeserver.streams.sliding.sync import SlidingSync
from homeserver.streams.sync import NewsDesk
from homeserver.streams.tokens import Timelines
from homeserver.users.thread_subscriptions import SubscriptionNews
from homeserver.users.to_device import Inboxes
from homeserver.users.typing import Typing
from storage.engine import Database


def build(
    database: Database,
    names: Names,
    desk: NewsDesk,
    rooms: Rooms,
    sections: Sections,
    answers: RoomAnswers,
    extras: RoomExtras,
    readers: Readers,
    state: RoomState,
    timeline: Timeline,
    unread: UnreadCounts,
    typing: Typing,
    devices: DeviceNews,
    inboxes: Inboxes,
    subscriptions: SubscriptionNews,
    memberships: Memberships,
    ignored: Ignored,
    notifier: Notifier,
    publisher: Publisher,
    timelines: Timelines,
    sticky: StickyEvents,
    clock: Clock,
    incarnation: str,
) -> SlidingSync:
    """Sliding sync, hearing of what is published."""
    facts, users = RoomFacts(database), UserFacts(database)
    publisher.on_events(facts.happened)
    publisher.on_account_data(users.changed)
    publisher.on_lost(facts.clear)
    publisher.on_lost(users.clear)
    makers = Makers(
        database,
        desk,
        answers,
        Lists(rooms, answers, state, timeline, facts, users),
        RoomTeller(database, names, sections, answers, readers, state, timeline, unread),
        Extending(answers, extras, typing, devices, inboxes, subscriptions, timelines, sticky),
        typing,
    )
    connections = Connections(incarnation)
    return SlidingSync(makers, connections, memberships, ignored, notifier, timelines, clock)

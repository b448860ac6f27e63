"""The record of services that endpoints receive as `call.app`.

A plain typed record, filled once by `app.py`. Only endpoints read it: what stands below them gets
what it uses in its constructor.
"""

from dataclasses import dataclass

from homeserver.appservices.network_rooms import NetworkRooms
from homeserver.appservices.running import Appservices
from homeserver.config import Config
from homeserver.media.wiring import Media
from homeserver.ports import Peers, RemoteDirectory
from homeserver.push.wiring import Push
from homeserver.rooms.actor import Rooms
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.chapters import Chapters
from homeserver.rooms.create import CreateRoom
from homeserver.rooms.directory import Directory
from homeserver.rooms.history import History
from homeserver.rooms.members import Members
from homeserver.rooms.pages import Pages
from homeserver.rooms.posting import Posting
from homeserver.rooms.public_rooms import PublicRooms
from homeserver.rooms.receive import Receiver
from homeserver.rooms.relations import Relations
from homeserver.rooms.third_party import ThirdPartyInvites
from homeserver.runtime.costs import Costs
from homeserver.runtime.limits import RateLimits
from homeserver.streams.event_stream import EventStream
from homeserver.streams.initial_sync import InitialSync
from homeserver.streams.memberships import Memberships
from homeserver.streams.presence import PresenceNews
from homeserver.streams.sliding.sync import SlidingSync
from homeserver.streams.sync import Sync
from homeserver.users.account_data import AccountData
from homeserver.users.accounts import Accounts
from homeserver.users.credentials import Credentials
from homeserver.users.deactivation import Deactivation
from homeserver.users.devices import Devices
from homeserver.users.encryption import Encryption
from homeserver.users.filters import Filters
from homeserver.users.login_tokens import LoginTokens
from homeserver.users.logins import Logins
from homeserver.users.moderation import Moderation
from homeserver.users.openid import OpenID
from homeserver.users.operator import OperatorToken
from homeserver.users.own_rooms import OwnRooms
from homeserver.users.passwords import Passwords
from homeserver.users.presence import Presence
from homeserver.users.profiles import Profiles
from homeserver.users.push_rules import PushRules
from homeserver.users.receipts import Receipts
from homeserver.users.registration import Registration, SharedSecret
from homeserver.users.registration_tokens import RegistrationTokens
from homeserver.users.sessions import Sessions
from homeserver.users.thread_subscriptions import SubscriptionNews, ThreadSubscriptions
from homeserver.users.threepids import ThirdPartyIds
from homeserver.users.typing import Typing
from homeserver.users.uia import Interactive
from homeserver.users.user_changes import UserChanges
from homeserver.users.user_list import UserList
from homeserver.users.validations import Validations


@dataclass(frozen=True, slots=True)
class Services:
    """Every service that an endpoint may call."""

    config: Config
    account_data: AccountData
    accounts: Accounts
    appservices: Appservices
    chapters: Chapters
    costs: Costs
    create_room: CreateRoom
    credentials: Credentials
    deactivation: Deactivation
    devices: Devices
    directory: Directory
    encryption: Encryption
    event_stream: EventStream
    filters: Filters
    history: History
    initial_sync: InitialSync
    interactive: Interactive
    limits: RateLimits
    login_tokens: LoginTokens
    logins: Logins
    media: Media
    members: Members
    memberships: Memberships
    moderation: Moderation
    network_rooms: NetworkRooms
    openid: OpenID
    operator: OperatorToken
    own_rooms: OwnRooms
    pages: Pages
    passwords: Passwords
    peers: Peers
    posting: Posting
    presence: Presence
    presence_news: PresenceNews
    profiles: Profiles
    public_rooms: PublicRooms
    push: Push
    push_rules: PushRules
    receiver: Receiver
    receipts: Receipts
    registration: Registration
    registration_tokens: RegistrationTokens
    remote_directory: RemoteDirectory
    relations: Relations
    rooms: Rooms
    sessions: Sessions
    shared_secret: SharedSecret
    sliding_sync: SlidingSync
    sync: Sync
    subscription_news: SubscriptionNews
    thread_subscriptions: ThreadSubscriptions
    address_invites: AddressInvites
    third_party_invites: ThirdPartyInvites
    typing: Typing
    third_party_ids: ThirdPartyIds
    user_changes: UserChanges
    user_list: UserList
    validations: Validations

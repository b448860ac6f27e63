"""The tables, each declared once as a NamedTuple; both databases' DDL is rendered from here.

A field's annotation is its column: `int` a 64-bit number, `str` text in byte order, `bytes` a blob,
`X | None` may be NULL. `Position` is an `int` that a change may give as `Pos(k)`, the k-th position
of its own item. `_nid` fields are numbers handed out by `Database.reserve` or `intern`; nothing is
a foreign key of anything: what refers to what is proved by `check`. This module holds no SQL beyond
CREATE and knows nothing of connections.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

Dialect = Literal["sqlite", "postgresql"]
Row = TypeVar("Row", bound=tuple[Any, ...])

_POSITION = "position"
Position = Annotated[int, _POSITION]
"""A place in the one stream: absolute (below zero: backfilled), or `Pos` in a change."""


@dataclass(frozen=True)
class Index:
    """An index over `columns`; `where` makes it partial."""

    columns: tuple[str, ...]
    unique: bool = False
    where: str | None = None


@dataclass(frozen=True)
class Column:
    name: str
    kind: type
    nullable: bool
    position: bool


@dataclass(frozen=True, eq=False)
class Table:
    """What the engines need to know of a table; `key_of(row)` picks the key out of a row."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexes: tuple[Index, ...]
    hot: bool
    arriving: bool
    key_of: Callable[[tuple[Any, ...]], Any]
    position_columns: tuple[int, ...]
    text_columns: tuple[int, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(next(c for c in self.columns if c.name == name) for name in self.key)


TABLES: dict[type[tuple[Any, ...]], Table] = {}
"""Every table by its row type, in order of declaration."""


def table(
    name: str,
    key: Sequence[str],
    indexes: Sequence[Index] = (),
    *,
    hot: bool = False,
    arriving: bool = False,
) -> Callable[[type[Row]], type[Row]]:
    """Declare the decorated NamedTuple as a table.

    `hot` rows are updated again and again. `arriving` rows come and go in many places of the key's
    order at once: they are kept in the order in which they came, and the key beside them.
    """

    def declare(row_type: type[Row]) -> type[Row]:
        columns = tuple(
            _column(column, hint)
            for column, hint in get_type_hints(row_type, include_extras=True).items()
        )
        names = [column.name for column in columns]
        TABLES[row_type] = Table(
            name=name,
            columns=columns,
            key=tuple(key),
            indexes=tuple(indexes),
            hot=hot,
            arriving=arriving,
            key_of=itemgetter(*(names.index(k) for k in key)),
            position_columns=tuple(i for i, column in enumerate(columns) if column.position),
            text_columns=tuple(i for i, column in enumerate(columns) if column.kind is str),
        )
        return row_type

    return declare


def _column(name: str, hint: Any) -> Column:
    nullable = position = False
    if get_origin(hint) is UnionType or type(None) in get_args(hint):
        nullable = True
        (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is Annotated:
        hint, mark = get_args(hint)
        position = mark == _POSITION
    return Column(name, hint, nullable, position)


_TYPES: dict[Dialect, dict[type, str]] = {
    "sqlite": {int: "INTEGER", str: "TEXT", bytes: "BLOB"},
    "postgresql": {int: "BIGINT", str: 'TEXT COLLATE "C"', bytes: "BYTEA"},
}


WORDS = "message_index"
"""The table in which words are looked up: made in each database's own way."""

_WORDS: dict[Dialect, tuple[str, ...]] = {
    "sqlite": (
        (
            "CREATE VIRTUAL TABLE message_index USING fts5"
            " (tokens, content='', contentless_delete=1, detail=none)"
        ),
    ),
    "postgresql": (
        (
            'CREATE TABLE message_index (rowid BIGINT NOT NULL, tokens TEXT COLLATE "C" NOT NULL,'
            " PRIMARY KEY (rowid))"
        ),
        (
            "CREATE INDEX message_index_by_tokens ON message_index"
            " USING gin (to_tsvector('simple', tokens))"
        ),
    ),
}


def create_statements(dialect: Dialect) -> list[str]:
    """The DDL of all tables and indexes, one statement each."""
    return [text for declared in TABLES.values() for text in table_statements(declared, dialect)]


def table_statements(declared: Table, dialect: Dialect) -> list[str]:
    """The DDL of one table and its indexes."""
    if declared.name == WORDS:
        return list(_WORDS[dialect])
    statements = [create_table(declared, dialect)]
    for index in declared.indexes:
        unique = "UNIQUE " if index.unique else ""
        where = f" WHERE {index.where}" if index.where else ""
        statements.append(
            f"CREATE {unique}INDEX {declared.name}_by_{'_'.join(index.columns)}"
            f" ON {declared.name} ({', '.join(index.columns)}){where}"
        )
    return statements


def create_table(declared: Table, dialect: Dialect) -> str:
    """The CREATE TABLE of one table."""
    columns = [
        f"{column.name} {_TYPES[dialect][column.kind]}{'' if column.nullable else ' NOT NULL'}"
        for column in declared.columns
    ]
    columns.append(f"PRIMARY KEY ({', '.join(declared.key)})")
    rowid = declared.arriving or (len(declared.key) == 1 and declared.key_columns[0].kind is int)
    if dialect == "sqlite":
        options = " STRICT" if rowid else " STRICT, WITHOUT ROWID"
    else:
        options = " WITH (fillfactor = 10)" if declared.hot else ""
    return f"CREATE TABLE {declared.name} ({', '.join(columns)}){options}"


# --- The database itself -------------------------------------------------------------------------


@table("stream", key=("one",), hot=True)
class StreamRow(NamedTuple):
    """The single row: the last position given out and the current view of the workers."""

    one: int
    pos: int
    view: int


@table("views", key=("view",))
class ViewRow(NamedTuple):
    """Who the workers were in a view (JSON list of their ids); never changed."""

    view: int
    members: str


@table("workers", key=("id",), hot=True)
class WorkerRow(NamedTuple):
    """A process: number of its last batch, the stream's position after it, lease in ms.

    SQLite's one process leaves these as they are: whether a batch was committed is never in doubt.
    """

    id: str
    address: str | None
    batch: int
    pos: int
    lease_until: int


@table("numbers", key=("counter",), hot=True)
class NumberRow(NamedTuple):
    """The next number that was never given out, by counter."""

    counter: str
    next: int


@table("meta", key=("key",))
class MetaRow(NamedTuple):
    key: str
    value: str


@table("timelines", key=("timeline_nid",))
class TimelineRow(NamedTuple):
    """One for every start of a server; a sync token is valid for the timeline that it names."""

    timeline_nid: int
    id: str
    from_pos: int


@table("names", key=("name_nid",), indexes=[Index(("name",), unique=True)])
class NameRow(NamedTuple):
    """Interned strings: user ids, event types, state keys, server names."""

    name_nid: int
    name: str


@table("state_keys", key=("key_nid",), indexes=[Index(("type_nid", "name_nid"), unique=True)])
class StateKeyRow(NamedTuple):
    """Interned (event type, state key)."""

    key_nid: int
    type_nid: int
    name_nid: int


# --- Rooms and events ----------------------------------------------------------------------------


@table("rooms", key=("room_nid",), indexes=[Index(("room_id",), unique=True)])
class RoomRow(NamedTuple):
    """flags: 1 made by a local user, 2 not federatable."""

    room_nid: int
    room_id: str
    version: str
    flags: int
    created_ts: int


REJECTED = 1
SOFT_FAILED = 2
REDACTED = 4
NOTIFIES = 8
LOCAL = 16
LINEAR = 32
OUTLIER = 64
HIGHLIGHTS = 128


@table(
    "events",
    key=("event_nid",),
    indexes=[
        Index(("event_id", "room_nid"), unique=True),
        Index(("room_nid", "pos"), unique=True, where="pos IS NOT NULL"),
        Index(("room_nid",), where="key_nid IS NOT NULL"),
        Index(("room_nid", "origin_ts"), where="pos IS NOT NULL"),
        Index(("pos",), where="(flags & 16) <> 0"),
    ],
)
class EventRow(NamedTuple):
    """An event without its JSON.

    `snap_nid` is the state before it; `prevs` and `auths` are `packing.pack_numbers` of event
    numbers. flags: REJECTED, SOFT_FAILED, REDACTED, NOTIFIES, LOCAL (ours to send), LINEAR (the
    state before it is the room's current state at pos - 1), OUTLIER, HIGHLIGHTS (for all).
    """

    event_nid: int
    event_id: str
    room_nid: int
    pos: Position | None
    depth: int
    type_nid: int
    key_nid: int | None
    sender_nid: int
    origin_ts: int
    snap_nid: int | None
    flags: int
    prevs: bytes
    auths: bytes


@table("event_json", key=("event_nid",))
class EventJsonRow(NamedTuple):
    """`json` is `compression.pack_json` of the canonical PDU; plain JSON can be read too."""

    event_nid: int
    json: bytes


@table("event_children", key=("prev_nid", "event_nid"))
class EventChildRow(NamedTuple):
    prev_nid: int
    event_nid: int


@table("missing_prevs", key=("room_nid", "event_id", "child_nid"))
class MissingPrevRow(NamedTuple):
    """`event_id` is named by `child_nid` as a previous event, and is not in the timeline here.

    It is absent, or an outlier: the room's history goes on behind it.
    """

    room_nid: int
    event_id: str
    child_nid: int


@table("redactions", key=("room_nid", "redacts", "event_nid"))
class RedactionRow(NamedTuple):
    """Event `event_nid` redacts the event of id `redacts`, here or not."""

    room_nid: int
    redacts: str
    event_nid: int


@table("mass_redactions", key=("room_nid", "user_nid"))
class MassRedactionRow(NamedTuple):
    """Event `event_nid` redacts what the user has sent; what stands before `before` is not done."""

    room_nid: int
    user_nid: int
    event_nid: int
    before: Position


@table("message_index", key=("rowid",))
class MessageIndexRow(NamedTuple):
    """The words of a message, name or topic (`rowid` its event's number), see `storage.search`."""

    rowid: int
    tokens: str


@table("waiting_words", key=("event_nid",))
class WaitingWordsRow(NamedTuple):
    """What soon becomes a row of `message_index`: many at once cost a fraction of one by one."""

    event_nid: int
    tokens: str


@table("relations", key=("room_nid", "parent_id", "pos"))
class RelationRow(NamedTuple):
    """An accepted event that says how it relates to the event `parent_id`, here or not.

    A redacted event has none. `key_hash` stands for an annotation's key, `ts` is the event's own.
    """

    room_nid: int
    parent_id: str
    pos: Position
    event_nid: int
    rel_type: str
    type_nid: int
    sender_nid: int
    ts: int
    key_hash: int | None


@table("threads", key=("room_nid", "root_id"), indexes=[Index(("room_nid", "pos"))])
class ThreadRow(NamedTuple):
    """A thread that has events; `pos` is the position of its last one."""

    room_nid: int
    root_id: str
    pos: Position


@table(
    "thread_subscriptions",
    key=("user_nid", "room_nid", "root_id"),
    indexes=[Index(("user_nid", "pos"))],
)
class ThreadSubscriptionRow(NamedTuple):
    """What a user wants of a thread; `pos` is where the stream stood when this was said."""

    user_nid: int
    room_nid: int
    root_id: str
    subscribed: int
    automatic: int
    pos: Position


@table(
    "txn_ids",
    key=("device_nid", "path_hash", "txn_id"),
    indexes=[Index(("event_nid",))],
)
class TxnIdRow(NamedTuple):
    device_nid: int
    path_hash: int
    txn_id: str
    event_nid: int
    ts: int


# --- State ---------------------------------------------------------------------------------------


@table("snapshots", key=("snap_nid",), indexes=[Index(("room_nid", "state_hash"))])
class SnapshotRow(NamedTuple):
    """A room's state in three levels: 0 keyframe, 1 cumulative from anchor, 2 delta from parent.

    `entries` is `packing.pack_entries`; `size` the number of keys in the whole state.
    """

    snap_nid: int
    room_nid: int
    parent_nid: int | None
    anchor_nid: int | None
    level: int
    size: int
    state_hash: bytes
    entries: bytes


@table("current_state", key=("room_nid", "key_nid"))
class CurrentStateRow(NamedTuple):
    room_nid: int
    key_nid: int
    event_nid: int


@table(
    "state_changes",
    key=("room_nid", "pos", "key_nid"),
    indexes=[Index(("room_nid", "key_nid", "pos"))],
)
class StateChangeRow(NamedTuple):
    """At `pos` the current state's `key_nid` went from `old_nid` to `new_nid` (None: absent)."""

    room_nid: int
    pos: Position
    key_nid: int
    old_nid: int | None
    new_nid: int | None


@table("state_resets", key=("room_nid", "pos", "what", "user_id"))
class StateResetRow(NamedTuple):
    """What state resolution has taken from a user by the event `event_nid`, at `pos`.

    `lost_nid` is the state event that counted before, `left_nid` the one that counts since; `was`
    and `now` are memberships or levels, by `what`.
    """

    room_nid: int
    pos: Position
    what: str
    user_id: str
    event_nid: int
    lost_nid: int
    left_nid: int | None
    was: str
    now: str
    ts: int


@table("room_heads", key=("room_nid",))
class RoomHeadRow(NamedTuple):
    """Forward extremities (packed numbers), the state after them, the room's last position."""

    room_nid: int
    extremities: bytes
    snap_nid: int
    depth: int
    last_pos: Position


@table(
    "room_summary",
    key=("room_nid",),
    indexes=[
        Index(
            ("joined", "room_nid"),
            where="published = 1 AND joined > 0"
            " AND (join_rule NOT IN ('invite', 'private') OR visibility = 'world_readable')",
        )
    ],
)
class RoomSummaryRow(NamedTuple):
    """What is said of a room without looking into its state.

    The index holds the rooms that the directory lists: published ones that somebody is in, and that
    strangers may join, knock at or read.
    """

    room_nid: int
    name: str | None
    topic: str | None
    avatar: str | None
    alias: str | None
    room_type: str | None
    join_rule: str
    visibility: str
    encryption: str | None
    guest_access: str
    joined: int
    invited: int
    published: int


def empty_summary(room_nid: int, *, published: bool = False) -> RoomSummaryRow:
    """The summary of a room without state."""
    return RoomSummaryRow(
        room_nid=room_nid,
        name=None,
        topic=None,
        avatar=None,
        alias=None,
        room_type=None,
        join_rule="invite",
        visibility="shared",
        encryption=None,
        guest_access="forbidden",
        joined=0,
        invited=0,
        published=int(published),
    )


@table("joins_under_way", key=("room_id", "user_id"))
class JoinUnderWayRow(NamedTuple):
    """A local user joins a room through other servers; `args` is JSON."""

    room_id: str
    user_id: str
    args: bytes


# --- Membership ----------------------------------------------------------------------------------

JOIN = 1
INVITE = 2
KNOCK = 3
LEAVE = 4
BAN = 5

FORGOTTEN = 1


@table("memberships", key=("room_nid", "user_nid"), indexes=[Index(("user_nid", "membership"))])
class MembershipRow(NamedTuple):
    """A user's current membership: JOIN, INVITE, KNOCK, LEAVE or BAN. flags: 1 FORGOTTEN.

    `stripped` is the stripped state (JSON) that came with an invite or a knock.
    """

    room_nid: int
    user_nid: int
    membership: int
    event_nid: int
    pos: Position
    flags: int
    stripped: bytes | None


@table(
    "membership_log",
    key=("user_nid", "room_nid", "pos"),
    indexes=[Index(("user_nid", "pos"))],
)
class MembershipLogRow(NamedTuple):
    """Every change of a local user's membership."""

    user_nid: int
    room_nid: int
    pos: Position
    membership: int
    event_nid: int


@table("aliases", key=("alias",), indexes=[Index(("room_nid",))])
class AliasRow(NamedTuple):
    alias: str
    room_nid: int
    creator_nid: int


# --- What belongs to a user ----------------------------------------------------------------------

READ = 1
READ_PRIVATE = 2


@table(
    "receipts",
    key=("room_nid", "user_nid", "kind", "thread"),
    indexes=[Index(("room_nid", "pos")), Index(("user_nid",))],
)
class ReceiptRow(NamedTuple):
    """kind: 1 m.read, 2 m.read.private; `thread` is empty for an unthreaded receipt."""

    room_nid: int
    user_nid: int
    kind: int
    thread: str
    event_id: str
    event_pos: Position
    ts: int
    pos: Position


@table("mentions", key=("user_nid", "room_nid", "pos"))
class MentionRow(NamedTuple):
    """The event at `pos` mentions a local member, so that the default rules highlight it."""

    user_nid: int
    room_nid: int
    pos: Position


@table(
    "pushers",
    key=("user_nid", "app_id", "pushkey"),
    indexes=[
        Index(("app_id", "pushkey")),
        Index(("device_nid",)),
        Index(("stop_token",), where="stop_token IS NOT NULL"),
    ],
    hot=True,
)
class PusherRow(NamedTuple):
    """Where a user's notifications go; it ends with the device that made it.

    `json` is what the client said of it. `pending_pos`: the gateway fails, and has not been told
    what came after that position. The times are milliseconds; `success_ts` may be some minutes
    behind. Pushers by mail alone have what follows `error_ts`: up to `mailed_pos` all was mailed or
    needs no mail; `due_ts` is when the next mail is due, None when nothing waits; none is sent
    before `rest_until_ts`, and `rest_s` (seconds) is how long the pause after the last mail was;
    who knows `stop_token` may end the pusher.
    """

    user_nid: int
    app_id: str
    pushkey: str
    device_nid: int
    json: bytes
    enabled: int
    created_ts: int
    pending_pos: int | None = None
    success_ts: int | None = None
    error: str | None = None
    error_ts: int | None = None
    mailed_pos: int | None = None
    due_ts: int | None = None
    rest_until_ts: int = 0
    rest_s: int = 0
    stop_token: str | None = None


@table("push_cursor", key=("one",), hot=True)
class PushCursorRow(NamedTuple):
    """The single row: all up to `pos` was pushed, or is noted at its pusher."""

    one: int
    pos: int


@table("account_data", key=("user_nid", "room_nid", "type"), indexes=[Index(("user_nid", "pos"))])
class AccountDataRow(NamedTuple):
    """`room_nid` is 0 for what belongs to no room; `content` is JSON."""

    user_nid: int
    room_nid: int
    type: str
    content: bytes
    pos: Position


ADMIN = 1
DEACTIVATED = 2
GUEST = 4
SUSPENDED = 8
LOCKED = 16
SERVICE = 32


@table("users", key=("user_nid",), indexes=[Index(("localpart",), unique=True)])
class UserRow(NamedTuple):
    """A local account. flags: 1 ADMIN, 2 DEACTIVATED, 4 GUEST, 8 SUSPENDED, 16 LOCKED, 32 SERVICE.

    SERVICE: an application service made it, or the server itself for its notices.
    """

    user_nid: int
    localpart: str
    password: str | None
    flags: int
    created_ts: int


@table("profiles", key=("user_nid", "field"))
class ProfileRow(NamedTuple):
    """`value` is JSON."""

    user_nid: int
    field: str
    value: bytes


@table("known_users", key=("user_nid",))
class KnownUserRow(NamedTuple):
    """A user who can be found by name; `found` is id and name as they are compared."""

    user_nid: int
    user_id: str
    name: str | None
    avatar: str | None
    found: str


@table("profile_changes", key=("user_nid",))
class ProfileChangeRow(NamedTuple):
    """A profile of which not all rooms may know yet.

    `former` is JSON: by field, the values that rooms may still show; `number` names the newest
    change, so that a job which tells of an older one can stop.
    """

    user_nid: int
    number: int
    former: bytes


@table("accepted_terms", key=("user_nid", "policy"))
class AcceptedTermsRow(NamedTuple):
    """The version of a policy document that a user accepted, and when (ms)."""

    user_nid: int
    policy: str
    version: str
    ts: int


@table("erasures", key=("user_nid",))
class ErasureRow(NamedTuple):
    """A user whose events those get redacted who could not read them at `pos`."""

    user_nid: int
    pos: Position


OFFLINE = 0
UNAVAILABLE = 1
ONLINE = 2


@table("presence", key=("user_nid",), indexes=[Index(("last_active_ts",))])
class PresenceRow(NamedTuple):
    """What a user's presence was when it was last written: OFFLINE, UNAVAILABLE or ONLINE."""

    user_nid: int
    state: int
    status_msg: str | None
    last_active_ts: int


@table("devices", key=("device_nid",), indexes=[Index(("user_nid", "device_id"), unique=True)])
class DeviceRow(NamedTuple):
    device_nid: int
    user_nid: int
    device_id: str
    name: str | None
    last_seen_ts: int | None
    last_ip: str | None


@table(
    "access_tokens",
    key=("token_hash",),
    indexes=[
        Index(("device_nid",)),
        Index(("refresh_hash",), unique=True, where="refresh_hash IS NOT NULL"),
    ],
)
class AccessTokenRow(NamedTuple):
    """An access token, and the refresh token that was given out with it; only their hashes.

    `replaces` is the access token before it, which ends when this one or its refresh token is first
    used. `refresh_expires_ts` None: never.
    """

    token_hash: bytes
    device_nid: int
    user_nid: int
    expires_ts: int | None
    refresh_hash: bytes | None = None
    refresh_expires_ts: int | None = None
    replaces: bytes | None = None


@table("login_tokens", key=("token_hash",), indexes=[Index(("expires_ts",))])
class LoginTokenRow(NamedTuple):
    """A token with which its user can be logged in once."""

    token_hash: bytes
    user_nid: int
    expires_ts: int


@table("filters", key=("user_nid", "filter_nid"))
class FilterRow(NamedTuple):
    user_nid: int
    filter_nid: int
    json: bytes


@table("registration_tokens", key=("token",))
class RegistrationTokenRow(NamedTuple):
    token: str
    uses_allowed: int | None
    completed: int
    expires_ts: int | None


@table("uia_sessions", key=("session_id",), indexes=[Index(("expires_ts",))])
class UiaSessionRow(NamedTuple):
    session_id: str
    json: bytes
    expires_ts: int


@table("jobs", key=("job_nid",), indexes=[Index(("run_at",))])
class JobRow(NamedTuple):
    """Work to be done once at or after `run_at` (ms); `args` is JSON."""

    job_nid: int
    kind: str
    args: bytes
    run_at: int
    tries: int


@table("reports", key=("report_nid",), indexes=[Index(("state", "report_nid"))])
class ReportRow(NamedTuple):
    """What a user has reported: a room, an event of it, or a user. `state`: open, closed."""

    report_nid: int
    reporter_nid: int
    room_id: str | None
    event_id: str | None
    user_id: str | None
    reason: str
    ts: int
    state: str
    note: str


@table("delayed_events", key=("delay_id",), indexes=[Index(("run_at",)), Index(("user_nid",))])
class DelayedEventRow(NamedTuple):
    """An event that is sent at `run_at` (ms) unless its user says otherwise; `content` is JSON."""

    delay_id: str
    user_nid: int
    device_nid: int | None
    room_nid: int
    type: str
    state_key: str | None
    content: bytes
    delay: int
    since: int
    run_at: int
    sticky_ms: int | None


@table("sticky_events", key=("event_nid",), indexes=[Index(("room_nid", "pos")), Index(("until",))])
class StickyEventRow(NamedTuple):
    """An event that is sticky `until` (ms) and told at `pos`, 0 while it is held back.

    `own` 1: a user of ours has sent it.
    """

    event_nid: int
    room_nid: int
    pos: Position
    until: int
    own: int


# --- End-to-end encryption -----------------------------------------------------------------------


@table(
    "device_lists",
    key=("user_nid",),
    indexes=[
        Index(("pos",)),
        Index(("server",), where="server <> ''"),
        Index(("stale",), where="stale > 0"),
    ],
)
class DeviceListRow(NamedTuple):
    """A user whose devices or signing keys changed, last at `pos`; nothing is kept by recipient.

    `version` is the stream id of the last change as servers tell each other. `server` is empty for
    a local user, of whom `device_id` is the device that changed last, at `devices_pos`, and
    `signing_pos` where the signing keys did. Of others a copy is kept (`version` 0: of unknown
    stream id), which must be fetched anew while `stale` is 1.
    """

    user_nid: int
    server: str
    pos: Position
    version: int
    stale: int
    device_id: str
    devices_pos: Position
    signing_pos: Position


@table("device_keys", key=("device_nid",))
class DeviceKeysRow(NamedTuple):
    """The identity keys of a local device: JSON as it was uploaded."""

    device_nid: int
    json: bytes


@table("remote_devices", key=("user_nid", "device_id"))
class RemoteDeviceRow(NamedTuple):
    """A device of another server's user; `json` its identity keys, None when it has none."""

    user_nid: int
    device_id: str
    name: str | None
    json: bytes | None


@table(
    "one_time_keys",
    key=("key_nid",),
    indexes=[
        Index(("device_nid", "algorithm", "key_id"), unique=True),
        Index(("device_nid", "algorithm", "key_nid"), where="claim_nid IS NULL"),
        Index(("claim_nid",), where="claim_nid IS NOT NULL"),
    ],
)
class OneTimeKeyRow(NamedTuple):
    """A one-time key of a device, numbered in the order of upload.

    `claim_nid` names the claim that it was given to; the row stays while the device does, without
    its JSON, so that no id is given out twice. `digest` tells whether another upload is the same.
    """

    key_nid: int
    device_nid: int
    algorithm: str
    key_id: str
    digest: bytes
    json: bytes
    claim_nid: int | None


@table("fallback_keys", key=("device_nid", "algorithm"))
class FallbackKeyRow(NamedTuple):
    """The key that is given out when a device has no one-time key; `used` 1 once that was so."""

    device_nid: int
    algorithm: str
    key_id: str
    json: bytes
    used: int


MASTER = 1
SELF_SIGNING = 2
USER_SIGNING = 3


@table("signing_keys", key=("user_nid", "usage"))
class SigningKeyRow(NamedTuple):
    """A cross-signing key: MASTER, SELF_SIGNING or USER_SIGNING; JSON with its own signatures."""

    user_nid: int
    usage: int
    json: bytes


@table(
    "key_signatures",
    key=("signer_nid", "user_nid", "key_name", "signer_key"),
    indexes=[Index(("signer_nid", "pos"))],
)
class KeySignatureRow(NamedTuple):
    """A signature that was uploaded on a key of `user_nid`, a device id or a public key."""

    signer_nid: int
    user_nid: int
    key_name: str
    signer_key: str
    signature: str
    pos: Position


@table("to_device", key=("device_nid", "pos"), arriving=True)
class ToDeviceRow(NamedTuple):
    """A message that waits for a device; JSON as /sync shows it."""

    device_nid: int
    pos: Position
    json: bytes


@table("parcels", key=("pos",))
class ParcelRow(NamedTuple):
    """Messages that came together and soon become rows of `to_device`, unless they are fetched.

    `messages` is JSON: the array of the devices' numbers, and that of their messages.
    """

    pos: Position
    messages: bytes


@table("message_ids", key=("source", "message_id"), indexes=[Index(("ts",))])
class MessageIdRow(NamedTuple):
    """A transaction of to-device messages that was taken: of a local device, or of a server."""

    source: str
    message_id: str
    ts: int


@table("dehydrated_devices", key=("user_nid",))
class DehydratedDeviceRow(NamedTuple):
    """The device of a user that takes messages while no other does; `json` is what restores it."""

    user_nid: int
    device_nid: int
    json: bytes


@table("backups", key=("user_nid", "version"))
class BackupRow(NamedTuple):
    """A version of a user's key backup; `deleted` ones stay, so that no number comes again."""

    user_nid: int
    version: int
    algorithm: str
    auth_data: bytes
    etag: int
    sessions: int
    deleted: int


@table("backup_keys", key=("user_nid", "version", "room_id", "session_id"))
class BackupKeyRow(NamedTuple):
    """A session in a backup: what its replacement goes by, and its encrypted data (JSON)."""

    user_nid: int
    version: int
    room_id: str
    session_id: str
    first_index: int
    forwarded: int
    verified: int
    json: bytes


# --- Other servers -------------------------------------------------------------------------------


@table("lookups", key=("kind", "name"), indexes=[Index(("keep_until",))], hot=True)
class LookupRow(NamedTuple):
    """What was found out about a name: `kind` well-known, srv or address; `answer` is JSON.

    It is fresh until `expires_ts`, and may stand in for a failed look-up until `keep_until` (ms).
    """

    kind: str
    name: str
    answer: bytes
    expires_ts: int
    keep_until: int


@table(
    "destinations",
    key=("server",),
    indexes=[Index(("retry_ts",), where="last_success_ts IS NULL")],
    hot=True,
)
class DestinationRow(NamedTuple):
    """How it goes with another server; times in ms.

    `failing_since_ts` is None while it answers. `pause_ms` is the pause before `retry_ts`; `error`
    says in words why the last try failed.
    """

    server: str
    last_success_ts: int | None
    failing_since_ts: int | None
    failures: int
    pause_ms: int
    retry_ts: int
    error: str


@table("blocked_servers", key=("server",))
class BlockedServerRow(NamedTuple):
    """A server that is neither asked nor answered, since when (ms)."""

    server: str
    since_ts: int


@table("room_servers", key=("room_nid", "server_nid"), indexes=[Index(("server_nid",))])
class RoomServerRow(NamedTuple):
    """How many users of another server are joined in a room; without any there is no row."""

    room_nid: int
    server_nid: int
    joined: int


@table(
    "server_stays",
    key=("room_nid", "server_nid", "pos"),
    indexes=[Index(("server_nid", "pos"))],
)
class ServerStayRow(NamedTuple):
    """At `pos` the first user of another server came into a room (`inside` 1), or the last left."""

    room_nid: int
    server_nid: int
    pos: Position
    inside: int


@table("deliveries", key=("server",), hot=True)
class DeliveryRow(NamedTuple):
    """A server that is behind: it has had everything up to `pos`.

    The row of the empty name stands for all others.
    """

    server: str
    pos: int


@table("pdu_outbox", key=("server", "pos", "event_nid"))
class PduOutboxRow(NamedTuple):
    """An event that a server must have although it was not in the room then, until it has it."""

    server: str
    pos: Position
    event_nid: int


@table("edus", key=("edu_nid",))
class EduRow(NamedTuple):
    """The content (JSON) of an EDU that must not be lost."""

    edu_nid: int
    type: str
    content: bytes


@table(
    "edu_outbox",
    key=("server", "pos", "edu_nid"),
    indexes=[Index(("edu_nid",)), Index(("server", "key"), where="key IS NOT NULL")],
)
class EduOutboxRow(NamedTuple):
    """An EDU that a server must have, until it has it; a later one of its `key` replaces it."""

    server: str
    pos: Position
    edu_nid: int
    key: str | None


@table(
    "inbound_pdus",
    key=("room_nid", "event_id"),
    indexes=[Index(("room_nid", "seq")), Index(("retry_ts",))],
)
class InboundPduRow(NamedTuple):
    """An event that another server has sent, until the room has judged it.

    `verified`: its signatures were checked. It is not tried again before `retry_ts` (ms).
    """

    room_nid: int
    event_id: str
    seq: int
    origin: str
    pdu: bytes
    verified: int
    tries: int
    retry_ts: int


@table("inbound_txns", key=("server", "txn_id"), indexes=[Index(("ts",))])
class InboundTxnRow(NamedTuple):
    """A transaction of another server that was answered, with the answer (JSON)."""

    server: str
    txn_id: str
    answer: bytes
    ts: int


@table("server_keys", key=("server", "key_id"))
class ServerKeyRow(NamedTuple):
    """A public key of another server, valid up to and including `valid_until_ts` (ms).

    `expired_ts` is set for keys that the server no longer signs with; `digest` names the answer
    that the key came in.
    """

    server: str
    key_id: str
    public_key: bytes
    valid_until_ts: int
    expired_ts: int | None
    digest: bytes


@table("key_answers", key=("server", "digest"))
class KeyAnswerRow(NamedTuple):
    """A server's published keys as it signed them (`json`), with when they came (ms)."""

    server: str
    digest: bytes
    json: bytes
    valid_until_ts: int
    fetched_ts: int


@table("own_keys", key=("key_id",))
class OwnKeyRow(NamedTuple):
    """A key that this server signs with, or once did: until `expired_ts` (ms)."""

    key_id: str
    public_key: bytes
    expired_ts: int | None


# --- Application services ------------------------------------------------------------------------


@table("appservices", key=("id",), hot=True)
class AppserviceRow(NamedTuple):
    """An application service: its registration (`text`, `configured` if it stands in a file).

    It has acknowledged what happened up to `acked_pos`. Its transaction `txn_nid` was begun when
    `pending_pos` is beyond that: it holds what happened up to there.
    """

    id: str
    text: str
    configured: int
    acked_pos: int
    pending_pos: int
    txn_nid: int


@table("appservice_rooms", key=("network", "room_nid"))
class AppserviceRoomRow(NamedTuple):
    """A room in the directory of a third-party network, `network` being service and network id."""

    network: str
    room_nid: int


# --- Addresses outside of Matrix -----------------------------------------------------------------


@table("threepids", key=("medium", "address"), indexes=[Index(("user_nid",))])
class ThreepidRow(NamedTuple):
    """An address of an account; `id_servers` is the JSON list of identity servers that know it."""

    medium: str
    address: str
    user_nid: int
    validated_ts: int
    added_ts: int
    id_servers: str


@table(
    "validations",
    key=("sid",),
    indexes=[Index(("address", "client_secret", "purpose"), unique=True), Index(("expires_ts",))],
)
class ValidationRow(NamedTuple):
    """Whether somebody controls a mail address, which a client wants to know for a purpose.

    Of the token that was mailed only the hash; `validated_ts` is None until it came back.
    """

    sid: str
    address: str
    client_secret: str
    purpose: str
    token_hash: bytes
    attempt: int
    next_link: str | None
    validated_ts: int | None
    expires_ts: int


# --- Media ---------------------------------------------------------------------------------------

MEDIA_QUARANTINED = 1
MEDIA_OPEN = 2
MEDIA_OF_SERVICE = 4


@table(
    "media",
    key=("server", "media_id"),
    indexes=[
        Index(("hash",), where="hash IS NOT NULL"),
        Index(("uploader_nid", "created_ts"), where="uploader_nid IS NOT NULL"),
        Index(("used_ts",), where="used_ts IS NOT NULL"),
        Index(("expires_ts",), where="expires_ts IS NOT NULL"),
        Index(("server", "media_id"), where="hash IS NULL AND uploader_nid IS NULL"),
    ],
)
class MediaRow(NamedTuple):
    """What an mxc:// URI names; `hash` is None while nothing was uploaded, until `expires_ts` (ms).

    `uploader_nid` is None for what is only cached (files of other servers, pictures of previews),
    which is dropped when it was not used for long: `used_ts` (ms) is set for it alone. flags: 1
    MEDIA_QUARANTINED, 2 MEDIA_OPEN (readable without an access token), 4 MEDIA_OF_SERVICE (an
    application service has uploaded it).
    """

    server: str
    media_id: str
    hash: bytes | None
    size: int
    content_type: str
    filename: str | None
    uploader_nid: int | None
    created_ts: int
    used_ts: int | None
    expires_ts: int | None
    flags: int


@table("media_usage", key=("user_nid",), hot=True)
class MediaUsageRow(NamedTuple):
    """How many bytes in how many files a user has uploaded that are still there."""

    user_nid: int
    bytes: int
    files: int


@table("blobs", key=("hash",))
class BlobRow(NamedTuple):
    """A stored file by the SHA-256 of its content; `place` 0: the local disk, 1: S3."""

    hash: bytes
    size: int
    place: int
    created_ts: int


@table("blobs_in_doubt", key=("hash", "place"))
class BlobInDoubtRow(NamedTuple):
    """A file that is being written or removed; who finds this at a start decides by `blobs`."""

    hash: bytes
    place: int


@table("thumbnails", key=("hash", "spec"), indexes=[Index(("thumb_hash",))])
class ThumbnailRow(NamedTuple):
    """A smaller form of a picture; `spec` says which. The hash itself: the picture is small."""

    hash: bytes
    spec: str
    thumb_hash: bytes
    size: int
    content_type: str


@table("url_previews", key=("url",), indexes=[Index(("expires_ts",))])
class UrlPreviewRow(NamedTuple):
    """What a web page was found to say of itself (JSON), None for one that could not be had."""

    url: str
    found: bytes | None
    expires_ts: int


@table("judged_hashes", key=("hash",))
class JudgedHashRow(NamedTuple):
    """A content that is not shown; `blocked` 1: nor kept or taken. `ts` in ms."""

    hash: bytes
    blocked: int
    reason: str
    ts: int


SHOWN_BY_EVENT = 0
SHOWN_BY_PROFILE = 1
SHOWN_BY_ACCOUNT_DATA = 2
MAY_BE_SHOWN = 3


@table(
    "media_shown",
    key=("media_id", "kind", "nid", "part"),
    indexes=[Index(("nid", "part"), where="kind <> 0")],
)
class MediaShownRow(NamedTuple):
    """Something that names a file of this server, or may do so.

    `kind` 0 SHOWN_BY_EVENT: the event `nid`; 1 SHOWN_BY_PROFILE: the field `part` of the user
    `nid`; 2 SHOWN_BY_ACCOUNT_DATA: the account data `part` ("room_nid type") of the user `nid`;
    3 MAY_BE_SHOWN: the encrypted event `nid`, 0 for too many of them.
    """

    media_id: str
    kind: int
    nid: int
    part: str


@table(
    "media_left",
    key=("server", "media_id", "sender_nid"),
    indexes=[Index(("ts",), where="ts IS NOT NULL")],
)
class MediaLeftRow(NamedTuple):
    """A user has shown a file and does so less than before, since `ts` (ms).

    None: that was looked at, and others still show it.
    """

    server: str
    media_id: str
    sender_nid: int
    ts: int | None

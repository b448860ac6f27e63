"""The numbered versions of the schema, and the way from any older one to the newest.

A new database is made from `schema` as it stands and has the newest version at once; an older one
runs the steps it lacks; either happens in one transaction that the engine owns. Invariant: both
ways end with the same tables. The row `schema_version` of `meta` says what a database is.
"""

from collections.abc import Callable, Sequence
from typing import Final

from storage.engine import DatabaseTooNew
from storage.media_shown import UNLISTED
from storage.schema import (
    TABLES,
    AppserviceRoomRow,
    AppserviceRow,
    BackupKeyRow,
    BackupRow,
    BlobInDoubtRow,
    BlobRow,
    BlockedServerRow,
    DehydratedDeviceRow,
    DeliveryRow,
    DeviceKeysRow,
    DeviceListRow,
    Dialect,
    EduOutboxRow,
    EduRow,
    FallbackKeyRow,
    InboundPduRow,
    InboundTxnRow,
    JoinUnderWayRow,
    JudgedHashRow,
    KeySignatureRow,
    KnownUserRow,
    MassRedactionRow,
    MediaLeftRow,
    MediaRow,
    MediaShownRow,
    MediaUsageRow,
    MentionRow,
    MessageIdRow,
    MessageIndexRow,
    MetaRow,
    OneTimeKeyRow,
    ParcelRow,
    PduOutboxRow,
    PushCursorRow,
    RelationRow,
    RemoteDeviceRow,
    ReportRow,
    RoomServerRow,
    ServerStayRow,
    SigningKeyRow,
    StateResetRow,
    StickyEventRow,
    ThreadRow,
    ThreepidRow,
    ThumbnailRow,
    ToDeviceRow,
    UrlPreviewRow,
    ValidationRow,
    WaitingWordsRow,
    create_statements,
    create_table,
    table_statements,
)

# New tables are named, other changes written out. A step is closed as soon as others may have run
# it; `tests/storage/versions` has what it led to.
_NEW_IN_2: Final[tuple[type, ...]] = (
    AppserviceRow,
    AppserviceRoomRow,
    BlockedServerRow,
    RoomServerRow,
    ServerStayRow,
    DeliveryRow,
    PduOutboxRow,
    EduRow,
    InboundPduRow,
    InboundTxnRow,
    EduOutboxRow,
    JoinUnderWayRow,
    RelationRow,
    ReportRow,
    ThreadRow,
    MentionRow,
    KnownUserRow,
    MessageIndexRow,
    WaitingWordsRow,
    DeviceListRow,
    DeviceKeysRow,
    RemoteDeviceRow,
    OneTimeKeyRow,
    FallbackKeyRow,
    SigningKeyRow,
    KeySignatureRow,
    ToDeviceRow,
    MessageIdRow,
    DehydratedDeviceRow,
    BackupRow,
    BackupKeyRow,
    ThreepidRow,
    ValidationRow,
    PushCursorRow,
    MediaRow,
    MediaUsageRow,
    BlobRow,
    BlobInDoubtRow,
    JudgedHashRow,
    ThumbnailRow,
)
_CHANGED_IN_2: Final[tuple[str, ...]] = (
    (
        "INSERT INTO known_users (user_nid, user_id, name, avatar, found)"
        " SELECT user_nid, names.name, NULL, NULL, lower(names.name) FROM users"
        " JOIN names ON name_nid = user_nid"
    ),
    (
        "CREATE INDEX events_by_room_nid_origin_ts ON events (room_nid, origin_ts)"
        " WHERE pos IS NOT NULL"
    ),
    "CREATE INDEX events_by_pos ON events (pos) WHERE (flags & 16) <> 0",
)


_DELAYED_IN_2: Final = (
    (
        "CREATE TABLE delayed_events (delay_id {text} NOT NULL, user_nid {number} NOT NULL,"
        " device_nid {number}, room_nid {number} NOT NULL, type {text} NOT NULL, state_key {text},"
        " content {bytes} NOT NULL, delay {number} NOT NULL, since {number} NOT NULL,"
        " run_at {number} NOT NULL, PRIMARY KEY (delay_id)) {plain}"
    ),
    "CREATE INDEX delayed_events_by_run_at ON delayed_events (run_at)",
    "CREATE INDEX delayed_events_by_user_nid ON delayed_events (user_nid)",
)
_PUSHERS_IN_2: Final = (
    (
        "CREATE TABLE pushers (user_nid {number} NOT NULL, app_id {text} NOT NULL,"
        " pushkey {text} NOT NULL, device_nid {number} NOT NULL, json {bytes} NOT NULL,"
        " enabled {number} NOT NULL, created_ts {number} NOT NULL, pending_pos {number},"
        " PRIMARY KEY (user_nid, app_id, pushkey)) {kind}"
    ),
    "CREATE INDEX pushers_by_app_id_pushkey ON pushers (app_id, pushkey)",
    "CREATE INDEX pushers_by_device_nid ON pushers (device_nid)",
)
_SUBSCRIPTIONS_IN_2: Final = (
    "CREATE TABLE thread_subscriptions (user_nid {number} NOT NULL, room_nid {number} NOT NULL,"
    " root_id {text} NOT NULL, subscribed {number} NOT NULL, automatic {number} NOT NULL,"
    " pos {number} NOT NULL, PRIMARY KEY (user_nid, room_nid, root_id)) {plain}"
)
_NEW_IN_3: Final[tuple[type, ...]] = (
    StateResetRow,
    MassRedactionRow,
    MediaShownRow,
    MediaLeftRow,
    UrlPreviewRow,
    StickyEventRow,
)
_COLUMNS_IN_3: Final[tuple[tuple[str, str], ...]] = (
    ("success_ts", "{number}"),
    ("error", "{text}"),
    ("error_ts", "{number}"),
    ("mailed_pos", "{number}"),
    ("due_ts", "{number}"),
    ("rest_until_ts", "{number} NOT NULL DEFAULT 0"),
    ("rest_s", "{number} NOT NULL DEFAULT 0"),
    ("stop_token", "{text}"),
)
_NEW_IN_4: Final[tuple[type, ...]] = (ParcelRow,)
_TO_DEVICE_IN_4: Final = (
    "ALTER TABLE to_device RENAME TO to_device_before",
    (
        "CREATE TABLE to_device (device_nid INTEGER NOT NULL, pos INTEGER NOT NULL,"
        " json BLOB NOT NULL, PRIMARY KEY (device_nid, pos)) STRICT"
    ),
    (
        "INSERT INTO to_device (device_nid, pos, json)"
        " SELECT device_nid, pos, json FROM to_device_before ORDER BY pos"
    ),
    "DROP TABLE to_device_before",
)
"""Rows in the order of their coming; PostgreSQL has always kept them so."""
_TYPES: Final[dict[Dialect, dict[str, str]]] = {
    "sqlite": {
        "number": "INTEGER",
        "text": "TEXT",
        "bytes": "BLOB",
        "kind": "STRICT, WITHOUT ROWID",
        "plain": "STRICT, WITHOUT ROWID",
    },
    "postgresql": {
        "number": "BIGINT",
        "text": 'TEXT COLLATE "C"',
        "bytes": "BYTEA",
        "kind": "WITH (fillfactor = 10)",
        "plain": "",
    },
}


def _tables(rows: Sequence[type], dialect: Dialect) -> list[str]:
    return [text for row_type in rows for text in table_statements(TABLES[row_type], dialect)]


def _second(dialect: Dialect) -> list[str]:
    texts = (*_DELAYED_IN_2, *_PUSHERS_IN_2, _SUBSCRIPTIONS_IN_2)
    written = [text.format(**_TYPES[dialect]) for text in texts]
    return [*_tables(_NEW_IN_2, dialect), *written, *_CHANGED_IN_2]


def _third(dialect: Dialect) -> list[str]:
    columns = [
        f"ALTER TABLE pushers ADD COLUMN {name} {kind.format(**_TYPES[dialect])}"
        for name, kind in _COLUMNS_IN_3
    ]
    if dialect == "postgresql":
        columns += [
            f"ALTER TABLE pushers ALTER COLUMN {name} DROP DEFAULT"
            for name in ("rest_until_ts", "rest_s")
        ]
    return [
        *_tables(_NEW_IN_3, dialect),
        *columns,
        "ALTER TABLE delayed_events ADD COLUMN sticky_ms {number}".format(**_TYPES[dialect]),
        "CREATE INDEX pushers_by_stop_token ON pushers (stop_token) WHERE stop_token IS NOT NULL",
        "CREATE INDEX thread_subscriptions_by_user_nid_pos ON thread_subscriptions (user_nid, pos)",
        # What shows files is found in what is there by `media_shown.Listing`.
        f"INSERT INTO meta (key, value) VALUES ('{UNLISTED}', '0')",
    ]


def _fourth(dialect: Dialect) -> list[str]:
    return [
        *_tables(_NEW_IN_4, dialect),
        *(_TO_DEVICE_IN_4 if dialect == "sqlite" else ()),
        (
            "CREATE INDEX IF NOT EXISTS media_by_server_media_id ON media (server, media_id)"
            " WHERE hash IS NULL AND uploader_nid IS NULL"
        ),
    ]


STEPS: Final[dict[int, Callable[[Dialect], list[str]]]] = {2: _second, 3: _third, 4: _fourth}
"""The statements that lead from version n - 1 to n, for n from 2 up."""

VERSION: Final = 1 + len(STEPS)


def version_table(dialect: Dialect) -> str:
    """The statement that makes the table of the version, if it is not there yet."""
    return create_table(TABLES[MetaRow], dialect).replace("TABLE", "TABLE IF NOT EXISTS", 1)


def statements_from(version: int, dialect: Dialect) -> list[str]:
    """What to run in a database of `version` (0: empty but for `meta`) to make it the newest.

    Raises `DatabaseTooNew` for a version that this program does not know.
    """
    if version > VERSION:
        raise DatabaseTooNew(
            f"The database was written by a newer version of this program (schema {version}, this"
            f" program knows up to {VERSION}): install that version or a newer one"
        )
    if version == VERSION:
        return []
    if version == 0:
        statements = [
            *(text for text in create_statements(dialect) if not text.startswith(_META)),
            "INSERT INTO stream (one, pos, view) VALUES (1, 0, 1)",
            "INSERT INTO views (view, members) VALUES (1, '[]')",
        ]
    else:
        statements = [text for n in range(version + 1, VERSION + 1) for text in STEPS[n](dialect)]
    statements.append(
        f"INSERT INTO meta (key, value) VALUES ('schema_version', '{VERSION}')"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    return statements


_META = "CREATE TABLE meta "

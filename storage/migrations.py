"""The numbered versions of the schema, and the way from any older one to the newest.

A new database is made from `schema` as it stands and has the newest version at once; an older one
runs the steps it lacks; either happens in one transaction that the engine owns. Invariant: both
ways end with the same tables. The row `schema_version` of `meta` says what a database is.
"""

from collections.abc import Callable
from typing import Final

from storage.engine import DatabaseTooNew
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
    DelayedEventRow,
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
    PduOutboxRow,
    PushCursorRow,
    PusherRow,
    RelationRow,
    RemoteDeviceRow,
    ReportRow,
    RoomServerRow,
    ServerStayRow,
    SigningKeyRow,
    StateResetRow,
    ThreadRow,
    ThreadSubscriptionRow,
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

# A step may grow until its version is released: new tables are named, other changes written out.
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
    StateResetRow,
    DelayedEventRow,
    RelationRow,
    ReportRow,
    ThreadRow,
    ThreadSubscriptionRow,
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
    PusherRow,
    PushCursorRow,
    MediaRow,
    MediaUsageRow,
    BlobRow,
    BlobInDoubtRow,
    JudgedHashRow,
    ThumbnailRow,
    MassRedactionRow,
    MediaShownRow,
    MediaLeftRow,
    UrlPreviewRow,
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


def _second(dialect: Dialect) -> list[str]:
    new = [text for row_type in _NEW_IN_2 for text in table_statements(TABLES[row_type], dialect)]
    return [*new, *_CHANGED_IN_2]


STEPS: Final[dict[int, Callable[[Dialect], list[str]]]] = {2: _second}
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

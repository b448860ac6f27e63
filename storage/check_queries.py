"""The statements of `check` that read whole tables; nothing else may use them.

`REFERENCES` are pairs of a sentence and a query whose rows, if any, fill it in.
"""

from typing import Final, LiteralString

STREAM: Final = "SELECT pos FROM stream WHERE one = 1"
HIGHEST_POSITIONS: Final[tuple[LiteralString, ...]] = (
    "SELECT 'events', max(pos) FROM events",
    "SELECT 'state_changes', max(pos) FROM state_changes",
    "SELECT 'room_heads', max(last_pos) FROM room_heads",
    "SELECT 'memberships', max(pos) FROM memberships",
    "SELECT 'membership_log', max(pos) FROM membership_log",
    "SELECT 'server_stays', max(pos) FROM server_stays",
    "SELECT 'receipts', max(pos) FROM receipts",
    "SELECT 'account_data', max(pos) FROM account_data",
    "SELECT 'timelines', max(from_pos) FROM timelines",
)
ROOMS_AFTER: Final = (
    "SELECT room_nid, room_id, version, flags, created_ts FROM rooms WHERE room_nid > ?"
    " ORDER BY room_nid LIMIT 1000"
)
EVENTS_AFTER: Final = (
    "SELECT event_nid, room_nid, flags, prevs, auths FROM events WHERE event_nid > ?"
    " ORDER BY event_nid LIMIT ?"
)
ROOMS_OF_EVENTS: Final = "SELECT event_nid, room_nid FROM events WHERE event_nid IN (??)"
CHILDREN: Final = "SELECT prev_nid, event_nid FROM event_children WHERE prev_nid IN (??)"
COUNT_CHILDREN: Final = "SELECT count(*) FROM event_children"
SNAPSHOTS_AFTER: Final = (
    "SELECT snap_nid, level, size, entries FROM snapshots WHERE snap_nid > ?"
    " ORDER BY snap_nid LIMIT ?"
)
LAST_POSITION: Final = (
    "SELECT max(pos) FROM events WHERE room_nid = ? AND pos IS NOT NULL AND (flags & 67) = 0"
)
CHANGES: Final = (
    "SELECT key_nid, pos, old_nid, new_nid FROM state_changes WHERE room_nid = ?"
    " ORDER BY key_nid, pos"
)
A_LOCAL_USER: Final = "SELECT name FROM users JOIN names ON name_nid = user_nid LIMIT 1"
SERVERS: Final = (
    "SELECT name, joined FROM room_servers JOIN names ON name_nid = server_nid WHERE room_nid = ?"
)
STAYS: Final = (
    "SELECT name, pos, inside FROM server_stays JOIN names ON name_nid = server_nid"
    " WHERE room_nid = ? ORDER BY pos"
)
EVENTS_JSON_AFTER: Final = (
    "SELECT event_nid, flags, json FROM event_json JOIN events USING (event_nid)"
    " WHERE event_nid > ? ORDER BY event_nid LIMIT ?"
)
FILES_SHOWN: Final = "SELECT media_id, kind, nid, part FROM media_shown WHERE media_id IN (??)"
COUNT_FILES_SHOWN: Final = "SELECT count(*) FROM media_shown WHERE kind <> 3"
REFERENCES: Final[tuple[tuple[str, LiteralString], ...]] = (
    (
        "position {} is taken by two events",
        "SELECT pos FROM events WHERE pos > 0 GROUP BY pos HAVING count(*) > 1",
    ),
    (
        "timeline {} begins before the one before it",
        (
            "SELECT later.timeline_nid FROM timelines AS later JOIN timelines AS earlier"
            " ON earlier.timeline_nid = later.timeline_nid - 1"
            " WHERE later.from_pos < earlier.from_pos"
        ),
    ),
    (
        "a file is tied to event {}, which is redacted, or not there",
        (
            "SELECT nid FROM media_shown WHERE kind <> 0 AND kind = 3 AND nid <> 0 AND NOT EXISTS"
            " (SELECT 1 FROM events WHERE event_nid = nid AND flags & 4 = 0)"
        ),
    ),
    (
        "event {} has no JSON",
        (
            "SELECT event_nid FROM events WHERE NOT EXISTS"
            " (SELECT 1 FROM event_json WHERE event_json.event_nid = events.event_nid)"
        ),
    ),
    (
        "the JSON of event {} belongs to no event",
        (
            "SELECT event_nid FROM event_json WHERE NOT EXISTS"
            " (SELECT 1 FROM events WHERE events.event_nid = event_json.event_nid)"
        ),
    ),
    (
        "event {} is of a room that does not exist",
        (
            "SELECT event_nid FROM events WHERE NOT EXISTS"
            " (SELECT 1 FROM rooms WHERE rooms.room_nid = events.room_nid)"
        ),
    ),
    (
        "event {} has a type or a sender without a name",
        (
            "SELECT event_nid FROM events WHERE NOT EXISTS"
            " (SELECT 1 FROM names WHERE name_nid = type_nid)"
            " OR NOT EXISTS (SELECT 1 FROM names WHERE name_nid = sender_nid)"
        ),
    ),
    (
        "event {} has an unknown state key",
        (
            "SELECT event_nid FROM events WHERE key_nid IS NOT NULL AND NOT EXISTS"
            " (SELECT 1 FROM state_keys WHERE state_keys.key_nid = events.key_nid)"
        ),
    ),
    (
        "event {} has a snapshot that does not exist in its room",
        (
            "SELECT event_nid FROM events WHERE snap_nid IS NOT NULL AND NOT EXISTS"
            " (SELECT 1 FROM snapshots WHERE snapshots.snap_nid = events.snap_nid"
            " AND snapshots.room_nid = events.room_nid)"
        ),
    ),
    (
        "event {} is marked as redacted, but nothing redacts it",
        (
            "SELECT event_nid FROM events WHERE (flags & 4) <> 0 AND NOT EXISTS"
            " (SELECT 1 FROM redactions WHERE redactions.room_nid = events.room_nid"
            " AND redacts = event_id)"
        ),
    ),
    (
        "state key {} has a type or a text without a name",
        (
            "SELECT key_nid FROM state_keys WHERE NOT EXISTS"
            " (SELECT 1 FROM names WHERE names.name_nid = type_nid)"
            " OR NOT EXISTS (SELECT 1 FROM names WHERE names.name_nid = state_keys.name_nid)"
        ),
    ),
    (
        "snapshot {} stands on one that does not exist in its room",
        (
            "SELECT snap_nid FROM snapshots AS upper WHERE level <> 0 AND NOT EXISTS"
            " (SELECT 1 FROM snapshots AS lower WHERE lower.room_nid = upper.room_nid"
            " AND lower.snap_nid ="
            " CASE upper.level WHEN 1 THEN upper.anchor_nid ELSE upper.parent_nid END)"
        ),
    ),
    (
        "room {} has events but no head",
        (
            "SELECT DISTINCT room_nid FROM events WHERE pos IS NOT NULL AND (flags & 64) = 0"
            " AND NOT EXISTS (SELECT 1 FROM room_heads WHERE room_heads.room_nid = events.room_nid)"
        ),
    ),
    (
        "the redaction {} of {} does not exist",
        (
            "SELECT event_nid, redacts FROM redactions WHERE NOT EXISTS"
            " (SELECT 1 FROM events WHERE events.event_nid = redactions.event_nid"
            " AND events.room_nid = redactions.room_nid)"
        ),
    ),
    (
        "event {} is said to relate to another, but is not there, or redacted",
        (
            "SELECT event_nid FROM relations WHERE NOT EXISTS (SELECT 1 FROM events"
            " WHERE events.event_nid = relations.event_nid AND events.pos = relations.pos"
            " AND events.room_nid = relations.room_nid AND (flags & 71) = 0)"
        ),
    ),
    (
        "thread {} does not end with its last event",
        (
            "SELECT root_id FROM threads WHERE pos <> COALESCE((SELECT max(relations.pos)"
            " FROM relations WHERE relations.room_nid = threads.room_nid"
            " AND parent_id = root_id AND rel_type = 'm.thread'), pos + 1)"
        ),
    ),
    (
        "{1} is said to be missing for event {0}, which does not exist",
        (
            "SELECT child_nid, event_id FROM missing_prevs WHERE NOT EXISTS"
            " (SELECT 1 FROM events WHERE events.event_nid = child_nid)"
        ),
    ),
    (
        "{1} is said to be missing for event {0}, but is here",
        (
            "SELECT child_nid, event_id FROM missing_prevs WHERE EXISTS"
            " (SELECT 1 FROM events WHERE events.event_id = missing_prevs.event_id"
            " AND events.room_nid = missing_prevs.room_nid AND (flags & 64) = 0)"
        ),
    ),
    (
        "transaction {1} of device {0} led to an event that does not exist",
        (
            "SELECT device_nid, txn_id FROM txn_ids WHERE NOT EXISTS"
            " (SELECT 1 FROM events WHERE events.event_nid = txn_ids.event_nid)"
        ),
    ),
    (
        "the log of user {} ends otherwise than the membership in room {}",
        (
            "SELECT m.user_nid, m.room_nid FROM memberships AS m"
            " JOIN users ON users.user_nid = m.user_nid WHERE NOT EXISTS"
            " (SELECT 1 FROM membership_log AS l WHERE l.user_nid = m.user_nid"
            " AND l.room_nid = m.room_nid AND l.event_nid = m.event_nid"
            " AND l.membership = m.membership AND l.pos = (SELECT max(last.pos)"
            " FROM membership_log AS last WHERE last.user_nid = m.user_nid"
            " AND last.room_nid = m.room_nid))"
        ),
    ),
    (
        "user {} has no name",
        (
            "SELECT user_nid FROM users WHERE NOT EXISTS"
            " (SELECT 1 FROM names WHERE name_nid = user_nid)"
        ),
    ),
    (
        "device {} belongs to no account",
        (
            "SELECT device_nid FROM devices WHERE NOT EXISTS"
            " (SELECT 1 FROM users WHERE users.user_nid = devices.user_nid)"
        ),
    ),
    (
        "an access token of user {} is of device {}, which is not theirs",
        (
            "SELECT user_nid, device_nid FROM access_tokens WHERE NOT EXISTS"
            " (SELECT 1 FROM devices WHERE devices.device_nid = access_tokens.device_nid"
            " AND devices.user_nid = access_tokens.user_nid)"
        ),
    ),
    (
        "alias {} leads to no room",
        (
            "SELECT alias FROM aliases WHERE NOT EXISTS"
            " (SELECT 1 FROM rooms WHERE rooms.room_nid = aliases.room_nid)"
        ),
    ),
)

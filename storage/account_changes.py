"""Changes of accounts that a row alone can't say: one column, or a condition."""

from storage.changes import Do


def device_named(device_nid: int, name: str) -> Do:
    """Give a device a name; the item fails with `Missed` when it is not there."""
    return Do("UPDATE devices SET name = ? WHERE device_nid = ?", (name, device_nid), expect=1)


def device_seen(device_nid: int, ts: int, address: str) -> Do:
    """Note when (ms) and from where a device was last used, if it is still there."""
    return Do(
        "UPDATE devices SET last_seen_ts = ?, last_ip = ? WHERE device_nid = ?",
        (ts, address, device_nid),
    )


def registration_token_used(token: str, now: int) -> Do:
    """Count one use; the item fails with `Missed` when the token is not good (any more)."""
    return Do(
        "UPDATE registration_tokens SET completed = completed + 1 WHERE token = ?"
        " AND (uses_allowed IS NULL OR completed < uses_allowed)"
        " AND (expires_ts IS NULL OR expires_ts > ?)",
        (token, now),
        expect=1,
    )


def uia_sessions_expired(now: int) -> Do:
    """Remove the user-interactive sessions whose time (ms) is over."""
    return Do("DELETE FROM uia_sessions WHERE expires_ts <= ?", (now,))

"""Changes of accounts that a row alone can't say: one column, or a condition."""

from storage.changes import Do
from storage.schema import GUEST


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


def password_set(user_nid: int, password: str) -> Do:
    """Give an account that is not deactivated another password; `Missed` if there is none."""
    return Do(
        "UPDATE users SET password = ? WHERE user_nid = ? AND flags & 2 = 0",
        (password, user_nid),
        expect=1,
    )


def password_renewed(user_nid: int, before: str, password: str) -> Do:
    """Put another hash of the same password in place of `before`, if that is still there."""
    return Do(
        "UPDATE users SET password = ? WHERE user_nid = ? AND password = ?",
        (password, user_nid, before),
    )


def guest_upgraded(user_nid: int, password: str, flags: int) -> Do:
    """Make a guest's account a person's, with a password and more flags; `Missed` if it is none."""
    return Do(
        "UPDATE users SET password = ?, flags = (flags & ?) | ?"
        " WHERE user_nid = ? AND flags & 2 = 0 AND flags & 4 <> 0",
        (password, ~GUEST, flags, user_nid),
        expect=1,
    )


def flag_set(user_nid: int, flag: int) -> Do:
    """Set a flag of an account; `Missed` if there is none, or it is deactivated."""
    return Do(
        "UPDATE users SET flags = flags | ? WHERE user_nid = ? AND flags & 2 = 0",
        (flag, user_nid),
        expect=1,
    )


def flag_cleared(user_nid: int, flag: int) -> Do:
    """Take a flag off an account; `Missed` if there is none, or it is deactivated."""
    return Do(
        "UPDATE users SET flags = flags & ? WHERE user_nid = ? AND flags & 2 = 0",
        (~flag, user_nid),
        expect=1,
    )


def account_closed(user_nid: int) -> list[Do]:
    """Deactivate an account; remove its profile, presence, account data and filters,
    and what says which files these show.

    The first item fails with `Missed` when the account is deactivated already.
    """
    return [
        Do(
            "UPDATE users SET flags = flags | 2, password = NULL"
            " WHERE user_nid = ? AND flags & 2 = 0",
            (user_nid,),
            expect=1,
        ),
        Do("DELETE FROM profiles WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM presence WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM account_data WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM pushers WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM filters WHERE user_nid = ?", (user_nid,)),
        Do("DELETE FROM media_shown WHERE kind <> 0 AND kind <> 3 AND nid = ?", (user_nid,)),
    ]


def receipts_erased(user_nid: int) -> Do:
    """Remove a user's receipts in all rooms."""
    return Do("DELETE FROM receipts WHERE user_nid = ?", (user_nid,))


def login_token_used(token_hash: bytes, now: int) -> Do:
    """Use a login token up; the item fails with `Missed` when it is not good (any more)."""
    return Do(
        "DELETE FROM login_tokens WHERE token_hash = ? AND expires_ts > ?",
        (token_hash, now),
        expect=1,
    )


def login_tokens_expired(now: int) -> Do:
    """Remove the login tokens whose time (ms) is over."""
    return Do("DELETE FROM login_tokens WHERE expires_ts <= ?", (now,))

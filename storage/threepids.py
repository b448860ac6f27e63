"""Addresses outside of Matrix: those of accounts, and those that are being validated."""

from collections.abc import Collection

from storage.changes import Change, Do
from storage.engine import Database
from storage.schema import ThreepidRow, ValidationRow


async def threepids_of(db: Database, user_nid: int) -> list[ThreepidRow]:
    """The addresses of a user, in the order in which they were added."""
    rows = await db.fetch(
        "SELECT medium, address, user_nid, validated_ts, added_ts, id_servers FROM threepids"
        " WHERE user_nid = ? ORDER BY added_ts, address",
        user_nid,
    )
    return [ThreepidRow(*row) for row in rows]


async def owners(db: Database, medium: str, addresses: Collection[str]) -> dict[str, ThreepidRow]:
    """Whose addresses these are, by address."""
    rows = await db.fetch(
        "SELECT medium, address, user_nid, validated_ts, added_ts, id_servers FROM threepids"
        " WHERE medium = ? AND address IN (??)",
        medium,
        addresses,
    )
    return {row[1]: ThreepidRow(*row) for row in rows}


async def validations(db: Database, sids: Collection[str]) -> dict[str, ValidationRow]:
    """Validations by session id."""
    rows = await db.fetch(
        "SELECT sid, address, client_secret, purpose, token_hash, attempt, next_link,"
        " validated_ts, expires_ts FROM validations WHERE sid IN (??)",
        sids,
    )
    return {row[0]: ValidationRow(*row) for row in rows}


async def validation_for(
    db: Database, address: str, client_secret: str, purpose: str
) -> ValidationRow | None:
    """The validation that a client has begun for an address."""
    rows = await db.fetch(
        "SELECT sid, address, client_secret, purpose, token_hash, attempt, next_link,"
        " validated_ts, expires_ts FROM validations"
        " WHERE address = ? AND client_secret = ? AND purpose = ?",
        address,
        client_secret,
        purpose,
    )
    return ValidationRow(*rows[0]) if rows else None


def threepids_gone(user_nid: int) -> Change:
    """Take all addresses from a user."""
    return Do("DELETE FROM threepids WHERE user_nid = ?", (user_nid,))


def validations_expired(now: int) -> Change:
    """Forget the validations whose time is over (ms)."""
    return Do("DELETE FROM validations WHERE expires_ts <= ?", (now,))

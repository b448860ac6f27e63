"""Closing an account for ever.

Owns what goes with it: at once, in one transaction, the sessions, devices, password, profile,
presence, account data, filters, signing keys and key backups; then, by a job that was stored with
it, the user's memberships, and for a user who wants to be erased the receipts. The name stays
taken. Who reads the events of an erased user how is decided by `rooms/readable.py`.
spec: client-server-api#account-deactivation
"""

import logging

from homeserver.errors import MatrixError
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Rejected
from homeserver.rooms.actor import Rooms
from homeserver.rooms.erased import Erased
from homeserver.rooms.members import Members
from homeserver.runtime.jobs import Jobs
from homeserver.streams.memberships import Memberships
from homeserver.streams.numbers import Names
from homeserver.users.presence import Presence
from homeserver.users.sessions import Session, Sessions
from homeserver.users.uia import PASSWORD, Interactive, Operation
from storage import accounts as store
from storage.account_changes import account_closed
from storage.changes import Change, Missed
from storage.device_keys import user_gone
from storage.engine import Database
from storage.schema import INVITE, JOIN, KNOCK
from storage.threepids import threepids_gone

log = logging.getLogger(__name__)

JOB = "deactivated"


class Deactivation:
    """Closes accounts."""

    def __init__(
        self,
        database: Database,
        sessions: Sessions,
        interactive: Interactive,
        jobs: Jobs,
        presence: Presence,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._interactive = interactive
        self._jobs = jobs
        self._presence = presence

    async def request(self, session: Session, auth: JsonObject | None, *, erase: bool) -> None:
        """Close the user's own account, once `auth` has given the password.

        Raises those of `Interactive.check`.
        spec: client-server-api#post_matrixclientv3accountdeactivate
        """
        user = (await store.users(self._database, [session.user_nid]))[session.user_nid]
        operation = Operation(f"deactivate erase={erase}", [(PASSWORD,)], user)
        proven = await self._interactive.check(operation, auth)
        await self.close(session.user_nid, erase=erase, also=proven.changes)

    async def close(
        self, user_nid: int, *, erase: bool = False, also: tuple[Change, ...] = ()
    ) -> None:
        """Close an account; nothing happens when it is closed already."""
        job = await self._jobs.new(JOB, {"user_nid": user_nid, "erase": erase})
        changes = [
            *account_closed(user_nid),
            threepids_gone(user_nid),
            *user_gone(user_nid),
            job,
            *also,
        ]
        try:
            await self._sessions.end_devices(user_nid, None, also=changes, for_ever=True)
        except Missed:
            return
        self._presence.forget(user_nid)
        self._jobs.wake()


class Departure:
    """Takes closed accounts out of their rooms; the handler of `JOB`."""

    def __init__(
        self,
        rooms: Rooms,
        members: Members,
        memberships: Memberships,
        names: Names,
        erased: Erased,
    ) -> None:
        self._rooms = rooms
        self._members = members
        self._memberships = memberships
        self._names = names
        self._erased = erased

    async def run(self, args: JsonObject) -> None:
        """Leave every room, decline every invite, take back every knock.

        A room that refuses does not keep the others from being left.
        """
        user_nid: int = args["user_nid"]
        user_id = (await self._names.names([user_nid]))[user_nid]
        if args["erase"]:
            await self._erased.add(user_nid, user_id)
        memberships = (await self._memberships.of(user_nid)).rooms
        present = sorted(
            nid for nid, row in memberships.items() if row.membership in (JOIN, INVITE, KNOCK)
        )
        for room in (await self._rooms.by_nids(present)).values():
            try:
                await self._members.leave(user_id, room, closing=True)
            except (MatrixError, Rejected) as error:
                if isinstance(error, MatrixError) and error.status >= 500:
                    raise
                log.info("%s stays in %s: %s", user_id, room.room_id, error)

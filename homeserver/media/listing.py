"""Finding what shows files in a database from before that was kept.

Owns the walk through all events, profiles and account data, in the background and once. Invariant:
while it is not done no file goes, and what was redacted or replaced meanwhile is not listed. It
goes on where it was after a restart.
"""

from homeserver.matrix.mxc import named_in
from homeserver.streams.commit import CommitQueue
from storage import media_shown as store
from storage.changes import Change
from storage.engine import Database

_AT_ONCE = 500


class Listing:
    """See the module."""

    def __init__(self, database: Database, commits: CommitQueue, server_name: str) -> None:
        self._database = database
        self._commits = commits
        self._server_name = server_name

    async def run(self) -> None:
        """List what is not listed yet."""
        last = await store.listed_up_to(self._database)
        if last is None:
            return
        while events := await store.events_after(self._database, last, _AT_ONCE):
            last = events[-1][0]
            changes: list[Change] = [
                store.event_shows(media_id, nid)
                for nid, json in events
                for media_id in self._named(json)
            ]
            await self._commits.commit([*changes, store.listed(last)])
        user_nid, field = 0, ""
        while fields := await store.profiles_after(self._database, user_nid, field, _AT_ONCE):
            user_nid, field, _ = fields[-1]
            changes = [
                store.profile_shows(media_id, *one)
                for one in fields
                for media_id in self._named(one[2])
            ]
            if changes:
                await self._commits.commit(changes)
        key = 0, -1, ""
        while pieces := await store.account_data_after(self._database, *key, _AT_ONCE):
            key = pieces[-1][:3]
            changes = [
                store.account_data_shows(media_id, *one)
                for one in pieces
                for media_id in self._named(one[3])
            ]
            if changes:
                await self._commits.commit(changes)
        await self._commits.commit([store.listed(None)])

    def _named(self, json: bytes) -> list[str]:
        return [name.media_id for name in named_in(json) if name.server == self._server_name]

"""The keys of other servers that are known.

Owns them in memory and in the database. What a server says itself replaces what was known; what a
notary says of it never changes a key, and never shortens its life. Keys that a server no longer
mentions are kept, because old events were signed with them. It fetches nothing.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from federation.key_answers import KeyAnswer
from homeserver.errors import MatrixError
from homeserver.matrix.canonical import encode
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import federation as store
from storage.changes import Change, Delete, Put
from storage.engine import Database
from storage.schema import KeyAnswerRow, ServerKeyRow

MAX_SERVERS_IN_MEMORY = 10_000
MAX_KEYS_OF_A_SERVER = 200


class KeyStore:
    """Keys by server and key id."""

    def __init__(
        self,
        database: Database,
        commits: CommitQueue,
        clock: Clock,
        renewed: Callable[[str], None],
    ) -> None:
        """`renewed(server)` is called when a server that had keys has others."""
        self._renewed = renewed
        self._database = database
        self._commits = commits
        self._clock = clock
        self._rows: OrderedDict[str, dict[str, ServerKeyRow]] = OrderedDict()

    async def keys(self, server: str) -> dict[str, ServerKeyRow]:
        """Every key of a server that is known, valid or not, by key id; not to be changed."""
        rows = self._rows.get(server)
        if rows is None:
            stored = (await store.server_keys(self._database, [server])).get(server, {})
            rows = self._rows.get(server, stored)
            self._keep(server, rows)
        return rows

    async def answers(self, server: str) -> list[KeyAnswerRow]:
        """The answers that the server's keys came in, newest first."""
        return (await store.key_answers(self._database, [server])).get(server, [])

    async def add(self, answer: KeyAnswer, *, by_notary: bool) -> None:
        """Take over what an answer says; it is durable when this returns."""
        before = await self.keys(answer.server)
        changed = {}
        for key_id, key in answer.keys.items():
            known = before.get(key_id)
            if (
                by_notary
                and known is not None
                and (
                    known.public_key != key.public_key or known.valid_until_ts > key.valid_until_ts
                )
            ):
                continue
            changed[key_id] = ServerKeyRow(answer.server, key_id, *key, answer.digest)
        if not changed:
            return
        if not by_notary and before and changed.keys() - before.keys():
            self._renewed(answer.server)
        rows = {**before, **changed}
        changes: list[Change] = [Put(row) for row in changed.values()]
        for key_id in sorted(rows, key=lambda one: rows[one].valid_until_ts)[
            : max(len(rows) - MAX_KEYS_OF_A_SERVER, 0)
        ]:
            del rows[key_id]
            changes.append(Delete(ServerKeyRow, (answer.server, key_id)))
        self._keep(answer.server, rows)
        row = KeyAnswerRow(
            answer.server,
            answer.digest,
            encode(answer.json),
            answer.valid_until_ts,
            self._clock.now_ms(),
        )
        changes += [Put(row), store.unused_answers_forgotten(answer.server)]
        with suppress(MatrixError):  # the queue is full or closed: memory has them
            await self._commits.commit(changes)

    def _keep(self, server: str, rows: dict[str, ServerKeyRow]) -> None:
        self._rows[server] = rows
        self._rows.move_to_end(server)
        if len(self._rows) > MAX_SERVERS_IN_MEMORY:
            self._rows.popitem(last=False)

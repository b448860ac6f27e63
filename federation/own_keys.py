"""The keys that this server signs with, and those that it once used.

Owns what it publishes of them. Which keys were used is remembered in the database, so a key that
has left the key file is published as an old one, expired when that was noticed: at the start that
first went without it. Making and changing the key file is done elsewhere.
spec: server-server-api#publishing-keys
"""

from collections.abc import Iterable, Sequence

from federation.key_answers import LONGEST_LIFE_MS
from homeserver.matrix.canonical import JsonObject, encode_unpadded
from homeserver.matrix.sign import SigningKey, sign_json
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from storage import federation as store
from storage.changes import Change, Put
from storage.engine import Database
from storage.schema import OwnKeyRow

SAME_ANSWER_MS = 3_600_000
"""For how long one signed answer is given to everybody who asks."""


class OwnKeys:
    """The keys; the first of `keys` signs."""

    def __init__(
        self, server_name: str, keys: Sequence[SigningKey], old: Iterable[OwnKeyRow], clock: Clock
    ) -> None:
        self.server_name = server_name
        self._keys = {key.key_id: key for key in keys}
        self._signing = keys[0]
        self._old = {row.key_id: row for row in old if row.key_id not in self._keys}
        self._clock = clock
        self._answer: JsonObject | None = None
        self._answered = 0

    @classmethod
    async def load(
        cls,
        server_name: str,
        keys: Sequence[SigningKey],
        database: Database,
        commits: CommitQueue,
        clock: Clock,
    ) -> "OwnKeys":
        """Compare the key file with what was used before, and remember the outcome."""
        known = await store.own_keys(database)
        changes: list[Change] = []
        for key in keys:
            row = OwnKeyRow(key.key_id, key.public_key, None)
            if known.get(key.key_id) != row:
                known[key.key_id] = row
                changes.append(Put(row))
        current = {key.key_id for key in keys}
        for key_id, row in known.items():
            if key_id not in current and row.expired_ts is None:
                known[key_id] = row._replace(expired_ts=clock.now_ms())
                changes.append(Put(known[key_id]))
        if changes:
            await commits.commit(changes)
        return cls(server_name, keys, known.values(), clock)

    def published(self) -> JsonObject:
        """The answer to whoever asks for this server's keys, signed by each current one."""
        now = self._clock.now_ms()
        if self._answer is None or now - self._answered >= SAME_ANSWER_MS:
            answer: JsonObject = {
                "server_name": self.server_name,
                "valid_until_ts": now + LONGEST_LIFE_MS,
                "verify_keys": {
                    key_id: {"key": encode_unpadded(key.public_key)}
                    for key_id, key in self._keys.items()
                },
                "old_verify_keys": {
                    key_id: {"key": encode_unpadded(row.public_key), "expired_ts": row.expired_ts}
                    for key_id, row in self._old.items()
                },
            }
            for key in self._keys.values():
                answer = sign_json(answer, self.server_name, key)
            self._answer, self._answered = answer, now
        return self._answer

    def signed(self, value: JsonObject) -> JsonObject:
        """The object with this server's signature added."""
        return sign_json(value, self.server_name, self._signing)

    def valid(self, key_ids: Iterable[str], minimum_valid_until_ts: int) -> dict[str, bytes]:
        """Those of the keys that were this server's at that time."""
        found = {}
        for key_id in key_ids:
            if key_id in self._keys:
                found[key_id] = self._keys[key_id].public_key
            elif key_id in self._old:
                row = self._old[key_id]
                if row.expired_ts is None or row.expired_ts >= minimum_valid_until_ts:
                    found[key_id] = row.public_key
        return found

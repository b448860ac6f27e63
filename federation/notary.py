"""Being a notary: telling servers the keys of other servers, under our own signature.

Owns what is given to whoever asks: answers as their servers signed them, asked for anew when what
is known is too old, and the last one for a server that can't be asked. Anybody may ask, so both the
number of servers and the waiting are bounded.
spec: server-server-api#querying-keys-through-another-server
"""

import asyncio
from collections.abc import Mapping

from federation.key_fetcher import Criteria
from federation.key_store import KeyStore
from federation.keyring import Keyring
from federation.own_keys import OwnKeys
from homeserver.matrix.canonical import JsonObject, decode_object
from homeserver.runtime.clock import Clock
from storage.schema import KeyAnswerRow

MAX_SERVERS = 100
MAX_KEY_IDS = 50
PATIENCE = 8.0


class NotaryService:
    """Answers for this server in its role of a notary."""

    def __init__(self, own: OwnKeys, store: KeyStore, keyring: Keyring, clock: Clock) -> None:
        self._own = own
        self._store = store
        self._keyring = keyring
        self._clock = clock

    async def answers(self, wanted: Mapping[str, Mapping[str, int | None]]) -> list[JsonObject]:
        """Signed key answers of the wanted servers, at most a hundred of them.

        By server, key ids with until when (ms) they should be valid, None being now; no key ids
        mean all keys. A server whose keys are not to be had is absent.
        """
        now = self._clock.now_ms()
        found = await asyncio.gather(
            *(
                self._of(
                    server,
                    {
                        key_id: now if until is None else until
                        for key_id, until in list(criteria.items())[:MAX_KEY_IDS]
                    },
                )
                for server, criteria in list(wanted.items())[:MAX_SERVERS]
            )
        )
        return [self._own.signed(answer) for answers in found for answer in answers]

    async def of_server(self, server: str, until: int | None) -> list[JsonObject]:
        """The same for all keys of one server."""
        now = self._clock.now_ms()
        answers = await self._of(server, {}, now if until is None else until)
        return [self._own.signed(answer) for answer in answers]

    async def _of(
        self, server: str, criteria: Criteria, until: int | None = None
    ) -> list[JsonObject]:
        if server == self._own.server_name:
            return [self._own.published()]
        until = self._clock.now_ms() if until is None else until
        answers = await self._store.answers(server)
        if not await self._is_fresh(server, criteria, answers, until):
            await self._keyring.refresh(server, criteria, PATIENCE)
            answers = await self._store.answers(server)
        rows = await self._store.keys(server)
        digests = {rows[key_id].digest for key_id in criteria if key_id in rows}
        chosen = [one for one in answers if one.digest in digests] or answers[:1]
        return [decode_object(one.json) for one in chosen]

    async def _is_fresh(
        self, server: str, criteria: Criteria, answers: list[KeyAnswerRow], until: int
    ) -> bool:
        """Whether what is known will do; an answer is asked for anew after half of its life."""
        if criteria:
            rows = await self._store.keys(server)
            return all(
                key_id in rows and rows[key_id].valid_until_ts >= least
                for key_id, least in criteria.items()
            )
        if not answers or answers[0].valid_until_ts < until:
            return False
        newest = answers[0]
        return 2 * self._clock.now_ms() <= newest.fetched_ts + newest.valid_until_ts

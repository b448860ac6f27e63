"""Getting keys from where they are: from their server, or from a notary.

Owns the two kinds of requests for keys, neither of them signed. A notary is asked for many servers
at once: what is wanted while it is busy goes together into its next request. Answers are checked
here; what a notary hands on counts only with its own valid signature on it. Whom to ask when, and
what becomes of the answers, stands in `keyring`.
spec: server-server-api#retrieving-server-keys
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from federation.client import Outgoing, ServerClient, json_of
from federation.key_answers import KeyAnswer, read_answer
from homeserver.errors import RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject, encode
from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import verify_json
from homeserver.runtime.clock import Clock

log = logging.getLogger(__name__)

SECONDS = 8.0
MAX_BYTES = 65_536
NOTARY_SECONDS = 10.0
SERVERS_TOGETHER = 100
NOTARY_MAX_BYTES = 4 * 1_048_576
MAX_ANSWERS = 4 * SERVERS_TOGETHER

Criteria = Mapping[str, int]
"""The wanted keys of a server by id, each with until when (ms) it must at least be valid."""
KeysNow = Callable[[str, Collection[str]], Awaitable[dict[str, bytes]]]
"""Gives those of a server's keys that are valid now."""


async def ask_directly(
    client: ServerClient, clock: Clock, server: str, *, despite_pause: bool
) -> KeyAnswer:
    """What a server publishes; raises Unreachable, RemoteError or Malformed.

    spec: server-server-api#get_matrixkeyv2server
    """
    answer = await client.exchange(
        server,
        Outgoing("GET", "/_matrix/key/v2/server", {}),
        seconds=SECONDS,
        max_bytes=MAX_BYTES,
        despite_pause=despite_pause,
    )
    return read_answer(json_of(server, answer), server, clock.now_ms())


class Notary:
    """One server that is trusted to hand on the keys of others."""

    def __init__(self, name: str, client: ServerClient, clock: Clock, keys: KeysNow) -> None:
        self.name = name
        self._client = client
        self._clock = clock
        self._keys = keys
        self._waiting: dict[str, _Wanted] = {}
        self._task: asyncio.Task[None] | None = None

    async def ask(self, server: str, criteria: Criteria) -> list[KeyAnswer]:
        """What the notary has of a server; empty when it has nothing or can't be asked.

        spec: server-server-api#post_matrixkeyv2query
        """
        wanted = self._waiting.get(server)
        if wanted is None:
            wanted = self._waiting[server] = _Wanted()
        for key_id, until in criteria.items():
            wanted.criteria[key_id] = max(until, wanted.criteria.get(key_id, 0))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await asyncio.shield(wanted.answers)

    async def close(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        await asyncio.sleep(0)  # whoever else wants something at this moment comes along
        batch: dict[str, _Wanted] = {}
        try:
            while self._waiting:
                batch = {}
                for server in list(self._waiting)[:SERVERS_TOGETHER]:
                    batch[server] = self._waiting.pop(server)
                await self._ask_for(batch)
        finally:
            self._task = None
            for wanted in [*batch.values(), *self._waiting.values()]:
                wanted.give([])
            self._waiting.clear()

    async def _ask_for(self, batch: Mapping[str, "_Wanted"]) -> None:
        try:
            found = await self._request(batch)
        except (Unreachable, RemoteError, Malformed) as error:
            log.info("the notary %s was of no use: %s", self.name, error)
            found = {}
        for server, wanted in batch.items():
            wanted.give(found.get(server, []))

    async def _request(self, batch: Mapping[str, "_Wanted"]) -> dict[str, list[KeyAnswer]]:
        body = {
            "server_keys": {
                server: {
                    key_id: {"minimum_valid_until_ts": until}
                    for key_id, until in wanted.criteria.items()
                }
                for server, wanted in batch.items()
            }
        }
        headers = {"Content-Type": "application/json"}
        answer = await self._client.exchange(
            self.name,
            Outgoing("POST", "/_matrix/key/v2/query", headers, encode(body)),
            seconds=NOTARY_SECONDS,
            max_bytes=NOTARY_MAX_BYTES,
        )
        listed = json_of(self.name, answer).get("server_keys")
        found: dict[str, list[KeyAnswer]] = {}
        for one in listed[:MAX_ANSWERS] if isinstance(listed, list) else []:
            server = one.get("server_name") if isinstance(one, dict) else None
            if isinstance(server, str) and server in batch:
                try:
                    checked = await self._checked(one, server)
                except Malformed as error:
                    log.info("the notary %s gave wrong keys of %s: %s", self.name, server, error)
                else:
                    found.setdefault(server, []).append(checked)
        return found

    async def _checked(self, answer: JsonObject, server: str) -> KeyAnswer:
        signatures = answer.get("signatures")
        signed = signatures.get(self.name) if isinstance(signatures, dict) else None
        keys = await self._keys(self.name, list(signed) if isinstance(signed, dict) else [])
        if not verify_json(answer, self.name, keys):
            raise Malformed("they lack the notary's valid signature")
        return read_answer(answer, server, self._clock.now_ms())


class _Wanted:
    """What is wanted of one server, and where its answers go."""

    __slots__ = ("answers", "criteria")

    def __init__(self) -> None:
        self.criteria: dict[str, int] = {}
        self.answers: asyncio.Future[list[KeyAnswer]] = asyncio.get_running_loop().create_future()

    def give(self, answers: list[KeyAnswer]) -> None:
        if not self.answers.done():
            self.answers.set_result(answers)

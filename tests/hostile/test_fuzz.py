"""No request to any endpoint is answered with a fault of ours, whatever it holds.

The quick form is the same in each run; the long one (`make test-long`, or
`HOMESERVER_FUZZ_SECONDS=300 pytest -m long tests/hostile/test_fuzz.py`) tries others for an hour.
"""

import asyncio
import itertools
import os
import random
import time

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from yarl import URL

import client_api
from homeserver.http.endpoint import Endpoint
from homeserver.http.shape import EventID, RoomAlias, RoomID, RoomIDOrAlias, ServerName, UserID
from tests.hostile.generate import Made, Requests
from tests.serving import SERVER_NAME, Person, Running

ELSEWHERE = {502, 504}
"""What other servers, which don't exist here, are the reason of."""


def endpoints() -> list[Endpoint]:
    return [*client_api.endpoints(), *client_api.admin_endpoints()]


class Fuzz:
    """A server with a few rooms, and the account that sends nonsense to it."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.known: dict[object, list[str]] = {}
        self.person: Person
        self.failures: dict[str, str] = {}
        self._numbers = itertools.count()
        self._requests: Requests | None = None
        self._made: dict[str, SearchStrategy[Made]] = {}

    async def begin(self) -> None:
        """Make an account and its rooms, also after it was closed or logged out."""
        number = next(self._numbers)
        self.person = await self.server.person(f"fuzz{number}", admin=True)
        other = await self.server.person(f"other{number}")
        room_id = await self.person.create_room(
            preset="public_chat", room_alias_name=f"room{number}", name="Room"
        )
        await other.join(room_id)
        old_id = await self.person.create_room(room_version="9", invite=[other.user_id])
        alias = f"#room{number}:{SERVER_NAME}"
        self.known |= {
            UserID: [self.person.user_id, other.user_id, "@who:other.invalid"],
            RoomID: [room_id, old_id, "!room:other.invalid"],
            EventID: [await self.person.say(room_id, "hello"), await other.say(room_id, "hi")],
            RoomAlias: [alias, f"#new:{SERVER_NAME}", "#x:other.invalid"],
            RoomIDOrAlias: [room_id, alias],
            ServerName: [SERVER_NAME, "other.invalid"],
        }

    async def send(self, endpoint: Endpoint, made: Made) -> None:
        """Send one request; the answer must not be a fault of ours."""
        headers = {"Authorization": f"Bearer {self.person.token}"}
        url = URL(self.server.url + made.target, encoded=True)
        async with self.server.http.request(
            endpoint.method, url, data=made.data, headers=headers, allow_redirects=False
        ) as answer:
            body = await answer.read()
        assert answer.status < 500 or answer.status in ELSEWHERE, (
            f"{endpoint.name} answers {made} with {answer.status} {body[:500]!r}"
        )
        if answer.status == 401 and b"M_UNKNOWN_TOKEN" in body:
            await self.begin()

    async def run(self, endpoint: Endpoint, examples: int, entropy: int | None) -> None:
        """Send many requests to an endpoint: always the same ones, or by `entropy`."""
        loop = asyncio.get_running_loop()
        made = self._made.get(endpoint.name)
        if made is None:
            self._requests = self._requests or Requests(self.known)
            made = self._made[endpoint.name] = self._requests.to(endpoint)

        # The library is synchronous: it runs in a thread and asks this loop.
        @settings(
            max_examples=examples,
            derandomize=entropy is None,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink] if entropy is None else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(made)
        def each(made: Made) -> None:
            asyncio.run_coroutine_threadsafe(self.send(endpoint, made), loop).result(60)

        await asyncio.to_thread(each if entropy is None else seed(entropy)(each))


@pytest.fixture
async def fuzz(server: Running) -> Fuzz:
    fuzz = Fuzz(server)
    await fuzz.begin()
    return fuzz


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
async def test_no_request_is_answered_with_a_fault(fuzz: Fuzz) -> None:
    for endpoint in endpoints():
        await fuzz.run(endpoint, 10, None)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
async def test_no_request_of_an_hour_is_answered_with_a_fault(fuzz: Fuzz) -> None:
    ends = time.monotonic() + float(os.environ.get("HOMESERVER_FUZZ_SECONDS", "3600")) / 2
    chance = random.Random()
    rounds = 0
    while time.monotonic() < ends:
        rounds += 1
        for endpoint in endpoints():
            if time.monotonic() >= ends:
                break
            try:
                await fuzz.run(endpoint, 50, chance.getrandbits(64))
            except (AssertionError, aiohttp.ClientError, TimeoutError) as error:
                fuzz.failures.setdefault(endpoint.name, f"{type(error).__name__}: {error}")
    assert not fuzz.failures, "\n\n".join(fuzz.failures.values())
    assert rounds

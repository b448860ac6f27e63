"""Sessions whose access tokens end, in programs that refresh them.

Neither SDK refreshes by itself without OAuth: each tells its program of the soft logout, and the
program goes on with the tokens it gets. Nothing that is said meanwhile may be lost or said twice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import nio
import pytest

from tests.clients.js_person import JsPerson
from tests.clients.nio_person import SYNC_FILTER, NioPerson
from tests.clients.person import in_one_piece
from tests.serving import CLIENT, PASSWORD, Running

LIFETIME_SECONDS = 60
Answer = TypeVar("Answer")


class RefreshingNio(NioPerson):
    """Goes on with its refresh token when the server logs it out softly."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.renewals = 0
        self._refresh_token = ""
        self._refreshing = asyncio.Lock()

    async def login(self, username: str) -> None:
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": username},
            "password": PASSWORD,
            "refresh_token": True,
        }
        answer = await self._client.login_raw(login)
        assert isinstance(answer, nio.LoginResponse), answer
        assert answer.transport_response is not None
        self.user_id = answer.user_id
        self._refresh_token = (await answer.transport_response.json())["refresh_token"]

    async def _sync(self) -> None:
        while True:
            answer = await self._asked(
                lambda: self._client.sync(10_000, SYNC_FILTER, self._client.next_batch or None)
            )
            await self._client.run_response_callbacks([answer])

    async def _send(self, room_id: str, kind: str, content: Mapping[str, object]) -> str:
        name = str(uuid4())
        answer = await self._asked(lambda: self._client.room_send(room_id, kind, content, name))
        assert isinstance(answer, nio.RoomSendResponse), answer
        return str(answer.event_id)

    async def _asked(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        while True:
            async with self._refreshing:
                if not self._client.access_token:
                    await self._refresh()
            answer = await ask()
            if not (isinstance(answer, nio.ErrorResponse) and answer.soft_logout):
                return answer

    async def _refresh(self) -> None:
        body = nio.Api.to_json({"refresh_token": self._refresh_token})
        answer = await self._client.send("POST", f"{CLIENT}/refresh", body)
        assert answer.status == 200, await answer.text()
        tokens = await answer.json()
        self._client.access_token = tokens["access_token"]
        self._refresh_token = tokens["refresh_token"]
        self.renewals += 1


@pytest.fixture
async def people(inside: Running, tmp_path: Path) -> AsyncIterator[tuple[RefreshingNio, JsPerson]]:
    async with AsyncExitStack() as stack:
        nina = RefreshingNio(inside.url)
        stack.push_async_callback(nina.quit)
        jasper = JsPerson(inside.url, tmp_path / "js.log")
        stack.push_async_callback(jasper.quit)
        await jasper.open()
        await nina.register("nina")
        await jasper.register("jasper")
        await nina.login("nina")
        await jasper.login_refreshing("jasper")
        await nina.start()
        await jasper.start()
        yield nina, jasper


async def test_nothing_is_lost_when_tokens_end(
    inside: Running, people: tuple[RefreshingNio, JsPerson]
) -> None:
    nina, jasper = people
    room_id = await nina.create_room("Line")
    await nina.invite(room_id, jasper.user_id)
    await jasper.until(room_id, lambda view: view.membership == "invite")
    await jasper.join(room_id)
    said: list[str] = []
    for number in range(3):
        said += [await speaker.say(room_id, f"{number}") for speaker in people]
        for listener in people:
            await listener.until_seen(room_id, said[-1])
        # Both polls wait now, with tokens that end before the next message is there.
        await inside.parked(2)
        await inside.clock.advance(LIFETIME_SECONDS + 1)
    said.append(await nina.say(room_id, "the last"))
    for listener in people:
        heard = in_one_piece(await listener.until_heard(room_id, said[-1]))
        assert [event_id for event_id in heard if event_id in said] == said
    assert nina.renewals >= 2
    assert await jasper.renewals() >= 2

"""An app made with matrix-js-sdk finds Web Push, subscribes and is told; and one by UnifiedPush.

The SDK knows neither: it passes on what the app says, as apps with Web Push (MSC4174) do today.
matrix-nio has no pushers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from storage.engine import DatabaseSettings
from tests.clients.conftest import arrive
from tests.clients.js_person import JsPerson
from tests.push.distributor import distributor
from tests.push.push_service import push_service, trusting
from tests.serving import Person, Running, served

UNSTABLE = "org.matrix.msc4174"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def running(tmp_path: Path, authority: trustme.CA) -> AsyncIterator[Running]:
    database = DatabaseSettings(path=tmp_path / "server.db", durable=False)
    changed = {"federation": trusting(authority, tmp_path)}
    async with served(database, tmp_path, changed) as made:
        yield made


@pytest.fixture
async def app(running: Running, tmp_path: Path) -> AsyncIterator[JsPerson]:
    async with AsyncExitStack() as stack:
        person = JsPerson(running.url, tmp_path / "js.log")
        stack.push_async_callback(person.quit)
        await person.open()
        await arrive(person, "jasper")
        yield person


@pytest.fixture
async def room(running: Running, app: JsPerson) -> tuple[Person, str]:
    """Somebody else, and the room of both."""
    other = await running.person("other")
    room_id = await other.create_room(preset="public_chat")
    await app.join(room_id)
    return other, room_id


async def until(enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not enough():  # noqa: ASYNC110  # what a push service got is seen by looking
            await asyncio.sleep(0.01)


def pusher(app_id: str, pushkey: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    names = {"app_display_name": "App", "device_display_name": "Browser", "lang": "en"}
    return {"app_id": app_id, "pushkey": pushkey, "kind": kind, "data": data, **names}


async def test_an_app_subscribes_by_web_push(
    app: JsPerson, room: tuple[Person, str], authority: trustme.CA, running: Running
) -> None:
    other, room_id = room
    assert await app.call("doesServerSupportUnstableFeature", UNSTABLE) is True
    capability = (await app.call("getCapabilities"))[f"{UNSTABLE}.webpush"]
    async with push_service(authority) as service:
        service.vapid, service.now = capability["vapid"], running.clock.now_ms() / 1_000
        subscription = service.subscribe()
        data = {**subscription.data, "default_payload": {"user_id": app.user_id}}
        body = pusher("web.app", subscription.p256dh, f"{UNSTABLE}.webpush", data)
        await app.call("setPusher", body)
        await until(lambda: bool(service.tokens))
        path = f"/_matrix/client/unstable/{UNSTABLE}/pushers/ack"
        await app.request("POST", path, service.pushed[0].message)
        (shown,) = (await app.call("getPushers"))["pushers"]
        assert (shown["activated"], shown["data"]) == (True, data)
        said = await other.say(room_id, "hi")
        await until(lambda: service.events == [said])
        assert service.told[0].message["user_id"] == app.user_id
        await app.call("removePusher", subscription.p256dh, "web.app")
        assert (await app.call("getPushers"))["pushers"] == []


async def test_an_app_is_told_by_its_distributor(app: JsPerson, room: tuple[Person, str]) -> None:
    other, room_id = room
    async with distributor() as ntfy:
        gateway = "https://matrix.gateway.unifiedpush.org/_matrix/push/v1/notify"
        data = {"url": gateway, "format": "event_id_only"}
        await app.call("setPusher", pusher("up.app", ntfy.endpoint(), "http", data))
        said = await other.say(room_id, "hi")
        await until(lambda: ntfy.events == [said])

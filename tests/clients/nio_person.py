"""A person who uses a program made with matrix-nio."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import nio

from tests.clients.person import Heard, Member, Person, RoomView, Seen
from tests.serving import PASSWORD

Answer = TypeVar("Answer")
SYNC_FILTER = {"room": {"timeline": {"limit": 200}}}


class NioPerson(Person):
    """Keeps a timeline for each room, as nio leaves that to its user; nio keeps the rest."""

    def __init__(self, url: str) -> None:
        super().__init__()
        config = nio.AsyncClientConfig(max_timeout_retry_wait_time=1, encryption_enabled=False)
        self._client = nio.AsyncClient(url, config=config)
        self._heard: dict[str, list[Heard]] = {}
        self._timelines: dict[str, list[Seen]] = {}
        self._starts: dict[str, str] = {}
        self._loop: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._client.add_response_callback(self._note, nio.SyncResponse)

    @property
    def client(self) -> nio.AsyncClient:
        """The SDK's client."""
        return self._client

    async def register(self, username: str) -> None:
        registering = nio.AsyncClient(self._client.homeserver, config=self._client.config)
        _good(nio.RegisterResponse, await registering.register(username, PASSWORD))
        await registering.close()

    async def login(self, username: str) -> None:
        self._client.user = username
        answer = _good(nio.LoginResponse, await self._client.login(PASSWORD))
        self.user_id = answer.user_id

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._sync())
        await self._first.wait()

    async def quit(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await self._client.close()

    async def log_out(self) -> None:
        """End the device's session."""
        _good(nio.LogoutResponse, await self._client.logout())

    async def restart(self) -> None:
        """End the program and start it anew with its stored session and sync token, no state."""
        session = (self._client.user_id, self._client.device_id, self._client.access_token)
        token = self._client.next_batch
        await self.quit()
        self._client = nio.AsyncClient(self._client.homeserver, config=self._client.config)
        self._client.restore_login(*session)
        self._client.next_batch = token
        self._client.add_response_callback(self._note, nio.SyncResponse)
        self._loop = asyncio.create_task(self._sync())

    async def create_room(self, name: str) -> str:
        answer = await self._client.room_create(name=name, preset=nio.RoomPreset.private_chat)
        return str(_good(nio.RoomCreateResponse, answer).room_id)

    async def invite(self, room_id: str, user_id: str) -> None:
        _good(nio.RoomInviteResponse, await self._client.room_invite(room_id, user_id))

    async def join(self, room_id: str) -> None:
        _good(nio.JoinResponse, await self._client.join(room_id))

    async def leave(self, room_id: str) -> None:
        _good(nio.RoomLeaveResponse, await self._client.room_leave(room_id))

    async def say(self, room_id: str, text: str) -> str:
        return await self._send(room_id, "m.room.message", {"msgtype": "m.text", "body": text})

    async def edit(self, room_id: str, event_id: str, text: str) -> str:
        content = {
            "msgtype": "m.text",
            "body": f"* {text}",
            "m.new_content": {"msgtype": "m.text", "body": text},
            "m.relates_to": {"rel_type": "m.replace", "event_id": event_id},
        }
        return await self._send(room_id, "m.room.message", content)

    async def react(self, room_id: str, event_id: str, key: str) -> str:
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        return await self._send(room_id, "m.reaction", {"m.relates_to": relation})

    async def redact(self, room_id: str, event_id: str) -> str:
        answer = await self._client.room_redact(room_id, event_id)
        return str(_good(nio.RoomRedactResponse, answer).event_id)

    async def type(self, room_id: str, typing: bool) -> None:
        answer = await self._client.room_typing(room_id, typing, timeout=20_000)
        _good(nio.RoomTypingResponse, answer)

    async def read(self, room_id: str, event_id: str) -> None:
        answer = await self._client.room_read_markers(room_id, event_id, event_id)
        _good(nio.RoomReadMarkersResponse, answer)

    async def rename(self, name: str) -> None:
        _good(nio.ProfileSetDisplayNameResponse, await self._client.set_displayname(name))

    async def name_room(self, room_id: str, name: str) -> None:
        answer = await self._client.room_put_state(room_id, "m.room.name", {"name": name})
        _good(nio.RoomPutStateResponse, answer)

    async def page_back(self, room_id: str) -> list[str]:
        older: list[str] = []
        start: str | None = self._starts[room_id]
        while start is not None:
            page = _good(
                nio.RoomMessagesResponse,
                await self._client.room_messages(room_id, start=start, limit=100),
            )
            older += [event.event_id for event in page.chunk]
            start = page.end
        return older[::-1] + [seen.event_id for seen in self._timelines[room_id]]

    async def view(self, room_id: str) -> RoomView | None:
        if room_id in self._client.invited_rooms and room_id not in self._client.rooms:
            invited = self._client.invited_rooms[room_id]
            return RoomView(invited.name or "", "invite", {}, frozenset(), {}, [])
        room = self._client.rooms.get(room_id)
        if room is None:
            return None
        members = {
            user_id: Member("invite" if user.invited else "join", user.display_name or "")
            for user_id, user in room.users.items()
        }
        receipts = {user_id: receipt.event_id for user_id, receipt in room.read_receipts.items()}
        return RoomView(
            name=room.name or "",
            membership="join",
            members=members,
            typing=frozenset(room.typing_users),
            receipts=receipts,
            timeline=list(self._timelines.get(room_id, [])),
        )

    async def heard(self, room_id: str) -> list[Heard]:
        return list(self._heard.get(room_id, []))

    async def _sync(self) -> None:
        await self._client.sync_forever(
            timeout=10_000, sync_filter=SYNC_FILTER, since=self._client.next_batch or None
        )

    async def _send(self, room_id: str, kind: str, content: Mapping[str, object]) -> str:
        answer = await self._client.room_send(room_id, kind, content)
        return str(_good(nio.RoomSendResponse, answer).event_id)

    async def _note(self, response: nio.SyncResponse) -> None:
        for room_id, room in response.rooms.join.items():
            ids = [event.event_id for event in room.timeline.events]
            self._heard.setdefault(room_id, []).append(
                Heard(None, response.next_batch, ids, room.timeline.limited)
            )
            self._starts.setdefault(room_id, room.timeline.prev_batch)
            for event in room.timeline.events:
                self._show(self._timelines.setdefault(room_id, []), event)
        self._first.set()
        self.notice_sync()

    def _show(self, timeline: list[Seen], event: nio.Event) -> None:
        content = event.source.get("content", {})
        kind = event.source["type"]
        body = content.get("body")
        timeline.append(Seen(event.event_id, kind, event.sender, body))
        relation = content.get("m.relates_to", {})
        target = relation.get("event_id")
        if kind == "m.room.redaction":
            target = event.source.get("redacts") or content.get("redacts")
        for place, seen in enumerate(timeline):
            if seen.event_id != target:
                continue
            if kind == "m.room.redaction":
                timeline[place] = replace(seen, body=None, redacted=True)
            elif relation.get("rel_type") == "m.replace" and event.sender == seen.sender:
                timeline[place] = replace(seen, body=content["m.new_content"]["body"])
            elif relation.get("rel_type") == "m.annotation":
                timeline[place] = replace(seen, reactions=(*seen.reactions, relation["key"]))


def _good(kind: type[Answer], answer: object) -> Answer:
    """The answer, which must be of the kind that says that it worked."""
    assert isinstance(answer, kind), f"the server refused: {answer}"
    return answer

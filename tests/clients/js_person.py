"""A person who uses a program made with matrix-js-sdk, running in a Node of its own."""

import asyncio
import json
from itertools import count
from pathlib import Path
from typing import Any

from tests.clients import node
from tests.clients.person import Heard, Member, Person, RoomView, Seen
from tests.serving import PASSWORD


class JsPerson(Person):
    """Speaks with `js/program.js` in JSON lines; a `sliding` one syncs by sliding sync."""

    def __init__(self, url: str, log: Path, *, sliding: bool = False) -> None:
        super().__init__()
        self._url = url
        self._log = log
        self._sliding = sliding
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start the program."""
        program = node.program()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                node.executable(),
                program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=64 * 1024 * 1024,
            )
        self._reader = asyncio.create_task(self._read())
        await self._do("connect", url=self._url)

    async def register(self, username: str) -> None:
        await self._do("register", username=username, password=PASSWORD)

    async def login(self, username: str) -> None:
        self.user_id = await self._do("login", username=username, password=PASSWORD)

    async def login_refreshing(self, username: str) -> None:
        """Log in with an access token that ends, and a refresh token."""
        self.user_id = await self._do(
            "login", username=username, password=PASSWORD, refreshing=True
        )

    async def renewals(self) -> int:
        """How often the session's tokens were refreshed."""
        number: int = await self._do("renewals")
        return number

    async def start(self) -> None:
        await self._do("start", sliding=self._sliding)

    async def quit(self) -> None:
        if self._process is None or self._reader is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader
        self._process = None

    async def request(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """What the SDK has no method for, asked as the SDK asks."""
        return await self._do("request", method=method, path=path, body=body)

    async def log_out(self) -> None:
        """End the device's session."""
        await self._do("logout")

    async def create_room(self, name: str) -> str:
        room_id: str = await self._do("createRoom", name=name)
        return room_id

    async def invite(self, room_id: str, user_id: str) -> None:
        await self._do("invite", roomId=room_id, userId=user_id)

    async def join(self, room_id: str) -> None:
        await self._do("join", roomId=room_id)

    async def leave(self, room_id: str) -> None:
        await self._do("leave", roomId=room_id)

    async def say(self, room_id: str, text: str) -> str:
        event_id: str = await self._do("say", roomId=room_id, text=text)
        return event_id

    async def edit(self, room_id: str, event_id: str, text: str) -> str:
        edit_id: str = await self._do("edit", roomId=room_id, eventId=event_id, text=text)
        return edit_id

    async def react(self, room_id: str, event_id: str, key: str) -> str:
        reaction_id: str = await self._do("react", roomId=room_id, eventId=event_id, key=key)
        return reaction_id

    async def redact(self, room_id: str, event_id: str) -> str:
        redaction_id: str = await self._do("redact", roomId=room_id, eventId=event_id)
        return redaction_id

    async def type(self, room_id: str, typing: bool) -> None:
        await self._do("typing", roomId=room_id, typing=typing)

    async def read(self, room_id: str, event_id: str) -> None:
        await self._do("read", roomId=room_id, eventId=event_id)

    async def rename(self, name: str) -> None:
        await self._do("rename", name=name)

    async def name_room(self, room_id: str, name: str) -> None:
        await self._do("nameRoom", roomId=room_id, name=name)

    async def page_back(self, room_id: str) -> list[str]:
        events: list[str] = await self._do("pageBack", roomId=room_id)
        return events

    async def view(self, room_id: str) -> RoomView | None:
        found = await self._do("view", roomId=room_id)
        if found is None:
            return None
        return RoomView(
            name=found["name"],
            membership=found["membership"],
            members={user: Member(**member) for user, member in found["members"].items()},
            typing=frozenset(found["typing"]),
            receipts=found["receipts"],
            timeline=[
                Seen(**{**seen, "reactions": tuple(seen["reactions"])})
                for seen in found["timeline"]
            ],
        )

    async def heard(self, room_id: str) -> list[Heard]:
        return [Heard(**reply) for reply in await self._do("heard", roomId=room_id)]

    # --- encryption: only with a program that was told to encrypt

    async def encrypt(self) -> None:
        """Make keys for this device; between login and start."""
        await self._do("encrypt")

    async def device_id(self) -> str:
        device_id: str = await self._do("deviceId")
        return device_id

    async def go_offline(self) -> None:
        """The device has no network until `go_online`."""
        await self._do("goOffline")

    async def go_online(self) -> None:
        await self._do("goOnline")

    async def create_encrypted_room(self, name: str, *, history: str = "joined") -> str:
        """A private room; `history` is who may see what was said before they came."""
        room_id: str = await self._do("createEncryptedRoom", name=name, history=history)
        return room_id

    async def set_up(self) -> str:
        """A cross-signing identity, secret storage and a backup; gives the recovery key."""
        key: str = await self._do("setUp", password=PASSWORD)
        return key

    async def recover(self, recovery_key: str) -> tuple[int, int]:
        """Take all that from the server; how many sessions the backup had and were restored."""
        found = await self._do("recover", recoveryKey=recovery_key)
        return found["total"], found["imported"]

    async def dehydrate(self) -> None:
        """Leave a device on the server that takes keys of messages while no other is there."""
        await self._do("dehydrate")

    async def rehydrate(self) -> None:
        """Take over what such a device was sent, and leave another; after `recover`."""
        await self._do("rehydrate")

    async def sessions(self) -> tuple[int, int]:
        """How many sessions of messages the device knows, and how many the backup has."""
        found = await self._do("sessions")
        return found["known"], found["stored"]

    async def trusts(self, user_id: str, device_id: str) -> bool:
        """Whether the user's identity signed the device, in the eyes of this one."""
        trusted: bool = await self._do("trusts", userId=user_id, deviceId=device_id)
        return trusted

    async def is_signed(self, user_id: str, device_id: str) -> bool:
        """Whether the user's own identity signed the device, whoever trusts that identity."""
        signed: bool = await self._do("isSigned", userId=user_id, deviceId=device_id)
        return signed

    async def devices_of(self, user_id: str) -> list[str]:
        """The devices of a user for which messages are encrypted."""
        devices: list[str] = await self._do("devicesOf", userId=user_id)
        return devices

    async def readings(self, room_id: str) -> list[dict[str, Any]]:
        """The encrypted events: `event_id`, `body` (None: unreadable), `failure`."""
        events: list[dict[str, Any]] = await self._do("readings", roomId=room_id)
        return events

    async def verify_other(self) -> str:
        """Compare short strings with another of one's own devices; what was shown."""
        shown: str = await self._do("verifyOther")
        return shown

    async def be_verified(self) -> str:
        """The other side of `verify_other`."""
        shown: str = await self._do("beVerified")
        return shown

    async def call(self, method: str, *args: object) -> Any:
        """What a method of the SDK's client returns, which must be JSON."""
        return await self._do("call", method=method, args=args)

    async def sticky_events(self, room_id: str) -> list[dict[str, Any]]:
        """The sticky events (sender, content) that the SDK holds of a room."""
        found: list[dict[str, Any]] = await self._do("stickyEvents", roomId=room_id)
        return found

    async def room_order(self) -> tuple[int, list[str]]:
        """How many rooms the list of a sliding program has, and which, the newest first."""
        found = await self._do("roomOrder")
        return found["count"], found["rooms"]

    async def _do(self, command: str, **given: object) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        line = json.dumps({"id": number, "do": command, "with": given})
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(120):
            return await answer

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "synced" in said:
                self.notice_sync()
                continue
            answer = self._waiting.pop(said["id"])
            if answer.done():
                continue
            if "error" in said:
                answer.set_exception(AssertionError(f"{self.user_id}: {said['error']}"))
            else:
                answer.set_result(said["result"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(AssertionError(f"the program ended: {self._log.read_text()}"))

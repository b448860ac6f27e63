"""People who chat: what the tests ask of a client program, whichever SDK it is made with.

A person does things (each verb is one action of the program) and sees things: `view` is the room as
the program would show it, `heard` what the server delivered, reply by reply. Nobody sleeps: `until`
looks again after each sync that the program has received.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Seen:
    """One event of a timeline as it is shown."""

    event_id: str
    type: str
    sender: str
    body: str | None
    redacted: bool = False
    reactions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """A member as the program lists it."""

    membership: str
    name: str


@dataclass(frozen=True)
class RoomView:
    """A room as a program shows it; `timeline` from the oldest to the newest event it has."""

    name: str
    membership: str
    members: dict[str, Member]
    typing: frozenset[str]
    receipts: dict[str, str]
    timeline: list[Seen]

    def event(self, event_id: str) -> Seen | None:
        """The event, if the program has it."""
        return next((seen for seen in self.timeline if seen.event_id == event_id), None)


@dataclass(frozen=True)
class Heard:
    """What one sync reply said of a room; `since` is None for the first sync or where unknown."""

    since: str | None
    next: str
    events: list[str] = field(default_factory=list)
    limited: bool = False


class Person(ABC):
    """A client program with one account."""

    user_id: str

    def __init__(self) -> None:
        self._next_sync = asyncio.Event()

    @abstractmethod
    async def register(self, username: str) -> None:
        """Make the account; nobody is logged in by it."""

    @abstractmethod
    async def login(self, username: str) -> None:
        """Log in with the password on a new device."""

    @abstractmethod
    async def start(self) -> None:
        """Start the sync loop; returns after the first sync."""

    @abstractmethod
    async def quit(self) -> None:
        """End the program."""

    @abstractmethod
    async def create_room(self, name: str) -> str: ...

    @abstractmethod
    async def invite(self, room_id: str, user_id: str) -> None: ...

    @abstractmethod
    async def join(self, room_id: str) -> None: ...

    @abstractmethod
    async def leave(self, room_id: str) -> None: ...

    @abstractmethod
    async def say(self, room_id: str, text: str) -> str:
        """Send a message, again and again while the server is away; its event id."""

    @abstractmethod
    async def edit(self, room_id: str, event_id: str, text: str) -> str: ...

    @abstractmethod
    async def react(self, room_id: str, event_id: str, key: str) -> str: ...

    @abstractmethod
    async def redact(self, room_id: str, event_id: str) -> str: ...

    @abstractmethod
    async def type(self, room_id: str, typing: bool) -> None: ...

    @abstractmethod
    async def read(self, room_id: str, event_id: str) -> None: ...

    @abstractmethod
    async def rename(self, name: str) -> None:
        """Change the own display name."""

    @abstractmethod
    async def name_room(self, room_id: str, name: str) -> None: ...

    @abstractmethod
    async def page_back(self, room_id: str) -> list[str]:
        """Page to the room's start and give all its event ids, the oldest first."""

    @abstractmethod
    async def view(self, room_id: str) -> RoomView | None:
        """The room as the program shows it now; None while it knows no such room."""

    @abstractmethod
    async def heard(self, room_id: str) -> list[Heard]:
        """What each sync reply so far said of the room, in order."""

    async def until(self, room_id: str, condition: Callable[[RoomView], bool]) -> RoomView:
        """Wait until the room looks like that; TimeoutError with the last view if it never does.

        A condition that raises LookupError does not hold yet.
        """
        view: RoomView | None = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    next_sync = self._next_sync
                    view = await self.view(room_id)
                    # What the condition looks for may not be there at all yet.
                    with suppress(LookupError):
                        if view is not None and condition(view):
                            return view
                    await next_sync.wait()
        except TimeoutError as error:
            error.add_note(f"{self.user_id} last saw: {view}")
            raise

    async def until_seen(self, room_id: str, event_id: str) -> RoomView:
        """Wait until the event is in the room's timeline."""
        return await self.until(room_id, lambda view: view.event(event_id) is not None)

    async def until_heard(self, room_id: str, event_id: str) -> list[Heard]:
        """Wait until a sync reply held the event; a program shows what it sent before that."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                next_sync = self._next_sync
                heard = await self.heard(room_id)
                if any(event_id in reply.events for reply in heard):
                    return heard
                await next_sync.wait()

    def notice_sync(self) -> None:
        """To be called by the program after each sync."""
        self._next_sync.set()
        self._next_sync = asyncio.Event()


def in_one_piece(heard: list[Heard]) -> list[str]:
    """All event ids that were heard, after checking that no reply tore the thread.

    Each reply must go on from the token of the one before, and only the first one with events of
    the room, which comes with the join, may skip older ones.
    """
    for before, after in pairwise(heard):
        assert after.since in (None, before.next), "a sync did not go on from the last token"
    spoken = [reply for reply in heard if reply.events or reply.limited]
    assert not any(reply.limited for reply in spoken[1:]), "a sync skipped events"
    return [event_id for reply in spoken for event_id in reply.events]

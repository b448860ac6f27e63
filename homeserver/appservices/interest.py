"""Which events concern an application service.

Owns, for one service, its local users, the rooms in which they are, and the rooms that its
namespaces name; everything as of the position up to which events were judged. Events are judged in
the stream's order, and each moves what is known on. It reads nothing by itself but at its start.
spec: application-service-api#registration
"""

from collections.abc import Collection

from homeserver.appservices.registration import Registration
from homeserver.rooms.views import EventView
from storage import appservices as store
from storage.accounts import users_after
from storage.engine import Database

_PAGE = 1_000


class Interest:
    """See the module. `rooms` are those whose events must be looked at: it only grows."""

    def __init__(self, service: Registration, server_name: str) -> None:
        self.service = service
        self.users: dict[int, str] = {}
        self.named: set[int] = set()
        self.rooms: set[int] = set()
        self._joined: dict[int, set[int]] = {}
        self._server = ":" + server_name
        self._judged: set[int] = set()

    async def load(self, database: Database, pos: int) -> None:
        """Read what is known as of position `pos`, and which rooms moved since."""
        self._joined.clear()
        last = ""
        while rows := await users_after(database, last, _PAGE):
            last = rows[-1].localpart
            self.users |= {
                row.user_nid: user_id
                for row in rows
                if self.service.is_user(user_id := f"@{row.localpart}{self._server}")
            }
        nids = list(self.users)
        for start in range(0, len(nids), _PAGE):
            some = nids[start : start + _PAGE]
            for room_nid, user_nid in await store.joined_at(database, some, pos):
                self._joined.setdefault(room_nid, set()).add(user_nid)
            self.rooms |= await store.rooms_since(database, some, pos)
        self.rooms |= self._joined.keys()
        await self._load_named(database)

    async def _load_named(self, database: Database) -> None:
        nid = 0
        while self.service.rooms.all and (
            found := await store.room_ids_after(database, nid, _PAGE)
        ):
            nid = found[-1][0]
            for room_nid, room_id in found:
                self.room(room_nid, room_id)
        alias = ""
        while self.service.aliases.all and (
            named := await store.aliases_after(database, alias, _PAGE)
        ):
            alias = named[-1][0]
            for text, room_nid in named:
                self.alias(text, room_nid)

    def user(self, user_nid: int, user_id: str) -> bool:
        """Whether this is a local user of the service; it is remembered then."""
        if user_nid in self.users:
            return True
        if not user_id.endswith(self._server) or not self.service.is_user(user_id):
            return False
        self.users[user_nid] = user_id
        return True

    def room(self, room_nid: int, room_id: str) -> None:
        """A room is there: its id may be in the namespace."""
        if self.service.rooms.all and room_nid not in self._judged:
            self._judged.add(room_nid)
            if self.service.rooms.has(room_id):
                self.named.add(room_nid)
                self.rooms.add(room_nid)

    def alias(self, alias: str, room_nid: int) -> None:
        """A room has this alias."""
        if self.service.aliases.has(alias):
            self.named.add(room_nid)
            self.rooms.add(room_nid)

    def sees(self, room_nid: int) -> bool:
        """Whether what happens in the room concerns the service now."""
        return room_nid in self.named or bool(self._joined.get(room_nid))

    def judge(self, view: EventView, membership: str | None, user_nid: int | None) -> bool:
        """Whether an event concerns the service; it is then also noted what it changes.

        `membership` and `user_nid` are those that a member event sets.
        """
        concerns = self.sees(view.room_nid)
        if membership is None or user_nid is None or view.state_key is None:
            return concerns
        if not self.user(user_nid, view.state_key):
            return concerns
        joined = self._joined.setdefault(view.room_nid, set())
        if membership == "join":
            joined.add(user_nid)
        else:
            joined.discard(user_nid)
            if not joined:
                del self._joined[view.room_nid]
        return True

    def private(self, user_nids: Collection[int]) -> set[int]:
        """Those of the users that are the service's."""
        return {nid for nid in user_nids if nid in self.users}

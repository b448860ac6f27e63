"""Who is there: online, unavailable or offline, and since when.

Owns the presence of this server's users. It lives in memory: each device says what it is, by its
syncs or by its user's word, and the most active device of a user counts. A change of what others
see takes the next number of a counter of its own: presence has no stream position and moves none,
and a sync that changes nothing costs next to nothing. What it was is written now and then, for the
next start. Who may see it and who is woken is the business of `streams/presence.py`.
spec: client-server-api#presence
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Literal, cast

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.clock import Clock
from homeserver.streams.commit import CommitQueue
from homeserver.users.sessions import Session
from storage import presence as store
from storage import schema
from storage.changes import Put
from storage.engine import Database
from storage.memberships import joined_rooms
from storage.names import name_numbers
from storage.schema import PresenceRow

State = Literal["online", "unavailable", "offline"]

OFFLINE_AFTER = 30.0
"""Seconds after the end of its last sync from which a device is gone."""
IDLE_AFTER = 300.0
"""Seconds without any activity after which an online device counts as unavailable."""
ACTIVE_FOR = 60.0
"""Seconds for which whoever did something is called currently active."""
MAX_STATUS = 1_000
"""Characters of a status message."""
LOOK_SECONDS = 1.0
LOOKED_AT_ONCE = 1_000
MAX_OFFLINE = 20_000
MAX_RESTORED = 10_000
RESTORED_MS = 86_400_000
SAVE_SECONDS = 60.0
SAVED_AT_ONCE = 1_000

_ROW_STATES: dict[State, int] = {
    "offline": schema.OFFLINE,
    "unavailable": schema.UNAVAILABLE,
    "online": schema.ONLINE,
}
_STATES: dict[int, State] = {number: state for state, number in _ROW_STATES.items()}
_ABSENT: AbstractContextManager[object] = nullcontext()


class _User:
    """What others see of a user, and the devices it comes from; `number` is of the last change."""

    __slots__ = (
        "active",
        "devices",
        "last_active_ts",
        "number",
        "state",
        "status_msg",
        "user_id",
        "user_nid",
    )

    def __init__(self, user_nid: int, user_id: str) -> None:
        self.user_nid = user_nid
        self.user_id = user_id
        self.devices: dict[int, _Device] = {}
        self.state: State = "offline"
        self.active = False
        self.status_msg: str | None = None
        self.last_active_ts = 0
        self.number = 0


class _Device:
    """A device that is there; as a context manager, one of its syncs."""

    __slots__ = ("_monotonic", "_polls", "active", "nid", "seen", "state", "user")

    def __init__(self, nid: int, user: _User, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._polls = 0
        self.nid = nid
        self.user = user
        self.state: State = "online"
        self.seen = self.active = monotonic()

    def __enter__(self) -> None:
        self._polls += 1

    def __exit__(self, *_: object) -> None:
        self._polls -= 1
        self.seen = self._monotonic()

    def is_gone(self, now: float) -> bool:
        return not self._polls and now - self.seen >= OFFLINE_AFTER


class Presence:
    """The presence of all users of this server.

    `on_change(call)`: `call(user number)` follows each change; `counter` is the number of the
    latest one, and changes up to `floor` are not known completely any more.
    """

    def __init__(
        self, database: Database, commits: CommitQueue, clock: Clock, *, enabled: bool
    ) -> None:
        self._database = database
        self._commits = commits
        self._clock = clock
        self._monotonic = clock.monotonic
        self._enabled = enabled
        self._watchers: list[Callable[[int], None]] = []
        self._users: dict[int, _User] = {}
        self._devices: dict[int, _Device] = {}
        # Users in the order of their last change, and those among them who are offline.
        self._log: OrderedDict[int, _User] = OrderedDict()
        self._offline: OrderedDict[int, None] = OrderedDict()
        self._unsaved: dict[int, _User] = {}
        self._round: Iterator[_User] = iter(())
        self._looking = False
        self.counter = 0
        self.floor = 0

    def on_change(self, changed: Callable[[int], None]) -> None:
        """Have `changed(user number)` called after each change."""
        self._watchers.append(changed)

    async def restore(self) -> None:
        """Take up what was written; whoever was there has the usual time to come back."""
        if not self._enabled:
            return
        now, now_ms = self._monotonic(), self._clock.now_ms()
        rows = await store.recently_active(self._database, now_ms - RESTORED_MS, MAX_RESTORED)
        for user_id, row in rows.items():
            user = self._users[row.user_nid] = _User(row.user_nid, user_id)
            user.status_msg = row.status_msg
            user.last_active_ts = row.last_active_ts
            if row.state != schema.OFFLINE:
                # A device without a number, which nobody will renew.
                device = user.devices[0] = _Device(0, user, self._monotonic)
                device.state = _STATES[row.state]
                device.active = now - (now_ms - row.last_active_ts) / 1000
            self._look(user, now)
            if not user.number:
                self._moved(user)
        self._unsaved.clear()
        self._watch()

    def polling(
        self, session: Session, state: State | None = None
    ) -> AbstractContextManager[object]:
        """A sync of a device, to be entered while it is answered.

        `state` is what the client says of itself; None leaves a device that is there as it is, and
        is online for another. An offline one does not show.
        """
        nid = session.device_nid
        if nid is None or not self._enabled:
            return _ABSENT
        device = self._devices.get(nid)
        if device is not None and (state is None or state == device.state):
            if state == "online":
                device.active = self._monotonic()
                device.user.last_active_ts = self._clock.now_ms()
                if device.user.state != "online":
                    self._look(device.user, device.active)
            return device
        if state == "offline":
            return _ABSENT
        return self._arrived(session, nid, state or "online")

    def active(self, session: Session) -> None:
        """The user did something, such as sending a message, on a device that shows."""
        device = self._devices.get(session.device_nid or 0)
        if device is None or device.state == "offline":
            return
        now = device.active = self._monotonic()
        user = device.user
        user.last_active_ts = self._clock.now_ms()
        if device.state != "online" or not user.active:
            device.state = "online"
            self._look(user, now)

    def set(self, session: Session, state: State, status_msg: str | None) -> None:
        """What the user says; the status message replaces the one before.

        Raises `MatrixError` M_TOO_LARGE for a status message that is too long.
        """
        if status_msg is not None and len(status_msg) > MAX_STATUS:
            raise MatrixError("M_TOO_LARGE", f"status_msg has more than {MAX_STATUS} characters")
        if not self._enabled:
            return
        device = self._arrived(session, session.device_nid or -session.user_nid, state)
        device.seen = self._monotonic()
        user = device.user
        if state != "offline":
            user.last_active_ts = self._clock.now_ms()
        self._unsaved[user.user_nid] = user
        if user.status_msg != (status_msg or None):
            user.status_msg = status_msg or None
            self._moved(user)

    async def told(self, user_id: str, told: JsonObject) -> None:
        """Another server tells how its user is; of those who share no room with us nothing is kept.

        spec: server-server-api#presence
        """
        state, message = told.get("presence"), told.get("status_msg")
        ago = told.get("last_active_ago")
        known = self._enabled and isinstance(state, str) and state in _ROW_STATES
        nid = await self.number_of(user_id) if known else None
        if nid is None or not (await joined_rooms(self._database, [nid])).get(nid):
            return
        user = self._users.get(nid)
        if user is None:
            user = self._users[nid] = _User(nid, user_id)
        user.state = cast("State", state)
        user.active = state == "online" and told.get("currently_active") is True
        short = isinstance(message, str) and len(message) <= MAX_STATUS
        user.status_msg = message if short else None
        if isinstance(ago, int) and 0 <= ago < 2**50:
            user.last_active_ts = max(0, self._clock.now_ms() - ago)
        self._moved(user)

    def forget(self, user_nid: int) -> None:
        """Forget what a user has said and done; what is stored of it goes with the account."""
        user = self._users.get(user_nid)
        if user is None:
            return
        for nid in user.devices:
            self._devices.pop(nid, None)
        user.devices.clear()
        user.status_msg = None
        user.last_active_ts = 0
        self._look(user, self._monotonic())
        self._moved(user)
        self._unsaved.pop(user_nid, None)

    async def content(self, user_nid: int) -> JsonObject:
        """The content of a user's `m.presence`, also when it is only stored."""
        user = self._users.get(user_nid)
        if user is None and self._enabled:
            row = (await store.presence_of(self._database, [user_nid])).get(user_nid)
            user = _User(user_nid, "")
            if row is not None:
                user.status_msg = row.status_msg
                user.last_active_ts = row.last_active_ts
        return {"presence": "offline"} if user is None else self._content(user)

    def event(self, user_nid: int) -> bytes:
        """A user's `m.presence` event as JSON; for users that `changed_since` or `shown` named."""
        user = self._users[user_nid]
        return canonical.encode(
            {"type": "m.presence", "sender": user.user_id, "content": self._content(user)}
        )

    def user_id(self, user_nid: int) -> str | None:
        """The id of a user who has a presence."""
        user = self._users.get(user_nid)
        return user.user_id if user is not None else None

    def changed_since(self, number: int) -> list[int]:
        """Whose presence changed after change `number`, the latest first.

        For a number that is not of this process, or below `floor`, everybody who is known.
        """
        if not self.floor <= number <= self.counter:
            return list(self._log)
        found = []
        for user in reversed(self._log.values()):
            if user.number <= number:
                break
            found.append(user.user_nid)
        return found

    def shown(self) -> list[int]:
        """Everybody who is not offline."""
        return [nid for nid in self._log if nid not in self._offline]

    def is_shown(self, user_nid: int) -> bool:
        """Whether the user is not offline."""
        return user_nid in self._log and user_nid not in self._offline

    def touch(self, user_nid: int) -> None:
        """Tell a user's presence again, as if it had changed."""
        user = self._users.get(user_nid)
        if user is not None:
            self._moved(user)

    async def number_of(self, user_id: str) -> int | None:
        """The number of a user, None for names that stand nowhere."""
        return (await name_numbers(self._database, [user_id])).get(user_id)

    async def run(self) -> None:
        """Write from time to time, until cancelled."""
        while True:
            await self._clock.sleep(SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Write what has changed since it was last written."""
        while self._unsaved:
            nids = list(islice(self._unsaved, SAVED_AT_ONCE))
            users = [self._unsaved.pop(nid) for nid in nids]
            await self._commits.commit(
                [
                    Put(
                        PresenceRow(
                            user.user_nid,
                            _ROW_STATES[user.state],
                            user.status_msg,
                            user.last_active_ts,
                        )
                    )
                    for user in users
                ]
            )

    def _arrived(self, session: Session, nid: int, state: State) -> _Device:
        """A device that is new here, or that says something else than before."""
        user = self._users.get(session.user_nid)
        if user is None:
            user = self._users[session.user_nid] = _User(session.user_nid, session.user_id)
        device = user.devices.get(nid)
        if device is None:
            device = user.devices[nid] = self._devices[nid] = _Device(nid, user, self._monotonic)
        now = self._monotonic()
        device.state = state
        if state == "online":
            device.active = now
            user.last_active_ts = self._clock.now_ms()
        # Whoever was only restored has come back.
        user.devices.pop(0, None)
        self._look(user, now)
        self._watch()
        return device

    def _watch(self) -> None:
        """Have users looked at whose time may be over, as long as anybody is there."""
        if not self._looking:
            self._looking = True
            self._clock.call_later(LOOK_SECONDS, self._look_around)

    def _look(self, user: _User, now: float) -> None:
        """Work out what is seen of a user now."""
        state: State = "offline"
        latest = now - IDLE_AFTER
        for nid, device in list(user.devices.items()):
            if device.is_gone(now):
                del user.devices[nid]
                self._devices.pop(nid, None)
                continue
            if device.state == "online" and now - device.active < IDLE_AFTER:
                state = "online"
                latest = max(latest, device.active)
            elif device.state != "offline" and state == "offline":
                state = "unavailable"
        active = state == "online" and now - latest < ACTIVE_FOR
        if (state, active) != (user.state, user.active):
            user.state, user.active = state, active
            self._moved(user)

    def _moved(self, user: _User) -> None:
        self.counter += 1
        user.number = self.counter
        nid = user.user_nid
        self._log[nid] = user
        self._log.move_to_end(nid)
        self._unsaved[nid] = user
        if user.state == "offline":
            self._offline[nid] = None
            self._offline.move_to_end(nid)
            if len(self._offline) > MAX_OFFLINE:
                forgotten, _ = self._offline.popitem(last=False)
                self.floor = max(self.floor, self._log.pop(forgotten).number)
                if not self._users[forgotten].devices:
                    del self._users[forgotten]
        else:
            self._offline.pop(nid, None)
        for changed in self._watchers:
            changed(nid)

    def _look_around(self) -> None:
        """Look at some users whose time may be over; everybody has a turn."""
        now = self._monotonic()
        users = list(islice(self._round, LOOKED_AT_ONCE))
        for user in users:
            self._look(user, now)
        if not users:
            here = [user for user in self._users.values() if user.devices]
            self._round = iter(here)
            if not here:
                self._looking = False
                return
        self._clock.call_later(LOOK_SECONDS, self._look_around)

    def _content(self, user: _User) -> JsonObject:
        content: JsonObject = {"presence": user.state}
        if user.last_active_ts:
            content["last_active_ago"] = max(0, self._clock.now_ms() - user.last_active_ts)
        if user.state == "online":
            content["currently_active"] = user.active
        if user.status_msg is not None:
            content["status_msg"] = user.status_msg
        return content

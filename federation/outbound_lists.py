"""What other servers hear of our users' devices and signing keys.

Owns the form of these EDUs, and finding whom they concern: the servers that share a room with the
user, as it is when that is asked. Nothing is stored by server. A list is one row, which names its
last version and the device that changed by it, so a server that has missed more than that sees a
gap in `prev_id` and asks for the whole list.
spec: server-server-api#device-management, server-server-api#end-to-end-encryption
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from homeserver.matrix.canonical import JsonObject, decode_object, encode
from homeserver.streams.numbers import Names
from homeserver.users.device_lists import OwnChange
from homeserver.users.public_keys import PublicKeys, UserKeys
from storage import device_lists as store
from storage.engine import Database
from storage.schema import DeviceListRow

MAX_DEVICES = 20
"""Of more devices that change at once only the last is told of: the gap says the rest."""
MAX_CACHED = 1_000
DEVICES = "m.device_list_update"
SIGNING = "m.signing_key_update"


class ListNote(NamedTuple):
    """One EDU to be made: of a device at a version, or of the signing keys (no `device_id`)."""

    pos: int
    user_nid: int
    version: int
    device_id: str

    @property
    def type(self) -> str:
        """The type of the EDU."""
        return DEVICES if self.device_id else SIGNING


class OwnLists:
    """See the module."""

    def __init__(self, database: Database, names: Names, public: PublicKeys) -> None:
        self._database = database
        self._names = names
        self._public = public
        self._made: OrderedDict[tuple[int, int, str], tuple[UserKeys, bytes]] = OrderedDict()

    async def servers(self, user_nid: int) -> set[str]:
        """The servers that share a room with a user."""
        return await store.servers_beside(self._database, user_nid)

    async def met(self, user_nid: int, room_nid: int, pos: int) -> tuple[list[ListNote], set[str]]:
        """What the servers of a room that a user came into may lack, and who knows it already."""
        row = (await store.lists(self._database, [user_nid])).get(user_nid)
        if row is None or not row.device_id:
            return [], set()
        known = await store.servers_beside(self._database, user_nid, without_room=room_nid)
        return [ListNote(pos, user_nid, row.version, row.device_id)], known

    async def changed(self, after: int, until: int, limit: int) -> list[DeviceListRow]:
        """Up to `limit` lists that changed last in (after, until], in order."""
        return await store.own_changed(self._database, after, until, limit)

    async def missed(self, server: str, after: int, limit: int) -> list[ListNote]:
        """What a server must hear of up to `limit` users, changed after a position, in order."""
        found: list[ListNote] = []
        for row in await store.own_changed_beside(self._database, server, after, limit):
            if row.devices_pos > after:
                found.append(ListNote(row.pos, row.user_nid, row.version, row.device_id))
            if row.signing_pos > after:
                found.append(ListNote(row.pos, row.user_nid, row.version, ""))
        return found

    async def contents(self, notes: Collection[ListNote]) -> list[tuple[str, bytes]]:
        """The EDUs of these notes, as type and JSON; none for signing keys that are no more."""
        names = await self._names.names({note.user_nid for note in notes})
        keys = await self._public.of(names)
        found = []
        for note in notes:
            content = self._content(note, names[note.user_nid], keys[note.user_nid])
            if content:
                found.append((note.type, content))
        return found

    def _content(self, note: ListNote, user_id: str, keys: UserKeys) -> bytes:
        known = self._made.get(note[1:])
        if known is not None and known[0] is keys:
            return known[1]
        made = _device(note, user_id, keys) if note.device_id else _signing(user_id, keys)
        json = encode(made) if made else b""
        self._made[note[1:]] = (keys, json)
        if len(self._made) > MAX_CACHED:
            self._made.popitem(last=False)
        return json


def notes_of(change: OwnChange) -> Sequence[ListNote]:
    """The EDUs that tell of a change."""
    first = change.version - len(change.device_ids) + 1
    notes = [
        ListNote(change.pos, change.user_nid, version, device_id)
        for version, device_id in enumerate(change.device_ids, first)
    ]
    if len(notes) > MAX_DEVICES:
        notes = notes[-1:]
    if change.signing:
        notes.append(ListNote(change.pos, change.user_nid, change.version, ""))
    return notes


def _device(note: ListNote, user_id: str, keys: UserKeys) -> JsonObject:
    content: JsonObject = {
        "user_id": user_id,
        "device_id": note.device_id,
        "stream_id": note.version,
        "prev_id": [note.version - 1] if note.version > 1 else [],
    }
    if note.device_id not in keys.devices:
        return {**content, "deleted": True}
    content["keys"] = decode_object(keys.shown(note.device_id, named=False))
    name = keys.names.get(note.device_id)
    return content if name is None else {**content, "device_display_name": name}


def _signing(user_id: str, keys: UserKeys) -> JsonObject:
    """The signing keys that others may see; nothing when there are none any more."""
    if keys.master is None:
        return {}
    content: JsonObject = {"user_id": user_id, "master_key": decode_object(keys.master)}
    if keys.self_signing is not None:
        content["self_signing_key"] = decode_object(keys.self_signing)
    return content

"""A room's state, now and at earlier positions, read from the tables.

Owns the reading of state for everybody but the room's actor: the current state, the state at a
position of the stream, the summary of members, and the stripped state that an invited user sees.
It changes nothing and doesn't ask who may read.
"""

from collections.abc import Collection, Mapping

from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.event import Event
from homeserver.rooms.actor import Room
from homeserver.rooms.stored import load_events
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.memberships import heroes, of_user_in
from storage.rooms import summaries
from storage.schema import StateChangeRow
from storage.state import (
    current_of_types,
    current_states,
    current_values,
    state_at,
    state_changes,
    values_at,
)

HEROES = 5
_NEVER = 2**62
# The state that tells an invited user what the room is.
# spec: client-server-api#stripped-state
_STRIPPED = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)


class RoomState:
    """See the module. States map key numbers to event numbers."""

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._names = names

    async def current(self, room: Room) -> dict[int, int]:
        """The whole current state."""
        return (await current_states(self._database, [room.nid]))[room.nid]

    async def at(self, room: Room, pos: int) -> dict[int, int]:
        """The whole state after position `pos`."""
        return await state_at(self._database, room.nid, pos)

    async def changes(self, room: Room, after: int, until: int) -> list[StateChangeRow]:
        """The changes of state at positions in (after, until], in order."""
        rows = await state_changes(self._database, [room.nid], after, until)
        return rows.get(room.nid, [])

    async def event_nids(
        self, room: Room, keys: Collection[tuple[str, str]], pos: int | None = None
    ) -> dict[tuple[str, str], int]:
        """Events of some (type, state key), now or after position `pos`; without absent ones."""
        key_nids = {nid: key for key, nid in (await self._names.find_keys(keys)).items()}
        if pos is None:
            values = await current_values(self._database, [room.nid], key_nids.keys())
            found = values.get(room.nid, {})
        else:
            found = await values_at(self._database, room.nid, key_nids.keys(), pos)
        return {key_nids[key_nid]: nid for key_nid, nid in found.items()}

    async def of_types(
        self, room: Room, types: Collection[str], pos: int
    ) -> dict[tuple[str, str], int]:
        """Events of all state keys of some types, after position `pos`."""
        type_nids = await self._names.find(types)
        values = await current_of_types(self._database, room.nid, type_nids.values())
        # What has changed since is undone, whichever of it the values hold.
        later = await state_changes(self._database, [room.nid], pos, _NEVER)
        for row in reversed(later.get(room.nid, [])):
            if row.old_nid is None:
                values.pop(row.key_nid, None)
            else:
                values[row.key_nid] = row.old_nid
        keys = await self._names.keys(values.keys())
        return {keys[key_nid]: nid for key_nid, nid in values.items() if keys[key_nid][0] in types}

    async def keys(self, state: Mapping[int, int]) -> dict[int, tuple[str, str]]:
        """(type, state key) of the key numbers of a state."""
        return await self._names.keys(state.keys())

    async def heroes(self, room: Room, user_nid: int) -> list[str]:
        """Users by whom a room without a name is called, for one of its users."""
        nids = await heroes(self._database, room.nid, user_nid, HEROES)
        names = await self._names.names(nids)
        return [names[nid] for nid in nids]

    async def summary(self, room: Room, user_nid: int) -> JsonObject:
        """The room's `summary` for one of its users.

        spec: client-server-api#get_matrixclientv3sync_response-200_roomsummary
        """
        row = (await summaries(self._database, [room.nid]))[room.nid]
        summary: JsonObject = {
            "m.joined_member_count": row.joined,
            "m.invited_member_count": row.invited,
        }
        if row.name is None and row.alias is None:
            summary["m.heroes"] = await self.heroes(room, user_nid)
        return summary

    async def stripped(self, room: Room, user_id: str) -> bytes:
        """The JSON list of the stripped state that an invited or knocking user sees."""
        user_nid = (await self._names.nids([user_id]))[user_id]
        row = (await of_user_in(self._database, user_nid, [room.nid])).get(room.nid)
        if row is not None and row.stripped is not None:
            return row.stripped
        return canonical.encode(
            [
                {
                    "content": event.content,
                    "sender": event.sender,
                    "state_key": event.state_key,
                    "type": event.type,
                }
                for event in await self._shown(room, user_id)
            ]
        )

    async def shown(self, room: Room, user_id: str) -> list[JsonObject]:
        """The events that the stripped state is made of, whole, as other servers get them."""
        return [event.pdu for event in await self._shown(room, user_id)]

    async def _shown(self, room: Room, user_id: str) -> list[Event]:
        keys = [*((type_, "") for type_ in _STRIPPED), ("m.room.member", user_id)]
        nids = await self.event_nids(room, keys)
        events = await load_events(self._database, nids.values(), room.rules)
        inviter = events.get(nids.get(("m.room.member", user_id), 0))
        if inviter is not None and inviter.sender != user_id:
            key = ("m.room.member", inviter.sender)
            nids |= await self.event_nids(room, [key])
            keys.append(key)
            events |= await load_events(
                self._database, [nids[key]] if key in nids else [], room.rules
            )
        return [
            event for key in keys if key in nids and (event := events.get(nids[key])) is not None
        ]

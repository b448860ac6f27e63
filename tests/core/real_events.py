"""The vectors of the specification and events of real servers (origin: `vectors/NOTICE`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeserver.matrix.canonical import JsonObject, decode_object, decode_unpadded
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules

_FOLDER = Path(__file__).parent / "vectors"

SPEC: dict[str, Any] = decode_object((_FOLDER / "test-vectors.json").read_bytes())
_REAL = decode_object((_FOLDER / "pdu-vectors.json").read_bytes())


@dataclass(frozen=True)
class RealEvent:
    """An event that a Synapse server made; `redacted` if it was served without its content."""

    rules: RoomRules
    room_id: str
    event_id: str
    pdu: JsonObject
    redacted: bool


EVENTS = [
    RealEvent(
        rules=ROOM_VERSIONS[version],
        room_id=room["room_id"],
        event_id=entry["event_id"],
        pdu=entry["event"],
        redacted=entry["served_redacted"],
    )
    for version, room in _REAL["rooms"].items()
    for entry in room["events"]
]

SERVER_KEYS: dict[str, JsonObject] = _REAL["keys"]

VERIFY_KEYS: dict[str, dict[str, bytes]] = {
    server: {
        key_id: decode_unpadded(entry["key"]) for key_id, entry in response["verify_keys"].items()
    }
    for server, response in SERVER_KEYS.items()
}

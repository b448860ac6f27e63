"""Events: read from a stranger's PDU, from our storage, or made and signed by us.

Owns the event format of every room version. An `Event` is immutable by agreement: its PDU is shared
and never changed; who needs another one (redacted, with a further signature) makes a new event.
Signatures and content hash of a received event are checked in `sign.py`, its right to exist in
`auth.py`.
spec: server-server-api#pdus, client-server-api#size-limits
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Raw

from homeserver.matrix.canonical import (
    MAX_INT,
    JsonObject,
    check,
    decode_object,
    encode,
    encode_unpadded,
    encode_unpadded_urlsafe,
)
from homeserver.matrix.errors import Malformed, TooLarge
from homeserver.matrix.ids import (
    MAX_ID_BYTES,
    fits,
    is_domain_id,
    is_event_id,
    is_hash_room_id,
    is_user_id,
)
from homeserver.matrix.redact import redact_content
from homeserver.matrix.sign import SigningKey, event_id_from_hash, event_id_of
from homeserver.matrix.versions import RoomRules

MAX_PDU_BYTES = 65_536
MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10

_MAX_INT64 = 2**63 - 1


class Event:
    """One event of a room, with the fields that the rules look at.

    `pdu` is the event as servers exchange it, without `unsigned`. `state_key` is None for what is
    not state. `redacts` is the id that a redaction names, wherever its room version puts it.
    """

    __slots__ = (
        "auth_event_ids",
        "content",
        "depth",
        "event_id",
        "origin_server_ts",
        "pdu",
        "prev_event_ids",
        "redacts",
        "room_id",
        "rules",
        "sender",
        "state_key",
        "type",
    )

    rules: RoomRules
    pdu: JsonObject
    event_id: str
    room_id: str
    type: str
    sender: str
    state_key: str | None
    content: JsonObject
    auth_event_ids: list[str]
    prev_event_ids: list[str]
    depth: int
    origin_server_ts: int
    redacts: str | None

    def __init__(self, pdu: JsonObject, rules: RoomRules, event_id: str) -> None:
        self.rules = rules
        self.pdu = pdu
        self.event_id = event_id
        # The create event of a room whose id is a hash names no room: it is the room.
        self.room_id = pdu["room_id"] if "room_id" in pdu else "!" + event_id[1:]
        self.type = pdu["type"]
        self.sender = pdu["sender"]
        self.state_key = pdu.get("state_key")
        self.content = pdu["content"]
        if rules.event_ids == "sender":
            self.auth_event_ids = [pair[0] for pair in pdu["auth_events"]]
            self.prev_event_ids = [pair[0] for pair in pdu["prev_events"]]
        else:
            self.auth_event_ids = pdu["auth_events"]
            self.prev_event_ids = pdu["prev_events"]
        self.depth = pdu["depth"]
        self.origin_server_ts = pdu["origin_server_ts"]
        self.redacts = None
        if self.type == "m.room.redaction":
            self.redacts = _redacts(pdu, rules)

    def __repr__(self) -> str:
        return f"<Event {self.event_id} {self.type}>"

    @classmethod
    def stored(cls, pdu: JsonObject, rules: RoomRules, event_id: str) -> "Event":
        """An event that was checked before it was stored: nothing is looked at twice."""
        return cls(pdu, rules, event_id)

    @classmethod
    def parse(cls, pdu: object, rules: RoomRules) -> "Event":
        """The event of a PDU as it was received; raises `Malformed` and nothing else.

        Checks format and sizes, and computes the id. `unsigned` is dropped: no one vouches for it.
        """
        if not isinstance(pdu, dict):
            raise Malformed("A PDU is an object")
        if "unsigned" in pdu:
            pdu = {key: value for key, value in pdu.items() if key != "unsigned"}
        pdu = _checked(pdu, rules)
        _check_format(pdu, rules)
        if len(encode(pdu)) > MAX_PDU_BYTES:
            raise TooLarge(f"The event has more than {MAX_PDU_BYTES} bytes")
        return cls(pdu, rules, event_id_of(pdu, rules))

    @property
    def is_state(self) -> bool:
        """Whether it sets a piece of the room's state."""
        return self.state_key is not None

    @property
    def key(self) -> tuple[str, str]:
        """(type, state_key) of a state event, what it sets of the state."""
        assert self.state_key is not None
        return (self.type, self.state_key)


def build(
    rules: RoomRules,
    *,
    room_id: str | None,
    sender: str,
    type: str,  # noqa: A002
    content: JsonObject,
    state_key: str | None,
    prev_event_ids: Sequence[str],
    auth_event_ids: Sequence[str],
    depth: int,
    origin_server_ts: int,
    redacts: str | None = None,
    sticky: JsonObject | None = None,
    event_id_domain: str | None = None,
    reference_hashes: Mapping[str, str] | None = None,
    sign: SigningKey,
    server_name: str,
) -> tuple[Event, bytes]:
    """A new event of ours, hashed, signed and checked, and its PDU in canonical JSON.

    `room_id` is None only for the create event of a room whose id is a hash. `sticky` are members
    beside the content that make it a sticky event (MSC4354). `redacts` goes where
    the room version has it, in `content` on a copy. Only room versions 1 and 2 read
    `event_id_domain` (our own name if None) and `reference_hashes`: by event id, in unpadded
    base64, they are written beside previous and auth events, where nobody checks them; unknown
    ones are left out. Whether the sender may send it is not asked. Raises `Malformed` when it
    can't be an event, `TooLarge` when it has too many bytes.
    """
    if redacts is not None and rules.redacts_in_content:
        content = {**content, "redacts": redacts}
    content = _checked(content, rules)
    pdu: JsonObject = {
        "auth_events": _references(auth_event_ids, rules, reference_hashes),
        "content": content,
        "depth": min(depth, _most_depth(rules)),
        "origin_server_ts": origin_server_ts,
        "prev_events": _references(prev_event_ids, rules, reference_hashes),
        "sender": sender,
        "type": type,
    }
    if room_id is not None and not (rules.room_id_is_hash and type == "m.room.create"):
        pdu["room_id"] = room_id
    if state_key is not None:
        pdu["state_key"] = state_key
    if redacts is not None and not rules.redacts_in_content:
        pdu["redacts"] = redacts
    if sticky is not None:
        pdu |= sticky
    _check_fields(pdu, rules)
    if rules.event_ids == "sender":
        opaque = encode_unpadded_urlsafe(hashlib.sha256(encode(pdu)).digest()[:18])
        pdu["event_id"] = f"${opaque}:{event_id_domain or server_name}"
    return _hashed_and_signed(pdu, rules, sign, server_name, ("redacts", *(sticky or ())))


def _hashed_and_signed(
    pdu: JsonObject,
    rules: RoomRules,
    key: SigningKey,
    server_name: str,
    unprotected: Iterable[str],
) -> tuple[Event, bytes]:
    """Complete a PDU that has neither hashes nor signatures, changing it in place.

    `unprotected` are the members that a redaction takes away.

    Does what `sign.hash_and_sign` and `Event.parse` would, with less work: the content is encoded
    once, and the bytes that are signed are also those of the reference hash.
    """
    content = pdu["content"]
    encoded = Raw(encode(content))
    pdu["content"] = encoded
    content_hash = hashlib.sha256(encode(pdu)).digest()
    pdu["hashes"] = {"sha256": encode_unpadded(content_hash)}

    signed = pdu.copy()
    for name in unprotected:
        signed.pop(name, None)
    signed["content"] = redact_content(pdu["type"], content, rules)
    message = encode(signed)
    signature = encode_unpadded(key.sign(message))
    pdu["signatures"] = {server_name: {key.key_id: signature}}

    data = encode(pdu)
    if len(data) > MAX_PDU_BYTES:
        raise TooLarge(f"The event has {len(data)} bytes, more than {MAX_PDU_BYTES}")
    pdu["content"] = content
    if rules.event_ids == "sender":
        event_id = pdu["event_id"]
    else:
        event_id = event_id_from_hash(hashlib.sha256(message).digest(), rules)
    return Event(pdu, rules, event_id), data


def _checked(value: JsonObject, rules: RoomRules) -> JsonObject:
    """The object if it is JSON as the room version allows it, `Malformed` otherwise."""
    check(value, strict=rules.strict_json)
    if rules.strict_json:
        return value
    # Floats that `decode` has read are written in the notation that hashes are made over.
    return decode_object(encode(value))


def _references(
    event_ids: Sequence[str], rules: RoomRules, hashes: Mapping[str, str] | None
) -> list[Any]:
    """Previous or auth events as the room version writes them."""
    if rules.event_ids != "sender":
        return list(event_ids)
    known = hashes or {}
    return [[name, {"sha256": known[name]} if name in known else {}] for name in event_ids]


def _redacts(pdu: JsonObject, rules: RoomRules) -> str | None:
    redacts = (pdu["content"] if rules.redacts_in_content else pdu).get("redacts")
    return redacts if isinstance(redacts, str) else None


def _most_depth(rules: RoomRules) -> int:
    return MAX_INT if rules.strict_json else _MAX_INT64


def _check_format(pdu: JsonObject, rules: RoomRules) -> None:
    """What a received PDU must have beyond `_check_fields`."""
    if not isinstance(pdu.get("content"), dict):
        raise Malformed("content is an object")
    _check_fields(pdu, rules)
    if rules.event_ids == "sender" and not is_domain_id(_text(pdu, "event_id"), "$"):
        raise Malformed("event_id is an event id with a domain")
    hashes = pdu.get("hashes")
    if not isinstance(hashes, dict) or not isinstance(hashes.get("sha256"), str):
        raise Malformed("hashes is an object with a sha256")
    signatures = pdu.get("signatures")
    if not isinstance(signatures, dict) or not all(map(_is_signatures, signatures.values())):
        raise Malformed("signatures is an object of objects of strings")


def _check_fields(pdu: JsonObject, rules: RoomRules) -> None:
    """The fields that hashes and signatures come on top of, but for `content` as such."""
    event_type = _text(pdu, "type")
    if not is_user_id(_text(pdu, "sender")):
        raise Malformed("sender is a user id")
    if "state_key" in pdu:
        _text(pdu, "state_key")
    if rules.room_id_is_hash:
        if event_type != "m.room.create" or "room_id" in pdu:
            _check_room_id(is_hash_room_id(_text(pdu, "room_id")))
    else:
        _check_room_id(is_domain_id(_text(pdu, "room_id"), "!"))
    _check_integer(pdu, "depth", 0, _most_depth(rules))
    _check_integer(pdu, "origin_server_ts", -_most_depth(rules), _most_depth(rules))
    _check_references(pdu, "auth_events", MAX_AUTH_EVENTS, rules)
    _check_references(pdu, "prev_events", MAX_PREV_EVENTS, rules)
    if "redacts" in pdu and not rules.redacts_in_content:
        _text(pdu, "redacts")
    if rules.restricted_joins and event_type == "m.room.member":
        _check_authoriser(pdu["content"])


def _text(pdu: JsonObject, key: str) -> str:
    """A string that fits; without NUL, which PostgreSQL cannot hold in a text."""
    value = pdu.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{key} is a string")
    if not fits(value):
        raise TooLarge(f"{key} has more than {MAX_ID_BYTES} bytes")
    if "\0" in value:
        raise Malformed(f"{key} holds no NUL")
    return value


def _check_integer(pdu: JsonObject, key: str, least: int, most: int) -> None:
    value = pdu.get(key)
    if type(value) is not int or not least <= value <= most:
        raise Malformed(f"{key} is an integer within the limits of the room version")


def _check_room_id(valid: bool) -> None:
    if not valid:
        raise Malformed("room_id is a room id of the form of the room version")


def _check_references(pdu: JsonObject, key: str, most: int, rules: RoomRules) -> None:
    entries = pdu.get(key)
    if not isinstance(entries, list) or len(entries) > most:
        raise Malformed(f"{key} is a list of at most {most} events")
    for entry in entries:
        event_id = _paired_id(entry) if rules.event_ids == "sender" else entry
        if not isinstance(event_id, str) or not is_event_id(event_id):
            raise Malformed(f"{key} lists events in the form of the room version")


def _paired_id(entry: object) -> object:
    """The event id of a pair of id and hashes, None for anything else."""
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict):
        return entry[0]
    return None


def _check_authoriser(content: JsonObject) -> None:
    """Who authorised a restricted join names the server that must have signed it."""
    if content.get("membership") != "join":
        return
    authoriser = content.get("join_authorised_via_users_server")
    if authoriser is not None and not (isinstance(authoriser, str) and is_user_id(authoriser)):
        raise Malformed("join_authorised_via_users_server is a user id")


def _is_signatures(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())

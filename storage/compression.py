"""How an event's JSON is kept: deflated against a dictionary of what events have in common.

The first byte says how the rest is to be read: `{` begins JSON as it is, any other value is the
number of a dictionary, and a raw deflate stream follows. Invariant: a dictionary never changes once
databases were written with it; a better one gets the next number. What does not become shorter is
kept as it is. About 17 us to pack an event of 750 bytes into 440, and 5 us to unpack it.
"""

import zlib
from typing import Final

_PLAIN: Final = b"{"[0]
_SHORT: Final = 3_000
"""Up to this length a small window is enough, and five times quicker to set up."""

# What is most frequent stands last: the nearest match takes the fewest bits.
_FIRST: Final = (
    b'"content":{"creator":"@","m.federate":false,"predecessor":{"event_id":"$","room_id":"!"},'
    b'"room_version":"12","type":"m.space"},"type":"m.room.create"'
    b'"content":{"ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,'
    b'"m.room.encryption":100,"m.room.history_visibility":100,"m.room.name":50,'
    b'"m.room.power_levels":100,"m.room.server_acl":100,"m.room.tombstone":100},'
    b'"events_default":0,"invite":0,"kick":50,"notifications":{"room":50},"redact":50,'
    b'"state_default":50,"users":{"@":100},"users_default":0},"type":"m.room.power_levels"'
    b'"content":{"join_rule":"public"},"type":"m.room.join_rules""content":{"topic":"'
    b'"type":"m.room.topic""content":{"name":""type":"m.room.name"'
    b'"content":{"history_visibility":"shared"},"guest_access":"can_join"'
    b'"type":"m.space.child","via":["matrix.org"],"suggested":true'
    b'"m.poll.start","m.sticker","m.call.invite","m.location","m.notice","m.emote","m.file"'
    b'"body":"image.png","filename":"image.jpg","info":{"h":1080,"mimetype":"image/jpeg","size":'
    b'"thumbnail_info":{"thumbnail_url":"mxc://","w":1920,"xyz.amorgan.blurhash":"'
    b'"msgtype":"m.image","url":"mxc://""file":{"hashes":{"iv":"","key":{"alg":"A256CTR","ext":true'
    b'"k":"","key_ops":["encrypt","decrypt"],"kty":"oct"},"url":"mxc://","v":"v2"}'
    b'"content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgAEoAB","device_id":"",'
    b'"m.relates_to":{"event_id":"$","rel_type":"m.thread","is_falling_back":true,'
    b'"sender_key":"","session_id":""},"type":"m.room.encrypted"'
    b'https://matrix.to/#/<a href=\\"https://</a><strong></strong><code></code><br><p></p>'
    b'"format":"org.matrix.custom.html","formatted_body":"<mx-reply><blockquote></blockquote>'
    b'"m.new_content":{"body":"","msgtype":"m.text"},"rel_type":"m.replace"'
    b'"content":{"avatar_url":"mxc://matrix.org/","displayname":"","membership":"leave","reason":"'
    b'"join_authorised_via_users_server":"@","membership":"invite","is_direct":true'
    b'"membership":"join"},"state_key":"@","type":"m.room.member","state_key":""'
    b'"redacts":"$","reason":"","type":"m.room.redaction"'
    b'"content":{"m.relates_to":{"event_id":"$","key":"\xf0\x9f\x91\x8d\xef\xb8\x8f",'
    b'"rel_type":"m.annotation"}},"type":"m.reaction"'
    b" and you that have not with this for are was but what the to of in is it ing "
    b'{"auth_events":["$","$","$"],"content":{"body":"The ","m.mentions":{"user_ids":["@"]},'
    b'"m.relates_to":{"m.in_reply_to":{"event_id":"$"}},"msgtype":"m.text"},"depth":1,'
    b'"hashes":{"sha256":""},"origin_server_ts":17,"prev_events":["$"],"room_id":"!",'
    b'"sender":"@","signatures":{"":{"ed25519:a_":""}},"type":"m.room.message"}'
)
_DICTIONARIES: Final = {1: _FIRST}
_NEWEST: Final = max(_DICTIONARIES)
# Copied for each event: a copy is cheaper than reading the dictionary anew.
_OF_SHORT: Final = zlib.compressobj(1, zlib.DEFLATED, -12, 5, zdict=_DICTIONARIES[_NEWEST])
_OF_LONG: Final = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=_DICTIONARIES[_NEWEST])


def pack_json(json: bytes) -> bytes:
    """An event's canonical JSON as it is stored."""
    deflate = (_OF_SHORT if len(json) <= _SHORT else _OF_LONG).copy()
    packed = bytes((_NEWEST,)) + deflate.compress(json) + deflate.flush()
    return packed if len(packed) < len(json) or json[:1] != b"{" else json


def unpack_json(stored: bytes) -> bytes:
    """What `pack_json` packed; ValueError for bytes that it did not make."""
    if not stored or stored[0] == _PLAIN:
        return stored
    dictionary = _DICTIONARIES.get(stored[0])
    if dictionary is None:
        raise ValueError("the JSON was stored with a dictionary that is not known")
    inflate = zlib.decompressobj(-15, zdict=dictionary)
    try:
        json = inflate.decompress(memoryview(stored)[1:])
    except zlib.error as error:
        raise ValueError(f"the stored JSON is damaged: {error}") from error
    if not inflate.eof:
        raise ValueError("the stored JSON is cut off")
    return json

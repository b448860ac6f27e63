"""A client's keys, made and signed as a client does, and the requests that publish them."""

import itertools
import secrets
from dataclasses import dataclass, field
from typing import Any

from homeserver.matrix.canonical import JsonObject, encode_unpadded
from homeserver.matrix.sign import SigningKey, sign_json
from tests.serving import Person

SIGNED = "signed_curve25519"
_ids = itertools.count(1)


class Signer:
    """An ed25519 key whose id is the name that it is published under."""

    def __init__(self, name: str | None = None) -> None:
        self._key = SigningKey("a", secrets.token_bytes(32))
        self.public = encode_unpadded(self._key.public_key)
        self.name = name or self.public

    def sign(self, value: JsonObject, user_id: str) -> JsonObject:
        """A copy with the signature added."""
        signed = sign_json({**value, "signatures": {}}, user_id, self._key)
        made = {f"ed25519:{self.name}": signed["signatures"][user_id]["ed25519:a"]}
        signatures: dict[str, Any] = dict(value.get("signatures", {}))
        signatures[user_id] = {**signatures.get(user_id, {}), **made}
        return {**value, "signatures": signatures}


@dataclass
class Keyed:
    """A person's device with keys."""

    person: Person
    signer: Signer = field(init=False)
    device: JsonObject = field(init=False)

    def __post_init__(self) -> None:
        self.signer = Signer(self.person.device_id)
        device_id = self.person.device_id
        bare = {
            "user_id": self.person.user_id,
            "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"curve25519:{device_id}": encode_unpadded(secrets.token_bytes(32)),
                f"ed25519:{device_id}": self.signer.public,
            },
        }
        self.device = self.signer.sign(bare, self.person.user_id)

    def key(self, *, fallback: bool = False) -> JsonObject:
        """A signed one-time key."""
        key: JsonObject = {"key": encode_unpadded(secrets.token_bytes(32))}
        if fallback:
            key["fallback"] = True
        return self.signer.sign(key, self.person.user_id)

    def keys(self, count: int) -> JsonObject:
        """Signed one-time keys under new names."""
        return {f"{SIGNED}:K{next(_ids)}": self.key() for _ in range(count)}

    async def upload(self, count: int = 0, **body: Any) -> int:
        """Publish the device's keys and new one-time keys; how many there are then."""
        body = {"device_keys": self.device, "one_time_keys": self.keys(count), **body}
        answer = await self.person.ok("POST", "/keys/upload", body=body)
        return int(answer["one_time_key_counts"][SIGNED])

    async def claim(self, *others: "Keyed") -> list[str | None]:
        """The names of the keys that a claim for these devices gives, None where there is none."""
        wanted: dict[str, dict[str, str]] = {}
        for other in others:
            wanted.setdefault(other.person.user_id, {})[other.person.device_id] = SIGNED
        body = {"one_time_keys": wanted}
        found = (await self.person.ok("POST", "/keys/claim", body=body))["one_time_keys"]
        return [
            next(iter(found.get(one.person.user_id, {}).get(one.person.device_id, {})), None)
            for one in others
        ]


async def keyed(person: Person, count: int = 0) -> Keyed:
    """The person's device with published keys."""
    made = Keyed(person)
    await made.upload(count)
    return made


async def query(person: Person, *users: Person) -> Any:
    """What the person is told of the users' keys."""
    wanted: dict[str, list[str]] = {user.user_id: [] for user in users}
    return await person.ok("POST", "/keys/query", body={"device_keys": wanted})


def changed(answer: Any) -> set[str]:
    """The users of a sync answer whose keys must be fetched anew."""
    return set(answer.get("device_lists", {}).get("changed", ()))


def left(answer: Any) -> set[str]:
    """The users of a sync answer who are to be forgotten."""
    return set(answer.get("device_lists", {}).get("left", ()))


def messages(answer: Any) -> list[Any]:
    """The to-device messages of a sync answer."""
    return list(answer.get("to_device", {}).get("events", ()))


async def write(person: Person, to: Person, text: Any, txn: str, device_id: str = "*") -> None:
    """Send a to-device message."""
    body = {"messages": {to.user_id: {device_id: {"text": text}}}}
    await person.ok("PUT", f"/sendToDevice/test.message/{txn}", body=body)

"""Signing keys and signatures: what is taken, and from whom.

spec: client-server-api#cross-signing
"""

import asyncio
from dataclasses import dataclass, field

from homeserver.matrix.canonical import JsonObject
from tests.e2ee.keyed import Signer, keyed, query
from tests.serving import Person, Running

UPLOAD = "/keys/device_signing/upload"
SIGN = "/keys/signatures/upload"


@dataclass
class Identity:
    """A person's three keys."""

    person: Person
    master: Signer = field(default_factory=Signer)
    self_signing: Signer = field(default_factory=Signer)
    user_signing: Signer = field(default_factory=Signer)

    def key(self, usage: str) -> JsonObject:
        """The public form of a key, without a signature."""
        public = getattr(self, usage).public
        named = {f"ed25519:{public}": public}
        return {"user_id": self.person.user_id, "usage": [usage], "keys": named}

    @property
    def body(self) -> JsonObject:
        """What publishes all three."""
        others = {
            f"{usage}_key": self.master.sign(self.key(usage), self.person.user_id)
            for usage in ("self_signing", "user_signing")
        }
        return {"master_key": self.key("master"), **others}


async def identified(person: Person) -> Identity:
    """A person whose keys are published."""
    made = Identity(person)
    await person.ok("POST", UPLOAD, body=made.body)
    return made


async def test_of_others_only_the_master_key_is_signed(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    device, mine, theirs = await keyed(bob), await identified(alice), await identified(bob)
    signed = mine.user_signing.sign(device.device, alice.user_id)
    given = {bob.user_id: {bob.device_id: signed}}
    failures = (await alice.ok("POST", SIGN, body=given))["failures"]
    assert failures[bob.user_id][bob.device_id]["errcode"] == "M_INVALID_SIGNATURE"
    for wrong in (mine.master, mine.self_signing):
        by_wrong = wrong.sign(theirs.key("master"), alice.user_id)
        given = {bob.user_id: {theirs.master.public: by_wrong}}
        failures = (await alice.ok("POST", SIGN, body=given))["failures"]
        assert failures[bob.user_id][theirs.master.public]["errcode"] == "M_INVALID_SIGNATURE"
    assert not (await query(alice, bob))["master_keys"][bob.user_id].get("signatures")


async def test_of_several_first_uploads_one_needs_no_password(server: Running) -> None:
    """Whoever comes second at the same moment replaces keys, like whoever comes later."""
    alice = await server.person("alice")
    bodies = [Identity(alice).body for _ in range(5)]
    answers = await asyncio.gather(*(alice.raw("POST", UPLOAD, body=body) for body in bodies))
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401, 401]
    (taken,) = (body for body, answer in zip(bodies, answers, strict=True) if answer.status == 200)
    master = (await query(alice, alice))["master_keys"][alice.user_id]
    assert master["keys"] == taken["master_key"]["keys"]


async def test_keys_of_one_s_own_are_signed_by_those_that_may(server: Running) -> None:
    alice = await server.person("alice")
    device, mine = await keyed(alice), await identified(alice)
    for wrong in (mine.master, mine.user_signing):
        given = {alice.user_id: {alice.device_id: wrong.sign(device.device, alice.user_id)}}
        failures = (await alice.ok("POST", SIGN, body=given))["failures"]
        assert failures[alice.user_id][alice.device_id]["errcode"] == "M_INVALID_SIGNATURE"
    by_self_signing = mine.self_signing.sign(mine.key("master"), alice.user_id)
    given = {alice.user_id: {mine.master.public: by_self_signing}}
    failures = (await alice.ok("POST", SIGN, body=given))["failures"]
    assert failures[alice.user_id][mine.master.public]["errcode"] == "M_INVALID_SIGNATURE"

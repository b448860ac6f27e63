"""Key backups: versions, which copy of a session stays, counts, sizes."""

from typing import Any

from tests.serving import Person, Running

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"


def session(first: int = 0, forwarded: int = 0, *, verified: bool = False, data: str = "x") -> Any:
    return {
        "first_message_index": first,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": data},
    }


async def version(person: Person) -> str:
    body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "abc"}}
    return str((await person.ok("POST", "/room_keys/version", body=body))["version"])


async def test_versions_are_made_changed_and_deleted(server: Running) -> None:
    alice = await server.person("alice")
    await alice.refused("M_NOT_FOUND", "GET", "/room_keys/version")
    first, second = await version(alice), await version(alice)
    latest = await alice.ok("GET", "/room_keys/version")
    assert latest == {
        "version": second, "algorithm": ALGORITHM, "auth_data": {"public_key": "abc"},
        "count": 0, "etag": "0",
    }  # fmt: skip
    path = f"/room_keys/version/{first}"
    body: dict[str, Any] = {"algorithm": ALGORITHM, "auth_data": {"public_key": "new"}}
    await alice.ok("PUT", path, body=body)
    assert (await alice.ok("GET", path))["auth_data"] == {"public_key": "new"}
    await alice.refused("M_INVALID_PARAM", "PUT", path, body={**body, "algorithm": "other"})
    await alice.refused("M_INVALID_PARAM", "PUT", path, body={**body, "version": second})
    await alice.ok("DELETE", f"/room_keys/version/{second}")
    assert (await alice.ok("GET", "/room_keys/version"))["version"] == first
    assert await version(alice) not in (first, second)  # no number comes again


async def test_the_better_copy_of_a_session_stays(server: Running) -> None:
    alice = await server.person("alice")
    query = {"version": await version(alice)}
    path = "/room_keys/keys/!room:x/session"
    etags = []
    for new, stays in (
        (session(5, 5), True),
        (session(6, 0), False),
        (session(5, 6), False),
        (session(5, 4), True),
        (session(4, 9), True),
        (session(9, 9, verified=True), True),
        (session(0, 0), False),
    ):
        before = await alice.raw("GET", path, query=query)
        answer = await alice.ok("PUT", path, query=query, body=new)
        now = await alice.ok("GET", path, query=query)
        assert now == (new if stays else before.body)
        assert answer["count"] == 1
        etags.append(answer["etag"])
    assert etags == ["1", "1", "1", "2", "3", "4", "4"]


async def test_only_the_latest_version_is_written_to(server: Running) -> None:
    alice = await server.person("alice")
    old, new = await version(alice), await version(alice)
    reply = await alice.refused(
        "M_WRONG_ROOM_KEYS_VERSION",
        "PUT",
        "/room_keys/keys",
        query={"version": old},
        body={"rooms": {}},
    )
    assert (reply.status, reply.body["current_version"]) == (403, new)


async def test_sessions_are_read_and_removed_by_room_and_all(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    query = {"version": await version(alice)}
    rooms = {
        room: {"sessions": {f"s{n}": session(data=f"{room}{n}") for n in range(300)}}
        for room in ("!a:x", "!b:x")
    }
    answer = await alice.ok("PUT", "/room_keys/keys", query=query, body={"rooms": rooms})
    assert answer == {"count": 600, "etag": "1"}
    assert (await alice.ok("GET", "/room_keys/keys", query=query))["rooms"] == rooms
    assert await alice.ok("GET", "/room_keys/keys/!a:x", query=query) == rooms["!a:x"]
    assert await alice.ok("GET", "/room_keys/keys/!c:x", query=query) == {"sessions": {}}
    await alice.refused("M_NOT_FOUND", "GET", "/room_keys/keys/!a:x/none", query=query)
    await bob.refused("M_NOT_FOUND", "GET", "/room_keys/keys", query=query)
    gone = await alice.ok("DELETE", "/room_keys/keys/!a:x/s1", query=query)
    assert gone == {"count": 599, "etag": "2"}
    gone = await alice.ok("DELETE", "/room_keys/keys/!a:x", query=query)
    assert gone == {"count": 300, "etag": "3"}
    gone = await alice.ok("DELETE", "/room_keys/keys", query=query)
    assert gone == {"count": 0, "etag": "4"}
    assert await alice.ok("GET", "/room_keys/keys", query=query) == {"rooms": {}}

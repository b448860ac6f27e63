"""The house that other tests live in: its servers find each other, and a guest is believed."""

from pathlib import Path

import trustme

from tests.databases import PostgresServer
from tests.federation.house import house
from tests.processes import postgresql_url


async def test_servers_find_each_other_by_name_and_outlive_a_kill(
    authority: trustme.CA, tmp_path: Path, postgres: PostgresServer
) -> None:
    """Each asks the other for its keys, as a notary does; one is on PostgreSQL."""
    async with house(authority, tmp_path) as made:
        made.server("b.example", postgresql_url(postgres.blank_database()))
        a, b = await made.start("a.example", "b.example")
        alice = await a.person("alice")
        assert alice.user_id == "@alice:a.example"
        for one, other in ((a, b), (b, a)):
            reply = await one.request("GET", f"/_matrix/key/v2/query/{other.name}")
            (answer,) = reply.body["server_keys"]
            assert set(answer["signatures"]) == {"a.example", "b.example"}
        b.kill()
        await made.start("b.example")
        reply = await b.request("GET", "/_matrix/client/versions")
        assert reply.status == 200


async def test_a_guest_is_found_unless_its_wire_is_cut(
    authority: trustme.CA, tmp_path: Path
) -> None:
    async with house(authority, tmp_path, wired=True) as made:
        (a,) = await made.start("a.example")
        for name in ("near.example", "far.example"):
            await made.guest(name)
        made.cut("a.example", "far.example")
        for name, found in (("near.example", 1), ("far.example", 0)):
            reply = await a.request("GET", f"/_matrix/key/v2/query/{name}")
            assert len(reply.body["server_keys"]) == found
            assert bool(made.guests[name].seen) == bool(found)

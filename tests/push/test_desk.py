"""What operators see of pushers, and the notification that is a test."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from homeserver.cli.commands import cli
from tests.postbox import Postbox, postbox, text_of
from tests.push.conftest import PushGateway
from tests.push.test_gateway import pair
from tests.push.test_mails import ADDRESS, own, pusher
from tests.serving import Running

__all__ = ["postbox"]

PATH = "/_homeserver/admin/v1/push"

pytestmark = pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)


@pytest.fixture
def settings(postbox: Postbox, tmp_path: Path) -> dict[str, Any]:
    return {
        "mail": {"host": "127.0.0.1", "port": postbox.port, "security": "none"},
        "federation": {"allow_networks": ["127.0.0.0/8"]},
        "listeners": [{"port": 0}, {"socket": str(tmp_path / "s"), "apis": ["admin"]}],
    }


async def run(server: Running, tmp_path: Path, *arguments: str) -> Result:
    """The command, as in a process of its own beside the server."""
    path = tmp_path / "homeserver.toml"
    path.write_text(
        f'[server]\nname = "test.example"\ndata_dir = "{tmp_path}"\n'
        f'[[listeners]]\nsocket = "{tmp_path / "s"}"\napis = ["admin"]\n'
    )
    given = ["push", *arguments, "--config", str(path)]
    return await asyncio.to_thread(CliRunner().invoke, cli, given)


async def test_success_error_and_what_waits_are_listed(
    server: Running, gateway: PushGateway, tmp_path: Path
) -> None:
    assert (await run(server, tmp_path, "list")).output == "There are no pushers.\n"
    alice, bob, room = await pair(server, gateway)
    listed = await run(server, tmp_path, "list", "alice")
    where = gateway.url.split("/")[2]
    line = f"@alice:test.example: test.app (Device) at {where}, nothing was taken yet\n"
    assert listed.output == line
    await bob.say(room, "taken")
    await gateway.until(lambda: bool(gateway.told))
    gateway.fail = 503
    for number in range(3):
        await bob.say(room, f"{number}")
    await gateway.until(lambda: gateway.tries >= 3, 1)

    async def one() -> dict[str, Any]:
        (found,) = json.loads((await run(server, tmp_path, "list", "--json")).output)
        assert isinstance(found, dict)
        return found

    found = await one()
    while not found["last_error"]:
        found = await one()
    assert found["last_success_ts"] is not None
    assert found["failing"] is True
    assert 1 <= found["waiting"] <= 3
    assert found["last_error"] == "the gateway answered with status 503"
    listed = await run(server, tmp_path, "list", alice.user_id)
    assert "fails: the gateway answered with status 503 (" in listed.output
    assert " wait\n" in listed.output
    await server.restart()
    assert (await one())["last_error"] == "the gateway answered with status 503"
    gateway.fail = 200
    await gateway.until(lambda: len(gateway.told) >= 2, 10)
    await gateway.until(lambda: not server.app.services.push.queues.waiting)
    found = await one()
    assert (found["failing"], found["waiting"]) == (False, 0)
    assert "User not found" in (await run(server, tmp_path, "list", "nobody")).output


async def test_a_test_really_goes_there_and_says_that_it_is_one(
    server: Running, gateway: PushGateway, postbox: Postbox, tmp_path: Path
) -> None:
    alice, *_ = await pair(server, gateway)
    await gateway.register(alice, "other")
    result = await run(server, tmp_path, "test", "alice", "--pusher", "key")
    assert (result.exit_code, result.output) == (0, "test.app key: taken\n")
    (told,) = gateway.told
    assert told["content"]["body"] == "This is a test: notifications arrive."
    assert (told["devices"][0]["pushkey"], told["prio"]) == ("key", "high")
    assert told["counts"] == {"unread": 0}
    gateway.fail = 500
    result = await run(server, tmp_path, "test", "alice", "--json")
    assert result.exit_code == 1
    assert [one["error"] for one in json.loads(result.output)] == [
        "the gateway answered with status 500"
    ] * 2
    gateway.fail, gateway.rejects = 200, ["key"]
    result = await run(server, tmp_path, "test", "alice")
    assert "the pusher was removed" in result.output
    assert [one["pushkey"] for one in (await alice.ok("GET", "/pushers"))["pushers"]] == ["other"]
    await own(postbox, alice)
    await alice.ok("POST", "/pushers/set", body=pusher())
    result = await run(server, tmp_path, "test", "alice", "--pusher", ADDRESS)
    assert result.output == f"m.email {ADDRESS}: taken\n"
    mail = await postbox.until(1)
    assert "whether mails about unread messages" in text_of(mail)
    assert "/_homeserver/mail/stop?" in mail["List-Unsubscribe"]
    postbox.refuse = "550 no such mailbox"
    result = await run(server, tmp_path, "test", "alice", "--pusher", ADDRESS)
    assert "no such mailbox" in result.output
    listed = await run(server, tmp_path, "list", "alice")
    assert f"mail ({ADDRESS}) at {ADDRESS}, last taken" in listed.output
    none = await run(server, tmp_path, "test", "alice", "--pusher", "unknown")
    assert "has no such pusher" in none.output


async def test_only_administrators_look_and_try(server: Running, gateway: PushGateway) -> None:
    alice, bob, _ = await pair(server, gateway)
    await bob.refused("M_FORBIDDEN", "GET", PATH)
    await bob.refused("M_FORBIDDEN", "GET", f"{PATH}/{alice.user_id}")
    await bob.refused("M_FORBIDDEN", "POST", f"{PATH}/{alice.user_id}/test", body={})
    assert gateway.told == []


async def test_the_list_of_all_goes_on_page_by_page(
    server: Running, gateway: PushGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.push.desk.MOST_LISTED", 2)
    alice, bob, _ = await pair(server, gateway)
    for number in range(3):
        await gateway.register(alice, f"key {number}")
    await gateway.register(bob, "his")
    listed = json.loads((await run(server, tmp_path, "list", "--json")).output)
    assert [one["pushkey"] for one in listed] == ["key", "key 0", "key 1", "key 2", "his"]

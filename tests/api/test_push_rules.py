"""Push rules over the API and in sync."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving import Person, Running

GLOBAL = "/pushrules/global"


def rule(kind: str, rule_id: str, part: str = "") -> str:
    return f"{GLOBAL}/{kind}/{quote(rule_id, safe='')}{part}"


async def ids(person: Person, kind: str) -> list[str]:
    return [found["rule_id"] for found in (await person.ok("GET", f"{GLOBAL}/"))[kind]]


def in_sync(answer: Any) -> list[Any]:
    events = answer.get("account_data", {}).get("events", [])
    return [event["content"] for event in events if event["type"] == "m.push_rules"]


async def test_everybody_has_the_default_rules(server: Running) -> None:
    alice = await server.person("alice")
    whole = await alice.ok("GET", "/pushrules/")
    assert list(whole) == ["global"]
    assert whole["global"] == await alice.ok("GET", f"{GLOBAL}/")
    assert (await ids(alice, "override"))[0] == ".m.rule.master"
    assert in_sync(await alice.sync()) == [whole]


async def test_a_rule_is_added_read_and_removed(server: Running) -> None:
    alice = await server.person("alice")
    await alice.sync()
    path = rule("content", "cake")
    body = {"pattern": "cake*lie", "actions": ["notify"]}
    assert await alice.ok("PUT", path, body=body) == {}
    assert await alice.ok("GET", path) == {
        "rule_id": "cake",
        "default": False,
        "enabled": True,
        "pattern": "cake*lie",
        "actions": ["notify"],
    }
    assert in_sync(await alice.sync()) == [await alice.ok("GET", "/pushrules/")]
    await alice.ok("DELETE", path)
    await alice.refused("M_NOT_FOUND", "GET", path)
    await alice.refused("M_NOT_FOUND", "DELETE", path)
    assert "cake" not in str(in_sync(await alice.sync()))


async def test_rules_are_put_in_order(server: Running) -> None:
    alice = await server.person("alice")
    for name in ("a", "b"):
        await alice.ok("PUT", rule("sender", name), body={"actions": []})
    await alice.ok("PUT", rule("sender", "c"), body={"actions": []}, query={"after": "b"})
    await alice.ok("PUT", rule("sender", "d"), body={"actions": []}, query={"before": "a"})
    assert await ids(alice, "sender") == ["b", "c", "d", "a"]
    for where in ("before", "after"):
        reply = await alice.refused(
            "M_UNKNOWN", "PUT", rule("sender", "e"), body={"actions": []}, query={where: "gone"}
        )
        assert reply.status == 400


async def test_rules_are_switched(server: Running) -> None:
    alice = await server.person("alice")
    path = rule("override", ".m.rule.master", "/enabled")
    assert await alice.ok("GET", path) == {"enabled": False}
    await alice.ok("PUT", path, body={"enabled": True})
    await server.restart()
    assert await alice.ok("GET", path) == {"enabled": True}
    assert (await alice.ok("GET", rule("override", ".m.rule.master")))["enabled"] is True


async def test_actions_are_replaced(server: Running) -> None:
    alice = await server.person("alice")
    path = rule("underride", ".m.rule.message", "/actions")
    actions = ["notify", {"set_tweak": "sound", "value": "ring"}]
    assert await alice.ok("GET", path) == {"actions": ["notify"]}
    await alice.ok("PUT", path, body={"actions": [*actions, "dont_notify"]})
    assert await alice.ok("GET", path) == {"actions": actions}


async def test_a_rule_can_name_a_room(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    await alice.ok("PUT", rule("room", room_id), body={"actions": []})
    assert await ids(alice, "room") == [room_id]


async def test_rules_are_everybodys_own(server: Running) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    await bob.sync()
    await alice.ok("PUT", rule("override", "x"), body={"actions": []})
    await bob.refused("M_NOT_FOUND", "GET", rule("override", "x"))
    assert in_sync(await bob.sync()) == []


async def test_changes_at_once_are_all_kept(server: Running) -> None:
    alice = await server.person("alice")
    names = {f"rule{number}" for number in range(20)}
    await asyncio.gather(
        *(alice.ok("PUT", rule("sender", name), body={"actions": []}) for name in names)
    )
    assert set(await ids(alice, "sender")) == names


async def test_what_changes_nothing_is_not_told(server: Running) -> None:
    alice = await server.person("alice")
    path = rule("override", ".m.rule.master", "/enabled")
    await alice.ok("PUT", path, body={"enabled": True})
    await alice.sync()
    await alice.ok("PUT", path, body={"enabled": True})
    assert in_sync(await alice.sync()) == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "errcode"),
    [
        ("GET", rule("nonsense", "x"), None, 400, "M_INVALID_PARAM"),
        ("PUT", rule("nonsense", "x"), {"actions": []}, 400, "M_INVALID_PARAM"),
        ("GET", rule("override", "x"), None, 404, "M_NOT_FOUND"),
        ("GET", rule("override", "x", "/enabled"), None, 404, "M_NOT_FOUND"),
        ("GET", rule("override", "x", "/actions"), None, 404, "M_NOT_FOUND"),
        ("PUT", rule("override", "x", "/enabled"), {"enabled": True}, 404, "M_NOT_FOUND"),
        ("PUT", rule("override", "x", "/actions"), {"actions": []}, 404, "M_NOT_FOUND"),
        ("PUT", rule("override", "x", "/enabled"), {"enabled": "yes"}, 400, "M_BAD_JSON"),
        ("PUT", rule("override", "x", "/enabled"), {}, 400, "M_MISSING_PARAM"),
        ("PUT", rule("override", "x", "/actions"), {"actions": {}}, 400, "M_BAD_JSON"),
        ("PUT", rule("override", "x", "/actions"), {"actions": ["no"]}, 400, "M_INVALID_PARAM"),
        ("PUT", rule("override", "x"), {}, 400, "M_INVALID_PARAM"),
        ("PUT", rule("override", "x"), {"actions": ["shout"]}, 400, "M_INVALID_PARAM"),
        ("PUT", rule("override", "x"), [], 400, "M_BAD_JSON"),
        ("PUT", rule("content", "x"), {"actions": []}, 400, "M_INVALID_PARAM"),
        ("PUT", rule("override", ".x"), {"actions": []}, 400, "M_INVALID_PARAM"),
        ("PUT", rule("override", "a\\b"), {"actions": []}, 400, "M_INVALID_PARAM"),
        ("PUT", rule("override", "x" * 1_025), {"actions": []}, 400, "M_INVALID_PARAM"),
        ("DELETE", rule("override", ".m.rule.master"), None, 404, "M_NOT_FOUND"),
    ],
)
async def test_refusals(
    server: Running, method: str, path: str, body: Any, status: int, errcode: str
) -> None:
    alice = await server.person("alice")
    reply = await alice.refused(errcode, method, path, body=body)
    assert reply.status == status

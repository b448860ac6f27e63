"""`homeserver appservice ...`, and services of the configured files."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.test_cli_run import command, folder, running
from tests.test_cli_users import done, refused, told

__all__ = ["folder"]

REGISTRATION = {
    "id": "irc",
    "url": None,
    "as_token": "a",
    "hs_token": "b",
    "sender_localpart": "_irc_bot",
    "namespaces": {"users": [{"exclusive": True, "regex": "@_irc_.*"}]},
}


@pytest.fixture(params=["running", "stopped"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Path]:
    with running(folder) if request.param == "running" else nullcontext():
        yield folder


def written(folder: Path, **changes: object) -> Path:
    path = folder / "irc.yaml"
    path.write_text(json.dumps({**REGISTRATION, **changes}))
    return path


def test_a_service_is_added_changed_listed_and_removed(place: Path) -> None:
    assert done(place, "appservice", "list") == "There are no application services.\n"
    added = done(place, "appservice", "add", str(written(place)))
    assert added == "Added irc, which acts as @_irc_bot:example.org.\n"
    done(place, "appservice", "add", str(written(place, url="http://127.0.0.1:1")))
    (listed,) = told(place, "appservice", "list")
    assert (listed["id"], listed["url"], listed["behind"]) == ("irc", "http://127.0.0.1:1", 0)
    assert "irc: @_irc_bot:example.org at http://127.0.0.1:1" in done(place, "appservice", "list")
    assert "no connection" in refused(place, "appservice", "ping", "irc")
    done(place, "appservice", "replay", "irc", "--positions", "5")
    assert "is no YAML" in refused(place, "appservice", "add", str(broken(place)))
    done(place, "appservice", "remove", "irc")
    assert "There is no application service irc" in refused(place, "appservice", "remove", "irc")


def broken(folder: Path) -> Path:
    path = folder / "broken.yaml"
    path.write_text("id: [")
    return path


def test_configured_files_are_loaded_and_may_be_wrong(folder: Path) -> None:
    config = folder / "homeserver.toml"
    written(folder)
    config.write_text(config.read_text() + '\n[appservices]\nfiles = ["irc.yaml"]\n')
    assert [one["id"] for one in told(folder, "appservice", "list")] == ["irc"]
    assert "configured file" in refused(folder, "appservice", "remove", "irc")
    written(folder, as_token="")
    result = command(folder, "run")
    assert result.returncode == 1
    assert "irc.yaml: as_token must not be empty" in result.stderr
    config.write_text(config.read_text().replace('["irc.yaml"]', "[]"))
    assert told(folder, "appservice", "list") == []

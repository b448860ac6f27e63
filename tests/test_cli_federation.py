"""`homeserver federation ...` says and does the same whether the server runs or not."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.test_cli_run import folder, running
from tests.test_cli_users import done, refused, told

__all__ = ["folder"]


@pytest.fixture(params=["running", "stopped"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Path]:
    with running(folder) if request.param == "running" else nullcontext():
        yield folder


def test_a_server_is_blocked_shown_and_allowed(place: Path) -> None:
    assert done(place, "federation", "status") == "All is well with every other server.\n"
    assert "is no server name" in refused(place, "federation", "block", "no name")
    assert "never had to do" in refused(place, "federation", "retry", "127.0.0.1:9")
    done(place, "federation", "block", "127.0.0.1:9")
    (listed,) = told(place, "federation", "status")
    assert (listed["server"], listed["state"]) == ("127.0.0.1:9", "blocked")
    shown = done(place, "federation", "status", "127.0.0.1:9")
    assert shown.startswith("127.0.0.1:9: blocked, has never answered\n")
    assert "found at 127.0.0.1:9 (the name itself)" in shown
    done(place, "federation", "allow", "127.0.0.1:9")
    assert told(place, "federation", "status") == []

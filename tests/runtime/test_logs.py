"""Logs: their forms, the request's number, and no secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from homeserver.runtime import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    packages = {name: logging.getLogger(name).level for name in ("homeserver", "storage")}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("homeserver", "client_api", "federation", "storage"):
        logging.getLogger(name).setLevel(packages.get(name, logging.NOTSET))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("GET /sync?since=s1&access_token=syt_abc&x=1", "GET /sync?since=s1&access_token=***&x=1"),
        ("GET /x?loginToken=abc", "GET /x?loginToken=***"),
        ("Authorization: Bearer syt_abc", "Authorization: Bearer ***"),
        ('{"password": "p w", "user": "a"}', '{"password": "***", "user": "a"}'),
        ('{"access_token":"abc"}', '{"access_token":"***"}'),
        ("since=s1_token", "since=s1_token"),
        ("bearer abc.def-ghi", "bearer ***"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert logs.mask(text) == masked


def test_lines_for_people(stream: io.StringIO) -> None:
    logs.set_up("info", "human", stream)
    log = logging.getLogger("homeserver.test")
    log.info("joined %s", "a\nforged line", extra={"room": "!r:test"})
    log.debug("unseen")
    logging.getLogger("library").info("unseen")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("INFO    homeserver.test: joined a\\nforged line room=!r:test")


def test_lines_for_collectors(stream: io.StringIO) -> None:
    logs.set_up("debug", "json", stream)
    token = logs.REQUEST.set(17)
    try:
        raise ValueError("access_token=abc")
    except ValueError:
        logging.getLogger("homeserver.test").exception("GET /?access_token=abc", extra={"ms": 5})
    finally:
        logs.REQUEST.reset(token)
    entry = json.loads(stream.getvalue())
    assert entry["level"] == "error"
    assert entry["logger"] == "homeserver.test"
    assert entry["message"] == "GET /?access_token=***"
    assert (entry["ms"], entry["request"]) == (5, 17)
    assert "ValueError" in entry["exception"]
    assert "abc" not in stream.getvalue()
    assert entry["time"].endswith("+00:00")

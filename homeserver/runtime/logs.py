"""Logs: one line a record, for people or as JSON.

Owns the formats, the request number that stands in every line written during a request, and the
masking of secrets. Invariant: no access token, password or login token reaches a log through an
address or a header, whoever wrote the line. Levels: INFO is what an operator should read, a few
lines a day; single requests are DEBUG.
"""

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO

REQUEST: ContextVar[int] = ContextVar("request", default=0)
"""The number of the request that is being worked on, 0 outside of requests."""

_SECRETS = re.compile(
    r"(?P<query>\b(?:access_token|refresh_token|loginToken|token|password|secret|mac)=)[^&\s\"']+"
    r"|(?P<header>\bBearer\s+)[^\s\"',]+"
    r"|(?P<json>\"(?:access_token|refresh_token|token|password|mac)\"\s*:\s*)\"[^\"]*\"",
    re.IGNORECASE,
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
LEVELS = ("debug", "info", "warning", "error")


def mask(text: str) -> str:
    """The text with the values of secrets replaced."""
    return _SECRETS.sub(_masked, text)


def _masked(match: re.Match[str]) -> str:
    if match.group("json"):
        return f'{match.group("json")}"***"'
    return f"{match.group('query') or match.group('header')}***"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`, and the number of the request."""
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    request = REQUEST.get()
    if request:
        fields["request"] = request
    return fields


class HumanFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO  homeserver.app: text key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = (
            f"{seconds}.{record.msecs:03.0f} {record.levelname:<7} {record.name}: "
            f"{_one_line(record.getMessage())}"
        )
        for key, value in _fields(record).items():
            line += f" {key}={_one_line(str(value))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return mask(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
        }
        for key, value in _fields(record).items():
            entry[key] = value if isinstance(value, int | float) else mask(str(value))
        if record.exc_info:
            entry["exception"] = mask(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def set_up(level: str = "info", form: str = "human", stream: IO[str] | None = None) -> None:
    """Send all logs of the process to `stream` (standard error) from `level` on.

    `form` is "human" or "json". Libraries speak from warnings on.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Log from this level on."""
    for package in ("homeserver", "client_api", "federation", "storage"):
        logging.getLogger(package).setLevel(level.upper())


def _one_line(text: str) -> str:
    """Text from outside can't forge a second line."""
    return text.replace("\r", "\\r").replace("\n", "\\n")

"""Changing a membership through a resident server: its template, made our event, sent back.

Owns the first half of joining, knocking and leaving, which all go the same way: whom of several
servers to ask and when the next one, what may stand in a template, and how errors of others become
ours. What a server puts into a template beyond the place in the graph is not used.
spec: server-server-api#joining-rooms
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from federation.requests import Requests, path_of
from homeserver.errors import MatrixError, RemoteError, Unreachable
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.event import Event, build
from homeserver.matrix.versions import ROOM_VERSIONS, RoomRules
from homeserver.rooms.restricted import AUTHORISED_VIA
from homeserver.rooms.send import Author

log = logging.getLogger(__name__)
T = TypeVar("T")

SILENCE = 5.0
"""Seconds after which the next server is asked too."""
# What a server says that others may see differently.
_OTHERS_MAY = frozenset({"M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN", "M_NOT_FOUND"})


@dataclass(frozen=True, slots=True)
class Prepared:
    """Our event made from a server's template, and its canonical JSON."""

    server: str
    rules: RoomRules
    event: Event
    pdu: bytes


class Handshake:
    """See the module."""

    def __init__(self, requests: Requests, author: Author) -> None:
        self._requests = requests
        self._author = author

    async def prepare(
        self,
        kind: str,
        server: str,
        room_id: str,
        user_id: str,
        content: JsonObject,
        *,
        versions: Collection[str] = ROOM_VERSIONS,
        seconds: float = 30.0,
    ) -> Prepared:
        """Ask the server for a template of `kind` (join, knock, leave) and make our event of it.

        Raises Unreachable, RemoteError, and Malformed for a template that none of ours can be.
        """
        path = path_of("federation/v1", f"make_{kind}", room_id, user_id)
        query = {} if kind == "leave" else {"ver": sorted(versions, key=int)}
        answer = await self._requests.request(server, "GET", path, query=query, timeout=seconds)
        version = answer.get("room_version", "1")
        if not isinstance(version, str) or version not in ROOM_VERSIONS:
            raise RemoteError(
                server, 400, "M_INCOMPATIBLE_ROOM_VERSION", f"The room is of version {version!r}"
            )
        rules = ROOM_VERSIONS[version]
        template = answer.get("event")
        if not isinstance(template, dict):
            raise Malformed("The template is not an object")
        if template.get("room_id", room_id) != room_id:
            raise Malformed("The template is of another room")
        given = template.get("content")
        via = given.get(AUTHORISED_VIA) if isinstance(given, dict) else None
        if kind == "join" and isinstance(via, str):
            content = {**content, AUTHORISED_VIA: via}
        author = self._author
        depth = template.get("depth")
        event, pdu = build(
            rules,
            room_id=room_id,
            sender=user_id,
            type="m.room.member",
            content={**content, "membership": kind},
            state_key=user_id,
            prev_event_ids=_ids(template.get("prev_events"), rules),
            auth_event_ids=_ids(template.get("auth_events"), rules),
            depth=depth if isinstance(depth, int) and depth > 0 else 1,
            origin_server_ts=author.clock.now_ms(),
            sign=author.key,
            server_name=author.server_name,
        )
        return Prepared(server, rules, event, pdu)

    async def first(
        self, servers: Sequence[str], ask: Callable[[str], Awaitable[T]]
    ) -> tuple[T, list[str]]:
        """The first answer of `ask(server)`, and the servers that were not asked.

        The next server is asked when one fails in a way that says nothing about the room, or says
        nothing for some seconds. Raises `MatrixError`: what a server said that goes for all, or
        what the last one said.
        """
        rest = list(servers)
        errors: list[Exception] = []
        waiting: set[asyncio.Future[T]] = set()
        try:
            while rest or waiting:
                if rest:
                    waiting.add(asyncio.ensure_future(ask(rest.pop(0))))
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=SILENCE if rest else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    error = task.exception()
                    if error is None:
                        return task.result(), rest
                    if not isinstance(error, Unreachable | RemoteError | Malformed | MatrixError):
                        raise error
                    log.info("asking another server, for this one failed: %s", error)
                    errors.append(error)
                    if goes_for_all(error):
                        raise client_error(error)
            raise client_error(_most_telling(errors))
        finally:
            for task in waiting:
                task.cancel()
            for task in waiting:
                with suppress(BaseException):
                    await task


def goes_for_all(error: BaseException) -> bool:
    """Whether other servers would say the same."""
    return (
        isinstance(error, RemoteError)
        and 400 <= error.status < 500
        and error.status not in (404, 408, 429)
        and error.errcode not in _OTHERS_MAY
        and error.errcode.startswith("M_")
        and error.errcode not in ("M_UNAUTHORIZED", "M_UNRECOGNIZED", "M_UNKNOWN")
    )


def client_error(error: BaseException) -> MatrixError:
    """What our client is told of it."""
    if isinstance(error, MatrixError):
        return error
    if isinstance(error, RemoteError) and 400 <= error.status < 500 and error.errcode:
        extra = {}
        version = error.body.get("room_version")
        if error.errcode == "M_INCOMPATIBLE_ROOM_VERSION" and isinstance(version, str):
            extra["room_version"] = version
        status = 403 if error.status == 401 else error.status
        return MatrixError(error.errcode, error.message or str(error), status, extra=extra)
    return MatrixError("M_UNKNOWN", f"No server could be asked: {error}", 502)


def _most_telling(errors: Sequence[Exception]) -> Exception:
    told: list[Exception] = [
        error for error in errors if isinstance(error, RemoteError | MatrixError)
    ]
    return (told or list(errors) or [MatrixError.not_found("There is no server to ask")])[-1]


def _ids(entries: object, rules: RoomRules) -> list[str]:
    if not isinstance(entries, list):
        raise Malformed("The template names no events")
    if rules.event_ids == "sender":
        entries = [entry[0] if isinstance(entry, list) and entry else entry for entry in entries]
    if not all(isinstance(entry, str) for entry in entries):
        raise Malformed("The template names events in a wrong form")
    return entries

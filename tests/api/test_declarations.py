"""What every endpoint answers to nonsense, taken from its declaration."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

import client_api
from homeserver.http.endpoint import Client, Endpoint
from homeserver.http.shape import (
    EventID,
    Form,
    RoomAlias,
    RoomID,
    RoomIDOrAlias,
    ServerName,
    Shape,
    UserID,
)
from tests.serving import Person, Reply, Running

GOOD: dict[object, str] = {
    UserID: "@somebody:test.example",
    RoomID: "!unknown:test.example",
    EventID: "$unknown",
    RoomAlias: "#unknown:test.example",
    RoomIDOrAlias: "!unknown:test.example",
    ServerName: "test.example",
    str: "m.unknown",
}
NONSENSE: tuple[Any, ...] = (
    None, True, -1, 2**70, 1.5, "", "x", "\0", "\ud800", "x" * 70_000,
    [], [1], [None], {}, {"x": 1},
)  # fmt: skip


@pytest.fixture
def database_settings(tmp_path: Any) -> Any:
    """What is refused is refused before any database: one kind is enough."""
    from storage.engine import DatabaseSettings

    return DatabaseSettings(path=tmp_path / "test.db", durable=False)


def endpoints() -> Iterator[Endpoint]:
    yield from client_api.endpoints()
    yield from client_api.admin_endpoints()


def path_of(endpoint: Endpoint, **changed: str) -> str:
    """The endpoint's path with plausible parameters, or those given."""
    path = endpoint.path
    types = endpoint.handler.__annotations__
    for name in endpoint.parameters:
        value = changed.get(name, GOOD[types[name]])
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    return path


async def ask(person: Person, endpoint: Endpoint, path: str | None = None, **more: Any) -> Reply:
    """The answer, which must be the specification's form of an error if it is one."""
    path = path or path_of(endpoint)
    reply = await person.server.request(endpoint.method, path, token=person.token, **more)
    # 502 is what another server's silence is told with.
    assert reply.status in (*range(500), 502), (endpoint.name, more, reply.body)
    if reply.status >= 400:
        assert reply.errcode or reply.status == 401, (endpoint.name, reply.body)
    return reply


async def test_tokens_are_demanded_and_foreign_ones_refused(server: Running) -> None:
    for endpoint in endpoints():
        if not isinstance(endpoint.auth, Client):
            continue
        path = path_of(endpoint)
        for token, errcode in ((None, "M_MISSING_TOKEN"), ("foreign", "M_UNKNOWN_TOKEN")):
            reply = await server.request(endpoint.method, path, token=token)
            assert (reply.status, reply.errcode) == (401, errcode), endpoint.name


def is_form(endpoint: Endpoint) -> bool:
    """Whether the body comes from a page in a browser."""
    return isinstance(endpoint.body_type, type) and issubclass(endpoint.body_type, Form)


def required(endpoint: Endpoint) -> dict[str, str]:
    """A plausible query for an endpoint that takes none without some of its parameters."""
    if endpoint.query_type is None:
        return {}
    fields = msgspec.structs.fields(endpoint.query_type)
    return {field.encode_name: "1" for field in fields if field.required}


async def test_bodies_must_be_json_objects(server: Running) -> None:
    alice = await server.person("alice")
    for endpoint in endpoints():
        if endpoint.body is None or is_form(endpoint):
            continue
        query = required(endpoint)
        for data in (b"nonsense", b"{", b'{"a":NaN}', b'{"a":"\xff"}', b"\x80", b'{"a":1}x'):
            reply = await ask(alice, endpoint, data=data, query=query)
            assert (reply.status, reply.errcode) == (400, "M_NOT_JSON"), (endpoint.name, data)
        for data in (b"[]", b"null", b'"x"', b"1"):
            reply = await ask(alice, endpoint, data=data, query=query)
            assert (reply.status, reply.errcode) == (400, "M_BAD_JSON"), (endpoint.name, data)
        if not endpoint.body_optional:
            reply = await ask(alice, endpoint, query=query)
            assert reply.errcode == "M_NOT_JSON", endpoint.name


async def test_no_body_breaks_an_endpoint(server: Running) -> None:
    alice = await server.person("alice")
    deep = b'{"a":' * 3_000 + b"1" + b"}" * 3_000
    for endpoint in endpoints():
        if endpoint.body is not None:
            await ask(alice, endpoint, data=deep)


async def test_no_field_breaks_an_endpoint(server: Running) -> None:
    """Each field of each body holds each kind of nonsense, on a room and user that exist."""
    alice = await server.person("alice")
    room_id = await alice.create_room()
    event_id = await alice.say(room_id, "hello")
    known = {"room_id": room_id, "user_id": alice.user_id, "event_id": event_id}
    for endpoint in endpoints():
        if endpoint.path.endswith(("/logout", "/logout/all", "/leave", "/sync")):
            continue
        if not (isinstance(endpoint.body_type, type) and issubclass(endpoint.body_type, Shape)):
            continue
        for field in msgspec.structs.fields(endpoint.body_type):
            for value in NONSENSE:
                data = json.dumps({field.encode_name: value}).encode()
                await ask(alice, endpoint, path_of(endpoint, **known), data=data)


async def test_no_free_object_breaks_an_endpoint(server: Running) -> None:
    alice = await server.person("alice")
    room_id = await alice.create_room()
    known = {"room_id": room_id, "user_id": alice.user_id}
    for endpoint in endpoints():
        if endpoint.body_type is None or endpoint.query_type is not None:
            continue
        if isinstance(endpoint.body_type, type) and issubclass(endpoint.body_type, Shape):
            continue
        for value in NONSENSE:
            for key in ("x", "\ud800", "\0", "actions", "room", "displayname", "m.unknown"):
                data = json.dumps({key: value}).encode()
                await ask(alice, endpoint, path_of(endpoint, **known), data=data)


async def test_ids_in_paths_must_be_ids(server: Running) -> None:
    alice = await server.person("alice")
    for endpoint in endpoints():
        for name, parameter in endpoint.parameters.items():
            if parameter.check is None:
                continue
            for value in ("nonsense", "@", "!", "$", "#", "a" * 10_000, "@a:b\nc"):
                if parameter.check[1](value):
                    continue
                reply = await ask(alice, endpoint, path_of(endpoint, **{name: value}))
                assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM"), endpoint.name


async def test_no_text_in_a_path_breaks_an_endpoint(server: Running) -> None:
    alice = await server.person("alice")
    for endpoint in endpoints():
        for name, parameter in endpoint.parameters.items():
            if parameter.check is not None:
                continue
            for value in (".", "..", "a/b", "%", "é", "\0", "\n", "x" * 8_000, "{", "\\", "*"):
                body = _empty(endpoint)
                await ask(alice, endpoint, path_of(endpoint, **{name: value}), body=body)


async def test_no_query_breaks_an_endpoint(server: Running) -> None:
    alice = await server.person("alice")
    for endpoint in endpoints():
        if endpoint.query_type is None:
            continue
        body = _empty(endpoint)
        for field in msgspec.structs.fields(endpoint.query_type):
            for value in ("", "x", "-1", "9" * 30, "1.5", "true", "%00", "%ff", "{", "{}", "é"):
                path = f"{path_of(endpoint)}?{quote(field.encode_name)}={value}"
                if field.name == "timeout" and value == "9" * 30:
                    continue
                await ask(alice, endpoint, path, body=body)


def _empty(endpoint: Endpoint) -> dict[str, Any] | None:
    """The emptiest body that the endpoint may be sent."""
    return {} if endpoint.body is not None else None

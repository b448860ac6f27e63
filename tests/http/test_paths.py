"""Which endpoint a raw target reaches, and what its parameters are."""

import pytest

from homeserver.http.endpoint import Call, Endpoint, NoAuth, endpoint, endpoint_of
from homeserver.http.router import Router
from homeserver.http.shape import Empty
from tests.http.conftest import Edge

V3 = "/_matrix/client/v3"


@pytest.mark.parametrize(
    ("segment", "room_id"),
    [
        ("%21abc%3Atest", "!abc:test"),
        ("!abc:test", "!abc:test"),
        ("%21a%2Fb%3Atest", "!a/b:test"),
        ("!a+b:test", "!a+b:test"),
        ("!a%2Bb:test", "!a+b:test"),
        ("!a%25b:test", "!a%b:test"),
        ("!a%252Fb:test", "!a%2Fb:test"),
        ("!caf%C3%A9:test", "!café:test"),
        ("!%F0%9F%90%88:test", "!🐈:test"),
        ("!a%20b:test", "!a b:test"),
        ("!%2E%2E:test", "!..:test"),
    ],
)
async def test_each_segment_is_decoded_exactly_once(edge: Edge, segment: str, room_id: str) -> None:
    answer = await edge.request("PUT", f"{V3}/rooms/{segment}/send/m.room.message/1", b"{}")
    assert answer.status == 200
    assert answer.json["room"] == room_id


async def test_event_ids_of_the_third_room_version_hold_slashes_and_plus_signs(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/rooms/!r:test/event/%24a%2Fb+c")
    assert answer.json == {"event": "$a/b+c"}


async def test_dots_are_not_taken_away(edge: Edge) -> None:
    answer = await edge.request("PUT", f"{V3}/rooms/!r:test/send/../1", b"{}")
    assert answer.json["type"] == ".."


@pytest.mark.parametrize("segment", ["%FF", "%00", "a%00b", "%C3"])
async def test_a_path_that_is_no_text_is_refused(edge: Edge, segment: str) -> None:
    answer = await edge.request("PUT", f"{V3}/rooms/!r:test/send/{segment}/1", b"{}")
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("rooms/nothing/event/$e", "room_id"),
        ("rooms/!r:test/event/nothing", "event_id"),
        ("rooms/!r:bad server/event/$e".replace(" ", "%20"), "room_id"),
        (f"rooms/!{'r' * 300}:test/event/$e", "room_id"),
    ],
)
async def test_an_identifier_of_the_wrong_form_is_named(
    edge: Edge, target: str, field: str
) -> None:
    answer = await edge.request("GET", f"{V3}/{target}")
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert field in answer.json["error"]


async def test_an_empty_state_key_may_be_left_out_with_or_without_slash(edge: Edge) -> None:
    for target in ("rooms/!r:test/state/m.room.name", "rooms/!r:test/state/m.room.name/"):
        answer = await edge.request("PUT", f"{V3}/{target}", b"{}")
        assert answer.json == {"type": "m.room.name", "key": ""}


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/_matrix",
        "/_matrix/client/v3/nothing",
        "/_matrix/client/v3/rooms",
        "/_matrix/client/v3/rooms/!r:test/send/m.room.message",
        "/_matrix/client/v3/list/",
        "/_matrix/client/v3/pushrules",
        "/_matrix/client/v1/list",
        "//_matrix/client/v3/list",
    ],
)
async def test_unknown_paths_are_not_recognised(edge: Edge, target: str) -> None:
    answer = await edge.request("GET", target)
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


async def test_a_parameter_without_a_default_is_never_empty(edge: Edge) -> None:
    for target in ("rooms/!r:test/send//1", "rooms/!r:test/send/m.x/"):
        answer = await edge.request("PUT", f"{V3}/{target}", b"{}")
        assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


async def test_a_wrong_method_is_not_recognised_and_the_right_ones_are_named(edge: Edge) -> None:
    answer = await edge.request("DELETE", f"{V3}/list")
    assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED")
    assert answer.headers["allow"] == "GET, OPTIONS"


async def test_old_paths_lead_to_the_same_endpoint(edge: Edge) -> None:
    new = await edge.request("PUT", f"{V3}/rooms/!r:test/send/m.x/1", b"{}")
    old = await edge.request("PUT", "/_matrix/client/r0/rooms/%21r%3Atest/send/m.x/2", b"{}")
    assert new.json["h"] == old.json["h"], "a transaction's scope is the endpoint and its path"


async def test_the_scope_of_transactions_differs_by_room_and_type(edge: Edge) -> None:
    scopes = set()
    for room, kind in (("!r:test", "m.x"), ("!s:test", "m.x"), ("!r:test", "m.y")):
        answer = await edge.request("PUT", f"{V3}/rooms/{room}/send/{kind}/1", b"{}")
        scopes.add(answer.json["h"])
    assert len(scopes) == 3
    assert all(-(2**63) <= scope < 2**63 for scope in scopes)


async def test_a_literal_wins_and_a_dead_end_falls_back_to_the_parameter(edge: Edge) -> None:
    assert (await edge.request("GET", f"{V3}/pushrules/")).json == {}
    assert (await edge.request("GET", f"{V3}/pushrules/global/room")).json == {"kind": "room"}
    assert (await edge.request("GET", f"{V3}/pushrules/other/extra")).json == {"scope": "other"}
    assert (await edge.request("GET", f"{V3}/pushrules/global/extra")).json == {"kind": "extra"}


async def test_the_absolute_form_of_a_target_is_understood(edge: Edge) -> None:
    answer = await edge.request("GET", f"http://test{V3}/list?limit=3")
    assert answer.json["limit"] == 3


async def test_head_answers_as_get_without_a_body(edge: Edge) -> None:
    connection = await edge.connect()
    head = await connection.request("HEAD", f"{V3}/list")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 2
    assert (await connection.request("GET", f"{V3}/list")).status == 200


def declare(route: str) -> Endpoint:
    @endpoint(route, spec="", auth=NoAuth())
    async def answer(call: Call) -> Empty:
        return Empty()

    return endpoint_of(answer)


def test_one_path_is_declared_once() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        Router([declare("GET /a"), declare("GET /a")])


def test_a_declaration_that_does_not_hold_together_fails_at_once() -> None:
    async def wrong_type(call: Call, number: int) -> Empty:
        return Empty()

    async def not_in_path(call: Call, name: str) -> Empty:
        return Empty()

    async def no_call(name: str) -> Empty:
        return Empty()

    for route, handler in (
        ("GET /a/{number}", wrong_type),
        ("GET /a", not_in_path),
        ("GET /a/{name}", no_call),
        ("GET /a/{other}", not_in_path),
        ("FETCH /a/{name}", not_in_path),
    ):
        with pytest.raises(TypeError):
            endpoint(route, spec="", auth=NoAuth())(handler)

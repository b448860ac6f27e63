"""Bodies, queries, tokens and proxies: what untrusted input becomes."""

import pytest

from tests.http.conftest import MAX_BODY, Edge

V3 = "/_matrix/client/v3"
TYPING = f"{V3}/rooms/!r:test/typing/@alice:test"
SEND = f"{V3}/rooms/!r:test/send/m.x/1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b'{"typing":true',
        b'{"typing":true}}',
        b'{"typing":NaN}',
        b"{'typing':true}",
        b'{"typing":true,"timeout":1e999}',
        b'\xff\xfe{"typing":true}',
        b'{"typing":true,"tags":["\xff"]}',
        b'{"typing":true,"tags":["\\ud800"]}',
    ],
)
async def test_what_is_no_json_is_said_to_be_none(edge: Edge, body: bytes) -> None:
    answer = await edge.request("PUT", TYPING, body)
    assert (answer.status, answer.errcode) == (400, "M_NOT_JSON")


@pytest.mark.parametrize(
    ("body", "errcode", "named"),
    [
        (b"{}", "M_MISSING_PARAM", "typing"),
        (b"[]", "M_BAD_JSON", "object"),
        (b'"text"', "M_BAD_JSON", "object"),
        (b"null", "M_BAD_JSON", "object"),
        (b'{"typing":1}', "M_BAD_JSON", "typing"),
        (b'{"typing":"true"}', "M_BAD_JSON", "typing"),
        (b'{"typing":null}', "M_BAD_JSON", "typing"),
        (b'{"typing":true,"timeout":"5"}', "M_BAD_JSON", "timeout"),
        (b'{"typing":true,"timeout":-1}', "M_BAD_JSON", "timeout"),
        (b'{"typing":true,"timeout":1.5}', "M_BAD_JSON", "timeout"),
        (b'{"typing":true,"timeout":90071992547409920}', "M_BAD_JSON", "timeout"),
        (b'{"typing":true,"tags":["a",1]}', "M_BAD_JSON", "tags[1]"),
        (b'{"typing":true,"tags":["a\\u0000"]}', "M_BAD_JSON", "U+0000"),
        (b'{"typing":true,"invitee":"nobody"}', "M_INVALID_PARAM", "invitee"),
    ],
)
async def test_json_of_the_wrong_shape_names_the_field(
    edge: Edge, body: bytes, errcode: str, named: str
) -> None:
    answer = await edge.request("PUT", TYPING, body)
    assert (answer.status, answer.errcode) == (400, errcode)
    assert named in answer.json["error"]


@pytest.mark.parametrize("depth", [201, 5_000])
@pytest.mark.parametrize(("opened", "closed"), [(b'{"a":', b"}"), (b"[", b"]")])
@pytest.mark.parametrize("target", [TYPING, SEND])
async def test_deep_nesting_is_an_error_and_not_a_fault(
    edge: Edge, depth: int, opened: bytes, closed: bytes, target: str
) -> None:
    nested = opened * depth + b"1" + closed * depth
    answer = await edge.request("PUT", target, b'{"typing":true,"x":' + nested + b"}")
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


async def test_many_brackets_side_by_side_are_no_nesting(edge: Edge) -> None:
    answer = await edge.request("PUT", SEND, b'{"a":[' + b"{}," * 500 + b"{}]}")
    assert answer.status == 200


@pytest.mark.parametrize(
    "text", [b"]" * 300, b"}]" * 300, b'\\"' + b"]" * 300, b"\\\\", b'\\\\\\"]', b'\\"\\"' * 300]
)
async def test_brackets_in_texts_open_and_close_nothing(edge: Edge, text: bytes) -> None:
    for depth, status in ((150, 200), (201, 400)):
        nested = b"[" * depth + b'"' + text + b'"' + b"]" * depth
        beside = b'{"a":"%b","b":%b,"c":[%b"%b"]}' % (text, nested, b"{}," * 300, text)
        assert (await edge.request("PUT", SEND, beside)).status == status


async def test_unknown_keys_and_a_foreign_content_type_do_not_matter(edge: Edge) -> None:
    answer = await edge.request(
        "PUT", TYPING, b'{"typing":true,"new":{}}', headers={"Content-Type": "text/plain"}
    )
    assert answer.json == {
        "room": "!r:test",
        "user": "@alice:test",
        "typing": True,
        "timeout": 30_000,
    }


async def test_a_json_object_comes_through_unchanged(edge: Edge) -> None:
    answer = await edge.request("PUT", SEND, '{"b":[1,null,{"ü":"\\u0000"}],"a":1.5}'.encode())
    assert answer.json["body"] == {"b": [1, None, {"ü": "\0"}], "a": 1.5}


async def test_a_body_may_be_absent_only_where_it_is_declared_so(edge: Edge) -> None:
    assert (await edge.request("POST", f"{V3}/join/!r:test")).json["body"] is None
    assert (await edge.request("POST", f"{V3}/join/!r:test", b"{}")).json["body"] == {}
    assert (await edge.request("POST", f"{V3}/join/!r:test", b"[")).errcode == "M_NOT_JSON"
    assert (await edge.request("POST", f"{V3}/logout", b"anything")).status == 200


async def test_queries_become_their_declared_types(edge: Edge) -> None:
    answer = await edge.request(
        "GET", f"{V3}/list?from=a%20b+c%2Bd&limit=7&full=true&server=x&server=y%3A1&&unknown=1"
    )
    assert answer.json == {
        "from": "a b c+d",
        "limit": 7,
        "full": True,
        "server": ["x", "y:1"],
        "user": None,
        "who": "@alice:test",
    }


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=many", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("full=perhaps", "full"),
        ("user=nobody", "user"),
        ("from=%FF", "UTF-8"),
        ("from=%00", "U+0000"),
    ],
)
async def test_a_wrong_query_parameter_is_named(edge: Edge, query: str, named: str) -> None:
    answer = await edge.request("GET", f"{V3}/list?{query}")
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert named in answer.json["error"]


async def test_a_missing_query_parameter_is_named(edge: Edge) -> None:
    answer = await edge.request("GET", f"{V3}/required")
    assert (answer.status, answer.errcode) == (400, "M_MISSING_PARAM")
    assert "token" in answer.json["error"]


async def test_tokens_come_by_header_or_query(edge: Edge) -> None:
    for token in ("alice", "admin"):
        header = await edge.request("GET", f"{V3}/list", token=token)
        query = await edge.request("GET", f"{V3}/list?access_token={token}", token=None)
        lower = await edge.request(
            "GET", f"{V3}/list", token=None, headers={"authorization": f"bearer {token}"}
        )
        assert header.json["who"] == query.json["who"] == lower.json["who"] == f"@{token}:test"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic abc"}, {"Authorization": ""}])
async def test_a_missing_token_is_said_to_be_missing(edge: Edge, headers: dict[str, str]) -> None:
    answer = await edge.request("PUT", TYPING, b"{}", token=None, headers=headers)
    assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


async def test_a_foreign_token_is_said_to_be_unknown(edge: Edge) -> None:
    for target in (TYPING, f"{V3}/rooms/nothing/typing/nobody"):
        answer = await edge.request("PUT", target, b"{", token="mallory")
        assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    answer = await edge.request("GET", f"{V3}/list", token="mallory")
    assert answer.errcode == "M_UNKNOWN_TOKEN", "an optional token must be valid too"


async def test_without_a_token_an_optional_one_is_none(edge: Edge) -> None:
    assert (await edge.request("GET", f"{V3}/list", token=None)).json["who"] is None


async def test_guests_and_users_are_let_in_as_declared(edge: Edge) -> None:
    refused = await edge.request("PUT", TYPING, b"{}", token="guest")
    assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (await edge.request("POST", f"{V3}/join/!r:test", token="guest")).status == 200
    ordinary = await edge.request("GET", f"{V3}/admin_only", token="alice")
    assert (ordinary.status, ordinary.errcode) == (403, "M_FORBIDDEN")
    assert (await edge.request("GET", f"{V3}/admin_only", token="admin")).status == 200


async def test_a_long_body_is_too_large_whether_announced_or_not(edge: Edge) -> None:
    body = b'{"text":"' + b"x" * MAX_BODY + b'"}'
    announced = await edge.request("PUT", SEND, body)
    assert (announced.status, announced.errcode) == (413, "M_TOO_LARGE")
    connection = await edge.connect()
    await connection.send(
        f"PUT {SEND} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer alice\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    await connection.send(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
    chunked = await connection.receive()
    assert (chunked.status, chunked.errcode) == (413, "M_TOO_LARGE")
    assert chunked.headers["connection"] == "close"


async def test_an_endpoint_may_take_longer_bodies(edge: Edge) -> None:
    body = b'{"text":"' + b"x" * 150_000 + b'"}'
    answer = await edge.request("POST", "/_matrix/media/upload", body)
    assert answer.json == {"length": 150_000}


async def test_chunked_bodies_are_read(edge: Edge) -> None:
    connection = await edge.connect()
    head = (
        f"PUT {TYPING} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer alice\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    await connection.send(head.encode() + b'8\r\n{"typing\r\n')
    await connection.send(b'7\r\n":true}\r\n0\r\n\r\n')
    assert (await connection.receive()).json["typing"] is True


async def test_a_client_that_waits_for_100_is_told_to_go_on(edge: Edge) -> None:
    connection = await edge.connect()
    body = b'{"typing":true}'
    await connection.send(
        f"PUT {TYPING} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer alice\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(body)
    assert (await connection.receive()).status == 200


async def test_a_client_that_waits_for_100_is_refused_before_it_sends(edge: Edge) -> None:
    connection = await edge.connect()
    await connection.send(
        f"PUT {TYPING} HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n"
        f"Content-Length: 15\r\n\r\n".encode()
    )
    assert (await connection.receive()).errcode == "M_MISSING_TOKEN"


async def test_compressed_bodies_are_not_inflated(edge: Edge) -> None:
    import gzip

    answer = await edge.request(
        "PUT", TYPING, gzip.compress(b'{"typing":true}'), headers={"Content-Encoding": "gzip"}
    )
    assert answer.errcode == "M_NOT_JSON"


async def test_many_requests_in_one_write_are_answered_in_order(edge: Edge) -> None:
    connection = await edge.connect()
    one = "GET {} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer alice\r\n\r\n"
    text = "".join(one.format(f"{V3}/list?limit={number}") for number in range(20))
    await connection.send(text.encode())
    assert [(await connection.receive()).json["limit"] for _ in range(20)] == list(range(20))


class TestBehindAProxy:
    @pytest.fixture
    def trusted_proxies(self) -> list[str]:
        return ["127.0.0.0/8", "10.0.0.1"]

    @pytest.mark.parametrize(
        ("forwarded", "client"),
        [
            ("203.0.113.7", "203.0.113.7"),
            ("6.6.6.6, 203.0.113.7, 10.0.0.1", "203.0.113.7"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("unknown", "127.0.0.1"),
            ("203.0.113.7, unknown", "127.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
        ],
    )
    async def test_the_client_is_the_first_from_the_right_that_is_no_proxy(
        self, edge: Edge, forwarded: str, client: str
    ) -> None:
        answer = await edge.request(
            "GET", f"{V3}/required?token=x", headers={"X-Forwarded-For": forwarded}
        )
        assert answer.json["remote"] == client


async def test_nobody_else_is_believed(edge: Edge) -> None:
    answer = await edge.request(
        "GET",
        f"{V3}/required?token=x",
        headers={"X-Forwarded-For": "203.0.113.7", "User-Agent": "tester"},
    )
    assert (answer.json["remote"], answer.json["agent"]) == ("127.0.0.1", "tester")

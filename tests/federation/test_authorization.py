"""The Authorization header of servers. spec: server-server-api#request-authentication"""

import pytest

from federation.authorization import Authorization, authorise, signatures_of, signed_object
from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import SigningKey, verify_json

EXPECTED = Authorization("a.example:8448", "b.example", "ed25519:k1", "c2ln+/A=")


ORIGIN, KEY, SIG = 'origin="a.example:8448"', 'key="ed25519:k1"', 'sig="c2ln+/A="'
DESTINATION = 'destination="b.example"'
FORMS = {
    "quoted": f"X-Matrix {ORIGIN},{DESTINATION},{KEY},{SIG}",
    "bare": "X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k1,sig=c2ln+/A=",
    "spaces and case": f"x-matrix   {SIG} ,\t{KEY},  {DESTINATION},{ORIGIN.upper()}".replace(
        "A.EXAMPLE", "a.example"
    ),
    "escapes": rf'X-Matrix {ORIGIN},destination="b.ex\ample",key="ed25519\:k1",{SIG}',
    "unknown parameter": rf'X-Matrix {ORIGIN},new="x,y=\"z",{DESTINATION},{KEY},{SIG}',
    "last comma": f"X-Matrix {ORIGIN},{DESTINATION},{KEY},{SIG},",
}


@pytest.mark.parametrize("header", FORMS.values(), ids=FORMS)
def test_forms_that_mean_the_same(header: str) -> None:
    assert Authorization.parse(header) == EXPECTED


def test_older_servers_leave_the_destination_out() -> None:
    parsed = Authorization.parse('X-Matrix origin="a.example",key="ed25519:1",sig="x"')
    assert parsed.destination is None


def test_the_form_that_is_sent_is_the_one_that_all_servers_read() -> None:
    assert str(EXPECTED) == (
        'X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k1",sig="c2ln+/A="'
    )
    assert Authorization.parse(str(EXPECTED)) == EXPECTED


@pytest.mark.parametrize(
    "header",
    [
        "",
        "X-Matrix",
        "X-Matrix ",
        "Bearer token",
        "X-Matrix origin=a.example",
        'X-Matrix origin="a.example",key="ed25519:1"',
        'X-Matrix origin="a.example",key="ed25519:1",sig="open',
        'X-Matrix origin="a.example" key="ed25519:1" sig="x"',
        'X-Matrix origin="a.example",origin="b.example",key="ed25519:1",sig="x"',
        'X-Matrix origin="not a name",key="ed25519:1",sig="x"',
        "X-Matrix origin=,key=,sig=",
        "X-Matrix " + ",".join(f"p{n}=x" for n in range(1_000)),
        "X-Matrix " + 'a="' + "\\" * 10_000,
    ],
)
def test_what_is_no_header_is_refused(header: str) -> None:
    with pytest.raises(Malformed):
        Authorization.parse(header)


def test_several_headers_are_one_request_signed_by_several_keys() -> None:
    one = Authorization("a.example", "b.example", "ed25519:1", "x")
    two = Authorization("a.example", "b.example", "ed25519:2", "y")
    assert signatures_of([one, two]) == {"ed25519:1": "x", "ed25519:2": "y"}
    for other in (
        Authorization("c.example", "b.example", "ed25519:2", "y"),
        Authorization("a.example", "c.example", "ed25519:2", "y"),
        Authorization("a.example", None, "ed25519:2", "y"),
        one,
    ):
        with pytest.raises(Malformed):
            signatures_of([one, other])


def test_what_is_signed() -> None:
    key = SigningKey.generate()
    made = authorise("PUT", "/_matrix/x?y=%20", "a.example", "b.example", {"z": 1}, key)
    signed = {
        "method": "PUT",
        "uri": "/_matrix/x?y=%20",
        "origin": "a.example",
        "destination": "b.example",
        "content": {"z": 1},
    }
    assert signed_object("PUT", "/_matrix/x?y=%20", "a.example", "b.example", {"z": 1}) == signed
    signatures = {"a.example": {key.key_id: made.signature}}
    keys = {key.key_id: key.public_key}
    assert verify_json({**signed, "signatures": signatures}, "a.example", keys)


def test_without_a_body_there_is_no_content() -> None:
    assert "content" not in signed_object("GET", "/", "a.example", "b.example", None)
    assert signed_object("PUT", "/", "a.example", None, {}) == {
        "method": "PUT",
        "uri": "/",
        "origin": "a.example",
        "content": {},
    }

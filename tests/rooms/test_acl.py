"""spec: client-server-api#server-access-control-lists-acls-for-rooms"""

from typing import Any

import pytest

from homeserver.rooms.acl import admits


@pytest.mark.parametrize(
    ("content", "server", "allowed"),
    [
        ({}, "a.example", False),
        ({"allow": ["*"]}, "a.example", True),
        ({"allow": ["*"], "deny": ["a.example"]}, "a.example", False),
        ({"allow": ["*"], "deny": ["A.Example"]}, "a.eXample:8448", False),
        ({"allow": ["*"], "deny": ["a.example:8448"]}, "a.example:8448", True),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "x.evil.example", False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "evil.example", True),
        ({"allow": ["?.example"]}, "a.example", True),
        ({"allow": ["?.example"]}, "ab.example", False),
        ({"allow": ["a.example"]}, "b.example", False),
        ({"allow": ["a.example"]}, "axexample", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "1.2.3.4:80", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[::1]:80", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "1.2.3.example", True),
        ({"allow": ["*"], "allow_ip_literals": True}, "1.2.3.4", True),
        ({"allow": "*", "deny": 7}, "a.example", False),
        ({"allow": [1, None, "*"]}, "a.example", True),
        ({"allow": ["*" * 200 + "x"]}, "a" * 200, False),
        ({"allow": ["ab*ba"]}, "aba", False),
        ({"allow": ["ab*ba"]}, "ABBA", True),
        ({"allow": ["a*b?c"]}, "axxbxc", True),
        # Made to be matched in as many ways as there are: that must not cost hours.
        ({"allow": ["*", "?*a"], "deny": ["*" + "a*" * 90 + "b"]}, "a" * 200, True),
        ({"allow": ["*"], "deny": ["?*" + "a*" * 90 + "b"]}, "a" * 200, True),
    ],
)
def test_an_acl_says_who_takes_part(content: dict[str, Any], server: str, allowed: bool) -> None:
    assert admits(content, server) is allowed

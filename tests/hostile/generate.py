"""Requests made from the declarations of endpoints: mostly plausible, partly nonsense.

Owns the strategies. What is plausible comes from the declared types, from ids that exist on the
server under test, and from words of the specification; everything may be replaced by nonsense.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import quote

import msgspec
from hypothesis import strategies as st

from homeserver.http.endpoint import Endpoint
from homeserver.http.shape import Shape

WORDS = (
    "", "a", "m.room.message", "m.room.member", "m.room.power_levels", "m.room.create", "m.read",
    "m.room.join_rules", "m.room.encryption", "m.room.canonical_alias", "m.direct", "m.fully_read",
    "m.ignored_user_list", "m.push_rules", "m.room.redaction", "m.login.password",
    "m.login.dummy", "m.id.user", "m.login.token", "global", "override", "content", "room",
    "sender", "underride", ".m.rule.master", "join", "leave", "invite", "ban", "knock", "public",
    "private_chat", "world_readable", "m.space", "1", "9", "12", "0", "-1", "org.example.custom",
    "displayname", "avatar_url", "m.tz", "mxc://test.example/x", "b", "f", "main", "*", "m.*",
    "https://test.example/", "s1_1_aa_5_a_0", "t1_1_aa_5", "../..", "%", "\0", "\n", "\x7f",
    "é", "\ud800", "🦀", "x" * 300, "x" * 70_000, "@", "!", "$", "#", ":", "@a:", "@:b", "{}",
)  # fmt: skip
KEYS = (
    "type", "content", "room_id", "event_id", "user_id", "sender", "body", "msgtype", "membership",
    "users", "events", "users_default", "ban", "redact", "join_rule", "allow", "alias",
    "alt_aliases", "history_visibility", "m.relates_to", "rel_type", "m.in_reply_to", "redacts",
    "url", "name", "topic", "via", "creator", "additional_creators", "room_version", "predecessor",
    "m.federate", "ignored_users", "m.mentions", "user_ids", "kind", "pattern", "conditions",
    "actions", "value", "key", "identifier", "user", "password", "session", "auth", "limit",
    "types", "senders", "rooms", "timeline", "state", "room", "presence", "displayname", "is",
    "m.new_content", "thread_id", "tags", "order", "deleted", "third_party_invite", "signed",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 50, 100, 2**31, 2**53 - 1, -(2**53) + 1, 2**53, 2**63, 2**64, 10**400)


@dataclass(frozen=True)
class Made:
    """One request; `data` None: no body."""

    target: str
    data: bytes | None


class Requests:
    """Makes requests; `known` are plausible values of the id types, and may change meanwhile."""

    def __init__(self, known: Mapping[object, list[str]]) -> None:
        self.known = known
        ids = st.one_of([self._known(kind) for kind in known])
        self._texts = st.one_of(st.sampled_from(WORDS), ids, st.text(max_size=20))
        numbers = st.one_of(
            st.sampled_from(NUMBERS), st.integers(), st.floats(allow_nan=False, width=32)
        )
        leaves = st.one_of(st.none(), st.booleans(), numbers, self._texts)
        keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(WORDS), ids)
        self._jsons = st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)
            ),
            max_leaves=6,
        )
        self._objects = st.dictionaries(keys, self._jsons, max_size=5)
        self._simple: dict[Any, st.SearchStrategy[Any]] = {
            str: self._texts,
            int: numbers,
            float: numbers,
            bool: st.booleans(),
            NoneType: st.none(),
            **{kind: self._known(kind) for kind in known},
        }
        self._values: dict[Any, st.SearchStrategy[Any]] = {}

    def to(self, endpoint: Endpoint) -> st.SearchStrategy[Made]:
        """Requests to an endpoint."""
        types = endpoint.handler.__annotations__
        parameters = {
            name: self._often(self._typed(types[name]), self._texts) for name in endpoint.parameters
        }
        return st.builds(
            _made,
            st.sampled_from([endpoint.path, *endpoint.also]),
            st.fixed_dictionaries(parameters),
            self._queries(endpoint.query_type),
            st.none() if endpoint.body is None else self._bodies(endpoint.body_type),
        )

    def _known(self, kind: object) -> st.SearchStrategy[str]:
        # Looked up late: accounts and rooms change while requests are made.
        return st.integers(0, 99).map(lambda n: self.known[kind][n % len(self.known[kind])])

    def _often(
        self, usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]
    ) -> st.SearchStrategy[Any]:
        return st.one_of(usual, usual, usual, rare)

    def _value(self, kind: Any) -> st.SearchStrategy[Any]:
        """Values of a declared type, and now and then any other JSON."""
        found = self._values.get(kind)
        if found is None:
            found = self._values[kind] = self._often(self._typed(kind), self._jsons)
        return found

    def _typed(self, kind: Any) -> st.SearchStrategy[Any]:
        if kind in self._simple:
            return self._simple[kind]
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._typed(arguments[0])
        if origin is Literal:
            return st.sampled_from(arguments)
        if origin in (Union, UnionType):
            return st.one_of([self._typed(argument) for argument in arguments])
        if origin in (list, tuple, frozenset):
            return st.lists(self._value(arguments[0]), max_size=3)
        if origin is dict and arguments[1] is not Any:
            return st.dictionaries(self._texts, self._value(arguments[1]), max_size=3)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._struct(kind)
        return self._objects

    def _struct(self, kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
        required: dict[str, st.SearchStrategy[Any]] = {}
        optional: dict[str, st.SearchStrategy[Any]] = {}
        for one in msgspec.structs.fields(kind):
            place = required if one.required else optional
            place[one.encode_name] = self._value(one.type)
        return st.fixed_dictionaries(required, optional=optional)

    def _queries(self, kind: type[Shape] | None) -> st.SearchStrategy[str]:
        """Query strings; nothing may wait, since the clock of the tests stands still."""
        if kind is None:
            return st.just("")
        fields = {
            one.encode_name: st.just(0) if one.name == "timeout" else self._value(one.type)
            for one in msgspec.structs.fields(kind)
        }
        return st.fixed_dictionaries({}, optional=fields).map(_encoded)

    def _bodies(self, kind: Any) -> st.SearchStrategy[bytes]:
        made = self._value(kind).map(lambda value: json.dumps(value).encode())
        broken = st.builds(
            lambda data, at, more: data[:at] + more + data[at:],
            made,
            st.integers(0, 200),
            st.binary(max_size=4),
        )
        return self._often(made, broken)


def _made(path: str, parameters: dict[str, str], query: str, data: bytes | None) -> Made:
    for name, text in parameters.items():
        path = path.replace(f"{{{name}}}", quote(text[:5_000], safe="", errors="surrogatepass"))
    return Made(f"{path}?{query}" if query else path, data)


def _encoded(query: dict[str, Any]) -> str:
    parts = []
    for key, value in query.items():
        for one in value if isinstance(value, list) else [value]:
            text = one if isinstance(one, str) else json.dumps(one)
            parts.append(f"{quote(key)}={quote(text[:5_000], errors='surrogatepass')}")
    return "&".join(parts)

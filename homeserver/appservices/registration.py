"""What an application service says of itself: its registration.

Owns reading one registration file and the questions that it answers: whose users, aliases and rooms
these are. Invariant: a `Registration` that exists is complete and its patterns compile. It knows
nothing of other registrations, nor of what is stored.
spec: application-service-api#registration
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from homeserver.matrix.ids import is_new_localpart

MAX_BYTES = 262_144
_MAX_PATTERNS = 1_000


class BadRegistration(Exception):
    """The registration can't be used; the text is a sentence for the operator."""


class _Namespace(msgspec.Struct):
    regex: str
    exclusive: bool = False


class _Namespaces(msgspec.Struct):
    users: list[_Namespace] | None = None
    aliases: list[_Namespace] | None = None
    rooms: list[_Namespace] | None = None


class _File(msgspec.Struct, rename={"to_device": "de.sorunome.msc2409.push_ephemeral"}):
    id: str
    as_token: str
    hs_token: str
    sender_localpart: str
    namespaces: _Namespaces
    url: str | None
    protocols: list[str] | None = None
    receive_ephemeral: bool = False
    rate_limited: bool = False
    to_device: bool = False
    transaction_extensions: bool = msgspec.field(default=False, name="org.matrix.msc3202")
    device_management: bool = msgspec.field(default=False, name="io.element.msc4190")


@dataclass(frozen=True, slots=True)
class Namespace:
    """Patterns over user ids, aliases or room ids; a text belongs to it that fits from its start.

    Of several patterns any will do; `exclusive` are those that nobody else may take anything of.
    """

    all: tuple[re.Pattern[str], ...]
    exclusive: tuple[re.Pattern[str], ...]

    def has(self, text: str) -> bool:
        """Whether `text` belongs to the namespace."""
        return any(pattern.match(text) for pattern in self.all)

    def owns(self, text: str) -> bool:
        """Whether `text` belongs to it and to nobody else."""
        return any(pattern.match(text) for pattern in self.exclusive)


@dataclass(frozen=True, slots=True)
class Registration:
    """One application service.

    `user_id` is its own user's; `url` is None for one that wants no traffic; `ephemeral`: it wants
    typing and receipts, and is told of devices as an `extended` one is; of whose users the messages
    are not kept for /sync as well (MSC3202). `limited`: its users, not itself, are held to the rate
    limits.
    """

    id: str
    url: str | None
    as_token: str
    hs_token: str
    user_id: str
    users: Namespace
    aliases: Namespace
    rooms: Namespace
    protocols: tuple[str, ...]
    ephemeral: bool
    extended: bool
    limited: bool
    text: str

    def owns(self, user_id: str) -> bool:
        """Whether a local user is the service's own or in its namespace, and nobody else's."""
        return user_id == self.user_id or self.users.owns(user_id)

    def is_user(self, user_id: str) -> bool:
        """Whether a local user is the service's own or in its namespace."""
        return user_id == self.user_id or self.users.has(user_id)

    @classmethod
    def read(cls, text: str, server_name: str) -> "Registration":
        """The registration in a file's text (YAML or JSON); raises `BadRegistration`."""
        if len(text) > MAX_BYTES:
            raise BadRegistration(f"it is longer than {MAX_BYTES} bytes")
        found = _parsed(text)
        for name in ("id", "as_token", "hs_token"):
            if not getattr(found, name):
                raise BadRegistration(f"{name} must not be empty")
        if not is_new_localpart(found.sender_localpart):
            raise BadRegistration("sender_localpart has the characters a-z, 0-9 and ._=-/+ only")
        spaces = found.namespaces
        return cls(
            id=found.id,
            url=_url(found.url),
            as_token=found.as_token,
            hs_token=found.hs_token,
            user_id=f"@{found.sender_localpart}:{server_name}",
            users=_namespace("users", spaces.users or ()),
            aliases=_namespace("aliases", spaces.aliases or ()),
            rooms=_namespace("rooms", spaces.rooms or ()),
            protocols=tuple(dict.fromkeys(found.protocols or ())),
            ephemeral=found.receive_ephemeral or found.to_device,
            extended=found.transaction_extensions,
            limited=found.rate_limited,
            text=text,
        )


def _parsed(text: str) -> _File:
    import yaml

    try:
        # Bridges write `id: 12345` and tokens of digits only: they mean the text.
        given: Any = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it nests too deeply"
        raise BadRegistration(f"it is no YAML: {reason}") from None
    if isinstance(given, dict):
        for name in ("id", "as_token", "hs_token", "sender_localpart"):
            if isinstance(given.get(name), int | float) and not isinstance(given[name], bool):
                raise BadRegistration(f"{name}: a text is needed; put it into quotes")
        given.setdefault("namespaces", {})
    try:
        return msgspec.convert(given, _File)
    except msgspec.ValidationError as error:
        raise BadRegistration(str(error).replace("`", "").replace("$.", "")) from None
    except RecursionError:
        raise BadRegistration("it nests too deeply") from None


def _url(url: str | None) -> str | None:
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadRegistration("url must begin with http:// or https:// and have no query")
    return url.rstrip("/")


def _namespace(name: str, given: Iterable[_Namespace]) -> Namespace:
    given = list(given)
    if len(given) > _MAX_PATTERNS:
        raise BadRegistration(f"namespaces.{name}: more than {_MAX_PATTERNS} patterns")
    compiled = []
    for one in given:
        try:
            compiled.append((re.compile(one.regex), one.exclusive))
        except (re.error, OverflowError, RecursionError) as error:
            raise BadRegistration(
                f"namespaces.{name}: {one.regex!r} is no regex: {error}"
            ) from None
    return Namespace(
        tuple(pattern for pattern, _ in compiled),
        tuple(pattern for pattern, exclusive in compiled if exclusive),
    )

"""Whose invites each user wants.

Owns the rules that a user's account data holds, `m.invite_permission_config` and the filters of
MSC4155, and the cache of them. A blocked invite is refused with M_INVITE_BLOCKED; an ignored one
is made, and its sender learns nothing. Neither is shown to the user's clients, whatever was there
before the rule. Application services and the state of rooms are not concerned, and the server's own
notices come to everybody.
Invariant: deciding costs no more than `MAX_GLOBS` expressions for each list of a user.
spec: client-server-api#invite-permission, MSC4155
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from homeserver.errors import MatrixError
from homeserver.matrix import canonical
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed
from homeserver.matrix.ids import server_of
from homeserver.matrix.pushmatch import matches_glob
from homeserver.streams.numbers import Names
from storage.engine import Database
from storage.user_data import account_data_of

PERMISSION_CONFIG = "m.invite_permission_config"
FILTERS = "org.matrix.msc4155.invite_permission_config"
MAX_GLOBS = 100
_CACHED = 5_000
_MAX_PATTERN = 255


class Rule(Enum):
    """What becomes of an invite."""

    ALLOW = "allowed"
    IGNORE = "ignored"
    BLOCK = "blocked"


@dataclass(frozen=True, slots=True)
class _Patterns:
    exact: frozenset[str]
    globs: tuple[str, ...]

    def match(self, name: str) -> bool:
        return name in self.exact or any(matches_glob(glob, name) for glob in self.globs)


@dataclass(frozen=True, slots=True)
class Permissions:
    """One user's rules; the first that matches the inviter decides, users' before servers'.

    Filters whose `enabled` is false are kept by the user for another time, and say nothing.
    """

    official: str
    blocks_all: bool = False
    of_users: tuple[tuple[Rule, _Patterns], ...] = ()
    of_servers: tuple[tuple[Rule, _Patterns], ...] = ()

    @property
    def everybody(self) -> bool:
        """Whether every invite is allowed."""
        return not (self.blocks_all or self.of_users or self.of_servers)

    def rule(self, inviter: str) -> Rule:
        """What becomes of an invite by this user."""
        if inviter == self.official:
            return Rule.ALLOW
        if self.blocks_all:
            return Rule.BLOCK
        for rules, name in ((self.of_users, inviter), (self.of_servers, server_of(inviter))):
            for rule, patterns in rules:
                if patterns.match(name):
                    return rule
        return Rule.ALLOW


class InvitePermissions:
    """See the module."""

    def __init__(self, database: Database, names: Names, official: str) -> None:
        """`official` is the user in whose name the server speaks."""
        self._database = database
        self._names = names
        self._official = official
        self._known: OrderedDict[int, Permissions] = OrderedDict()
        self._cleared = 0

    async def check(self, inviter: str, invited: Collection[str]) -> None:
        """Raise `MatrixError` M_INVITE_BLOCKED (403) when one of the users blocks the inviter.

        Users of other servers are not asked for: theirs are to refuse.
        """
        nids = await self._names.find(invited)
        found = await self._of(list(nids.values()))
        for user_id, nid in nids.items():
            if found[nid].rule(inviter) is Rule.BLOCK:
                raise MatrixError("M_INVITE_BLOCKED", f"{user_id} does not take this invite", 403)

    async def of(self, user_nid: int) -> Permissions:
        """A user's rules."""
        return (await self._of([user_nid]))[user_nid]

    async def _of(self, user_nids: Collection[int]) -> dict[int, Permissions]:
        found = {nid: self._known[nid] for nid in user_nids if nid in self._known}
        while missing := [nid for nid in user_nids if nid not in found]:
            cleared = self._cleared
            configs = await account_data_of(self._database, missing, 0, PERMISSION_CONFIG)
            filters = await account_data_of(self._database, missing, 0, FILTERS)
            if cleared != self._cleared:
                continue  # What was read may be older than what was published meanwhile.
            for nid in missing:
                config = configs[nid].content if nid in configs else b"{}"
                lists = filters[nid].content if nid in filters else b"{}"
                found[nid] = self._known[nid] = _permissions(
                    self._official, _object(config), _object(lists)
                )
        while len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return found

    def changed(self, user_nid: int, type_: str) -> None:
        """Account data of this type has changed."""
        if type_ in (PERMISSION_CONFIG, FILTERS):
            self._known.pop(user_nid, None)
            self._cleared += 1

    def clear(self) -> None:
        """Drop everything: publications were lost."""
        self._known.clear()
        self._cleared += 1


def _object(content: bytes) -> JsonObject:
    try:
        return canonical.decode_object(content)
    except Malformed:
        return {}


def _permissions(official: str, config: JsonObject, filters: JsonObject) -> Permissions:
    if filters.get("enabled") is False:
        filters = {}
    of_users, of_servers = (
        tuple(
            (rule, patterns)
            for rule in Rule
            if (patterns := _patterns(filters.get(f"{rule.value}_{kind}"))) is not None
        )
        for kind in ("users", "servers")
    )
    return Permissions(official, config.get("default_action") == "block", of_users, of_servers)


def _patterns(listed: object) -> _Patterns | None:
    """None for a list of nothing; what can't be a pattern is passed over."""
    if not isinstance(listed, list):
        return None
    texts = [text for text in listed if isinstance(text, str) and 0 < len(text) <= _MAX_PATTERN]
    globs = [text for text in texts if "*" in text or "?" in text]
    exact = frozenset(texts) - frozenset(globs)
    return _Patterns(exact, tuple(globs[:MAX_GLOBS])) if texts else None

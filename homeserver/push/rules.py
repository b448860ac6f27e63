"""What the push rules of users say about events.

Owns the users' rulesets in memory and the verdicts over events. Invariant: users whose changes to
the default rules are equal form one class, and an event is looked at once for each class, not for
each of its users; users who changed nothing have no class and cost nothing (what the default rules
say stands on the event). Rules are those of now. It stores nothing.
"""

from collections import OrderedDict
from collections.abc import Mapping

from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.pushmatch import Facts, actions_for
from homeserver.matrix.pushrules import Actions, Changes, ruleset
from homeserver.users.account_data import GLOBAL, PUSH_RULES
from storage.engine import Database
from storage.user_data import account_data_of

_MAX_USERS = 50_000
_MAX_CLASSES = 2_000
_MAX_VERDICTS = 20_000
_NOBODY = "\0"
_DEFAULT = Changes().encode()


class Told:
    """An event as rules see it; `nid` is its number.

    `named` are the users to whom it may be something else than to others.
    """

    __slots__ = ("facts", "named", "nid")

    def __init__(self, nid: int, facts: Facts) -> None:
        self.nid = nid
        self.facts = facts
        self.named = _named(facts.event)


class Rules:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users: OrderedDict[int, bytes] = OrderedDict()
        self._rulesets: OrderedDict[tuple[bytes, str], JsonObject] = OrderedDict()
        self._verdicts: OrderedDict[tuple[bytes, str, int], Actions | None] = OrderedDict()
        self._changed = 0

    def changed(self, user_nid: int, type_: str) -> None:
        """Account data of a user was published."""
        if type_ == PUSH_RULES:
            self._changed += 1
            self._users.pop(user_nid, None)

    def clear(self) -> None:
        """Publications were lost."""
        self._changed += 1
        self._users.clear()

    async def classes(self, user_nids: "list[int] | tuple[int, ...]") -> Mapping[int, bytes | None]:
        """By user the class of their rules, None for the default rules."""
        missing = [nid for nid in user_nids if nid not in self._users]
        found = {nid: self._users[nid] for nid in user_nids if nid in self._users}
        for start in range(0, len(missing), 100):
            some = missing[start : start + 100]
            before = self._changed
            rows = await account_data_of(self._database, some, GLOBAL, PUSH_RULES)
            stored = {nid: rows[nid].content if nid in rows else _DEFAULT for nid in some}
            found.update(stored)
            if before == self._changed:
                self._users.update(stored)
        while len(self._users) > _MAX_USERS:
            self._users.popitem(last=False)
        return {nid: None if stored == _DEFAULT else stored for nid, stored in found.items()}

    async def class_of(self, user_nid: int) -> bytes | None:
        """The class of one user's rules, None for the default rules."""
        stored = self._users.get(user_nid)
        if stored is None:
            return (await self.classes([user_nid]))[user_nid]
        return None if stored == _DEFAULT else stored

    def actions(self, class_: bytes | None, user_id: str, told: Told) -> Actions | None:
        """What is to be done for a user of the class; None and an empty list are nothing.

        The same verdict is given to everybody of a class whom the event does not name.
        """
        who = user_id if user_id in told.named else _NOBODY
        key = (class_ or _DEFAULT, who, told.nid)
        if key in self._verdicts:
            return self._verdicts[key]
        verdict = actions_for(self._ruleset(key[0], who), told.facts)
        self._verdicts[key] = verdict
        if len(self._verdicts) > _MAX_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict

    def _ruleset(self, class_: bytes, who: str) -> JsonObject:
        found = self._rulesets.get((class_, who))
        if found is None:
            found = self._rulesets[class_, who] = ruleset(who, Changes.decode(class_))
            if len(self._rulesets) > _MAX_CLASSES:
                self._rulesets.popitem(last=False)
        return found


def _named(event: JsonObject) -> set[str]:
    """The users to whom the event may be something else than to others."""
    mentions = event["content"].get("m.mentions")
    listed = mentions.get("user_ids") if isinstance(mentions, dict) else None
    every = listed if isinstance(listed, list) else []
    return {name for name in [*every, event.get("state_key")] if isinstance(name, str)}

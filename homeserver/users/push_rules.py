"""A user's push rules.

Owns storing their changes, as the account data `m.push_rules` whose stored content is
`pushrules.Changes`, and showing the ruleset that follows from them. What the rules mean stands in
`homeserver.matrix.pushrules`. Whoever shows stored or published `m.push_rules` to a client passes
it through `push_rules_content` there.
spec: client-server-api#push-rules-api
"""

from collections.abc import Callable

from homeserver.errors import MatrixError
from homeserver.matrix import pushrules
from homeserver.matrix.canonical import JsonObject
from homeserver.matrix.errors import Malformed, Rejected
from homeserver.matrix.pushrules import Changes, Kind
from homeserver.users.account_data import GLOBAL, PUSH_RULES, AccountData
from homeserver.users.inbox import UserInbox


class PushRules:
    """The push rules of all users."""

    def __init__(self, account_data: AccountData, inbox: UserInbox) -> None:
        self._account_data = account_data
        self._inbox = inbox

    async def ruleset(self, user_id: str, user_nid: int) -> JsonObject:
        """The complete ruleset, by kind, most important rules first."""
        return pushrules.ruleset(user_id, await self._changes(user_nid))

    async def rule(self, user_id: str, user_nid: int, kind: Kind, rule_id: str) -> JsonObject:
        """One rule; `MatrixError` M_NOT_FOUND when there is none."""
        found = pushrules.find_rule(user_id, await self._changes(user_nid), kind, rule_id)
        if found is None:
            raise _not_found()
        return found

    async def put(
        self,
        user_nid: int,
        kind: Kind,
        rule_id: str,
        body: JsonObject,
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Add or update a rule.

        Raises `MatrixError` M_INVALID_PARAM naming a bad field, M_UNKNOWN when there is no rule to
        stand before or after.
        """
        await self._change(
            user_nid,
            lambda changes: pushrules.put_rule(
                changes, kind, rule_id, body, before=before, after=after
            ),
        )

    async def delete(self, user_nid: int, kind: Kind, rule_id: str) -> None:
        """Remove a rule of the user's own; `MatrixError` M_NOT_FOUND."""
        await self._change(user_nid, lambda changes: pushrules.delete_rule(changes, kind, rule_id))

    async def enable(self, user_nid: int, kind: Kind, rule_id: str, enabled: bool) -> None:
        """Switch a rule on or off; `MatrixError` M_NOT_FOUND."""
        await self._change(
            user_nid, lambda changes: pushrules.set_enabled(changes, kind, rule_id, enabled)
        )

    async def set_actions(self, user_nid: int, kind: Kind, rule_id: str, actions: object) -> None:
        """Give a rule other actions; `MatrixError` M_NOT_FOUND, M_INVALID_PARAM."""
        await self._change(
            user_nid, lambda changes: pushrules.set_actions(changes, kind, rule_id, actions)
        )

    async def _changes(self, user_nid: int) -> Changes:
        stored = await self._account_data.stored(user_nid, GLOBAL, PUSH_RULES)
        return Changes.decode(stored) if stored is not None else Changes()

    async def _change(self, user_nid: int, change: Callable[[Changes], Changes | None]) -> None:
        async def turn() -> None:
            before = await self._changes(user_nid)
            try:
                after = change(before)
            except Malformed as error:
                raise MatrixError.invalid_param(str(error)) from None
            except Rejected as error:
                raise MatrixError("M_UNKNOWN", error.reason, 400) from None
            if after is None:
                raise _not_found()
            if after != before:
                await self._account_data.write(user_nid, GLOBAL, PUSH_RULES, after.encode())

        await self._inbox.run(user_nid, turn)


def kind_of(name: str) -> Kind:
    """The kind that a path names; `MatrixError` M_INVALID_PARAM when there is none."""
    try:
        return pushrules.kind_of(name)
    except Malformed as error:
        raise MatrixError.invalid_param(str(error)) from None


def _not_found() -> MatrixError:
    return MatrixError.not_found("There is no such push rule")

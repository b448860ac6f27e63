"""Push rules.

spec: client-server-api#push-rules-api
"""

from typing import Any

from homeserver.http.endpoint import Call, Client, endpoint
from homeserver.http.shape import Empty, Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.users.push_rules import kind_of


@endpoint(
    "GET /_matrix/client/v3/pushrules/",
    spec="client-server-api#get_matrixclientv3pushrules",
    auth=Client(),
)
async def get_push_rules(call: Call) -> JsonObject:
    """All rulesets, of which there is one."""
    session = call.session
    return {"global": await call.app.push_rules.ruleset(session.user_id, session.user_nid)}


@endpoint(
    "GET /_matrix/client/v3/pushrules/global/",
    spec="client-server-api#get_matrixclientv3pushrulesglobal",
    auth=Client(),
)
async def get_global_push_rules(call: Call) -> JsonObject:
    """The global ruleset."""
    return await call.app.push_rules.ruleset(call.session.user_id, call.session.user_nid)


@endpoint(
    "GET /_matrix/client/v3/pushrules/global/{kind}/{rule_id}",
    spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleid",
    auth=Client(),
)
async def get_push_rule(call: Call, kind: str, rule_id: str) -> JsonObject:
    """One rule."""
    return await _rule(call, kind, rule_id)


class PlaceQuery(Shape):
    before: str | None = None
    after: str | None = None


@endpoint(
    "PUT /_matrix/client/v3/pushrules/global/{kind}/{rule_id}",
    spec="client-server-api#put_matrixclientv3pushrulesglobalkindruleid",
    auth=Client(),
)
async def put_push_rule(
    call: Call, kind: str, rule_id: str, query: PlaceQuery, body: JsonObject
) -> Empty:
    """Add or change a rule."""
    await call.app.push_rules.put(
        call.session.user_nid,
        kind_of(kind),
        rule_id,
        body,
        before=query.before,
        after=query.after,
    )
    return Empty()


@endpoint(
    "DELETE /_matrix/client/v3/pushrules/global/{kind}/{rule_id}",
    spec="client-server-api#delete_matrixclientv3pushrulesglobalkindruleid",
    auth=Client(),
)
async def delete_push_rule(call: Call, kind: str, rule_id: str) -> Empty:
    """Remove a rule."""
    await call.app.push_rules.delete(call.session.user_nid, kind_of(kind), rule_id)
    return Empty()


class EnabledBody(Shape):
    enabled: bool


@endpoint(
    "GET /_matrix/client/v3/pushrules/global/{kind}/{rule_id}/enabled",
    spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleidenabled",
    auth=Client(),
)
async def get_enabled(call: Call, kind: str, rule_id: str) -> EnabledBody:
    """Whether a rule is switched on."""
    return EnabledBody((await _rule(call, kind, rule_id))["enabled"])


@endpoint(
    "PUT /_matrix/client/v3/pushrules/global/{kind}/{rule_id}/enabled",
    spec="client-server-api#put_matrixclientv3pushrulesglobalkindruleidenabled",
    auth=Client(),
)
async def put_enabled(call: Call, kind: str, rule_id: str, body: EnabledBody) -> Empty:
    """Switch a rule on or off."""
    await call.app.push_rules.enable(call.session.user_nid, kind_of(kind), rule_id, body.enabled)
    return Empty()


class ActionsBody(Shape):
    actions: list[Any]


@endpoint(
    "GET /_matrix/client/v3/pushrules/global/{kind}/{rule_id}/actions",
    spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleidactions",
    auth=Client(),
)
async def get_actions(call: Call, kind: str, rule_id: str) -> ActionsBody:
    """What a rule does."""
    return ActionsBody((await _rule(call, kind, rule_id))["actions"])


@endpoint(
    "PUT /_matrix/client/v3/pushrules/global/{kind}/{rule_id}/actions",
    spec="client-server-api#put_matrixclientv3pushrulesglobalkindruleidactions",
    auth=Client(),
)
async def put_actions(call: Call, kind: str, rule_id: str, body: ActionsBody) -> Empty:
    """Let a rule do something else."""
    await call.app.push_rules.set_actions(
        call.session.user_nid, kind_of(kind), rule_id, body.actions
    )
    return Empty()


async def _rule(call: Call, kind: str, rule_id: str) -> JsonObject:
    session = call.session
    return await call.app.push_rules.rule(session.user_id, session.user_nid, kind_of(kind), rule_id)

"""Requests that application services make, as one of their users.

Owns turning an `as_token` and the `user_id` and `device_id` of a query into a session. All other
tokens are those of people, which `Sessions` knows.
spec: application-service-api#identity-assertion
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from homeserver.appservices.registry import Registry
from homeserver.errors import MatrixError
from homeserver.users.sessions import Session, Sessions


class Asking(Protocol):
    """A request, as far as it tells who makes it."""

    @property
    def remote(self) -> str:
        """The client's address."""

    @property
    def query(self) -> Mapping[str, list[str]]:
        """The query's keys with all their values."""


class Authentication:
    """Turns access tokens, of people and of application services, into sessions."""

    def __init__(self, sessions: Sessions, registry: Registry) -> None:
        self._sessions = sessions
        self._registry = registry

    def cached(self, token: str) -> Session | None:
        """The session of a person's token that is known to be valid now; else None."""
        return self._sessions.cached(token)

    async def authenticate(self, token: str, request: Asking) -> Session:
        """The session of an access token.

        Raises `MatrixError` M_UNKNOWN_TOKEN; M_FORBIDDEN for a user who isn't the service's or
        wasn't made, M_UNKNOWN_DEVICE (400) for a device that the user hasn't.
        """
        service = self._registry.of_token(token)
        if service is None:
            return await self._sessions.authenticate(token, request)
        user_id = _one(request.query, "user_id") or service.user_id
        if not service.is_user(user_id):
            raise MatrixError.forbidden("The application service may not act as this user")
        device_id = _one(request.query, "device_id") or _one(
            request.query, "org.matrix.msc3202.device_id"
        )
        session = await self._sessions.assumed(user_id, device_id)
        unlimited = not service.limited or user_id == service.user_id
        return replace(session, service=service.id, is_unlimited=unlimited)


def _one(query: Mapping[str, list[str]], name: str) -> str | None:
    return query.get(name, [""])[0] or None

"""The client-server API: one module per chapter of the specification."""

from homeserver.http.endpoint import Endpoint, endpoints_of


def endpoints() -> list[Endpoint]:
    """All endpoints of the client API."""
    from client_api import (
        account_data,
        accounts,
        capabilities,
        devices,
        directory,
        filters,
        login,
        membership,
        profiles,
        public_rooms,
        push_rules,
        receipts,
        rooms,
        sync,
        tags,
        typing,
        versions,
        wellknown,
    )

    modules = (
        account_data,
        accounts,
        capabilities,
        devices,
        directory,
        filters,
        login,
        membership,
        profiles,
        public_rooms,
        push_rules,
        receipts,
        rooms,
        sync,
        tags,
        typing,
        versions,
        wellknown,
    )
    return [declared for module in modules for declared in endpoints_of(module)]


def admin_endpoints() -> list[Endpoint]:
    """All endpoints of the administration API."""
    from client_api.admin import register

    return endpoints_of(register)

"""The client-server API: one module per chapter of the specification."""

from homeserver.http.endpoint import Endpoint, endpoints_of


def endpoints(*, old_clients: bool = True) -> list[Endpoint]:
    """All endpoints of the client API, with those that only old clients use or without."""
    from client_api import (
        account_data,
        accounts,
        administration,
        appservices,
        capabilities,
        dehydrated,
        delayed_events,
        devices,
        directory,
        filters,
        key_backup,
        keys,
        login,
        media,
        membership,
        notifications,
        old,
        openid,
        presence,
        previews,
        profiles,
        public_rooms,
        push_gateway,
        push_rules,
        pushers,
        receipts,
        relations,
        reporting,
        rooms,
        search,
        server_location,
        sliding_sync,
        spaces,
        sync,
        tags,
        third_party_ids,
        to_device,
        typing,
        uia,
        versions,
        voip,
        wellknown,
    )

    modules = (
        account_data,
        accounts,
        administration,
        appservices,
        capabilities,
        delayed_events,
        dehydrated,
        devices,
        directory,
        filters,
        key_backup,
        keys,
        login,
        media,
        membership,
        notifications,
        openid,
        presence,
        previews,
        profiles,
        public_rooms,
        push_gateway,
        push_rules,
        pushers,
        receipts,
        relations,
        reporting,
        rooms,
        search,
        server_location,
        sliding_sync,
        spaces,
        sync,
        tags,
        third_party_ids,
        to_device,
        typing,
        uia,
        versions,
        voip,
        wellknown,
    )
    chosen = (*modules, old) if old_clients else modules
    return [declared for module in chosen for declared in endpoints_of(module)]


def location_endpoints() -> list[Endpoint]:
    """What tells servers where this one is, for listeners that serve federation alone."""
    from client_api import server_location

    return endpoints_of(server_location)


def admin_endpoints() -> list[Endpoint]:
    """All endpoints of the administration API."""
    from client_api.admin import (
        appservices,
        costs,
        encryption,
        federation,
        media,
        notices,
        push,
        register,
        reports,
        restored,
        rooms,
        users,
    )

    modules = (
        appservices,
        costs,
        encryption,
        federation,
        media,
        notices,
        push,
        register,
        reports,
        restored,
        rooms,
        users,
    )
    return [declared for module in modules for declared in endpoints_of(module)]

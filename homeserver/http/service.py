"""What a server tells of itself to load balancers, monitoring and people with a browser.

Owns `/health/live` (the process answers), `/health/ready` (send it requests, or why not) and
`/metrics`. The health pages stand on every listener; metrics only where "metrics" is carried.
"""

from homeserver.http.endpoint import Call, Endpoint, NoAuth, endpoint, endpoint_of
from homeserver.http.shape import Html, Raw
from homeserver.runtime.health import Health
from homeserver.runtime.metrics import Metrics

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def health_endpoints(health: Health) -> list[Endpoint]:
    """The endpoints of the API "health"."""

    @endpoint("GET /health/live", spec="", auth=NoAuth(), limit="none")
    async def live(call: Call) -> Raw:
        return Raw.json({"status": "alive"})

    @endpoint("GET /health/ready", spec="", auth=NoAuth(), limit="none")
    async def ready(call: Call) -> Raw:
        problems = health.problems()
        if problems:
            return Raw.json({"status": "not ready", "problems": problems}, 503)
        return Raw.json({"status": "ready"})

    return [endpoint_of(live), endpoint_of(ready)]


def metrics_endpoints(metrics: Metrics) -> list[Endpoint]:
    """The endpoints of the API "metrics"."""

    @endpoint("GET /metrics", spec="", auth=NoAuth(), limit="none")
    async def show(call: Call) -> Raw:
        return Raw(metrics.render(), content_type=METRICS_TYPE)

    return [endpoint_of(show)]


def welcome_endpoints(server_name: str) -> list[Endpoint]:
    """A page for people who open the address of the server in a browser."""
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Matrix homeserver</title>"
        "<style>body{font:1.1em sans-serif;max-width:34em;margin:4em auto;padding:0 1em}</style>"
        f"<h1>{server_name}</h1><p>This is a Matrix homeserver, and it is running. Open a Matrix "
        "client and give it the address of this page as its homeserver.</p></html>"
    )

    @endpoint("GET /", spec="", auth=NoAuth(), limit="none")
    async def welcome(call: Call) -> Html:
        return Html(page)

    return [endpoint_of(welcome)]

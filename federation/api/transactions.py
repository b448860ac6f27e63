"""What other servers send.

spec: server-server-api#transactions
"""

from federation.transactions import Transactions
from homeserver.http.endpoint import Call, Endpoint, Server, endpoint, endpoint_of
from homeserver.http.shape import Raw
from homeserver.matrix.canonical import JsonObject

MAX_BYTES = 10 * 1_048_576


def transaction_endpoints(transactions: Transactions) -> list[Endpoint]:
    """The endpoint of transactions."""

    @endpoint(
        "PUT /_matrix/federation/v1/send/{txn_id}",
        spec="server-server-api#put_matrixfederationv1sendtxnid",
        auth=Server(),
        limit="server_send",
        max_body=MAX_BYTES,
    )
    async def send(call: Call, txn_id: str, body: JsonObject) -> Raw:
        """Take events and EDUs."""
        return Raw(await transactions.receive(call.origin, txn_id, body))

    return [endpoint_of(send)]

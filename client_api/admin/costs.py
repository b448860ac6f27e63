"""What costs most, for administrators and the command line.

Not part of the specification.
"""

from typing import Annotated

import msgspec

from homeserver.http.endpoint import Admin, Call, endpoint
from homeserver.http.shape import Shape
from homeserver.matrix.canonical import JsonObject
from homeserver.runtime.costs import HALF_LIFE, KINDS


class CostsQuery(Shape):
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10


@endpoint("GET /_homeserver/admin/v1/costs", spec="", auth=Admin(), limit="none")
async def costs(call: Call, query: CostsQuery) -> JsonObject:
    """The dearest rooms, users and endpoints of the last minutes, the dearest first.

    Microseconds of the loop and of the database, and requests; half counts after `half_life_ms`.
    """
    answer: JsonObject = {"half_life_ms": round(HALF_LIFE * 1000)}
    for kind in KINDS:
        answer[f"{kind}s"] = [
            {
                "name": name,
                "loop_us": round(1e6 * account.loop),
                "database_us": round(1e6 * account.database),
                "requests": round(account.requests),
            }
            for name, account in call.app.costs.top(kind, query.limit)
        ]
    return answer

"""The record of services that endpoints receive as `call.app`.

A plain typed record, filled once by `app.py`. Only endpoints read it: what stands below them gets
what it uses in its constructor.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Services:
    """Every service that an endpoint may call."""

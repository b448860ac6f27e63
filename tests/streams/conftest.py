"""Every test of a server here runs from memory, and from the tables alone."""

from typing import Any

import pytest


@pytest.fixture(params=["ring", "tables"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """With `tables` the ring holds nothing, so that each answer is read from the database."""
    return {"sync": {"ring_bytes": 0}} if request.param == "tables" else {}

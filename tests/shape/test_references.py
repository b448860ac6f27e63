"""References to the specification lead somewhere."""

from pathlib import Path

import pytest

from tests.shape import references


def test_every_reference_in_the_code_is_in_the_list_of_places() -> None:
    assert references.problems() == []


@pytest.fixture
def specification(tmp_path: Path) -> Path:
    (tmp_path / "content" / "rooms" / "fragments").mkdir(parents=True)
    (tmp_path / "content" / "client-server-api").mkdir()
    (tmp_path / "content" / "client-server-api" / "_index.md").write_text(
        '## Using `access` tokens\n#### Login {id="legacy-login"}\n'
    )
    (tmp_path / "content" / "rooms" / "v3.md").write_text("### Event IDs\n")
    (tmp_path / "content" / "rooms" / "fragments" / "x.md").write_text("### Rules\n")
    (tmp_path / "data" / "event-schemas" / "schema").mkdir(parents=True)
    (tmp_path / "data" / "event-schemas" / "schema" / "m.receipt.yaml").touch()
    (tmp_path / "endpoints.tsv").write_text(
        "api\tmethod\tpath\nclient-server\tGET\t/_matrix/client/v3/user/{userId}/account_data\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("place", "there"),
    [
        ("client-server-api#using-access-tokens", True),
        ("client-server-api#legacy-login", True),
        ("client-server-api#login", False),
        ("rooms/v3#event-ids", True),
        ("rooms/v4#event-ids", False),
        ("rooms/v4#rules", True),
        ("client-server-api#mreceipt", True),
        ("client-server-api#get_matrixclientv3useruseridaccount_data", True),
        ("client-server-api#get_matrixclientv3useruseridaccount_data_response-200_x", True),
        ("client-server-api#put_matrixclientv3useruseridaccount_data", False),
    ],
)
def test_places_are_headings_operations_and_event_types(
    specification: Path, place: str, there: bool
) -> None:
    assert references.exists(place, references.specified(specification)) is there

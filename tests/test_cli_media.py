"""`homeserver media ...` says and does the same whether the server runs or not."""

from pathlib import Path

from tests.test_cli_federation import folder, place
from tests.test_cli_users import done, refused, told

__all__ = ["folder", "place"]


def test_files_are_looked_at_and_hidden(place: Path) -> None:
    assert done(place, "media", "fsck") == "All files are as they should be.\n"
    assert told(place, "media", "usage") == {"cached_bytes": 0, "hidden": []}
    digest = "ab" * 32
    assert digest in done(place, "media", "block", digest, "--reason", "spam")
    assert f"{digest} blocked: spam" in done(place, "media", "usage")
    assert "no mxc:// URI" in refused(place, "media", "quarantine", "picture.png")
    assert "no such file" in refused(place, "media", "delete", "mxc://test.example/nothing")
    done(place, "media", "release", digest)
    assert told(place, "media", "usage")["hidden"] == []
    assert done(place, "media", "move", "--to", "disk") == "0 files (0.0 MB) were moved.\n"
    assert "can't be kept in 's3'" in refused(place, "media", "move", "--to", "s3")
    assert done(place, "media", "purge", "--days", "0") == "0 files were dropped.\n"

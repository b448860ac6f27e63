"""`homeserver db`: keys, copies and sizes, from the operator's side."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.databases import PostgresServer
from tests.test_cli import failed, folder, run

__all__ = ["folder"]


def set_up(folder: Path) -> Path:
    """A server with its first account; its database file."""
    assert run("init", "--yes", "--name", "example.org", "--admin", "ada").exit_code == 0
    return folder / "data" / "homeserver.db"


def configure_key(folder: Path, key_file: str) -> None:
    path = folder / "homeserver.toml"
    text = path.read_text()
    path.write_text(text.replace("[database]\n", f'[database]\nkey_file = "{key_file}"\n'))


class TestRekey:
    def test_from_plain_to_encrypted_and_back(self, folder: Path) -> None:
        database = set_up(folder)
        assert database.read_bytes().startswith(b"SQLite format 3")
        result = run("db", "rekey", "--new-key-file", "first.key")
        assert result.exit_code == 0, result.output
        assert f'key_file = "{folder / "first.key"}"' in result.output
        assert "without it the data is lost" in result.output
        assert not database.read_bytes().startswith(b"SQLite format 3")
        assert "must name its key" in failed(run("check"))
        configure_key(folder, "first.key")
        assert run("check").exit_code == 0
        assert run("db", "rekey", "--decrypt").exit_code == 0
        assert "is not encrypted, but" in failed(run("check"))
        configure_key(folder, "")
        with sqlite3.connect(database) as connection:
            assert connection.execute("SELECT localpart FROM users").fetchall() == [("ada",)]
        connection.close()

    def test_one_of_the_two_ways_must_be_chosen(self, folder: Path) -> None:
        set_up(folder)
        assert run("db", "rekey").exit_code == 2
        assert run("db", "rekey", "--decrypt", "--new-key-file", "k").exit_code == 2
        assert not (folder / "k").exists()

    def test_a_key_made_for_a_change_that_failed_is_not_left(self, folder: Path) -> None:
        set_up(folder)
        (folder / "data" / "homeserver.db").unlink()
        assert "does not exist" in failed(run("db", "rekey", "--new-key-file", "k"))
        assert not (folder / "k").exists()


class TestExport:
    def test_a_copy_can_be_used_in_place_of_the_database(self, folder: Path) -> None:
        database = set_up(folder)
        result = run("db", "export", "copy.db", "--json")
        assert json.loads(result.output) == {
            "path": "copy.db",
            "bytes": (folder / "copy.db").stat().st_size,
            "encrypted": False,
        }
        (folder / "copy.db").replace(database)
        assert run("check").exit_code == 0

    def test_the_copy_has_the_key_that_was_asked_for(self, folder: Path) -> None:
        set_up(folder)
        run("db", "rekey", "--new-key-file", "k")
        configure_key(folder, "k")
        assert "encrypted with the key in" in run("db", "export", "same.db").output
        assert "not encrypted" in run("db", "export", "plain.db", "--decrypt").output
        assert (folder / "plain.db").read_bytes().startswith(b"SQLite format 3")
        assert not (folder / "same.db").read_bytes().startswith(b"SQLite format 3")
        assert "exists already" in failed(run("db", "export", "plain.db"))


def test_postgresql_has_its_own_means(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", "--yes")
    monkeypatch.setenv("HOMESERVER_DATABASE_URL", "postgresql://nowhere/db")
    assert "pg_dump" in failed(run("db", "export", "copy.db"))
    assert "PostgreSQL is encrypted by" in failed(run("db", "rekey", "--decrypt"))


class TestSize:
    def test_the_parts_add_up_to_the_file(self, folder: Path) -> None:
        database = set_up(folder)
        found = json.loads(run("db", "size", "--json").output)
        assert found["total"] == database.stat().st_size
        assert sum(found["kinds"].values()) == found["total"]
        rooms = sum(room["total"] for room in found["rooms"])
        assert rooms + sum(found["elsewhere"].values()) == found["total"]
        assert "the whole database" in run("db", "size").output

    def test_a_database_that_is_not_there_is_said(self, folder: Path) -> None:
        run("init", "--yes")
        assert "does not exist" in failed(run("db", "size"))

    def test_postgresql_is_explained_too(
        self, folder: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("init", "--yes")
        dsn = postgres.new_database()
        name = dsn.rpartition("=")[2]
        url = f"postgresql://postgres@/{name}?host={postgres.folder}"
        monkeypatch.setenv("HOMESERVER_DATABASE_URL", url)
        found = json.loads(run("db", "size", "--json").output)
        assert sum(found["kinds"].values()) == found["total"] > 1_000_000
        postgres.drop(dsn)

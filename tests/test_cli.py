"""The command line: what it asks, writes, prints, and how it fails."""

import hashlib
import hmac
import http.server
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from homeserver.cli.commands import cli
from homeserver.push.vapid import vapid_key
from homeserver.runtime import key_file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("HOMESERVER_CONFIG", "HOMESERVER_LISTENERS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def run(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(cli, list(arguments), input=given)


def failed(result: Result) -> str:
    """The one sentence of a command that could not be done."""
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


class TestInit:
    def test_unattended_it_asks_nothing_and_its_result_is_fine(self, folder: Path) -> None:
        result = run("init", "--yes", "--name", "example.org", "--registration", "token")
        assert result.exit_code == 0
        text = (folder / "homeserver.toml").read_text()
        assert 'name = "example.org"' in text
        assert 'mode = "token"' in text
        assert text.count("\n") <= 40
        assert run("config", "check").output == (
            "homeserver.toml is fine: the server of example.org.\n"
        )

    def test_it_says_how_to_start_and_how_to_make_the_first_account(self, folder: Path) -> None:
        output = run("init", "--yes").output
        assert "homeserver run -c homeserver.toml" in output
        assert "homeserver user create -c homeserver.toml --admin NAME" in output

    def test_it_asks_for_name_administrator_and_registration(self, folder: Path) -> None:
        result = run("init", given="Example.org\n\nopen\n")
        assert result.exit_code == 0
        assert "for ever" in result.output
        text = (folder / "homeserver.toml").read_text()
        assert 'name = "example.org"' in text
        assert 'mode = "open"' in text

    def test_data_and_secret_are_private(self, folder: Path) -> None:
        run("init", "--yes", "--data-dir", "here/data")
        data = folder / "here" / "data"
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        secret = data / "registration_secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert len(secret.read_text().strip()) >= 40
        assert secret.read_text().strip() not in (folder / "homeserver.toml").read_text()

    def test_configuration_and_data_can_be_one_folder(self, folder: Path) -> None:
        assert run("init", "--yes", "-c", "data/hs.toml", "--data-dir", "data").exit_code == 0
        (folder / "data").rename(folder / "moved")
        assert run("config", "check", "-c", "moved/hs.toml").exit_code == 0

    def test_nothing_is_overwritten(self, folder: Path) -> None:
        (folder / "homeserver.toml").write_text("mine")
        assert "homeserver.toml exists already" in failed(run("init", "--yes"))
        assert (folder / "homeserver.toml").read_text() == "mine"

    @pytest.mark.parametrize("name", ["exa mple", "https://example.org", "@a:b"])
    def test_a_name_that_no_server_can_have_is_refused(self, folder: Path, name: str) -> None:
        assert "can't be the name" in failed(run("init", "--yes", "--name", name))
        assert not (folder / "homeserver.toml").exists()

    def test_a_host_below_the_domain_is_pointed_out(self, folder: Path) -> None:
        assert "example.org" in run("init", "--yes", "--name", "matrix.example.org").stderr
        assert not run("init", "--yes", "-c", "b.toml", "--name", "example.org").stderr

    def test_an_administrators_name_must_be_one(self, folder: Path) -> None:
        assert "a-z, 0-9" in failed(run("init", "--yes", "--admin", "Söme One"))


class TestConfig:
    def test_a_mistake_is_one_sentence(self, folder: Path) -> None:
        (folder / "homeserver.toml").write_text('[server]\nnmae = "x"\n')
        assert "Did you mean server.name?" in failed(run("config", "check"))

    def test_a_missing_file_is_one_sentence(self, folder: Path) -> None:
        assert "No such file" in failed(run("config", "check", "-c", "none.toml"))
        assert "No such file" in failed(run("run", "-c", "none.toml"))
        assert "No such file" in failed(run("user", "create", "-c", "none.toml", "a"))

    def test_show_tells_values_and_origins_and_no_secrets(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("init", "--yes", "--name", "example.org")
        monkeypatch.setenv("HOMESERVER_LOGGING_LEVEL", "debug")
        monkeypatch.setenv("HOMESERVER_DATABASE_URL", "postgresql://u:hunter2@db/x")
        output = run("config", "show", "--origin").output
        assert 'name = "example.org"  # file' in output
        assert 'level = "debug"  # environment' in output
        assert "old_clients = true  # default" in output
        assert 'shared_secret = "***"  # file' in output
        assert "hunter2" not in output
        assert (folder / "data" / "registration_secret").read_text().strip() not in output


def test_the_version_is_told(folder: Path) -> None:
    assert run("version").output.startswith("homeserver 0.")


def test_wrong_use_has_an_exit_code_of_its_own(folder: Path) -> None:
    assert run("nothing").exit_code == 2
    assert run("user", "create").exit_code == 2
    assert run("--help").exit_code == 0


class Registration(http.server.BaseHTTPRequestHandler):
    """The endpoint for registration by shared secret, as tools know it."""

    SECRET = "the shared secret"

    def do_GET(self) -> None:
        self._answer(200, {"nonce": "n0nce"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        role = "admin" if body["admin"] else "notadmin"
        text = "\0".join(["n0nce", body["username"], body["password"], role]).encode()
        if body["mac"] != hmac.new(self.SECRET.encode(), text, hashlib.sha1).hexdigest():
            self._answer(403, {"errcode": "M_FORBIDDEN", "error": "HMAC incorrect"})
        elif body["username"] == "taken":
            self._answer(400, {"errcode": "M_USER_IN_USE", "error": "The name is taken"})
        else:
            self._answer(200, {"user_id": f"@{body['username']}:example.org"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence."""

    def _answer(self, status: int, value: dict[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class TestUserOnARunningServer:
    @pytest.fixture
    def server(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        run("init", "--yes", "--name", "example.org")
        (folder / "data" / "registration_secret").write_text(Registration.SECRET + "\n")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registration) as running:
            monkeypatch.setenv("HOMESERVER_LISTENERS", f"[{{port = {running.server_port}}}]")
            thread = threading.Thread(target=running.serve_forever, args=(0.01,))
            thread.start()
            yield
            running.shutdown()
            thread.join()

    @pytest.mark.parametrize("name", ["alice", "@alice:example.org"])
    @pytest.mark.parametrize("flags", [(), ("--admin",)])
    def test_the_server_is_asked(self, server: None, name: str, flags: tuple[str, ...]) -> None:
        result = run("user", "create", name, "--password-stdin", *flags, given="pass word\n")
        assert result.output == "Made the account @alice:example.org.\n"

    def test_a_password_is_asked_for_twice(self, server: None) -> None:
        result = run("user", "create", "alice", given="one\none\n")
        assert result.exit_code == 0
        assert "one" not in result.output

    def test_a_password_can_be_made_up(self, server: None) -> None:
        output = run("user", "create", "alice", "--generate").output
        assert len(output.partition("Its password: ")[2].strip()) >= 20

    def test_the_servers_refusal_is_shown(self, server: None) -> None:
        result = run("user", "create", "taken", "--generate")
        assert failed(result) == "Error: The name is taken\n"

    def test_a_name_that_no_user_can_have_is_refused(self, server: None) -> None:
        assert "a-z, 0-9" in failed(run("user", "create", "Ä", "--generate"))

    def test_an_empty_password_is_refused(self, server: None) -> None:
        result = run("user", "create", "alice", "--password-stdin", given="\n")
        assert "must not be empty" in failed(result)

    def test_another_server_at_the_address_is_noticed(self, server: None, folder: Path) -> None:
        (folder / "data" / "registration_secret").write_text("of somebody else")
        assert "is another server" in failed(run("user", "create", "alice", "--generate"))

    def test_without_the_secret_nothing_is_tried(
        self, server: None, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "data" / "registration_secret").write_text("")
        result = run("user", "create", "alice", "--generate")
        assert "registration.shared_secret" in failed(result)


class TestKey:
    def keys(self, folder: Path) -> list[str]:
        result = run("key", "show")
        assert result.exit_code == 0
        return [line.split()[0] for line in result.output.splitlines()]

    def started(self, folder: Path) -> str:
        """A folder as it is after the first start."""
        run("init", "--yes", "--name", "example.org")
        (key,) = key_file.signing_keys(folder / "data" / "signing.key")
        return key.key_id

    def test_the_key_for_web_push_is_shown_without_its_secret(self, folder: Path) -> None:
        self.started(folder)
        made = vapid_key(folder / "data" / "vapid.key")
        shown = run("key", "show").output
        assert f"vapid {made.public}\n" in shown
        assert made.private not in shown

    def test_rotate_makes_a_new_key_to_sign_with(self, folder: Path) -> None:
        old = self.started(folder)
        assert self.keys(folder) == [old]
        result = run("key", "rotate")
        assert result.exit_code == 0
        (new,) = self.keys(folder)
        assert new != old
        assert new in result.output
        assert "Restart" in result.output

    def test_the_old_one_may_stay_in_use_for_a_while(self, folder: Path) -> None:
        old = self.started(folder)
        run("key", "rotate", "--keep")
        assert self.keys(folder)[1:] == [old]

    def test_without_a_key_there_is_nothing_to_rotate(self, folder: Path) -> None:
        run("init", "--yes", "--name", "example.org")
        assert "signing.key" in failed(run("key", "rotate"))
        assert "signing.key" in failed(run("key", "show"))

    def test_a_damaged_file_is_left_alone(self, folder: Path) -> None:
        self.started(folder)
        path = folder / "data" / "signing.key"
        path.write_text("nonsense")
        assert "signing key file" in failed(run("key", "rotate"))
        assert path.read_text() == "nonsense"

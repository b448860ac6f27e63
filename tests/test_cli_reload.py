"""SIGHUP: a running server reads its configuration again, or goes on as it was."""

import json
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.certificate import CERTIFICATE, KEY
from tests.test_cli_run import Running, command, running

OTHER_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBlDCCATugAwIBAgIUVCoejbsEunkX8N3W1rclGFBFcIEwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzAyMjUzNFoYDzIxMjYxMDMw
MDIyNTM0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQw7DAypwS/eHe7RJt4TNlVB8860cCQ376TOGuyh09OFQXVukNkyMkl
NxixcXoNazwbRwU66t9ko241OcV87kGGo2kwZzAdBgNVHQ4EFgQUsRQ4YAzYtxXf
f8JuJ43HSEIEa20wHwYDVR0jBBgwFoAUsRQ4YAzYtxXff8JuJ43HSEIEa20wDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
RwAwRAIgbvjSwLj4jFScpD8UGygtbClL1hVMGmn+Pzoc2h+QeFsCIDC+L+SsBdb0
X7lE+2QsPwCSSv/gnp5F1vVqD689J1V0
-----END CERTIFICATE-----
"""
OTHER_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/AXNvJUPxf1+Y116
qlw5It6XAvbqcfVdj6T+ylf6ZJ2hRANCAAQw7DAypwS/eHe7RJt4TNlVB8860cCQ
376TOGuyh09OFQXVukNkyMklNxixcXoNazwbRwU66t9ko241OcV87kGG
-----END PRIVATE KEY-----
"""


class Reloading:
    """A running server with TLS, and the file of its configuration."""

    def __init__(self, folder: Path, server: Running) -> None:
        self.folder = folder
        self.server = server

    def change(self, old: str, new: str) -> list[dict[str, Any]]:
        """Change the configuration and reload; the lines of the log up to the one that tells."""
        path = self.folder / "homeserver.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return self.reload()

    def reload(self) -> list[dict[str, Any]]:
        process = self.server.process
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if "reloaded" in line:
                return lines
        raise AssertionError("the server has ended")

    def certificate(self) -> str:
        """What a new connection is shown."""
        port = int(self.server.url.rpartition(":")[2])
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return ssl.DER_cert_to_PEM_cert(shown)


@pytest.fixture
def reloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reloading]:
    (tmp_path / "cert.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(KEY)
    assert command(tmp_path, "init", "--yes", "--name", "example.org").returncode == 0
    path = tmp_path / "homeserver.toml"
    text = path.read_text().replace("port = 8008\n", "port = 0\n")
    text = text.replace(
        "[[listeners]]\n",
        '[[listeners]]\nsocket = "data/hs.sock"\napis = ["client", "admin"]\n[[listeners]]\n'
        'tls_certificate = "cert.pem"\ntls_key = "key.pem"\n',
    )
    path.write_text(text + "\n[limits]\nenabled = true\n")
    monkeypatch.setattr(
        "tests.test_cli_run.CHEAP",
        {"HOMESERVER_PASSWORDS_COST": "cheap", "HOMESERVER_LOGGING_FORMAT": "json"},
    )
    with running(tmp_path) as server:
        yield Reloading(tmp_path, server)


def ask(folder: Path, method: str, path: str, body: str = "{}") -> tuple[int, Any]:
    """A request by the unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / "data" / "hs.sock"))
        request = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    head, _, content = answer.partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(content)


def test_certificates_are_renewed_without_a_restart(reloading: Reloading) -> None:
    assert reloading.certificate() == CERTIFICATE
    (reloading.folder / "cert.pem").write_text(OTHER_CERTIFICATE)
    assert reloading.reload()[-1]["level"] == "error"
    assert reloading.certificate() == CERTIFICATE
    (reloading.folder / "key.pem").write_text(OTHER_KEY)
    assert reloading.reload()[-1]["level"] == "info"
    assert reloading.certificate() == OTHER_CERTIFICATE


def test_limits_registration_and_log_level_are_taken_over(reloading: Reloading) -> None:
    folder = reloading.folder
    register = ("POST", "/_matrix/client/v3/register")
    assert ask(folder, *register)[1]["errcode"] == "M_FORBIDDEN"
    lines = reloading.change('mode = "closed"', 'mode = "open"')
    assert lines[-1]["message"] == "the configuration was reloaded"
    status, answer = ask(folder, *register, '{"username":"ada","password":"a secret"}')
    assert (status, "flows" in answer) == (401, True)
    reloading.change("enabled = true", 'registration = "1/min, 1 at once"')
    assert {ask(folder, *register)[0] for _ in range(3)} == {401, 429}
    reloading.change('registration = "1/min', 'enabled = false\nregistration = "1/min')
    assert {ask(folder, *register)[0] for _ in range(3)} == {401}
    reloading.change('level = "info"', 'level = "debug"')
    ask(folder, "GET", "/_matrix/client/versions")
    assert any("/versions" in line["message"] for line in reloading.reload())


def test_what_can_not_be_used_changes_nothing(reloading: Reloading) -> None:
    for old, new, told in (
        ('mode = "closed"', 'mode = "opne"', "registration.mode"),
        ('mode = "opne"', 'mode = "open" "', "homeserver.toml"),
        ('mode = "open" "', 'mode = "open"\nno_such_option = 1', "no_such_option"),
    ):
        line = reloading.change(old, new)[-1]
        assert line["level"] == "error"
        assert told in line["message"]
        refused = ask(reloading.folder, "POST", "/_matrix/client/v3/register")
        assert refused[1]["errcode"] == "M_FORBIDDEN"


def test_what_takes_a_restart_is_said(reloading: Reloading) -> None:
    lines = reloading.change('public_base_url = "', 'public_base_url = "https://new.example.org"#')
    assert [line["message"] for line in lines] == [
        "server.public_base_url has changed; that takes a restart",
        "the configuration was reloaded",
    ]
    assert len(reloading.reload()) == 1

"""Each operation of the specification is called on a running server, and its answer is held
against the specification's own schemas. What may answer otherwise is named here, and why."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import trustme

from storage.engine import DatabaseSettings
from tests.federation.servers import FederatedServer
from tests.processes import ROOT, free_port, postgresql_url, running

SPECIFICATION = Path(__file__).with_name("specification.tar.xz")
PROBE_SECONDS = 270
ELSEWHERE = {
    "getAuthMetadata": "the OAuth 2.0 API",
    "redirectToSSO": "single sign-on",
    "redirectToIdP": "single sign-on",
    "getWellknownPolicy": "policy servers",
    "askPolicyServerToSign": "policy servers",
}
"""What this server does not offer, and answers with M_UNRECOGNIZED: `missing`."""
NOBODY_THERE = {
    "post3PIDs": "M_UNKNOWN",
    "bind3PID": "M_UNKNOWN",
    "inviteBy3PID": "M_UNKNOWN",
    "requestTokenTo3PIDMSISDN": "M_THREEPID_MEDIUM_NOT_SUPPORTED",
    "requestTokenToResetPasswordMSISDN": "M_THREEPID_MEDIUM_NOT_SUPPORTED",
    "requestTokenToRegisterMSISDN": "M_THREEPID_MEDIUM_NOT_SUPPORTED",
    "getContent": "M_NOT_FOUND",
    "getContentOverrideName": "M_NOT_FOUND",
    "getContentThumbnail": "M_NOT_FOUND",
}
"""What the probe can't set up, by the error it gets: no identity server, no text messages, no media
from before the freeze of the unauthenticated media API. All others are `valid`."""


class Probed(FederatedServer):
    """A server on which everything is switched on that the probe asks for."""

    def __init__(self, folder: Path, database: str | None) -> None:
        self.remote, self.sink, self.smtp = free_port(), free_port(), free_port()
        super().__init__(folder, trustme.CA(), database)

    def configure(self) -> None:
        """Add calls, support, mail and the probe's application service."""
        registration = self.folder / "probe.yaml"
        registration.write_text(
            self.speccov("appservice-registration", "--http-port", str(self.sink)).stdout
        )
        self.services = [registration]
        super().configure()
        written = self.config.read_text()
        written = written.replace(
            "[server]", f'[server]\npublic_base_url = "https://localhost:{self.federation_port}"'
        )
        # The links in its mails are for clients.
        written = written.replace('apis = ["federation"]\n', "")
        written = written.replace("ca_file", "verify_certificates = false\nca_file")
        written = written.replace("enabled = false\n[limits]", "enabled = true\n[limits]")
        self.config.write_text(
            f"""{written}
presence = true
[sessions]
login_tokens = true
[calls]
turn_uris = ["turn:turn.example.org?transport=udp"]
turn_secret = "known to the TURN server"
[support]
admin_email = "help@example.org"
[mail]
host = "127.0.0.1"
port = {self.smtp}
security = "none"
"""
        )

    def speccov(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the probe's command line."""
        return subprocess.run(
            [sys.executable, "-m", "tests.conformance.speccov", "--spec", self.folder, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=True,
        )

    def probe(self) -> dict[str, Any]:
        """The probe's record of all operations and checks."""
        record = self.folder / "record.json"
        options = {
            "base-url": self.url,
            "federation-url": f"https://127.0.0.1:{self.federation_port}",
            "server-name": self.name,
            "registration-shared-secret": self.shared_secret,
            "remote-port": self.remote,
            "http-port": self.sink,
            "smtp-port": self.smtp,
            "json": record,
        }
        given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.speccov("probe", "--appservice", *given)
        found = json.loads(record.read_text())
        assert isinstance(found, dict)
        return found


def test_what_is_not_valid_is_in_the_documentation() -> None:
    told = (ROOT / "docs" / "reference" / "operations.md").read_text()
    assert [name for name in (*ELSEWHERE, *NOBODY_THERE) if f"`{name}`" not in told] == []


@pytest.mark.timeout(PROBE_SECONDS + 30)
def test_every_operation_answers_as_the_specification_says(
    database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    # The first releases of Python 3.11 have no filters.
    filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(SPECIFICATION) as bundle:
        bundle.extractall(tmp_path, **filters)
    dsn = database_settings.dsn
    server = Probed(tmp_path, postgresql_url(dsn) if dsn else None)
    with running(server):
        record = server.probe()
    answers = {
        one["operation"]: (one["state"], one["errcode"])
        for one in record["operations"]
        if one["api"] != "identity" and one["state"] != "valid"
    }
    expected = dict.fromkeys(ELSEWHERE, ("missing", "M_UNRECOGNIZED"))
    expected |= {name: ("present", errcode) for name, errcode in NOBODY_THERE.items()}
    assert answers == expected
    failed = [
        (one["operation"], check)
        for one in record["operations"]
        for check in one["checks"]
        if not check["ok"]
    ]
    assert not failed
    assert not [check for check in record["general"] if not check["ok"]]
    assert record["operation_checks"]["of"] > 450
    assert record["general_checks"]["of"] >= 76

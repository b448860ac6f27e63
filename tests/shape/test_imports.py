"""The command starts fast: what is heavy is imported when it is used."""

import subprocess
import sys

HEAVY = ("aiohttp", "apsw", "psycopg", "rich", "prometheus_client", "argon2", "nacl", "uvloop")


def test_the_command_line_imports_nothing_heavy_before_it_knows_what_to_do() -> None:
    code = "import sys, homeserver.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


def test_the_server_needs_nothing_that_only_tests_do() -> None:
    code = "import sys, homeserver.app; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # What Web Push needs takes 10 MB, and is imported with its first use.
    assert not {"aiohttp", "cryptography"} & set(done.stdout.split())

"""Where matrix-synapse is installed: an environment of its own, made on first use.

Synapse is the oracle of some tests and the other side of the benchmark. It is not a dependency of
this project (its licence is another one, and so are its own dependencies), so it never shares our
environment.
"""

import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SYNAPSE = "matrix-synapse==1.163.2"


class SynapseUnavailable(Exception):
    """It couldn't be installed; the text holds the end of what pip said."""


@cache
def synapse_python() -> Path:
    """The Python that can import synapse; HOMESERVER_SYNAPSE_PYTHON names one that is there.

    Of several processes that ask at once, one installs and the others wait. Raises
    SynapseUnavailable.
    """
    given = os.environ.get("HOMESERVER_SYNAPSE_PYTHON")
    if given:
        return Path(given)
    store = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homeserver-tests"
    folder = store / f"{SYNAPSE}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    with _locked(store / "lock"):
        if not (folder / "complete").exists():
            _install(folder, python)
    return python


def _install(folder: Path, python: Path) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q", SYNAPSE, "psycopg2-binary"]
        subprocess.run(pip, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise SynapseUnavailable(f"{error}: {str(error.stderr)[-2_000:]}") from error
    (folder / "complete").touch()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

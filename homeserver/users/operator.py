"""The operator's token: whoever can read a file of the server may administer it.

Owns the file `admin.token` in the data directory, made anew at every start and readable for its
owner only, by which the command line speaks to the running server. It stands for no user.
"""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

FILE = "admin.token"


class OperatorToken:
    """The token of this run of the server."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._token = "operator_" + secrets.token_urlsafe(32)

    def publish(self) -> None:
        """Write the file, in place of that of the run before; raises OSError."""
        draft = self._path.with_name(f"{FILE}.new")
        with suppress(FileNotFoundError):
            draft.unlink()
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(self._token + "\n")
        draft.replace(self._path)

    def withdraw(self) -> None:
        """Remove the file, if it is ours."""
        with suppress(OSError):
            if self._path.read_text(encoding="ascii").strip() == self._token:
                self._path.unlink()

    def matches(self, token: str) -> bool:
        """Whether this is the token; takes the same time for every wrong one."""
        return hmac.compare_digest(self._token.encode(), token.encode(errors="replace"))

"""The file of the server's signing keys: made at the first start, changed by `key rotate`.

Owns its reading and writing; it is never half written, and nobody else may read it. Lines are keys:
the first signs, all of them are published. What becomes of keys that leave the file is the matter
of `federation.own_keys`.
"""

import os
from contextlib import suppress
from pathlib import Path

from homeserver.matrix.errors import Malformed
from homeserver.matrix.sign import SigningKey
from homeserver.options import ConfigError


def signing_keys(path: Path) -> list[SigningKey]:
    """The keys of the file, the one to sign with first; without a file a new one is made.

    Raises OSError or ConfigError when the file can't be used.
    """
    with suppress(FileNotFoundError):
        return read(path)
    key = SigningKey.generate()
    write_secret(path, key.serialise())
    return [key]


def read(path: Path) -> list[SigningKey]:
    """The keys of a file that is there; raises OSError or ConfigError."""
    try:
        return SigningKey.load_all(path.read_text(encoding="ascii"))
    except (Malformed, UnicodeError) as error:
        reason = str(error) if isinstance(error, Malformed) else "It is not text"
        raise ConfigError(f"{path}: {reason}") from None


def rotate(path: Path, *, keep: bool = False) -> SigningKey:
    """Put a new key to sign with in the place of the others, or before them with `keep`.

    Raises OSError or ConfigError when the file can't be used; then it is as it was.
    """
    before = read(path)
    key = SigningKey.generate()
    kept = [one for one in before if one.key_id != key.key_id] if keep else []
    write_secret(path, "".join(one.serialise() for one in [key, *kept]))
    return key


def write_secret(path: Path, text: str) -> None:
    """Write a file that nobody else may read; it is there whole or not at all."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)

"""The generated pages of `docs/reference`: `python -m homeserver.cli.reference docs/reference`.

Owns how declarations become pages; a test compares the pages with what they would be now.
"""

import sys
from pathlib import Path

from homeserver.config import SECTIONS, Listener, Terms
from homeserver.options import Declared, declared, name_of

INTRODUCTION = """\
# Configuration

Generated from `homeserver/config.py` by `make docs`.

One TOML file, named by `-c` or `HOMESERVER_CONFIG`, `homeserver.toml` otherwise. Every option can
also come from the environment by the name given with it, which wins over the file; a list is
written with commas there. An option marked *secret* can be read from a file instead: write its
name with `_file` (`_FILE` in the environment) and the path. Relative paths start from the folder of
the configuration file. `homeserver config check` reads it all, `homeserver config show --origin`
says which value counts and where it came from.
"""

LISTENERS = """\
One for each address that is listened on; without any, one with the defaults. The environment sets
them all at once: `HOMESERVER_LISTENERS='[{port = 8008}, {port = 8448, apis = ["federation"]}]'`.
"""

TERMS = """\
One for each document that new users must accept, and each language that it is there in; clients and
the pages of the server show them at registration. Without any, nothing has to be accepted.
"""


def config_page() -> str:
    """The page on all options of the configuration."""
    parts = [INTRODUCTION]
    for section, shape in SECTIONS.items():
        parts.append(f"## [{section}]\n\n" + _table(declared(section, shape)))
        if section == "server":
            parts.append(
                f"## [[listeners]]\n\n{LISTENERS}\n" + _table(declared("listeners", Listener))
            )
        if section == "registration":
            parts.append(f"## [[terms]]\n\n{TERMS}\n" + _table(declared("terms", Terms)))
    return "\n".join(parts)


def _table(options: list[Declared]) -> str:
    repeated = options[0].section in ("listeners", "terms")
    head = ["option", "type", "default", "why"] + ([] if repeated else ["environment"])
    rows = [head, ["---"] * len(head)]
    for one in options:
        row = [f"`{one.name}`", _kind(one), _default(one), one.option.reason]
        rows.append(row if repeated else [*row, f"`{one.variable}`"])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _kind(one: Declared) -> str:
    kind = name_of(one.kind)
    least, most = one.option.least, one.option.most
    if least is not None:
        kind += f", {least} or more" if most is None else f", {least} to {most}"
    return kind + (", *secret*" if one.option.secret else "")


def _default(one: Declared) -> str:
    if one.required:
        return "*required*"
    default = one.default
    if default is None or default == "" or default == ():
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return "`" + ", ".join(default) + "`"
    return f"`{default}`"


def write(folder: Path) -> None:
    """Write all pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.md").write_text(config_page(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

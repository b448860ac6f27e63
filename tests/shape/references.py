"""Checks that every `spec: document#anchor` in the code names a place that exists.

`anchors.txt` beside this file lists the places that the code names, so the check works without a
copy of the specification. With one (`../shared/spec`, or the folder in SPEC) the list is checked
too; `python -m tests.shape.references --update` then writes it anew.
"""

import csv
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("anchors.txt")
SPEC = Path(os.environ.get("SPEC", ROOT.parent / "shared" / "spec"))
PACKAGES = ("homeserver", "client_api", "federation", "storage")

_REFERENCE = re.compile(r"spec(?:: |=\")([a-z0-9-]+(?:/[a-z0-9]+)?#[a-z0-9_-]+)")
_HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
_DOCUMENT = re.compile(r"content/([a-z-]+)(?:\.md|/)")


def references() -> dict[str, list[str]]:
    """Every place that the code names, with the lines that name it."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                for place in _REFERENCE.findall(line):
                    where = f"{path.relative_to(ROOT)}:{number}"
                    found.setdefault(place, []).append(where)
    return found


def listed() -> set[str]:
    return set(LIST.read_text(encoding="utf-8").split())


def exists(place: str, known: set[str]) -> bool:
    """Whether the specification has the place; a part of an operation counts with it."""
    document, _, anchor = place.partition("#")
    operation = re.sub(r"_(?:request|response)(?:-\d+)?(?:_.*)?$", "", anchor)
    return f"{document}#{anchor}" in known or f"{document}#{operation}" in known


def specified(spec: Path) -> set[str]:
    """Every place of a copy of the specification: headings, operations, event types."""
    known: set[str] = set()
    for path in (spec / "content").rglob("*.md"):
        file = str(path.relative_to(spec))
        documents = [_document(file)]
        if "/fragments/" in file:
            documents = [f"rooms/v{version}" for version in range(1, 13)]
        for heading in _HEADING.findall(path.read_text(encoding="utf-8")):
            slug = _slug(heading)
            for document in documents:
                known.add(f"{document}#{slug}")
                known.update(f"{document}#{slug}-{number}" for number in range(1, 4))
    with open(spec / "endpoints.tsv", encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE):
            anchor = row["method"].lower() + _slug(row["path"])
            known.add(f"{row['api']}-api#{anchor}")
    for path in (spec / "data" / "event-schemas" / "schema").glob("*.yaml"):
        known.add(f"client-server-api#{_slug(path.stem)}")
    return known


def _document(file: str) -> str:
    version = re.fullmatch(r"content/rooms/(v\d+)\.md", file)
    if version:
        return f"rooms/{version.group(1)}"
    match = _DOCUMENT.match(file)
    return match.group(1) if match else ""


def _slug(heading: str) -> str:
    given = re.search(r'\{id="([^"]+)"\}', heading)
    if given:
        return given.group(1)
    text = re.sub(r"\{\{.*?\}\}", "", heading).strip().lower().replace(" ", "-")
    return re.sub(r"[^a-z0-9_-]", "", text)


def problems() -> list[str]:
    """Sentences on every reference that leads nowhere."""
    used = references()
    if SPEC.is_dir():
        known = specified(SPEC)
        wrong = [place for place in used if not exists(place, known)]
    else:
        wrong = []
    wrong += [place for place in used if place not in listed() and place not in wrong]
    return [f"{used[place][0]}: there is no {place}" for place in sorted(wrong)]


def main() -> None:
    if "--update" in sys.argv:
        known = specified(SPEC)
        places = sorted(place for place in references() if exists(place, known))
        LIST.write_text("\n".join(places) + "\n", encoding="utf-8")
    found = problems()
    for problem in found:
        print(problem)
    if found:
        print("Places that are new and exist: python -m tests.shape.references --update")
        sys.exit(1)


if __name__ == "__main__":
    main()

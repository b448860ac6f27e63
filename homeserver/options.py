"""Options: declared once as dataclass fields, read from a table and from the environment.

Owns the reading of text and TOML values into declared types and the wording of every complaint. It
knows no option by name; those stand in `config.py`. A value comes from the environment before the
file and from the file before the default, and where it came from is remembered.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

Origin = Literal["default", "file", "environment"]
PREFIX = "HOMESERVER_"


class ConfigError(Exception):
    """The configuration can't be used; the text is one sentence that names file and key."""


_RATE = re.compile(r"(\d{1,6})/(s|min|h), (\d{1,6}) at once")
_SECONDS = {"s": 1, "min": 60, "h": 3_600}


@dataclass(frozen=True)
class Rate:
    """How often something may happen: `count` times in `seconds`, and `burst` times at once."""

    count: int
    seconds: int
    burst: int

    @classmethod
    def of(cls, text: str) -> "Rate":
        """The rate that a text such as `10/s, 100 at once` (or /min, /h) means.

        Raises ValueError for other texts, and for a rate of nothing.
        """
        found = _RATE.fullmatch(text.strip())
        if found is None or not int(found[1]) or not int(found[3]):
            raise ValueError(text)
        return cls(int(found[1]), _SECONDS[found[2]], int(found[3]))

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in _SECONDS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}, {self.burst} at once"


@dataclass(frozen=True)
class Option:
    """What is declared of one option beyond its type and default."""

    reason: str
    secret: bool = False
    least: int | None = None
    most: int | None = None


def option(
    default: Any = dataclasses.MISSING,
    *,
    reason: str,
    secret: bool = False,
    least: int | None = None,
    most: int | None = None,
) -> Any:
    """A dataclass field that is an option; without a default it must be given.

    A `secret` may also be given as the path of a file that holds it, under the name with `_file`.
    """
    declared = Option(reason, secret, least, most)
    return field(default=default, metadata={"option": declared})


@dataclass(frozen=True)
class Declared:
    """One option of a section, as the reader and the reference page see it."""

    section: str
    name: str
    kind: Any
    default: Any
    option: Option

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{PREFIX}{self.section}_{self.name}".upper()

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


def declared(section: str, shape: type) -> list[Declared]:
    """The options of a section, in the order of their declaration."""
    kinds = get_type_hints(shape)
    return [
        Declared(section, one.name, kinds[one.name], one.default, one.metadata["option"])
        for one in dataclasses.fields(shape)
        if "option" in one.metadata
    ]


class Reader:
    """Reads the sections of one file, with the environment on top.

    Relative paths are taken from `folder`. `origins` says where each value came from.
    """

    def __init__(self, source: str, folder: Path, environ: Mapping[str, str]) -> None:
        self._source = source
        self._folder = folder
        self._environ = environ
        self.origins: dict[str, Origin] = {}

    def section(self, name: str, shape: type[T], table: Any) -> T:
        """One section of the file; raises ConfigError for what is unknown or of a wrong type."""
        return self._build(name, shape, table, in_environment=True)

    def sections(self, name: str, shape: type[T], tables: Any) -> list[T]:
        """Every `[[name]]` of the file."""
        if not isinstance(tables, list):
            raise ConfigError(f"{self._source}: write each of {name} as [[{name}]]")
        return [
            self._build(f"{name}[{index}]", shape, table, in_environment=False)
            for index, table in enumerate(tables)
        ]

    def _build(self, name: str, shape: type[T], table: Any, in_environment: bool) -> T:
        if not isinstance(table, dict):
            raise ConfigError(f"{self._source}: {name} must be a section, [{name}]")
        options = {one.name: one for one in declared(name, shape)}
        files = {f"{one.name}_file" for one in options.values() if one.option.secret}
        for key in table:
            if key not in options and key not in files:
                raise self._unknown(f"{name}.{key}", [f"{name}.{known}" for known in options])
        values: dict[str, Any] = {}
        for one in options.values():
            found = self._find(one, table, in_environment)
            if found is not None:
                origin, place, value = found
                values[one.name] = self._checked(one, place, value, origin == "environment")
                self.origins[one.key] = origin
            elif one.required:
                raise ConfigError(f"{self._source}: {one.key} is missing: {one.option.reason}")
            else:
                self.origins[one.key] = "default"
        return shape(**values)

    def _find(
        self, one: Declared, table: dict[str, Any], in_environment: bool
    ) -> tuple[Origin, str, Any] | None:
        """The value of an option as it was written, and where; secrets are read from their file."""
        places: list[tuple[Origin, str, Mapping[str, Any], str]] = []
        if in_environment:
            places.append(("environment", one.variable, self._environ, one.variable))
        places.append(("file", f"{self._source}: {one.key}", table, one.name))
        for origin, place, values, key in places:
            beside = key + ("_FILE" if origin == "environment" else "_file")
            by_file = one.option.secret and beside in values
            if by_file and key in values:
                raise ConfigError(f"{place}: give it directly or by {beside}, not both")
            if by_file:
                return origin, f"{place} (by {beside})", self._secret(place, values[beside])
            if key in values:
                return origin, place, values[key]
        return None

    def _secret(self, place: str, path: Any) -> str:
        if not isinstance(path, str) or not path:
            raise ConfigError(f"{place}: the path of its file must be a text")
        try:
            return (self._folder / path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"{place}: can't read {path}: {reason}") from None

    def _checked(self, one: Declared, place: str, value: Any, is_text: bool) -> Any:
        kind = one.kind
        if isinstance(kind, types.UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
            if value == "":
                return None
        if is_text:
            value = _from_text(kind, value)
        checked = self._typed(kind, place, value)
        if isinstance(checked, int) and not isinstance(checked, bool):
            least, most = one.option.least, one.option.most
            if least is not None and checked < least:
                raise ConfigError(f"{place} must be at least {least}, not {checked}")
            if most is not None and checked > most:
                raise ConfigError(f"{place} must be at most {most}, not {checked}")
        return checked

    def _typed(self, kind: Any, place: str, value: Any) -> Any:
        if kind is Path and isinstance(value, str) and value:
            return self._folder / Path(value).expanduser()
        if kind in {str, bool} and type(value) is kind:
            return value
        if kind is int and type(value) is int:
            return value
        if kind is Rate and isinstance(value, str):
            with suppress(ValueError):
                return Rate.of(value)
        if get_origin(kind) is Literal:
            if value in get_args(kind):
                return value
            choices = ", ".join(f'"{choice}"' for choice in get_args(kind))
            near = difflib.get_close_matches(str(value), get_args(kind), 1, 0.6)
            hint = f'. Did you mean "{near[0]}"?' if near else ""
            raise ConfigError(f"{place} must be one of {choices}, not {_shown(value)}{hint}")
        if get_origin(kind) is tuple and isinstance(value, list):
            inner = get_args(kind)[0]
            return tuple(
                self._typed(inner, f"{place}[{index}]", part) for index, part in enumerate(value)
            )
        raise ConfigError(f"{place} must be {name_of(kind)}, not {_shown(value)}")

    def _unknown(self, key: str, known: list[str]) -> ConfigError:
        return ConfigError(f"{self._source}: {unknown(key, known)}")


def unknown(key: str, known: list[str]) -> str:
    """The complaint about a key that does not exist, with the one that was probably meant."""
    near = difflib.get_close_matches(key, known, 1, 0.5)
    return f"there is no option {key}" + (f". Did you mean {near[0]}?" if near else "")


def name_of(kind: Any) -> str:
    """A declared type in words."""
    if isinstance(kind, types.UnionType):
        return name_of(next(part for part in get_args(kind) if part is not type(None)))
    if get_origin(kind) is tuple:
        return "a list"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    names: dict[Any, str] = {
        str: "a text",
        int: "a whole number",
        bool: "true or false",
        Path: "a path",
        Rate: 'a rate such as "10/s, 100 at once"',
    }
    return names[kind]


def _from_text(kind: Any, text: str) -> Any:
    """A value from the environment as the file would have it; nonsense stays text."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind is int:
        bare = text.strip().replace("_", "")
        return int(bare) if bare.removeprefix("-").isdecimal() and bare.isascii() else text
    if get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'the text "{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return {int: f"the number {value}", float: f"the number {value}", list: "a list"}.get(
        type(value), "a section" if isinstance(value, dict) else str(value)
    )

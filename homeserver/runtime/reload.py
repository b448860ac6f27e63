"""Reading the configuration again while the server runs (SIGHUP).

Owns the order: read and check everything first, then let each part go by its new options. Its
invariant: a configuration that can't be used changes nothing, and its fault is logged. What no part
takes over while running is named in the log, so that nobody believes in it.
"""

import logging
from collections.abc import Callable, Collection

from homeserver.config import SECTIONS, Config

log = logging.getLogger(__name__)

Part = Callable[[Config], None]


class Reload:
    """The parts of a process that can go by other options; called to reload.

    `load` reads the configuration anew; it raises ConfigError, or OSError for a file.
    """

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        self._config = config
        self._load = load
        self._checks: list[Part] = []
        self._parts: list[Part] = []
        self._live: set[str] = set()

    def check(self, check: Part) -> None:
        """Have `check` look at a configuration before any part takes it over; it may raise."""
        self._checks.append(check)

    def part(self, options: Collection[str], take_over: Part) -> None:
        """Have `take_over` called; it goes by these options (`section` or `section.name`)."""
        self._live.update(options)
        self._parts.append(take_over)

    def __call__(self) -> None:
        """Reload, or log why not."""
        try:
            config = self._load()
            for check in self._checks:
                check(config)
        except Exception as error:  # whatever is wrong with it, the server goes on as it was
            log.error("the configuration was not reloaded, the one before stays: %s", error)
            return
        for take_over in self._parts:
            take_over(config)
        for name in self._ignored(config):
            log.warning("%s has changed; that takes a restart", name)
        self._config = config
        log.info("the configuration was reloaded")

    def _ignored(self, config: Config) -> list[str]:
        """The changed options that no part has taken over."""
        changed = []
        for section in SECTIONS:
            if section in self._live:
                continue
            before, after = vars(getattr(self._config, section)), vars(getattr(config, section))
            changed += [
                f"{section}.{name}"
                for name, value in after.items()
                if before[name] != value and f"{section}.{name}" not in self._live
            ]
        if config.listeners != self._config.listeners:
            places = [
                [(one.address, one.port, one.socket, one.apis) for one in listeners]
                for listeners in (self._config.listeners, config.listeners)
            ]
            if places[0] != places[1]:
                changed.append("listeners")
        return changed

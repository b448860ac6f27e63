"""Numbers for new rows, and numbers for strings.

Owns this process's blocks of reserved numbers and its cache of interned strings. A number is never
handed out twice, also not after a rollback or a restart; a string keeps its number for ever. Both
answer at once from memory or raise `Missing*`, whose `load()` fetches what is wanted, so that the
code that builds changes can stay synchronous and simply be run again.
"""

from collections.abc import Collection

from homeserver.errors import MatrixError
from homeserver.matrix.ids import MAX_ID_BYTES, fits
from storage import names as store
from storage.engine import Database

_BLOCK = 4_096
_LOW = 1_024
# Strings kept in memory; past this the cache starts anew (it is refilled on demand).
_MAX_CACHED = 400_000


class NumbersExhausted(Exception):
    """The reserved block of `counter` is used up: `Numbers.refill(counter)`, then try again."""

    def __init__(self, counter: str) -> None:
        super().__init__(counter)
        self.counter = counter


class Numbers:
    """Blocks of numbers by counter (`event`, `room`, `snapshot`, `device`, ...)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._blocks: dict[str, tuple[int, int]] = {}

    def take(self, counter: str) -> int:
        """The next number of `counter`; raises `NumbersExhausted`."""
        block = self._blocks.get(counter)
        if block is None or block[0] >= block[1]:
            raise NumbersExhausted(counter)
        self._blocks[counter] = (block[0] + 1, block[1])
        return block[0]

    def room_for(self, counter: str, count: int) -> bool:
        """Whether `count` numbers can be taken without a refill."""
        block = self._blocks.get(counter)
        return block is not None and block[1] - block[0] >= count

    async def refill(self, counter: str) -> None:
        """Reserve the next block of `counter`; what is left of the old one is given up."""
        first = await self._database.reserve(counter, _BLOCK)
        self._blocks[counter] = (first, first + _BLOCK)

    async def take_soon(self, counter: str) -> int:
        """`take`, refilling first where needed."""
        if not self.room_for(counter, 1):
            await self.refill(counter)
        return self.take(counter)

    async def take_many(self, counter: str, count: int) -> range:
        """The next `count` numbers, at most 4,096, refilling first where needed."""
        if not self.room_for(counter, count):
            await self.refill(counter)
        first, end = self._blocks[counter]
        self._blocks[counter] = (first + count, end)
        return range(first, first + count)


class NamesMissing(Exception):
    """These strings and state keys have no number in memory: `Names.load(...)`, then try again."""

    def __init__(self, names: Collection[str] = (), keys: Collection[tuple[str, str]] = ()) -> None:
        super().__init__(f"{len(names)} names, {len(keys)} keys")
        self.names = names
        self.keys = keys


class Names:
    """Strings (user ids, types, state keys) and (type, state key) pairs to numbers and back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._nids: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._key_nids: dict[tuple[str, str], int] = {}
        self._keys: dict[int, tuple[str, str]] = {}

    def nid(self, name: str) -> int:
        """The number of a string; raises `NamesMissing`."""
        found = self._nids.get(name)
        if found is None:
            raise NamesMissing(names=(name,))
        return found

    def key_nid(self, type: str, state_key: str) -> int:  # noqa: A002 (the specification's word)
        """The number of a state key; raises `NamesMissing`."""
        found = self._key_nids.get((type, state_key))
        if found is None:
            raise NamesMissing(keys=((type, state_key),))
        return found

    def known_key(self, type: str, state_key: str) -> int | None:  # noqa: A002
        """The number of a state key, None if it is not in memory."""
        return self._key_nids.get((type, state_key))

    async def load(
        self, names: Collection[str] = (), keys: Collection[tuple[str, str]] = ()
    ) -> None:
        """Make these known, giving numbers to the new ones in a transaction of their own.

        Raises `MatrixError` M_BAD_JSON or M_TOO_LARGE for what no field of an event may hold: a
        NUL, or more than 255 bytes.
        """
        wanted_keys = [key for key in keys if key not in self._key_nids]
        wanted = {name for name in names if name not in self._nids}
        wanted.update(part for key in wanted_keys for part in key if part not in self._nids)
        if len(self._names) > _MAX_CACHED:
            self._nids.clear()
            self._names.clear()
            wanted.update(names)
            wanted.update(part for key in wanted_keys for part in key)
        if len(self._keys) > _MAX_CACHED:
            self._key_nids.clear()
            self._keys.clear()
            wanted_keys = list(keys)
            wanted.update(part for key in wanted_keys for part in key)
        if wanted:
            for name in wanted:
                _check(name)
            for name, nid in (await self._database.intern(wanted)).items():
                self._remember(name, nid)
        if wanted_keys:
            pairs = {
                (self._nids[type_], self._nids[name]): (type_, name) for type_, name in wanted_keys
            }
            for pair, key_nid in (await self._database.intern_keys(pairs.keys())).items():
                self._remember_key(pairs[pair], key_nid)

    async def find_keys(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Numbers of those state keys that have one; none is given to the others."""
        found = {key: self._key_nids[key] for key in keys if key in self._key_nids}
        missing = [
            key for key in keys if key not in found and _is_name(key[0]) and _is_name(key[1])
        ]
        unknown = {part for key in missing for part in key if part not in self._nids}
        if unknown:
            for name, nid in (await store.name_numbers(self._database, unknown)).items():
                self._remember(name, nid)
        by_type: dict[int, dict[int, tuple[str, str]]] = {}
        for key in missing:
            type_nid, name_nid = self._nids.get(key[0]), self._nids.get(key[1])
            if type_nid is not None and name_nid is not None:
                by_type.setdefault(type_nid, {})[name_nid] = key
        for type_nid, named in by_type.items():
            numbers = await store.state_key_numbers(self._database, type_nid, named.keys())
            for name_nid, key_nid in numbers.items():
                self._remember_key(named[name_nid], key_nid)
                found[named[name_nid]] = key_nid
        return found

    async def nids(self, names: Collection[str]) -> dict[str, int]:
        """Numbers of strings, given to the new ones."""
        await self.load(names)
        return {name: self._nids[name] for name in names}

    async def find(self, names: Collection[str]) -> dict[str, int]:
        """Numbers of those strings that have one; none is given to the others."""
        missing = [name for name in names if name not in self._nids and _is_name(name)]
        if missing:
            for name, nid in (await store.name_numbers(self._database, missing)).items():
                self._remember(name, nid)
        return {name: self._nids[name] for name in names if name in self._nids}

    async def names(self, nids: Collection[int]) -> dict[int, str]:
        """Strings of numbers; numbers that were never given are absent."""
        missing = [nid for nid in nids if nid not in self._names]
        if missing:
            for nid, name in (await store.names(self._database, missing)).items():
                self._remember(name, nid)
        return {nid: self._names[nid] for nid in nids if nid in self._names}

    async def keys(self, key_nids: Collection[int]) -> dict[int, tuple[str, str]]:
        """(type, state key) of key numbers; numbers that were never given are absent."""
        missing = [nid for nid in key_nids if nid not in self._keys]
        if missing:
            for nid, key in (await store.state_keys(self._database, missing)).items():
                self._remember_key(key, nid)
        return {nid: self._keys[nid] for nid in key_nids if nid in self._keys}

    def name(self, nid: int) -> str | None:
        """The string of a number, if it is in memory."""
        return self._names.get(nid)

    def key(self, nid: int) -> tuple[str, str] | None:
        """The (type, state key) of a key number, if it is in memory."""
        return self._keys.get(nid)

    def _remember(self, name: str, nid: int) -> None:
        self._nids[name] = nid
        self._names[nid] = name

    def _remember_key(self, key: tuple[str, str], nid: int) -> None:
        self._key_nids[key] = nid
        self._keys[nid] = key


def _is_name(text: str) -> bool:
    return "\0" not in text and fits(text)


def _check(name: str) -> None:
    if "\0" in name:
        raise MatrixError.bad_json("Types, state keys and ids hold no U+0000")
    if not fits(name):
        raise MatrixError.too_large(f"Types, state keys and ids have at most {MAX_ID_BYTES} bytes")
